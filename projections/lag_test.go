package projections

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

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
				p.saw(End{Head: domain.Head{N: end}, Number: end * 10})
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
			p.saw(End{Head: domain.Head{N: 16 + n}})
			time.Sleep(time.Second)
		}
		if l := p.Lag(); len(p.ends) > maxEnds || l.Behind != (2*maxEnds+1)*time.Second {
			t.Errorf("%d ends, %+v", len(p.ends), l)
		}
	})
}
