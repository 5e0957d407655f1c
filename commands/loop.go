package commands

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

// Log is where commits become durable. streams.Log implements it.
type Log interface {
	// Append makes commit the log's message expectedSeq+1. Any error means that the
	// outcome is unknown or that another process writes: the loop ends.
	Append(ctx context.Context, expectedSeq uint64, commit []byte) (uint64, error)
	// Seq is the log's sequence of commit n.
	Seq(n uint64) uint64
}

// Publisher sends placements to hosts. Offer must not block; of two placements of
// one host only the later one matters.
type Publisher interface {
	Offer([]*domain.Placement)
}

// Options are what a loop is made of.
type Options struct {
	Site      string
	Build     string
	Log       Log
	Publisher Publisher        // nil: none
	Clock     func() time.Time // nil: time.Now
	Slog      *slog.Logger
	Metrics   *Metrics // nil: none
	// Snapshot is called between two commits, at most every SnapshotEvery commits,
	// with the encoded world. It must not block.
	Snapshot      func(head domain.Head, state []byte)
	SnapshotEvery uint64
	// Final is called with the state at a clean stop. It may block.
	Final func(head domain.Head, state []byte)
	// Gate refuses tenants' commands while it returns an error: the disk is nearly
	// full, the read models are too far behind, the log's configuration has drifted.
	Gate func() *domain.Error
	// AppendTimeout is how long the site may be without its log before the process
	// gives up. Default 30 s.
	AppendTimeout time.Duration
}

// LogicLevel is the highest logic level this build decides at.
const LogicLevel = domain.LogicLevel

// maxClockJump is how far the wall clock may move against the monotonic one while
// the loop runs.
const maxClockJump = 5 * time.Second

// Loop runs a Core: one goroutine decides, one append is in flight.
type Loop struct {
	o       Options
	core    *Core
	dir     *Directory
	q       *queue
	entropy *rand.ChaCha8
	done    chan struct{}
	started chan struct{}
	err     error

	wall0  time.Time // wall and monotonic clock at the last look
	snapAt uint64
}

// pending is a group on its way, with everyone who waits for it.
type pending struct {
	closed  Closed
	replies []waiting
	events  []domain.EventBody // for the directory
	since   time.Time
}

type waiting struct {
	it    *item
	reply Reply
}

// NewLoop goes on from a folded world. Run starts it.
func NewLoop(w *domain.World, o Options) (*Loop, error) {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Slog == nil {
		o.Slog = slog.New(slog.DiscardHandler)
	}
	if o.AppendTimeout == 0 {
		o.AppendTimeout = 30 * time.Second
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	var seed [32]byte
	if _, err := crand.Read(seed[:]); err != nil {
		return nil, fmt.Errorf("entropy: %w", err)
	}
	l := &Loop{
		o: o, core: NewCore(w), dir: newDirectory(w), q: newQueue(), entropy: rand.NewChaCha8(seed),
		done: make(chan struct{}), started: make(chan struct{}), snapAt: w.Head.N,
	}
	return l, nil
}

// Directory is what the edge may look up without asking the loop.
func (l *Loop) Directory() *Directory { return l.dir }

// Started is closed once this process is the writer and answers.
func (l *Loop) Started() <-chan struct{} { return l.started }

// Err is why the loop ended; nil while it runs.
func (l *Loop) Err() error {
	select {
	case <-l.done:
		return l.err
	default:
		return nil
	}
}

// Submit decides a command and waits until the answer is durable. When ctx ends
// first the outcome is unknown to the caller, who repeats with the same id.
func (l *Loop) Submit(ctx context.Context, cmd *domain.Command) Reply {
	system := cmd.Actor.Kind != domain.ActorKey
	if !system && l.o.Gate != nil {
		if err := l.o.Gate(); err != nil {
			return Reply{Err: err}
		}
	}
	return l.wait(ctx, &item{ctx: ctx, cmd: cmd, reply: make(chan Reply, 1)}, system, l.dir.tenantOf(cmd.Actor.Key))
}

// Query runs f on the loop, against a world that stands still, and returns when
// all that f saw is durable. f must be quick and must not keep the world.
func (l *Loop) Query(ctx context.Context, actor domain.Actor, f func(w *domain.World, at domain.Time)) (uint64, *domain.Error) {
	r := l.wait(ctx, &item{ctx: ctx, query: f, reply: make(chan Reply, 1)}, actor.Kind != domain.ActorKey, l.dir.tenantOf(actor.Key))
	return r.N, r.Err
}

func (l *Loop) wait(ctx context.Context, it *item, system bool, tenant domain.TenantID) Reply {
	if err := l.q.push(it, system, tenant); err != nil {
		l.o.Metrics.overflow.Inc()
		return Reply{Err: err}
	}
	select {
	case r := <-it.reply:
		return r
	case <-l.done:
		select {
		case r := <-it.reply:
			return r
		default:
			return Reply{Err: errStopping()}
		}
	case <-ctx.Done():
		return Reply{Err: domain.Errorf(domain.Unavailable, "request.timeout", "no answer in time; it may still happen: repeat the request with the same Idempotency-Key")}
	}
}

// Run decides until ctx ends (nil after what is in flight is durable) or the log
// fails (an error: the process must end).
func (l *Loop) Run(ctx context.Context) error {
	err := l.run(ctx)
	l.err = err
	if l.err == nil {
		l.err = errors.New("stopped")
	}
	for _, it := range l.q.close() {
		it.reply <- Reply{Err: errStopping()}
	}
	close(l.done)
	return err
}

func (l *Loop) run(ctx context.Context) error {
	appends := make(chan *pending) // to the appender
	acks := make(chan error, 1)    // from it
	appendCtx, stopAppends := context.WithCancel(context.WithoutCancel(ctx))
	defer stopAppends()
	go l.appender(appendCtx, appends, acks)
	defer close(appends)

	l.wall0 = l.o.Clock()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	open, inFlight := &pending{}, (*pending)(nil)
	if err := l.startWriter(open); err != nil {
		return err
	}
	started := false
	var batch []*item
	for { // ends with ctx or an error
		if inFlight == nil && !l.core.Empty() {
			inFlight, open = l.close(open), &pending{}
			appends <- inFlight
		} else if inFlight == nil && len(open.replies) > 0 {
			l.answer(open) // nothing new was decided: what they read is durable
			open.replies = open.replies[:0]
		}
		if len(batch) == 0 && started && !l.core.Full() {
			batch = l.q.pop(nil, domain.MaxCommitDecisions)
		}
		if len(batch) > 0 && !l.core.Full() {
			taken := batch
			var err error
			if batch, err = l.decide(open, batch); err != nil {
				for _, it := range taken {
					it.reply <- Reply{Err: errStopping()} // not decided
				}
				return l.giveUp(err, inFlight, open)
			}
			if inFlight == nil {
				continue
			}
			select {
			case err := <-acks:
				if err := l.durable(inFlight, err); err != nil {
					return l.giveUp(err, inFlight, open)
				}
				inFlight = nil
			default:
			}
			continue
		}
		if started && inFlight == nil && ctx.Err() != nil {
			l.lastSnapshot()
			return nil
		}
		due := l.arm(timer, started)
		if due && started && !l.core.Full() {
			if progressed, err := l.tick(open); err != nil {
				return l.giveUp(err, inFlight, open)
			} else if progressed {
				continue
			}
		}
		select {
		case err := <-acks:
			if err := l.durable(inFlight, err); err != nil {
				return l.giveUp(err, inFlight, open)
			}
			inFlight = nil
			if !started {
				started = true
				close(l.started)
			}
		case <-l.q.wake:
		case <-timer.C:
		case <-l.stopping(ctx, inFlight):
		}
	}
}

// stopping wakes the loop when ctx ends and nothing is in flight.
func (l *Loop) stopping(ctx context.Context, inFlight *pending) <-chan struct{} {
	if inFlight != nil {
		return nil
	}
	return ctx.Done()
}

// startWriter opens this writer's term: the first decision of its first commit.
func (l *Loop) startWriter(open *pending) error {
	cmd := l.systemCommand(&domain.StartWriter{Site: l.o.Site, Build: l.o.Build, LogicLevel: LogicLevel})
	r := l.core.Decide(domain.TimeOf(l.o.Clock()), cmd)
	if r.Err != nil {
		return r.Err
	}
	open.events = append(open.events, r.Events...)
	return nil
}

func (l *Loop) systemCommand(body domain.CommandBody) *domain.Command {
	cmd := &domain.Command{Actor: domain.System, Body: body}
	l.fill(cmd)
	cmd.ID = NewCommandID(l.o.Clock(), cmd.Entropy)
	return cmd
}

// fill adds the entropy that all ids and nonces of the decision derive from.
func (l *Loop) fill(cmd *domain.Command) {
	for i := 0; i < len(cmd.Entropy); i += 8 {
		binary.LittleEndian.PutUint64(cmd.Entropy[i:], l.entropy.Uint64())
	}
}

// NewCommandID makes a UUIDv7 (RFC 9562): 48 bits of time, then entropy.
func NewCommandID(now time.Time, e domain.Entropy) domain.CommandID {
	var id domain.CommandID
	binary.BigEndian.PutUint64(id[:8], uint64(now.UnixMilli())<<16)
	copy(id[6:], e[22:])
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return id
}

// decide takes waiting commands and questions into the open group, until it is
// full, and returns those that are left.
func (l *Loop) decide(open *pending, batch []*item) ([]*item, error) {
	now, err := l.now()
	if err != nil {
		return nil, err
	}
	at := domain.TimeOf(now)
	for i, it := range batch {
		if l.core.Full() {
			return batch[i:], nil
		}
		if it.ctx.Err() != nil {
			continue // its deadline passed in the queue: not decided
		}
		if it.query != nil {
			it.query(l.core.World(), l.core.Now(at))
			open.replies = append(open.replies, waiting{it, Reply{N: l.core.lastN()}})
			continue
		}
		if it.cmd.Entropy == (domain.Entropy{}) {
			l.fill(it.cmd)
		}
		r := l.core.Decide(at, it.cmd)
		if r.Err != nil && r.Err.Kind == domain.Internal {
			l.o.Metrics.poison.Inc()
			l.o.Slog.Error("a command could not be decided", "command", it.cmd.ID, "type", it.cmd.Body.CommandType(), "err", r.Err)
		}
		l.o.Metrics.decided(it.cmd, &r)
		open.events = append(open.events, r.Events...)
		open.replies = append(open.replies, waiting{it, r})
	}
	return nil, nil
}

// now reads the clock, and refuses to go on after a jump.
func (l *Loop) now() (time.Time, error) {
	t := l.o.Clock()
	elapsed := t.Sub(l.wall0) // monotonic, if both have it
	wall := t.Round(0).Sub(l.wall0.Round(0))
	if d := wall - elapsed; d > maxClockJump || d < -maxClockJump {
		return t, fmt.Errorf("the wall clock jumped by %v while running: check time synchronisation and restart", d)
	}
	l.wall0 = t
	return t, nil
}

// arm sets the timer to the world's next deadline and reports whether it is due.
func (l *Loop) arm(timer *time.Timer, started bool) bool {
	wait := time.Hour
	due := false
	if next := l.core.World().NextDeadline(); started && next != 0 {
		if wait = time.Until(next.Std()); wait <= 0 {
			due, wait = true, time.Hour
		}
	}
	timer.Reset(max(wait, time.Millisecond))
	return due
}

// maxTicks is how many ticks go into one group before others have their turn.
const maxTicks = 16

// tick handles deadlines that are due.
func (l *Loop) tick(open *pending) (bool, error) {
	now, err := l.now()
	if err != nil {
		return false, err
	}
	at := domain.TimeOf(now)
	progressed := false
	for range maxTicks {
		next := l.core.World().NextDeadline()
		if next == 0 || next > l.core.Now(at) || l.core.Full() {
			break
		}
		r := l.core.Decide(at, l.systemCommand(&domain.Tick{}))
		if r.Err != nil {
			return progressed, fmt.Errorf("tick: %w", r.Err)
		}
		if len(r.Events) == 0 {
			break
		}
		progressed = true
		open.events = append(open.events, r.Events...)
	}
	return progressed, nil
}

// close finishes a group and hands it to the appender.
func (l *Loop) close(open *pending) *pending {
	open.closed = l.core.Close()
	open.since = l.o.Clock()
	if l.o.Snapshot != nil && open.closed.Head.N >= l.snapAt+l.o.SnapshotEvery && l.o.SnapshotEvery > 0 {
		l.snapAt = open.closed.Head.N
		l.o.Snapshot(open.closed.Head, l.core.World().Encode())
	}
	return open
}

// lastSnapshot keeps the state at a clean stop, so that the next start is quick.
func (l *Loop) lastSnapshot() {
	if w := l.core.World(); l.o.Final != nil && w.Head.N > l.snapAt {
		l.o.Final(w.Head, w.Encode())
	}
}

// appender makes one group after another durable.
func (l *Loop) appender(ctx context.Context, in <-chan *pending, acks chan<- error) {
	for p := range in {
		attempt, cancel := context.WithTimeout(ctx, l.o.AppendTimeout)
		_, err := l.o.Log.Append(attempt, l.o.Log.Seq(p.closed.Head.N)-1, p.closed.Commit)
		cancel()
		acks <- err
	}
}

// durable answers everyone in a group that is now in the log.
func (l *Loop) durable(p *pending, err error) error {
	if err != nil {
		return fmt.Errorf("append of commit %d: %w", p.closed.Head.N, err)
	}
	l.o.Metrics.durable(p, l.o.Clock())
	l.dir.apply(p.closed.Head.N, p.events)
	if l.o.Publisher != nil && len(p.closed.Placements) > 0 {
		l.o.Publisher.Offer(p.closed.Placements)
	}
	l.answer(p)
	l.core.Recycle(p.closed.Commit)
	return nil
}

func (l *Loop) answer(p *pending) {
	for _, w := range p.replies {
		w.it.reply <- w.reply
	}
}

// giveUp tells everyone that the outcome is not known.
func (l *Loop) giveUp(err error, groups ...*pending) error {
	unknown := domain.Errorf(domain.Unavailable, "outcome.unknown", "the outcome is not known: repeat the request with the same Idempotency-Key")
	for _, p := range groups {
		if p == nil {
			continue
		}
		for _, w := range p.replies {
			w.it.reply <- Reply{Err: unknown}
		}
	}
	return err
}

// QueueLen is how many commands wait.
func (l *Loop) QueueLen() int { return l.q.len() }
