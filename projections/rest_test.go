package projections

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

// TestRest: who waits to read their own write does not wait for the projector's rest.
func TestRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := (&Store{}).Projector(nil)
		go func() {
			p.rest(t.Context(), time.Hour)
			p.publish(position{Head: domain.Head{N: 1}})
			p.rest(t.Context(), time.Hour)
			p.publish(position{Head: domain.Head{N: 2}})
		}()
		began := time.Now()
		if err := p.WaitFor(t.Context(), 2); err != nil || time.Since(began) > 0 {
			t.Errorf("waited for %v: %v", time.Since(began), err)
		}
		began = time.Now()
		if p.rest(t.Context(), time.Second); time.Since(began) != time.Second {
			t.Errorf("nobody waits, and it rested for %v", time.Since(began))
		}
	})
	for _, c := range []struct {
		events, commits    int
		took, behind, want time.Duration
	}{
		{rushEvents - 1, 1, 5 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond},
		{rushEvents - 1, 1, 300 * time.Millisecond, 3 * time.Second, quietRest},
		{rushEvents, rushEvents/rushCommit + 1, 300 * time.Millisecond, 3 * time.Second, quietRest},
		{rushEvents, rushEvents / rushCommit, 5 * time.Millisecond, 5 * time.Millisecond, 40 * time.Millisecond},
		{rushEvents, 1, 300 * time.Millisecond, 3 * time.Second, rushRest},
		{rushEvents, 1, 300 * time.Millisecond, 9 * time.Second, rushRest},
		{rushEvents, 1, 300 * time.Millisecond, 10 * time.Second, 0},
	} {
		if got := restFor(c.events, c.commits, c.took, c.behind); got != c.want {
			t.Errorf("%d events in %d commits, in %v, %v behind: rests for %v, want %v", c.events, c.commits, c.took, c.behind, got, c.want)
		}
	}
}

// TestCaughtUp: what was not found is looked for again where the log has gone on, without
// an end to the rest of a rush, and no longer than asked.
func TestCaughtUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := newLog()
		p := (&Store{}).Projector(log)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if n, err := p.CaughtUp(ctx, 0); n != 0 || err != nil {
			t.Errorf("nothing was decided: %d, %v", n, err)
		}
		log.end.Head.N = 7
		if n, err := p.CaughtUp(ctx, 7); n != 7 || err != nil {
			t.Errorf("the snapshot had everything: %d, %v", n, err)
		}
		if _, err := p.CaughtUp(ctx, 8); domain.AsError(err).Code != "read_model.behind" {
			t.Errorf("a log that ends before the snapshot does: %v", err)
		}
		began := time.Now()
		go func() {
			p.rest(t.Context(), time.Second)
			p.publish(position{Head: domain.Head{N: 7}})
		}()
		if n, err := p.CaughtUp(ctx, 6); n != 7 || err != nil || time.Since(began) != time.Second {
			t.Errorf("after %v: %d, %v", time.Since(began), n, err)
		}
		log.end.Head.N = 8
		if _, err := p.CaughtUp(ctx, 7); domain.AsError(err).Code != "read_model.behind" || time.Since(began) != 10*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

// TestShared: of many who ask at once each gets an answer that was asked for after it came,
// and the log is not asked as often.
func TestShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s shared
		var asked uint64
		question := func(context.Context) (uint64, error) {
			asked++
			n := asked
			time.Sleep(time.Second)
			return n, nil
		}
		want := func(n uint64) {
			if got, err := s.ask(t.Context(), question); got != n || err != nil {
				t.Errorf("answer %d, want %d: %v", got, n, err)
			}
		}
		go want(1)
		time.Sleep(time.Millisecond)
		for range 100 {
			go want(2)
		}
		time.Sleep(time.Second)
		want(3)
		want(4)
		short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := s.ask(short, question); err == nil {
			t.Error("who cannot wait was kept")
		}
		time.Sleep(time.Second)
	})
}
