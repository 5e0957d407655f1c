package streams

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/gpuaas/gpuaas/domain"
)

// Read calls fn with every message from fromSeq (0 and 1 both mean the beginning)
// to the end of the log as it was when Read began, in order, without a gap. data
// is fn's to keep. An error of fn ends it and is returned.
func (l *Log) Read(ctx context.Context, fromSeq uint64, fn func(seq uint64, data []byte) error) error {
	info, err := l.info(ctx)
	if err != nil {
		return err
	}
	next := max(fromSeq, info.State.FirstSeq, 1)
	end := info.State.LastSeq
	if fromSeq > end+1 {
		return fmt.Errorf("%w: it ends at message %d, asked from %d", ErrLostTail, end, fromSeq)
	}
	if info.State.Msgs == 0 || next > end {
		return nil
	}
	t := tail{
		js: l.js, stream: l.stream, next: next, end: end, grace: l.c.LostTailGrace, damaged: l.c.OnError,
		fn: func(m message) error { return fn(m.seq, m.data) },
	}
	return t.run(ctx)
}

// Follow calls fn with every message from fromSeq on, and goes on for ever: across
// reconnects, leader changes and restarts of the server. It ends with ctx, with an
// error of fn, or with what no reader can repair: [ErrLostTail] if the log is
// shorter than what was read, [ErrForked] if it holds another message where one is
// known. known is the commit just before fromSeq as the caller remembers it
// (snapshot, checkpoint); the zero Head skips that first comparison. data is fn's
// to keep.
func (l *Log) Follow(ctx context.Context, fromSeq uint64, known domain.Head, fn func(seq uint64, data []byte) error) error {
	next := max(fromSeq, 1)
	if known != (domain.Head{}) {
		if at := l.Seq(known.N); at != next-1 {
			return fmt.Errorf("follow from message %d: known commit %d is message %d, want the one before", next, known.N, at)
		}
	}
	t := tail{
		js: l.js, stream: l.stream, next: next, overlap: true, lastHash: known.Hash, grace: l.c.LostTailGrace, recent: &l.recent, damaged: l.c.OnError,
		fn: func(m message) error { return fn(m.seq, m.data) },
	}
	return t.run(ctx)
}

func lasting(err error) bool {
	return errors.Is(err, ErrForked) || errors.Is(err, ErrLostTail)
}

// message is one delivery of a tail.
type message struct {
	seq     uint64
	subject string
	header  nats.Header
	data    []byte
	at      time.Time // when it was stored
}

// A tail reads a stream in order by an ephemeral consumer that it makes again
// whenever there is doubt: a missed heartbeat, a deleted consumer, a gap in the
// consumer's own count. Unlike the client's ordered consumer it can begin each
// time with the last message it knows, and so notices a stream that was replaced.
type tail struct {
	js      jetstream.JetStream
	stream  string
	filters []string // none: everything, and then sequences have no gaps
	lossy   bool     // of a page: what cannot be read is passed over
	next    uint64   // the sequence wanted next
	end     uint64   // last sequence wanted; 0: follow
	overlap bool     // re-read the last message on every new consumer, and compare
	recent  *recent  // optional: what need not be read from the server
	server  string   // of a cluster, whose copy is read; empty: any
	fn      func(message) error

	grace time.Duration // how long a stream may look shorter, or damaged, before it is
	short time.Time     // since when it looks shorter

	unread  map[string]error // servers of a cluster whose copy cannot deliver next
	since   time.Time        // since when there are some
	damaged func(error)      // optional: hears of copies whose damage others made good

	last     []byte        // the last message's bytes, once one was read
	lastHash domain.Digest // or the hash the caller gave for it; zero: unknown
	caughtUp func()        // optional: called whenever nothing more was waiting
}

const (
	// pullBytes bounds what is on its way to one reader. Always bound by bytes: a
	// bound by messages is five times slower on large commits.
	pullBytes = 8 << 20
	// tailHeartbeat is how often the server says that a quiet stream is only quiet.
	tailHeartbeat = 2 * time.Second
	// tailPatience is how long a message that is there already may take.
	tailPatience = 2 * tailHeartbeat
	// pinTries is how often a consumer is made until it is at the server that is wanted:
	// of five, it never is there once in five thousand million.
	pinTries = 100
	// tailIdle is when the server forgets an abandoned consumer.
	tailIdle = 30 * time.Second
)

// errFn carries an error of the caller's function out of the retry.
type errFn struct{ error }

func (e errFn) Unwrap() error { return e.error }

var errDone = errors.New("streams: read to the end")

// run reads until the end, an error of fn, or ctx.
func (t *tail) run(ctx context.Context) error {
	pause, moved := 10*time.Millisecond, time.Now()
	for { // ends with ctx, an error that lasts, or t.end
		before := t.next
		err := t.remembered(ctx)
		if err == nil {
			err = t.session(ctx)
		}
		var own errFn
		switch {
		case errors.Is(err, errRemembered):
			continue
		case errors.Is(err, errDone):
			return nil
		case errors.As(err, &own):
			return own.error
		case ctx.Err() != nil:
			return ctx.Err()
		case lasting(err):
			return err
		}
		if t.next > before {
			pause, moved = 10*time.Millisecond, time.Now()
		}
		if t.server != "" && time.Since(moved) >= 2*t.grace { // no other server will do
			return err
		}
		if !wait(ctx, pause) {
			return ctx.Err()
		}
		pause = min(2*pause, time.Second)
	}
}

// session is the life of one consumer.
func (t *tail) session(ctx context.Context) error {
	start, skip, err := t.start(ctx)
	if err != nil {
		return err
	}
	c, err := t.consumer(ctx, start)
	if err != nil {
		return err
	}
	defer t.forget(c)
	from := holder(c)
	if t.end != 0 && c.CachedInfo().NumPending == 0 {
		return t.ends()
	}
	it, err := c.Messages(jetstream.PullMaxBytes(pullBytes), jetstream.PullHeartbeat(tailHeartbeat), jetstream.PullExpiry(3*tailHeartbeat))
	if err != nil {
		return fmt.Errorf("read %s: %w", t.stream, err)
	}
	defer it.Stop()
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	pending := c.CachedInfo().NumPending
	impatient := time.AfterFunc(patience(pending), cancel)
	defer impatient.Stop()
	for delivered := uint64(1); ; delivered++ { // ends with an error
		impatient.Reset(patience(pending))
		m, err := it.Next(jetstream.NextContext(waiting))
		impatient.Stop() // fn may take its time
		if err != nil && waiting.Err() != nil && ctx.Err() == nil {
			return t.quiet(ctx, from)
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", t.stream, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("read %s: %w", t.stream, err)
		}
		pending = meta.NumPending
		if meta.Sequence.Consumer != delivered {
			return fmt.Errorf("read %s: delivery %d came as %d", t.stream, delivered, meta.Sequence.Consumer)
		}
		if err := t.take(m, meta, skip && delivered == 1, from); err != nil {
			return err
		}
		if t.last != nil && t.goesOn() {
			return errRemembered
		}
	}
}

// patience is how long the next delivery may take: what is there already comes soon.
func patience(pending uint64) time.Duration {
	if pending == 0 {
		return math.MaxInt64
	}
	return tailPatience
}

// holder is the server of a cluster that has the consumer, and delivers from its own copy
// of the stream; empty where there is one server.
func holder(c jetstream.Consumer) string {
	if cluster := c.CachedInfo().Cluster; cluster != nil {
		return cluster.Leader
	}
	return ""
}

// unreadable judges a message that a server passes over though it has later ones: its
// copy is damaged there. Other servers of a cluster have theirs, and the next consumer is
// at any of them; after the grace it has been at all.
func (t *tail) unreadable(server string, seq uint64) error {
	err := fmt.Errorf("%s: message %d cannot be read", t.stream, seq)
	if server != "" {
		err = fmt.Errorf("%w from server %s", err, server)
	}
	if t.since.IsZero() {
		t.since = time.Now()
	}
	if server == "" || t.server != "" || time.Since(t.since) >= t.grace {
		return fmt.Errorf("%w: %w", ErrForked, err)
	}
	if t.unread == nil {
		t.unread = map[string]error{}
	}
	t.unread[server] = err
	return err
}

// readable forgets the doubts: another server delivered.
func (t *tail) readable() {
	if t.since.IsZero() {
		return
	}
	for _, err := range t.unread {
		if t.damaged != nil {
			t.damaged(fmt.Errorf("%w, another has it: the copy is damaged", err))
		}
	}
	t.unread, t.since = nil, time.Time{}
}

// quiet judges a stream that should have more and does not deliver it: the server passes
// over a message that it cannot read, or waits at it.
func (t *tail) quiet(ctx context.Context, server string) error {
	subject := ">"
	if len(t.filters) > 0 {
		subject = t.filters[0]
	}
	m, err := getMessage(ctx, t.js.Conn(), t.stream, fmt.Appendf(nil, `{"seq":%d,"next_by_subj":%q}`, t.next, subject))
	switch {
	case errors.Is(err, ErrNotFound):
		return t.ends()
	case err == nil && m.Seq > t.next && len(t.filters) == 0:
		return t.unreadable(server, t.next)
	case err == nil && m.Seq > t.next:
		t.next = m.Seq // what is before it was deleted, or is for [allRead] to find
	}
	return errors.Join(fmt.Errorf("read %s: message %d did not come", t.stream, t.next), err)
}

// consumer makes an ephemeral one that the server keeps in memory.
func (t *tail) consumer(ctx context.Context, start uint64) (jetstream.Consumer, error) {
	for range pinTries {
		c, err := t.anywhere(ctx, start)
		if err != nil || t.server == "" || holder(c) == t.server {
			return c, err
		}
		t.forget(c)
	}
	return nil, fmt.Errorf("read %s: no consumer came to server %s", t.stream, t.server)
}

// anywhere makes one where the cluster likes: nothing can ask for a server.
func (t *tail) anywhere(ctx context.Context, start uint64) (jetstream.Consumer, error) {
	ctx, cancel := ask(ctx)
	defer cancel()
	c, err := t.js.CreateConsumer(ctx, t.stream, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: start,
		AckPolicy: jetstream.AckNonePolicy, FilterSubjects: t.filters,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: tailIdle, MaxDeliver: 1,
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", t.stream, err)
	}
	return c, nil
}

// start says where the next consumer begins: with the last message known, if there
// is one to compare. A stream that ends before it lost its tail.
func (t *tail) start(ctx context.Context) (seq uint64, skip bool, err error) {
	if !t.overlap || t.next == 1 {
		return t.next, false, nil
	}
	info, err := streamInfo(ctx, t.js, t.stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return 0, false, t.shorter(0) // somebody replaces it, or it is gone
	}
	if err != nil {
		return 0, false, err
	}
	if info.State.LastSeq < t.next-1 {
		return 0, false, t.shorter(info.State.LastSeq)
	}
	t.short = time.Time{}
	if t.last == nil && t.lastHash.IsZero() || info.State.FirstSeq >= t.next {
		return t.next, false, nil
	}
	return t.next - 1, true, nil
}

// shorter is a stream that ends before what was read from it. A new leader may say
// so for a moment, before it has applied what the old one had acknowledged.
func (t *tail) shorter(end uint64) error {
	if t.short.IsZero() {
		t.short = time.Now()
	}
	err := fmt.Errorf("%s ends at message %d, message %d is known", t.stream, end, t.next-1)
	if time.Since(t.short) < t.grace {
		return err
	}
	return fmt.Errorf("%w: %w", ErrLostTail, err)
}

// take checks the order of one message and hands it on.
func (t *tail) take(m jetstream.Msg, meta *jetstream.MsgMetadata, overlap bool, from string) error {
	seq, data := meta.Sequence.Stream, m.Data()
	if overlap {
		if seq != t.next-1 {
			return t.unreadable(from, t.next-1)
		}
		return t.compare(seq, data)
	}
	if seq < t.next {
		return nil
	}
	if len(t.filters) == 0 && seq != t.next {
		return t.unreadable(from, t.next)
	}
	t.readable()
	if err := t.fn(message{seq, m.Subject(), m.Headers(), data, meta.Timestamp}); err != nil {
		return errFn{err}
	}
	t.next, t.short = seq+1, time.Time{}
	if t.overlap {
		t.last = data
	}
	if t.caughtUp != nil && meta.NumPending == 0 {
		t.caughtUp()
	}
	switch {
	case t.end == 0:
		return nil
	case t.next > t.end:
		return errDone
	case meta.NumPending == 0:
		return t.ends()
	}
	return nil
}

// ends judges a stream that has nothing more, before t.end. Of a filtered one the rest may
// have been deleted. One of which every message is wanted says that it ends at t.end and
// does not have t.next: its file is damaged there. A new leader may say so for a moment.
func (t *tail) ends() error {
	if len(t.filters) > 0 {
		return errDone
	}
	if t.short.IsZero() {
		t.short = time.Now()
	}
	err := fmt.Errorf("%s says that it ends at message %d, message %d cannot be read", t.stream, t.end, t.next)
	if time.Since(t.short) < t.grace {
		return err
	}
	return fmt.Errorf("%w: %w", ErrLostTail, err)
}

func (t *tail) compare(seq uint64, data []byte) error {
	want := t.lastHash
	if t.last != nil {
		want = domain.DigestOf(t.last)
	}
	if have := domain.DigestOf(data); have != want {
		return fmt.Errorf("%w: %s: message %d is %s, known as %s", ErrForked, t.stream, seq, have, want)
	}
	return nil
}

// forget deletes the consumer, so that a server does not keep one for every
// reconnect until it expires. If that fails, it expires.
func (t *tail) forget(c jetstream.Consumer) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = t.js.DeleteConsumer(ctx, t.stream, c.CachedInfo().Name)
}
