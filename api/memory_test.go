package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/projections"
)

// memoryLog is a log that is durable as long as the test: commits, and what the
// feed and history make of them.
type memoryLog struct {
	mu      sync.Mutex
	commits [][]byte
	events  []FeedEvent
	owners  []string
	more    chan struct{} // closed and renewed with every commit
	behind  chan struct{} // while it is there and open, nothing is followed
}

func newMemoryLog() *memoryLog { return &memoryLog{more: make(chan struct{})} }

func (l *memoryLog) Seq(n uint64) uint64 { return n }

func (l *memoryLog) Append(_ context.Context, expected uint64, commit []byte) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if uint64(len(l.commits)) != expected {
		return 0, errors.New("wrong last sequence")
	}
	b := bytes.Clone(commit)
	c, err := domain.DecodeCommit(b)
	if err != nil {
		return 0, err
	}
	l.commits = append(l.commits, b)
	for i := range c.Decisions {
		for _, e := range c.Decisions[i].Events {
			data, err := json.Marshal(e.Body)
			if err != nil {
				return 0, err
			}
			l.events = append(l.events, FeedEvent{Number: e.Number, Commit: c.N, Type: e.Body.EventType(), Resource: e.Body.Resource(), At: c.At, Data: data})
			l.owners = append(l.owners, e.Body.Owner())
		}
	}
	close(l.more)
	l.more = make(chan struct{})
	return uint64(len(l.commits)), nil
}

func (l *memoryLog) last() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(len(l.commits))
}

func (l *memoryLog) Decision(_ context.Context, pos domain.Position) (domain.Decision, domain.Time, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, err := domain.DecodeCommit(l.commits[pos.N-1])
	if err != nil {
		return domain.Decision{}, 0, err
	}
	return c.Decisions[pos.Index], c.At, nil
}

func (l *memoryLog) from(after uint64, limit int, f FeedFilter) (out []FeedEvent, next uint64, more chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	next = after
	for i := int(after); i < len(l.events) && len(out) < limit; i++ {
		next = l.events[i].Number
		if f.Tenant.IsZero() && f.Host.IsZero() || !f.Tenant.IsZero() && l.owners[i] == f.Tenant.String() || !f.Host.IsZero() && l.owners[i] == f.Host.String() {
			out = append(out, l.events[i])
		}
	}
	return out, next, l.more
}

func (l *memoryLog) Page(_ context.Context, after uint64, limit int, f FeedFilter) ([]FeedEvent, uint64, error) {
	out, next, _ := l.from(after, limit, f)
	return out, next, nil
}

func (l *memoryLog) Last(context.Context) (number, commit uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(len(l.events)), uint64(len(l.commits)), nil
}

func (l *memoryLog) Subscribe(ctx context.Context, after uint64, f FeedFilter, fn func(FeedEvent) error) error {
	for {
		out, next, more := l.from(after, 100, f)
		for _, e := range out {
			if err := fn(e); err != nil {
				return err
			}
		}
		if next > after {
			after = next
			continue
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

type memoryVault struct {
	down error
	mu   sync.Mutex
	docs map[domain.Digest][]byte
}

func (v *memoryVault) Put(_ context.Context, subject string, plain []byte) (domain.Digest, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	d := domain.DigestOf(fmt.Appendf(nil, "%d %s %s", len(v.docs), subject, plain))
	v.docs[d] = plain
	return d, nil
}

func (v *memoryVault) Get(_ context.Context, d domain.Digest) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if doc, ok := v.docs[d]; ok || v.down != nil {
		return doc, v.down
	}
	return nil, fmt.Errorf("erased: %w", fs.ErrNotExist)
}

// fail makes every Get fail; erase destroys what was put.
func (v *memoryVault) fail(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.down = err
}

func (v *memoryVault) erase() {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.docs)
}

func (v *memoryVault) len() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.docs)
}

type memoryAudit struct {
	mu      sync.Mutex
	records []AuditRecord
}

func (a *memoryAudit) Record(kind string, data []byte) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.records = append(a.records, AuditRecord{Cursor: uint64(len(a.records) + 1), Kind: kind, At: time.Now(), Data: data})
	return true
}

func (a *memoryAudit) Page(_ context.Context, after uint64, limit int, _ ...string) ([]AuditRecord, uint64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	rest := a.records[min(int(after), len(a.records)):]
	rest = rest[:min(limit, len(rest))]
	return append([]AuditRecord(nil), rest...), after + uint64(len(rest)), nil
}

func (a *memoryAudit) all() []AuditRecord {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]AuditRecord(nil), a.records...)
}

type stubs struct{}

func (stubs) Read(_ context.Context, _ domain.HostID, vm domain.VMID, offset int64, limit int) ([]byte, int64, error) {
	text := "console of " + vm.String() + "\n"
	if offset < 0 {
		offset = max(0, int64(len(text))+offset)
	}
	part := text[min(int64(len(text)), offset):]
	part = part[:min(limit, len(part))]
	return []byte(part), offset + int64(len(part)), nil
}

// Last is a heartbeat of every host.
func (stubs) Last(domain.HostID) (domain.Time, domain.Heartbeat) {
	return 1_700_000_000_000, domain.Heartbeat{Version: "v1.2.3", Generation: 8, Executed: 7, Backlog: 2, VMs: 3, Drift: "the journal is full"}
}

func (stubs) Issue(host domain.HostID, key string) (string, error) {
	return "jwt." + host.String() + "." + key, nil
}

// Revoke fails for the host whose key ends in 2.
func (stubs) Revoke(_ context.Context, _ domain.HostID, key string) error {
	if strings.HasSuffix(key, "2") {
		return errors.New("the servers are away")
	}
	return nil
}

// fallBehind keeps the read models where they are, until catchUp is called.
func (l *memoryLog) fallBehind() (catchUp func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	behind := make(chan struct{})
	l.behind = behind
	return sync.OnceFunc(func() { close(behind) })
}

// Follow implements projections.Source.
func (l *memoryLog) Follow(ctx context.Context, after domain.Head, fn func(*domain.Commit, domain.Head) error) error {
	for n := after.N; ; {
		l.mu.Lock()
		rest, more, behind := l.commits[n:], l.more, l.behind
		l.mu.Unlock()
		if behind != nil {
			select {
			case <-behind:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		for _, b := range rest {
			c, err := domain.DecodeCommit(b)
			if err != nil {
				return err
			}
			if err := fn(c, domain.Head{N: c.N, Hash: domain.DigestOf(b)}); err != nil {
				return err
			}
			n++
		}
		if len(rest) > 0 {
			continue
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Newest implements projections.Source.
func (l *memoryLog) Newest(context.Context) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(len(l.commits)), nil
}

// End implements projections.Source.
func (l *memoryLog) End(context.Context) (projections.End, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.commits) == 0 {
		return projections.End{}, nil
	}
	return projections.End{Head: domain.Head{N: uint64(len(l.commits)), Hash: domain.DigestOf(l.commits[len(l.commits)-1])}, Number: uint64(len(l.events))}, nil
}
