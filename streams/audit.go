package streams

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Audit keeps what was not accepted: denials, not-founds, refused reports. It is
// off the reply path and bounded everywhere, so that an attacker can neither fill
// the log nor learn anything from the time an answer takes.
type Audit struct {
	nc      *nats.Conn
	js      jetstream.JetStream
	site    Names
	queue   chan *nats.Msg
	dropped atomic.Uint64
	last    atomic.Uint64
	closing chan struct{}
	stop    context.CancelFunc
	done    sync.WaitGroup
}

// AuditRecord is one record as kept.
type AuditRecord struct {
	Cursor uint64    // its place; the next page begins after it
	Kind   string    // the last token of its subject
	At     time.Time // when it was kept, by the server's clock
	Data   []byte
}

// ErrUnreadable says that the audit stream has records that cannot be read any more.
var ErrUnreadable = errors.New("streams: records cannot be read")

// auditQueue bounds the records not yet kept.
const auditQueue = 4096

var auditKind = regexp.MustCompile(`^[a-z0-9_-]{1,64}$`)

// OpenAudit connects and begins to keep records.
func OpenAudit(dial Dial, site Names) (*Audit, error) {
	nc, js, err := connectJetStream(dial, "audit")
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	a := &Audit{nc: nc, js: js, site: site, queue: make(chan *nats.Msg, auditQueue), closing: make(chan struct{}), stop: stop}
	a.done.Go(func() { a.keep(ctx) })
	return a, nil
}

// Close keeps what is queued, for at most two seconds, and drops the connection. What
// is recorded later is lost.
func (a *Audit) Close() {
	close(a.closing)
	late := time.AfterFunc(2*time.Second, a.stop)
	a.done.Wait()
	late.Stop()
	a.stop()
	a.nc.Close()
}

// Record queues a record and returns at once: false if the queue is full, the
// record too large (16 KiB) or the kind (1 to 64 of a-z, 0-9, "_", "-") not one
// token. What is lost is counted in Dropped. data must not change afterwards.
func (a *Audit) Record(kind string, data []byte) bool {
	if auditKind.MatchString(kind) && len(data) <= maxAuditRecord-1024 {
		select {
		case a.queue <- &nats.Msg{Subject: a.site.AuditSubject(kind), Data: data}:
			return true
		default:
		}
	}
	a.dropped.Add(1)
	return false
}

// Dropped counts the records that were not kept.
func (a *Audit) Dropped() uint64 { return a.dropped.Load() }

// Last is the number of the newest record that was kept here; 0 if none was.
func (a *Audit) Last() uint64 { return a.last.Load() }

// Newest is the number of the newest record in the stream; 0 if there was none.
func (a *Audit) Newest(ctx context.Context) (uint64, error) {
	info, err := streamInfo(ctx, a.js, a.site.Audit())
	if err != nil {
		return 0, err
	}
	return info.State.LastSeq, nil
}

// keep publishes what is queued, one record at a time: the stream is not synced, so
// an acknowledgement takes microseconds.
func (a *Audit) keep(ctx context.Context) {
	for { // ends with Close, and then with what is queued
		m := a.next()
		if m == nil {
			return
		}
		attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
		reply, err := a.nc.RequestMsgWithContext(attempt, m)
		cancel()
		if err == nil {
			var n uint64
			if n, err = fastAck(reply.Data); err == nil {
				a.last.Store(n)
			}
		}
		if err != nil {
			a.dropped.Add(1)
		}
	}
}

// next is nil once there is nothing more to keep.
func (a *Audit) next() *nats.Msg {
	select {
	case m := <-a.queue:
		return m
	case <-a.closing:
	}
	select {
	case m := <-a.queue:
		return m
	default:
		return nil
	}
}

// Unreadable is the kind of a record that stands for those that cannot be read any more:
// its Data says which, as {"first":11,"last":13}.
const Unreadable = "unreadable"

// Page returns up to limit records (at most 1000) after a cursor, oldest first, and
// the cursor for the next page. Records that were dropped for age or size are
// skipped; in the place of those that cannot be read is one [Unreadable]. kinds filters,
// and then nobody sees what cannot be read; none means all.
func (a *Audit) Page(ctx context.Context, after uint64, limit int, kinds ...string) ([]AuditRecord, uint64, error) {
	limit = min(max(limit, 1), maxPage)
	filters := make([]string, len(kinds))
	for i, k := range kinds {
		if !auditKind.MatchString(k) {
			return nil, after, fmt.Errorf("audit kind %.70q: want 1 to 64 characters of a-z, 0-9, _ and -", k)
		}
		filters[i] = a.site.AuditSubject(k)
	}
	t := tail{js: a.js, stream: a.site.Audit(), next: after + 1, filters: filters, lossy: true}
	msgs, err := t.page(ctx, limit)
	if err != nil {
		return nil, after, err
	}
	var out []AuditRecord
	for _, m := range msgs {
		if m.seq > after+1 && len(kinds) == 0 {
			info, err := streamInfo(ctx, a.js, t.stream)
			if err != nil {
				return nil, after, err
			}
			if first := max(after+1, info.State.FirstSeq); first < m.seq {
				out = append(out, AuditRecord{Cursor: m.seq - 1, Kind: Unreadable, At: m.at, Data: fmt.Appendf(nil, `{"first":%d,"last":%d}`, first, m.seq-1)})
			}
		}
		after = m.seq
		out = append(out, AuditRecord{Cursor: after, Kind: m.subject[len(a.site.AuditSubject("")):], At: m.at, Data: m.data})
	}
	if len(out) > limit {
		out = out[:limit]
		after = out[limit-1].Cursor
	}
	return out, after, nil
}

// Whole reads every record and returns the number of the newest: [ErrUnreadable] if
// there are some that cannot be read.
func (a *Audit) Whole(ctx context.Context) (last uint64, err error) {
	for { // ends with the newest
		page, next, failed := a.Page(ctx, last, maxPage)
		if failed != nil {
			return last, failed
		}
		for _, r := range page {
			if r.Kind == Unreadable && err == nil {
				err = fmt.Errorf("%w: %s, the first of them: %s", ErrUnreadable, a.site.Audit(), r.Data)
			}
		}
		if last = next; len(page) == 0 {
			return last, err
		}
	}
}
