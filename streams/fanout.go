package streams

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	fastjson "github.com/goccy/go-json"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/gpuaas/gpuaas/domain"
)

// Fanout publishes the events of the log to the feed, one message each. The feed is
// a function of the log: event number = feed sequence, which the server itself
// enforces (each publish carries the expected last sequence, and up to fanoutWindow
// of them are on their way at once). So a restart after a kill at any moment goes
// on at the feed's last sequence, and two fan-outs at once do no harm.
//
// It may lag; it never blocks the loop.
type Fanout struct {
	log   *Log
	nc    *nats.Conn
	js    jetstream.JetStream
	site  Names
	acked atomic.Uint64 // event number
}

const (
	// fanoutWindow bounds the events on their way to the feed.
	fanoutWindow = 8192
	// fanoutAsk: the last event of a commit asks for an answer, and so does every
	// event whose number is a multiple of this. It must divide the window.
	fanoutAsk = 1024
	// fanoutLook is how often it looks after the feed it writes to.
	fanoutLook = time.Second
	// fanoutPatience is how long it waits for the next acknowledgement before it
	// looks again where the feed ends.
	fanoutPatience = 5 * time.Second
	// fanoutReplies bounds the answers not yet looked at.
	fanoutReplies = 2 * fanoutWindow
)

// OpenFanout connects, on a connection of its own, for the events of log.
func OpenFanout(dial Dial, log *Log) (*Fanout, error) {
	nc, js, err := connectJetStream(dial, "fanout")
	if err != nil {
		return nil, err
	}
	return &Fanout{log: log, nc: nc, js: js, site: log.c.Site}, nil
}

// Close drops the connection.
func (f *Fanout) Close() { f.nc.Close() }

// Position is the number of the last event known to be in the feed.
func (f *Fanout) Position() uint64 { return f.acked.Load() }

// Lag is how many events the feed is behind the log.
func (f *Fanout) Lag(ctx context.Context) (uint64, error) {
	_, data, err := f.log.Last(ctx)
	if err != nil || data == nil {
		return 0, err
	}
	c, err := domain.DecodeCommitEvents(data)
	if err != nil {
		return 0, err
	}
	last := lastEvent(c)
	return last - min(last, f.acked.Load()), nil
}

// Run publishes until ctx ends. Any other end is one an operator has to see:
// [ErrForked] or [ErrLostTail] mean that the feed holds events of another log than
// this one (rebuild it, see [RebuildFeed]), or that the log itself is damaged; a
// commit that cannot be decoded means that this build is older than the log.
func (f *Fanout) Run(ctx context.Context) error {
	pause := 10 * time.Millisecond
	for { // ends with ctx or an error that lasts
		before := f.acked.Load()
		err := f.session(ctx)
		var bad *badCommitError
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case lasting(err), errors.As(err, &bad):
			return fmt.Errorf("fan-out: %w", err)
		}
		if f.acked.Load() > before {
			pause = 10 * time.Millisecond
		}
		if !wait(ctx, pause) {
			return ctx.Err()
		}
		pause = min(2*pause, time.Second)
	}
}

// badCommitError is a commit this build cannot read.
type badCommitError struct{ err error }

func (e *badCommitError) Error() string { return e.err.Error() }
func (e *badCommitError) Unwrap() error { return e.err }

// session goes on where the feed ends, until something is refused or lost.
func (f *Fanout) session(parent context.Context) error {
	last, commit, err := f.resume(parent)
	if err != nil {
		return err
	}
	f.acked.Store(last)
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	s := &fanoutSession{f: f, next: last + 1, first: true, progress: make(chan struct{}, 1), reply: f.nc.NewRespInbox()}
	s.json = fastjson.NewEncoder(&s.body)
	sub, err := f.nc.Subscribe(s.reply, func(m *nats.Msg) {
		if err := s.onAck(m.Data); err != nil {
			cancel(err)
		}
	})
	if err != nil {
		return err
	}
	defer sub.Unsubscribe() //nolint:errcheck // the connection is gone then
	if err := sub.SetPendingLimits(fanoutReplies, -1); err != nil {
		return err
	}
	go s.watch(ctx, cancel)
	err = f.log.Follow(ctx, f.log.Seq(commit), domain.Head{}, func(_ uint64, data []byte) error { return s.commit(ctx, data) })
	if cause := context.Cause(ctx); cause != nil && parent.Err() == nil {
		return cause
	}
	return err
}

// resume finds where the feed ends: the last event in it, and the commit to go on
// with (the one that event came from: the rest of it may be missing).
func (f *Fanout) resume(ctx context.Context) (last, commit uint64, err error) {
	info, err := streamInfo(ctx, f.js, f.site.Feed())
	if err != nil {
		return 0, 0, err
	}
	last = info.State.LastSeq
	if info.State.Msgs == 0 {
		commit, err = f.log.commitOfEvent(ctx, last+1)
		return last, commit, err
	}
	m, err := getMessage(ctx, f.nc, f.site.Feed(), fmt.Appendf(nil, `{"seq":%d}`, last))
	if err != nil {
		return 0, 0, err
	}
	e, err := m.event()
	if err != nil {
		return 0, 0, fmt.Errorf("%w: %w", ErrForked, err)
	}
	if e.Number != last {
		return 0, 0, fmt.Errorf("%w: message %d of the feed is event %d", ErrForked, last, e.Number)
	}
	if err := f.log.Check(ctx, e.Commit); err != nil {
		return 0, 0, fmt.Errorf("the feed is of another log: %w", err)
	}
	return last, e.Commit.N, nil
}

// fanoutSession is one unbroken run of publishes.
type fanoutSession struct {
	f        *Fanout
	reply    string
	next     uint64 // number of the event published next
	sent     atomic.Uint64
	chain    Chain
	first    bool
	buffer   domain.Buffer
	body     bytes.Buffer
	json     *fastjson.Encoder // into body
	progress chan struct{}     // an acknowledgement came
}

func (s *fanoutSession) onAck(data []byte) error {
	seq, err := fastAck(data)
	if err != nil {
		return err
	}
	if seq > s.f.acked.Load() {
		s.f.acked.Store(seq)
	}
	select {
	case s.progress <- struct{}{}:
	default:
	}
	return nil
}

// commit publishes the events of one commit that the feed does not have yet.
func (s *fanoutSession) commit(ctx context.Context, data []byte) error {
	c, err := s.buffer.Decode(data)
	if err != nil {
		return &badCommitError{err}
	}
	if s.first {
		s.first, s.chain.Head = false, domain.Head{N: c.N - 1, Hash: c.Prev}
	}
	if err := s.chain.Next(data); err != nil {
		return err
	}
	h := newEventHeaders(s.f.site, c, s.chain.Head)
	last := lastEvent(c)
	for i := range c.Decisions {
		for j := range c.Decisions[i].Events {
			e := &c.Decisions[i].Events[j]
			if e.Number < s.next {
				continue
			}
			if e.Number != s.next {
				return fmt.Errorf("%w: commit %d has event %d, expected %d", ErrForked, c.N, e.Number, s.next)
			}
			if err := s.publish(ctx, h, e, e.Number == last || e.Number%fanoutAsk == 0); err != nil {
				return err
			}
			s.next++
		}
	}
	return nil
}

// publish sends one event, and asks for an answer if told to: each event expects
// the one before it to be in, so one answer speaks for all before it.
func (s *fanoutSession) publish(ctx context.Context, h *eventHeaders, e *domain.Event, ask bool) error {
	for s.next-1-s.f.acked.Load() >= fanoutWindow { // ends with an acknowledgement, or ctx
		select {
		case <-s.progress:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	s.body.Reset()
	if err := s.json.Encode(e.Body); err != nil {
		return &badCommitError{err}
	}
	data := bytes.TrimSuffix(s.body.Bytes(), []byte("\n"))
	msg := &nats.Msg{Subject: domain.EventSubject(string(s.f.site), e.Body), Header: h.of(e), Data: data} // copied by the publish
	if ask {
		msg.Reply = s.reply
		s.sent.Store(e.Number)
	}
	return s.f.nc.PublishMsg(msg)
}

// watch ends the session when acknowledgements are owed and none came for a while
// (a publish or its answer was lost with a connection), and when the feed ends
// before what was acknowledged (it was rebuilt, or lost its tail with the power).
func (s *fanoutSession) watch(ctx context.Context, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(fanoutLook)
	defer tick.Stop()
	at, since := s.f.acked.Load(), time.Now()
	for { // ends with ctx
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		acked := s.f.acked.Load()
		if acked != at || s.sent.Load() <= acked {
			at, since = acked, time.Now()
		}
		if time.Since(since) > fanoutPatience {
			cancel(errors.New("no acknowledgement from the feed"))
			return
		}
		info, err := streamInfo(ctx, s.f.js, s.f.site.Feed())
		if errors.Is(err, jetstream.ErrStreamNotFound) || err == nil && info.State.LastSeq < acked {
			cancel(fmt.Errorf("the feed ends before event %d, which it had acknowledged", acked))
			return
		}
	}
}

// fastAck is parseAck without a JSON decoder for the usual answer, of the form
// {"stream":"...","domain":"...","seq":123}.
func fastAck(data []byte) (uint64, error) {
	if bytes.HasPrefix(data, []byte(`{"stream":`)) {
		if i := bytes.LastIndex(data, []byte(`"seq":`)); i > 0 {
			digits := bytes.TrimRight(data[i+6:], "} ")
			if n, err := strconv.ParseUint(string(digits), 10, 64); err == nil && n > 0 {
				return n, nil
			}
		}
	}
	return parseAck(data)
}

// lastEvent is the number of a commit's last event, 0 if it has none.
func lastEvent(c *domain.Commit) (last uint64) {
	for i := range c.Decisions {
		for j := range c.Decisions[i].Events {
			last = c.Decisions[i].Events[j].Number
		}
	}
	return last
}

// commitOfEvent finds the commit that holds an event, or the one after the last if
// there is none yet: a binary search, for a feed that begins in the middle.
func (l *Log) commitOfEvent(ctx context.Context, event uint64) (uint64, error) {
	info, err := l.info(ctx)
	if err != nil {
		return 0, err
	}
	lo, hi := l.NumberAt(max(info.State.FirstSeq, 1)), l.NumberAt(info.State.LastSeq)+1
	if event <= 1 {
		return lo, nil
	}
	for lo < hi { // halves each time
		mid := lo + (hi-lo)/2
		data, err := l.message(ctx, l.Seq(mid))
		if err != nil {
			return 0, err
		}
		c, err := domain.DecodeCommitEvents(data)
		if err != nil {
			return 0, &badCommitError{err}
		}
		if last := lastEvent(c); last < event {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, nil
}
