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
		}()
		began := time.Now()
		if err := p.WaitFor(t.Context(), 1); err != nil || time.Since(began) > 0 {
			t.Errorf("waited for %v: %v", time.Since(began), err)
		}
		began = time.Now()
		if p.rest(t.Context(), time.Second); time.Since(began) != time.Second {
			t.Errorf("nobody waits, and it rested for %v", time.Since(began))
		}
	})
}
