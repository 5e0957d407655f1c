package projections

import (
	"context"
	"sync"

	"github.com/gpuaas/gpuaas/domain"
)

// CaughtUp is for what was not found in the read models as they showed commit n. It waits
// until they show what the log has now, and returns that commit; n itself if nothing came
// after it. Rest is not ended by it, or whoever asks for what is not there would keep a
// site from it. It answers unavailable (read_model.behind) when ctx ends first, or the log
// does not say that it has n.
func (p *Projector) CaughtUp(ctx context.Context, n uint64) (uint64, error) {
	newest, err := p.newest.ask(ctx, p.src.Newest)
	if err != nil || newest < n {
		e := domain.Errorf(domain.Unavailable, "read_model.behind", "the read model has commit %d, and the log cannot be asked for a newer one: try again", n)
		e.Cause = err
		return 0, e
	}
	if newest == n {
		return n, nil
	}
	return newest, p.waitFor(ctx, newest, false)
}

// shared puts a question for many: one is on its way at a time, and who comes meanwhile
// shares the next one, so that an answer is never older than the wish for it.
type shared struct {
	mu     sync.Mutex
	asking bool
	next   *answer
}

type answer struct {
	done chan struct{}
	n    uint64
	err  error
}

func (s *shared) ask(ctx context.Context, question func(context.Context) (uint64, error)) (uint64, error) {
	s.mu.Lock()
	a := s.next
	if a == nil {
		a = &answer{done: make(chan struct{})}
		s.next = a
	}
	if !s.asking {
		s.asking = true
		go s.run(context.WithoutCancel(ctx), question) // for whoever comes, too
	}
	s.mu.Unlock()
	select {
	case <-a.done:
		return a.n, a.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (s *shared) run(ctx context.Context, question func(context.Context) (uint64, error)) {
	for { // ends when nobody came meanwhile
		s.mu.Lock()
		a := s.next
		s.next, s.asking = nil, a != nil
		s.mu.Unlock()
		if a == nil {
			return
		}
		one, cancel := context.WithTimeout(ctx, endInterval)
		a.n, a.err = question(one)
		cancel()
		close(a.done)
	}
}
