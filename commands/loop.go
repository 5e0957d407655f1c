package commands

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

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
	clean   bool // it ended because it was told to

	wall0  time.Time // wall and monotonic clock at the last look
	snapAt uint64
	closed *pending // the group whose hash the world does not know yet; nil: it knows

	appending atomic.Int64 // since when an append is under way, in Unix milliseconds; 0: none is

	held  atomic.Pointer[domain.Error] // see Hold
	still *domain.Error                // what of it the loop has seen

	refuseTick func(*domain.Tick) *domain.Error // the tests' fault; nil
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

// Waits says for how long the append under way has been waited for; 0: none is.
func (l *Loop) Waits() time.Duration {
	since := l.appending.Load()
	if since == 0 {
		return 0
	}
	return max(0, l.o.Clock().Sub(time.UnixMilli(since)))
}

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
	if why := l.held.Load(); why != nil {
		return Reply{Err: why}
	}
	if !system && l.o.Gate != nil {
		if err := l.o.Gate(cmd.Body); err != nil {
			return Reply{Err: err}
		}
	}
	return l.wait(ctx, &item{ctx: ctx, cmd: cmd, reply: make(chan Reply, 1)}, system, l.dir.tenantOf(cmd.Actor.Key))
}

// Query runs f on the loop, against a world that stands still, and returns when
// all that f saw is durable. f must be quick and must not keep the world. It does not
// run any more once Query has returned. The world's head is that of the last closed
// group, with its hash; what is decided beyond it f sees, too.
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
		it.leave()
		select {
		case r := <-it.reply: // it came at the same moment
			return r
		default:
			return Reply{Err: domain.Errorf(domain.Unavailable, "request.timeout", "no answer in time; it may still happen: repeat the request with the same Idempotency-Key")}
		}
	}
}

// Run decides until ctx ends (nil after what is in flight is durable) or the log
// fails (an error: the process must end).
func (l *Loop) Run(ctx context.Context) error {
	err := l.run(ctx)
	l.err, l.clean = err, err == nil
	if l.clean {
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
	go l.appender(appendCtx, ctx, appends, acks)
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
		if err := l.goOn(open, started); err != nil {
			return l.giveUp(err, inFlight, open)
		}
		if ctx.Err() != nil {
			l.q.refuse() // else who goes on asking keeps the loop from its end
		}
		if inFlight == nil && !l.core.Empty() {
			inFlight, open = l.close(open), &pending{}
			appends <- inFlight
		} else if inFlight == nil && len(open.replies) > 0 {
			l.answerUnwritten(open)
		}
		if len(batch) == 0 && started && !l.core.Full() && len(open.replies) < maxUnanswered {
			batch = l.q.pop(domain.MaxCommitDecisions)
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
		due := l.arm(timer, started, inFlight == nil && len(open.replies) > 0)
		if due && started && l.still == nil && !l.core.Full() {
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

// maxUnanswered bounds the answers that wait in a group, for its commit or for the
// claim.
const maxUnanswered = 4096

// World is the world after a clean end of Run: all of it is durable. Nil while it
// runs and after a failure.
func (l *Loop) World() *domain.World {
	select {
	case <-l.done:
		if l.clean {
			return l.core.World()
		}
	default:
	}
	return nil
}

// stopping wakes the loop when ctx ends and nothing is in flight.
func (l *Loop) stopping(ctx context.Context, inFlight *pending) <-chan struct{} {
	if inFlight != nil {
		return nil
	}
	return ctx.Done()
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
			open.replies = append(open.replies, waiting{it, Reply{N: l.core.lastN(), Err: l.ask(it, at)}})
			continue
		}
		if l.still != nil {
			open.replies = append(open.replies, waiting{it, Reply{N: l.core.lastN(), Err: l.still}})
			continue
		}
		if it.cmd.Entropy == (domain.Entropy{}) {
			l.fill(it.cmd)
		}
		r := l.core.Decide(at, it.cmd)
		if r.Err != nil && r.Err.Kind == domain.Internal {
			l.poisoned(poisonOf(it.cmd.Body.CommandType(), it.cmd, r.Err))
		}
		l.o.Metrics.decided(it.cmd, &r)
		open.events = append(open.events, r.Events...)
		open.replies = append(open.replies, waiting{it, r})
	}
	return nil, nil
}

// ask answers a question. A panic in one is a bug in it, not in the world, which it
// only reads.
func (l *Loop) ask(it *item, at domain.Time) (err *domain.Error) {
	defer func() {
		if r := recover(); r != nil {
			err = domain.Errorf(domain.Internal, "internal", "internal error")
			err.Cause = fmt.Errorf("question: %v", r)
			l.poisoned(poisonOf("question", nil, err))
		}
	}()
	it.mu.Lock()
	defer it.mu.Unlock()
	if !it.left {
		if l.closed != nil {
			l.sealed(l.closed)
		}
		it.query(l.core.World(), l.core.Now(at))
	}
	return nil
}

func poisonOf(what string, cmd *domain.Command, err *domain.Error) Poison {
	p := Poison{What: what, Code: err.Code, Why: err.Message}
	if err.Cause != nil {
		p.Why = err.Cause.Error()
	}
	p.Why = p.Why[:min(len(p.Why), 512)]
	if cmd != nil {
		p.Command = cmd.ID
		switch cmd.Actor.Kind {
		case domain.ActorKey:
			p.KeyID = cmd.Actor.Key.String()
		case domain.ActorHost:
			p.HostID = cmd.Actor.Host.String()
		}
	}
	return p
}

// poisoned raises the alarm about what failed inside.
func (l *Loop) poisoned(p Poison) {
	l.o.Metrics.poison.Inc()
	l.o.Slog.Error("could not be decided", "what", p.What, "command", p.Command, "code", p.Code, "why", p.Why)
	if l.o.Poisoned != nil {
		l.o.Poisoned(p)
	}
}

// QueueLen is how many commands wait.
func (l *Loop) QueueLen() int { return l.q.len() }
