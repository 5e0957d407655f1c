package projections

import (
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
		events             int
		took, behind, want time.Duration
	}{
		{rushEvents - 1, 5 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond},
		{rushEvents - 1, 300 * time.Millisecond, 3 * time.Second, 100 * time.Millisecond},
		{rushEvents, 5 * time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond},
		{rushEvents, 300 * time.Millisecond, 3 * time.Second, time.Second},
		{rushEvents, 300 * time.Millisecond, 6 * time.Second, 0},
	} {
		if got := restFor([]delivery{{events: 1}, {events: c.events - 1}}, c.took, c.behind); got != c.want {
			t.Errorf("%d events in %v, %v behind: rests for %v, want %v", c.events, c.took, c.behind, got, c.want)
		}
	}
}

// TestLag: how long the read models are behind is counted from when the log was seen to
// end with what they do not show.
func TestLag(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := (&Store{}).Projector(nil)
		step := func(end, applied uint64, want Lag) {
			t.Helper()
			p.publish(position{Head: domain.Head{N: applied}, Number: applied * 10})
			if end > 0 {
				p.saw(End{Head: domain.Head{N: end}, Number: end * 10}, time.Now())
			}
			if got := p.Lag(); got != want {
				t.Errorf("end %d, applied %d: %+v, want %+v", end, applied, got, want)
			}
			time.Sleep(time.Second)
		}
		step(7, 3, Lag{Commits: 4, Events: 40, Filling: true})
		step(7, 6, Lag{Commits: 1, Events: 10, Behind: time.Second, Filling: true})
		step(9, 7, Lag{Commits: 2, Events: 20})
		step(12, 8, Lag{Commits: 4, Events: 40, Behind: time.Second})
		step(14, 9, Lag{Commits: 5, Events: 50, Behind: time.Second}) // of 12
		step(0, 14, Lag{})
		time.Sleep(time.Hour)
		step(15, 14, Lag{Commits: 1, Events: 10})
		for n := range uint64(2 * maxEnds) { // stands still
			p.saw(End{Head: domain.Head{N: 16 + n}}, time.Now())
			time.Sleep(time.Second)
		}
		if l := p.Lag(); len(p.ends) > maxEnds || l.Behind != (2*maxEnds+1)*time.Second {
			t.Errorf("%d ends, %+v", len(p.ends), l)
		}
	})
}
