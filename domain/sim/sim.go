package sim

import (
	"fmt"
	"io"
	"runtime/debug"

	"github.com/gpuaas/gpuaas/domain"
)

// Config names a schedule: the same Config is the same run.
type Config struct {
	Seed  uint64
	Steps int       // with faults; what comes after them has an end of its own
	Off   Faults    // kinds that never happen
	Often Faults    // kinds that happen again and again
	Story io.Writer // optional: what hosts are told, what they report and what is committed, in words
}

// Replay is the command that runs the schedule again.
func (c Config) Replay() string {
	out := fmt.Sprintf("go test ./domain/sim -run TestReplay -v -sim.seed=%d -sim.steps=%d", c.Seed, c.Steps)
	if c.Off != 0 {
		out += " -sim.off=" + c.Off.String()
	}
	if c.Often != 0 {
		out += " -sim.often=" + c.Often.String()
	}
	return out
}

// Failure is something that must never be.
type Failure struct {
	Config Config
	Step   int
	What   string
	Tail   string // the newest lines of the trace
}

// Error is the whole story.
func (f *Failure) Error() string {
	return fmt.Sprintf("seed %d, step %d: %s\n%sreplay: %s", f.Config.Seed, f.Step, f.What, f.Tail, f.Config.Replay())
}

// Result is what came of a schedule.
type Result struct {
	Failure *Failure
	Hash    uint64 // of the trace
	Steps   int
	Commits uint64
	Events  uint64
	Seen    Seen
}

// Sim is one schedule while it runs.
type Sim struct {
	cfg   Config
	now   domain.Time
	step  int
	queue queue
	trace trace
	dice  *dice
	seen  *Seen
	site  *site

	log        *simLog
	processes  []*process
	placements map[domain.HostID]*published
	hosts      []*host
	drives     map[string]*drive
	tenants    []*tenant
	operators  *operators
	clients    *clients
	shadow     *shadow
	projector  *projector

	feed    domain.Head // the newest commit whose events were fanned out
	lost    *lostTail   // nil: the log has all that was acknowledged, or goes on in a new epoch
	epoch   uint32      // of the log
	stopped bool        // operators have stopped every process
	racked  uint64      // the commit that admitted the newest host
}

// maxSteps bounds what comes after the faults ceased: a run that never rests fails.
const maxSteps = 60_000

// Run runs a schedule. It panics on nothing: what goes wrong is in the result.
func Run(c Config) (r Result) {
	s := &Sim{cfg: c, seen: &r.Seen}
	defer func() {
		if s.log != nil {
			r.Commits, r.Events = s.log.len(), s.shadow.number
		}
		r.Hash, r.Steps = s.trace.hash, s.step
		switch e := recover().(type) {
		case nil:
		case *Failure:
			r.Failure = e
		default:
			r.Failure = s.failure(fmt.Sprintf("panic: %v\n%s", e, debug.Stack()))
		}
	}()
	s.begin()
	for s.step < c.Steps && s.turn() {
	}
	s.end()
	return r
}

func (s *Sim) failure(what string) *Failure {
	return &Failure{Config: s.cfg, Step: s.step, What: what, Tail: s.trace.tail()}
}

// fail ends the schedule.
func (s *Sim) fail(format string, args ...any) { panic(s.failure(fmt.Sprintf(format, args...))) }

// turn is one step: the next thing that is due happens.
func (s *Sim) turn() bool {
	if len(s.queue.heap) == 0 {
		return false
	}
	e := s.queue.pop()
	s.now = max(s.now, e.at)
	s.step++
	s.trace.note(s.step, s.now, e.who, e.what, s.log.mark)
	e.do()
	return true
}

// until runs everything up to an instant.
func (s *Sim) until(at domain.Time) {
	for len(s.queue.heap) > 0 && s.queue.heap[0].at <= at {
		s.turn()
		if s.step > s.cfg.Steps+maxSteps {
			s.fail("%d steps after the faults ceased there is no rest", maxSteps)
		}
	}
	s.now = max(s.now, at)
}

// after makes something happen later.
func (s *Sim) after(d domain.Duration, what string, who int, do func()) {
	s.queue.push(event{at: s.now.Add(max(d, 0)), what: what, who: who, do: do})
}

// say notes something that happens within a step.
func (s *Sim) say(what string, who int, id uint64) {
	s.trace.note(s.step, s.now, who, what, id)
	s.tell("%s %d %d", what, who, id)
}

// event is something that will happen.
type event struct {
	at   domain.Time
	n    uint64 // of two at one instant the one that was asked for first comes first
	what string
	who  int
	do   func()
}

// queue is a binary heap of events.
type queue struct {
	heap []event
	n    uint64
}

func (q *queue) before(i, j int) bool {
	a, b := &q.heap[i], &q.heap[j]
	return a.at < b.at || a.at == b.at && a.n < b.n
}

func (q *queue) push(e event) {
	q.n++
	e.n = q.n
	q.heap = append(q.heap, e)
	for i := len(q.heap) - 1; i > 0; {
		up := (i - 1) / 2
		if !q.before(i, up) {
			return
		}
		q.heap[i], q.heap[up] = q.heap[up], q.heap[i]
		i = up
	}
}

func (q *queue) pop() event {
	top := q.heap[0]
	last := len(q.heap) - 1
	q.heap[0], q.heap[last] = q.heap[last], event{}
	q.heap = q.heap[:last]
	for i := 0; ; {
		down := 2*i + 1
		if down >= last {
			return top
		}
		if down+1 < last && q.before(down+1, down) {
			down++
		}
		if !q.before(down, i) {
			return top
		}
		q.heap[i], q.heap[down] = q.heap[down], q.heap[i]
		i = down
	}
}
