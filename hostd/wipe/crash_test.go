package wipe

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/nvme"
	"github.com/gpuaas/gpuaas/hostd/nvme/nvmefake"
)

// smallSize keeps the number of operations of one run small.
const smallSize = 12 * 4096

var errKilled = errors.New("the host is dead")

// deaths are the ways to die at an operation.
var deaths = []struct {
	name     string
	done     bool // the operation still happened
	powerCut bool
}{{"before", false, false}, {"after", true, false}, {"power cut", true, true}}

// dying runs the wipe and kills the host at operation n; it reports whether the
// run came that far. The evidence of a run that ended is honest.
func (d *drive) dying(n int, done, powerCut bool) (killed bool) {
	d.t.Helper()
	ctx, cancel := context.WithCancel(d.t.Context())
	defer cancel()
	at := 0
	script := d.Hook
	d.Hook = func(op *nvmefake.Op, do func() error) error {
		run := do
		if script != nil {
			run = func() error { return script(op, do) }
		}
		if at++; at < n {
			return run()
		}
		if !killed {
			killed = true
			if done {
				_ = run()
			}
			if powerCut {
				d.PowerCut()
			}
			cancel()
		}
		return errKilled
	}
	ev, err := Drive(ctx, d.Open(), d.store, serial, &d.wipe)
	d.Hook = script
	switch {
	case killed && err == nil && ev.Result != domain.WipeFailed: // it may have failed before it died
		d.t.Fatalf("killed at operation %d, and there is evidence: %+v", n, ev)
	case !killed && err != nil:
		d.t.Fatal(err)
	case !killed:
		d.honest(ev)
	}
	return killed
}

// stride is from one operation to die at to the next: in short mode, as under the race
// detector, one in five is enough.
func stride() int {
	if testing.Short() {
		return 5
	}
	return 1
}

// TestCrashAnywhere kills the host between any two operations of a wipe. The next
// run ends it, and never restarts a sanitize that is in progress.
func TestCrashAnywhere(t *testing.T) {
	t.Parallel()
	for _, policy := range policies {
		for _, death := range deaths {
			t.Run(policy.String()+" "+death.name, func(t *testing.T) {
				t.Parallel()
				n := 1
				for ; ; n += stride() {
					if !crash(t, policy, n, death.done, death.powerCut, nil) {
						break
					}
				}
				if n < 55 {
					t.Errorf("a wipe of %d operations: were all seen?", n)
				}
			})
		}
	}
}

// crash dies once at operation n and expects the next run to verify; broken, when
// set, spoils the drive, and the next run must not.
func crash(t *testing.T, policy domain.WipePolicy, n int, done, powerCut bool, broken func(d *drive)) (killed bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := small(t, policy)
		if broken != nil {
			broken(d)
		}
		if killed = d.dying(n, done, powerCut); !killed {
			return
		}
		running := d.sanitizing()
		d.watchRestarts(running)
		ev := d.erase()
		if ok := ev.Result == domain.WipeVerified; ok != (broken == nil) {
			t.Fatalf("killed at operation %d: then %+v", n, ev)
		}
	})
	return killed
}

func small(t *testing.T, policy domain.WipePolicy) *drive {
	return newDrive(t, policy, func(d *nvmefake.Drive) {
		d.Namespaces[1].Bytes, d.Capacity, d.SanitizeTakes = smallSize, smallSize, 3*time.Second
	})
}

// sanitizing asks the drive itself.
func (d *drive) sanitizing() bool {
	st, err := nvme.ReadSanitizeStatus(d.t.Context(), d.Open())
	return err == nil && st.State == nvme.Sanitizing
}

// watchRestarts fails the test when a sanitize that runs is not followed to its
// end: while it runs nothing else is started. What was planted before it is looked
// for after it, and nothing is written between.
func (d *drive) watchRestarts(running bool) {
	if !running {
		return
	}
	d.Hook = func(op *nvmefake.Op, do func() error) error {
		if op.Erases() || op.Kind == "write" {
			d.t.Errorf("a followed sanitize is not the erasure: %s", op.Kind)
		}
		return do()
	}
}

// TestCrashOfABrokenDrive kills the host anywhere while the drive erases nothing:
// no second start may take what the first left for a proof.
func TestCrashOfABrokenDrive(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]func(d *drive){
		"erases nothing":   func(d *drive) { d.KeepsData = func(uint32, int64, []byte) bool { return true } },
		"erases the start": func(d *drive) { d.KeepsData = func(_ uint32, i int64, _ []byte) bool { return i > 6 } },
	} {
		for _, policy := range policies {
			t.Run(name+" "+policy.String(), func(t *testing.T) {
				t.Parallel()
				for n := 1; crash(t, policy, n, n%2 == 0, n%3 == 0, broken); n += stride() {
				}
			})
		}
	}
}

// TestCrashesInARow kills run after run at places that a seed chooses, until one
// ends.
func TestCrashesInARow(t *testing.T) {
	t.Parallel()
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			d := small(t, policies[r.IntN(len(policies))])
			for range 5 {
				death := deaths[r.IntN(len(deaths))]
				if !d.dying(1+r.IntN(70), death.done, death.powerCut) {
					break
				}
				time.Sleep(time.Duration(r.IntN(4)) * time.Second)
			}
			if ev := d.erase(); ev.Result != domain.WipeVerified {
				t.Fatalf("seed %d: %+v", seed, ev)
			}
		})
	}
}

// A sanitize that nobody at this host began is waited for, and is not the erasure.
func TestForeignSanitizeIsNotOurs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := small(t, domain.WipeSanitize)
		d.BeginSanitize(nvme.SanitizeBlocks)
		began := 0
		d.Hook = func(op *nvmefake.Op, do func() error) error {
			if op.Admin(nvme.OpSanitize) {
				began++
			}
			return do()
		}
		if ev := d.erase(); ev.Result != domain.WipeVerified || began != 1 || ev.Planted == 0 {
			t.Fatalf("%d sanitizes began: %+v", began, ev)
		}
	})
}

// Another attempt does not take the record of the one before for its own.
func TestAnotherAttemptBeginsAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := small(t, domain.WipeSanitize)
		for n := 1; !d.sanitizing(); n++ {
			if !d.dying(n, true, false) {
				t.Fatal("no sanitize was caught")
			}
			if n > 1000 {
				t.Fatal("no end")
			}
		}
		d.wipe.Attempt++
		written := 0
		d.Hook = func(op *nvmefake.Op, do func() error) error {
			if op.Kind == "write" {
				written++
			}
			return do()
		}
		if ev := d.erase(); ev.Result != domain.WipeVerified || written == 0 {
			t.Fatalf("%d canaries written: %+v", written, ev)
		}
	})
}

// What a command can restore is restored, and said.
func TestRestored(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]func(d *drive){
		"LBA format 4K": func(d *drive) { d.Namespaces[1].Format = 1 },
		"metadata":      func(d *drive) { d.Namespaces[1].Format = 2 },
		"write protect": func(d *drive) { d.Namespaces[1].Protection = nvme.ProtectedUntilTold },
		"failure mode":  func(d *drive) { d.FailedSanitize() },
		"one interruption": func(d *drive) {
			d.Hook = func(op *nvmefake.Op, do func() error) error {
				if op.Log(0x02) && d.Cycles == 7 {
					d.Cycles++
					return fmt.Errorf("wrapped: %w", unix.EAGAIN)
				}
				return do()
			}
		},
	} {
		for _, policy := range policies {
			t.Run(name+" "+policy.String(), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					d := newDrive(t, policy, nil)
					script(d)
					ev := d.erase()
					if ev.Result != domain.WipeVerified || d.Namespaces[1].Format != 0 || d.Namespaces[1].Protection != nvme.Writable {
						t.Fatalf("%+v", ev)
					}
				})
			})
		}
	}
}

// The first wipe takes the baseline; the next compare with it.
func TestFirstWipeTakesTheBaseline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDrive(t, domain.WipeAuto, nil)
		if err := d.store.Forget(serial); err != nil {
			t.Fatal(err)
		}
		d.wipe.Lease.Generation = 0
		first := d.erase()
		if first.Result != domain.WipeVerified || first.Baseline.IsZero() || !first.Fresh {
			t.Fatalf("%+v", first)
		}
		d.wipe.Attempt++
		if again := d.erase(); !again.Fresh {
			t.Fatalf("another attempt of the wipe that took it: %+v", again)
		}
		d.wipe.Lease.Generation = 1
		if second := d.erase(); second.Baseline != first.Baseline || second.Fresh {
			t.Fatalf("%+v", second)
		}
		d.Slots[1] = "EVIL0001"
		if third := d.erase(); third.Reason != FirmwareChanged || third.Baseline != first.Baseline {
			t.Fatalf("%+v", third)
		}
		d.wipe.Lease.Generation = 0 // approved again on the same host: still the same drive
		if fourth := d.erase(); fourth.Reason != FirmwareChanged {
			t.Fatalf("%+v", fourth)
		}
	})
}

// A spare in the place of a drive is new to the host, whatever the slot's
// generation; a host that lost its files knows that of no drive.
func TestSpareTakesItsBaseline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDrive(t, domain.WipeAuto, nil)
		d.wipe.Lease.Slot = domain.SlotID{1}
		if ev := d.erase(); ev.Result != domain.WipeVerified {
			t.Fatalf("%+v", ev)
		}
		spare := nvmefake.New("SPARE", driveSize)
		d.wipe.Lease.Generation++
		wipe := func() domain.DeviceWipe {
			ev, err := Drive(t.Context(), spare.Open(), d.store, "SPARE", &d.wipe)
			if err != nil {
				t.Fatal(err)
			}
			return ev
		}
		first := wipe()
		if first.Result != domain.WipeVerified || first.Baseline.IsZero() {
			t.Fatalf("%+v", first)
		}
		d.wipe.Lease.Generation++
		spare.Slots[1] = "EVIL0001"
		if ev := wipe(); ev.Reason != FirmwareChanged || ev.Baseline != first.Baseline {
			t.Fatalf("%+v", ev)
		}
		if err := d.store.Forget("SPARE"); err != nil { // its own slot remembers that it was there
			t.Fatal(err)
		}
		if ev := wipe(); ev.Reason != BaselineMissing {
			t.Fatalf("%+v", ev)
		}
		d.wipe.Lease.Slot = domain.SlotID{2} // of which the host knows nothing
		if ev := wipe(); ev.Reason != BaselineMissing {
			t.Fatalf("%+v", ev)
		}
	})
}
