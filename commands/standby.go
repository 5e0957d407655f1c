package commands

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

// LogFollower is how a standby reads the log; streams.Log implements it.
type LogFollower interface {
	LogReader
	// Follow calls fn with every commit from sequence fromSeq on and goes on until ctx
	// ends. It notices a tail that was lost or replaced; known is the commit before.
	Follow(ctx context.Context, fromSeq uint64, known domain.Head, fn func(seq uint64, commit []byte) error) error
}

// Standby folds the log behind the writer: a world that is always warm, to answer
// questions from and to go on with when the writer is gone. It decides nothing.
type Standby struct {
	o   StandbyOptions
	dir *Directory

	mu     sync.Mutex // of the rest; the world is one goroutine's at a time
	world  *domain.World
	head   domain.Head
	grown  chan struct{} // closed when head moves
	snapAt uint64
}

// StandbyOptions are what a standby is made of.
type StandbyOptions struct {
	Clock func() time.Time // nil: time.Now
	// Snapshot is called every SnapshotEvery commits with the world, encoded. It must
	// not block.
	Snapshot      func(head domain.Head, state []byte)
	SnapshotEvery uint64
}

// errNotWriter is the answer of a process that does not decide.
func errNotWriter() *domain.Error {
	return domain.Errorf(domain.Unavailable, "not_writer", "this process does not write now: try again")
}

// checkLevel refuses a log that this build would fold wrongly.
func checkLevel(level uint32) error {
	if level > LogicLevel {
		return fmt.Errorf("the log is at logic level %d, this build folds up to %d: upgrade it", level, LogicLevel)
	}
	return nil
}

// NewStandby goes on from a folded world, which is its own from then on.
func NewStandby(w *domain.World, o StandbyOptions) (*Standby, error) {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if err := checkLevel(w.LogicLevel); err != nil {
		return nil, err
	}
	return &Standby{o: o, dir: newDirectory(w), world: w, head: w.Head, grown: make(chan struct{}), snapAt: w.Head.N}, nil
}

// Directory is what the edge may look up without the world.
func (s *Standby) Directory() *Directory { return s.dir }

// Follow folds until ctx ends, and returns nil then. An error is one that no reader
// can repair: the log is forked, lost its tail, or is for a newer build.
func (s *Standby) Follow(ctx context.Context, log LogFollower) error {
	from := s.Head()
	err := log.Follow(ctx, log.Seq(from.N+1), from, func(_ uint64, b []byte) error { return s.Fold(b) })
	if ctx.Err() != nil {
		return nil //nolint:nilerr // it was told to end
	}
	return err
}

// Fold applies one more commit, the next. Follow must not run.
func (s *Standby) Fold(commit []byte) error {
	c, err := domain.DecodeCommitEvents(commit)
	if err != nil {
		return fmt.Errorf("after commit %d: %w", s.Head().N, err)
	}
	return s.apply(c, sha256.Sum256(commit))
}

func (s *Standby) apply(c *domain.Commit, hash domain.Digest) error {
	var events []domain.EventBody
	for i := range c.Decisions {
		for _, e := range c.Decisions[i].Events {
			if started, ok := e.Body.(*domain.WriterStarted); ok {
				if err := checkLevel(started.LogicLevel); err != nil {
					return err
				}
			}
			events = append(events, e.Body)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.world == nil {
		return fmt.Errorf("commit %d came to a standby that gave its world away", c.N)
	}
	if err := s.world.ApplyCommit(c, hash); err != nil {
		return err
	}
	s.dir.apply(events)
	s.head = s.world.Head
	if s.o.Snapshot != nil && s.o.SnapshotEvery > 0 && s.head.N >= s.snapAt+s.o.SnapshotEvery {
		s.snapAt = s.head.N
		s.o.Snapshot(s.head, s.world.Encode())
	}
	close(s.grown)
	s.grown = make(chan struct{})
	return nil
}

// Head is the last commit folded.
func (s *Standby) Head() domain.Head {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.head
}

// WaitFor returns when commit n is folded; read_model.behind when ctx ends first.
func (s *Standby) WaitFor(ctx context.Context, n uint64) error {
	for { // ends with ctx or the commit
		s.mu.Lock()
		head, grown := s.head.N, s.grown
		s.mu.Unlock()
		if head >= n {
			return nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			e := domain.Errorf(domain.Unavailable, "read_model.behind", "this process has commit %d, not yet %d: try again", head, n)
			e.Cause = ctx.Err()
			return e
		}
	}
}

// Query runs f against the world as far as it is folded, all of it durable; f must
// be quick and must not keep the world. It answers not_writer once the world was
// taken.
func (s *Standby) Query(_ context.Context, _ domain.Actor, f func(w *domain.World, at domain.Time)) (uint64, *domain.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.world == nil {
		return 0, errNotWriter()
	}
	f(s.world, max(s.world.At, domain.TimeOf(s.o.Clock())))
	return s.head.N, nil
}

// Submit refuses: only the writer decides.
func (s *Standby) Submit(context.Context, *domain.Command) Reply { return Reply{Err: errNotWriter()} }

// Take gives the world away, to a loop. Follow has to have ended.
func (s *Standby) Take() *domain.World {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.world
	s.world = nil
	return w
}
