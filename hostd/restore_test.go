package hostd_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/machine/sim"
)

// withVM is a host with one VM that is ready, with keys from the vault and an image.
func withVM(t *testing.T) *rack {
	t.Helper()
	r := newRack(t, sim.Options{Slots: 2})
	doc := domain.Digest{9}
	r.site.vault[doc] = hostd.VaultReply{SSHKeys: []string{"ssh-ed25519 AAAA me"}}
	r.images = func(context.Context, domain.Digest) (string, error) { return "image", nil }
	r.start()
	r.approve()
	v := vm(1, 0)
	v.UserData = doc
	r.site.place(func(d *domain.Desired) { d.VMs = append(d.VMs, v) })
	r.awaitSaid("ready 1 boot 1")
	return r
}

func (r *rack) runs() bool {
	o, err := r.machine.Observe(r.t.Context())
	return err == nil && len(o) == 1 && o[0].Running
}

// A VM that nobody meant to end comes back into its own boot, and what is said of a
// boot is said again.
func TestLostVMComesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := withVM(t)
		for n := 1; n <= 2; n++ {
			if err := r.machine.Lose(domain.VMID{1}, "domain.crashed"); err != nil {
				t.Fatal(err)
			}
			r.await("it is back", func() bool { return r.site.count("ready 1 boot 1") == n+1 })
			for _, line := range []string{"stopped 1 boot 1 domain.crashed lost", "started 1 boot 1", "alive 1 boot 1"} {
				want := n + 1
				if strings.HasPrefix(line, "stopped") {
					want = n
				}
				if got := r.site.count(line); got != want {
					t.Errorf("loss %d: %q was said %d times", n, line, got)
				}
			}
			time.Sleep(time.Second)
		}
		// What is to be off stays off, and a stop is a stop.
		r.site.place(onVM(1, func(v *domain.PlacedVM) { v.Power = domain.PowerOff }))
		r.awaitSaid("stopped 1 boot 1")
		time.Sleep(5 * time.Minute)
		if r.runs() || r.site.count("stopped") != 3 {
			t.Errorf("said: %v", r.site.said())
		}
	})
}

// Its host booted while the site is away: the map is known before anything is looked
// at, and the VM comes back without the site, its image or its keys.
func TestHostRebootWithoutTheSite(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := withVM(t)
		r.stop()
		if err := r.machine.Lose(domain.VMID{1}, "host.rebooted"); err != nil {
			t.Fatal(err)
		}
		r.site.mu.Lock()
		r.site.away = true
		r.site.mu.Unlock()
		r.images = func(context.Context, domain.Digest) (string, error) { return "", errors.New("evicted, and no line") }
		r.start()
		if m := r.agent.Approved(); m == nil || m.Digest() != r.site.proposal().Digest() {
			t.Fatal("what is tenants' is not known from the beginning")
		}
		r.awaitSaid("stopped 1 boot 1 host.rebooted lost")
		r.await("it is back", func() bool { return r.site.count("ready 1 boot 1") == 2 })
		if r.site.count("failed") != 0 {
			t.Errorf("said: %v", r.site.said())
		}
	})
}

// An image that was evicted is not needed by a VM that has its disk.
func TestStartAfterEviction(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := withVM(t)
		r.stop()
		r.images = func(context.Context, domain.Digest) (string, error) { return "", errors.New("evicted, and no line") }
		r.start()
		r.site.place(onVM(1, func(v *domain.PlacedVM) { v.Power = domain.PowerOff }))
		r.awaitSaid("stopped 1 boot 1")
		r.site.place(onVM(1, func(v *domain.PlacedVM) { v.Power, v.Boot = domain.PowerOn, 2 }))
		r.awaitSaid("ready 1 boot 2")
	})
}

// What was kept is carried out only if it is exactly what the fence saw last. Else the
// host waits for the site, and still knows what is tenants'.
func TestKeptPlacement(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(t *testing.T, r *rack, older []byte){
		"damaged": func(t *testing.T, r *rack, _ []byte) {
			must(t, os.WriteFile(filepath.Join(r.dir, "placement"), []byte("nonsense"), 0o600))
		},
		"older": func(t *testing.T, r *rack, older []byte) {
			must(t, os.WriteFile(filepath.Join(r.dir, "placement"), older, 0o600))
		},
		"absent": func(t *testing.T, r *rack, _ []byte) { must(t, os.Remove(filepath.Join(r.dir, "placement"))) },
		"of another host": func(t *testing.T, r *rack, _ []byte) {
			d := r.site.placed.Desired
			d.Host = domain.HostID{99}
			must(t, os.WriteFile(filepath.Join(r.dir, "placement"), domain.EncodePlacement(&domain.Placement{Desired: d}), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRack(t, sim.Options{Slots: 2})
				r.start()
				r.approve()
				r.site.place(func(d *domain.Desired) { d.VMs = append(d.VMs, vm(1, 0), vm(2, 1)) })
				r.awaitSaid("ready 1 boot 1", "ready 2 boot 1")
				older, err := os.ReadFile(filepath.Join(r.dir, "placement"))
				must(t, err)
				r.site.place(func(d *domain.Desired) { release(d, 2) })
				r.awaitWiped()
				r.await("all carried out", func() bool { return r.site.lastBeat().Executed == r.site.placed.Desired.Generation })
				r.stop()
				spoil(t, r, older)
				must(t, r.machine.Lose(domain.VMID{1}, "host.rebooted"))
				r.site.mu.Lock()
				r.site.away = true
				r.site.mu.Unlock()
				r.start()
				if r.agent.Approved() == nil {
					t.Error("what is tenants' is not known")
				}
				time.Sleep(5 * time.Minute)
				if o, _ := r.machine.Observe(t.Context()); len(o) != 1 || o[0].Running {
					t.Errorf("carried out: %+v", o)
				}
				r.site.mu.Lock()
				r.site.away = false
				r.site.tell()
				r.site.mu.Unlock()
				r.await("it is back", func() bool { return r.site.count("ready 1 boot 1") == 2 })
			})
		})
	}
}

// The site that is there has the first word: what it no longer wants is not started
// from what was kept.
func TestTheSiteHasTheFirstWord(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := withVM(t)
		r.stop()
		must(t, r.machine.Lose(domain.VMID{1}, "host.rebooted"))
		r.site.place(func(d *domain.Desired) { release(d, 1) })
		r.site.mu.Lock()
		r.site.away = true
		r.site.mu.Unlock()
		r.start()
		time.Sleep(2 * time.Second) // until the line is there
		r.site.mu.Lock()
		r.site.away = false
		r.site.tell()
		r.site.mu.Unlock()
		r.awaitSaid("removed 1 boot 0", "wiped 0 gen 1 attempt 1 verified")
		if n := r.site.count("started"); n != 1 {
			t.Errorf("started %d times", n)
		}
	})
}

// A look at the hardware takes as long as it takes: placements are carried out
// meanwhile, and it does not come again because a guest wants it to.
func TestLooksHoldNothingUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := withVM(t)
		r.stop()
		r.lookAt, r.news = make(chan struct{}), make(chan machine.Event)
		r.start()
		r.await("a look", func() bool { return r.body.looked() == 1 })
		r.site.place(onVM(1, func(v *domain.PlacedVM) { v.Power = domain.PowerOff }))
		r.awaitSaid("stopped 1 boot 1")
		close(r.lookAt)
		time.Sleep(2 * time.Minute)
		before := r.body.looked()
		for range 1000 {
			r.news <- machine.Event{Kind: machine.Changed, VM: domain.VMID{1}}
			r.news <- machine.Event{Kind: machine.GuestAlive, VM: domain.VMID{1}}
		}
		time.Sleep(10 * time.Second)
		if n := r.body.looked(); n != before {
			t.Errorf("%d looks for a guest", n-before)
		}
		for range 50 { // a fault is a reason, but not for one look each
			r.news <- machine.Event{Kind: machine.DeviceFault, Component: "gpu", Scope: "device", Code: "device.gone"}
			time.Sleep(100 * time.Millisecond)
		}
		if n := r.body.looked() - before; n < 1 || n > 2 {
			t.Errorf("%d looks for faults in five seconds", n)
		}
		for what, ask := range map[string]func(){
			"an operator":            r.agent.LookAgain,
			"hardware that flutters": func() { r.news <- machine.Event{Kind: machine.HardwareMoved} },
		} {
			time.Sleep(2 * time.Minute)
			before = r.body.looked()
			for range 1000 {
				ask()
			}
			synctest.Wait()
			if n := r.body.looked() - before; n != 1 {
				t.Errorf("%d looks at once for %s", n, what)
			}
			for range 60 {
				ask()
				time.Sleep(100 * time.Millisecond)
			}
			if n := r.body.looked() - before; n != 2 {
				t.Errorf("%d looks for %s within six seconds", n, what)
			}
		}
	})
}

// After a boot of the host devices come up one after the other: a VM waits for its own.
// When they do not come it fails, and what is missing is named.
func TestDevicesComeUpSlowly(t *testing.T) {
	t.Parallel()
	for name, come := range map[string]bool{"they come": true, "they do not": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := withVM(t)
				r.stop()
				must(t, r.machine.Lose(domain.VMID{1}, "host.rebooted"))
				var there atomic.Bool
				r.rewire = func(m *domain.SlotMap) {
					if !there.Load() {
						m.Slots = m.Slots[1:]
					}
				}
				r.start()
				time.Sleep(time.Minute)
				there.Store(come)
				if !come {
					r.awaitSaid("failed 1 boot 1 slot.device_missing by the gpu of slot 0")
					return
				}
				r.await("it is back", func() bool { return r.site.count("ready 1 boot 1") == 2 })
				if r.site.count("failed") != 0 {
					t.Errorf("said: %v", r.site.said())
				}
			})
		})
	}
}

// What is to blame for a failure is named, to the site that judges it: by the machine,
// or by what was found.
func TestBlame(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		script, want string
		rewire       func(m *domain.SlotMap)
	}{
		"another drive":   {"start slot=1 fail=drive.other blame=nvme", "failed 1 boot 1 drive.other by the nvme of slot 1", nil},
		"nobody":          {"start slot=1 fail=domain.start_failed", "failed 1 boot 1 domain.start_failed", nil},
		"not as approved": {"", "failed 1 boot 1 slot.device_missing by the gpu of slot 1", func(m *domain.SlotMap) { m.Slots[1].GPU.Serial = "OTHER" }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRack(t, sim.Options{Slots: 2, Faults: faults(t, c.script)})
				r.start()
				r.approve()
				if c.rewire != nil {
					r.stop()
					r.rewire = c.rewire
					r.start()
					r.await("both looks", func() bool { return r.body.looked() > 1 })
					time.Sleep(time.Second)
				}
				r.site.place(func(d *domain.Desired) { d.VMs = append(d.VMs, vm(1, 0, 1)) })
				r.awaitSaid(c.want)
			})
		})
	}
}

// A wipe that could not say anything says why, first of what is to blame.
func TestWipeSaysWhy(t *testing.T) {
	t.Parallel()
	for script, want := range map[string]string{
		"wipe slot=0 fail=drive.other blame=nvme": "nvme drive.other, gpu , ib_vf ",
		"wipe slot=0 fail=wipe.busy":              "gpu wipe.busy, nvme wipe.busy, ib_vf wipe.busy",
		"wipe slot=0 fail=drive.held blame=host":  "host drive.held, gpu , nvme , ib_vf ",
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRack(t, sim.Options{Slots: 1, Faults: faults(t, script)})
			r.start()
			m := r.proposed()
			r.site.place(func(d *domain.Desired) {
				d.SlotMap = m.Digest()
				d.Wipes = []domain.PlacedWipe{{Lease: lease(0, 0), Attempt: 1, Policy: domain.WipeAuto}}
			})
			r.awaitSaid("wiped 0 gen 0 attempt 1 failed")
			r.site.mu.Lock()
			defer r.site.mu.Unlock()
			var got []string
			for _, d := range r.site.reports[len(r.site.reports)-1].Wipe.Devices {
				got = append(got, d.Component+" "+d.Reason)
			}
			if g := strings.Join(got, ", "); g != want {
				t.Errorf("%s: %q, want %q", script, g, want)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
