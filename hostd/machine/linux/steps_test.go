package linux

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/domain/domaintest"
)

// TestEveryStep fails before, fails after, repeats and crashes at every act on the
// host of one VM's provisioning and release, and checks a clean end each time.
func TestEveryStep(t *testing.T) {
	t.Parallel()
	dry := newWorldWith(t, 2, true)
	v := dry.vm(2)
	if err := errors.Join(dry.up(t.Context(), v), dry.down(t.Context(), v)); err != nil {
		t.Fatal(err)
	}
	acts := dry.acts
	if len(acts) < 40 || !slices.Contains(acts, "vf set") {
		t.Fatalf("only %d acts: %q", len(acts), acts)
	}
	t.Logf("%d acts", len(acts))
	slice := 0
	if testing.Short() {
		slice = 1 // every act in one way: it is the race detector's turn
	}
	for _, f := range domaintest.Faults(len(acts), slice) {
		t.Run(fmt.Sprintf("%s %d %s", f.Way, f.Step, acts[f.Step]), func(t *testing.T) {
			t.Parallel()
			stepFault(t, f)
		})
	}
}

var errInjected = errors.New("injected")

func stepFault(t *testing.T, f domaintest.Fault) {
	w := newWorldWith(t, 2, true)
	v := w.vm(2)
	crashed := false
	w.step = func(_ string, after bool) error {
		if crashed {
			return errInjected // a dead process does nothing more
		}
		if !f.Strikes(after) {
			return nil
		}
		crashed = f.Way.Crash()
		return errInjected
	}
	// The daemon tries a chain again, from its beginning, a bounded number of times.
	attempt := func(what string, do func() error) {
		t.Helper()
		var err error
		for range 4 {
			if err = do(); err == nil && !crashed {
				return
			}
			if crashed { // what it returned nobody heard
				if err := w.m.Close(); err != nil {
					t.Fatal(err)
				}
				crashed = false
				w.open()
			}
		}
		t.Fatalf("%s: %v", what, err)
	}
	attempt("up", func() error { return w.up(t.Context(), v) })
	w.isUp(v)
	appendSecret(t, w.k.Medium(v.Slots[0].NVMe.Serial))
	attempt("down", func() error { return w.down(t.Context(), v) })
	w.isGone(v)
	if !f.Struck {
		t.Fatalf("act %d was never done: %d were", f.Step, f.Seen)
	}
	// The next tenant's VM comes up on the same slots.
	next := w.vm(2)
	next.VM = domain.VMID{0xcd}
	if err := w.up(t.Context(), next); err != nil {
		t.Fatalf("the next tenant: %v", err)
	}
	w.isUp(next)
}
