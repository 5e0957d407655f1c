package guest

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/guest/guesttest"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/vm"
)

// running is a host on which the VM was started into boot 3 by a daemon that is gone.
func running(t *testing.T) (lv *guesttest.Host, dir string, v *machine.VM) {
	t.Helper()
	lv, dir = guesttest.New(), t.TempDir()
	v = &machine.VM{
		PlacedVM: domain.PlacedVM{VM: domain.VMID{1}, Boot: 3, MAC: "02:00:00:00:00:01"},
		Slots:    []domain.SlotSpec{{NVMe: domain.Device{Serial: "D0"}}},
	}
	g := opened(t, lv, dir, "one")
	start(t, g, v)
	g.Close()
	return lv, dir, v
}

// opened is the next daemon, in that boot of the host.
func opened(t *testing.T, lv *guesttest.Host, dir, boot string) *Guests {
	t.Helper()
	g, err := Open(t.Context(), Options{
		Dir: dir, Host: lv, HostBoot: boot,
		Signs: func() (map[string]Sign, error) { return nil, nil },
		Dial:  func(context.Context, domain.VMID) (net.Conn, error) { return nil, errors.New("no port") },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}

func start(t *testing.T, g *Guests, v *machine.VM) {
	t.Helper()
	xml := "<domain><name>" + v.VM.String() + "</name></domain>"
	if err := g.Start(t.Context(), v, func(State) (string, error) { return xml, nil }); err != nil {
		t.Fatal(err)
	}
}

func observed(t *testing.T, g *Guests) machine.Observed {
	t.Helper()
	seen, err := g.Observe(t.Context())
	if err != nil || len(seen) != 1 {
		t.Fatalf("observed %+v, %v", seen, err)
	}
	return seen[0]
}

// TestWhoEndedIt: what a VM that is off was ended by decides whether it comes back by
// itself, and it does into its own boot.
func TestWhoEndedIt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		boot  string // of the host, of the daemon that looks
		end   func(lv *guesttest.Host, name string)
		cause string
	}{
		"the guest powers off":        {"one", func(lv *guesttest.Host, n string) { lv.End(n, vm.EndShutdown) }, ""},
		"libvirt does not know":       {"one", func(lv *guesttest.Host, n string) { lv.End(n, vm.EndUnknown) }, ""},
		"QEMU is killed":              {"one", func(lv *guesttest.Host, n string) { lv.End(n, vm.EndCrashed) }, CauseCrashed},
		"somebody pulls the plug":     {"one", func(lv *guesttest.Host, n string) { lv.End(n, vm.EndDestroyed) }, CauseDestroyed},
		"the domain is gone":          {"one", func(lv *guesttest.Host, n string) { lv.Die(); _ = lv.Undefine(context.Background(), n) }, CauseGone},
		"the host boots":              {"two", func(lv *guesttest.Host, _ string) { lv.Die() }, CauseRebooted},
		"killed as the host goes off": {"two", func(lv *guesttest.Host, n string) { lv.End(n, vm.EndShutdown) }, CauseRebooted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lv, dir, v := running(t)
			c.end(lv, v.VM.String())
			g := opened(t, lv, dir, c.boot)
			o := observed(t, g)
			if o.Running || o.Boot != 3 || o.Cause != c.cause || o.Lost != (c.cause != "") {
				t.Fatalf("%+v, want cause %q", o, c.cause)
			}
			g.Close()
			g = opened(t, lv, dir, "three") // the next boot makes nothing else of it
			if o := observed(t, g); o.Cause != c.cause || o.Lost != (c.cause != "") {
				t.Fatalf("after another boot: %+v", o)
			}
			start(t, g, v)
			if o := observed(t, g); !o.Running || o.Boot != 3 || o.Cause != "" || o.Lost {
				t.Fatalf("started again: %+v", o)
			}
		})
	}
}

// TestOurOwnStopIsNoLoss: what we end ourselves has no cause, also with the plug.
func TestOurOwnStopIsNoLoss(t *testing.T) {
	t.Parallel()
	lv, dir, v := running(t)
	g := opened(t, lv, dir, "one")
	if err := g.Stop(t.Context(), v.VM, 0); err != nil {
		t.Fatal(err)
	}
	if o := observed(t, g); o.Running || o.Lost || o.Cause != "" {
		t.Errorf("%+v", o)
	}
	start(t, g, v)
	if err := g.CutPower(t.Context()); err != nil {
		t.Fatal(err)
	}
	if o := observed(t, g); o.Running || !o.Lost || o.Cause != CausePowerCut || o.Boot != 3 {
		t.Errorf("after a power cut: %+v", o)
	}
}

// TestCrashesEnd: a guest that brings its QEMU down again and again stays off.
func TestCrashesEnd(t *testing.T) {
	t.Parallel()
	lv, dir, v := running(t)
	g := opened(t, lv, dir, "one")
	crash := func() machine.Observed {
		t.Helper()
		lv.End(v.VM.String(), vm.EndCrashed)
		o := observed(t, g)
		if o.Running || o.Cause != CauseCrashed {
			t.Fatalf("%+v", o)
		}
		return o
	}
	for i := range crashesMax {
		if !crash().Lost {
			t.Fatalf("crash %d was its last", i)
		}
		start(t, g, v)
	}
	if crash().Lost {
		t.Fatal("it is started for ever")
	}
	// An hour later nobody holds it against it.
	v.Boot++
	start(t, g, v)
	err := g.Update(v.VM, func(s *State) {
		for i := range s.Crashes {
			s.Crashes[i] -= domain.Time(crashesCount)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if !crash().Lost {
		t.Error("old crashes count")
	}
}

// TestFalseReadyIsSaidOnce: a guest says ready, in vain, as often as it likes; and
// resets itself as often.
func TestFalseReadyIsSaidOnce(t *testing.T) {
	t.Parallel()
	g := bare(t, "")
	id := domain.VMID{1}
	g.vms[id] = &State{VM: id, Running: true, Boot: 1}
	doubt := error(&machine.Fault{Code: "guest.devices_missing", Err: errors.New("one of two")})
	g.o.Doubt = func(State, string) error { return doubt }
	news := func() (out []string) {
		for {
			select {
			case e := <-g.events:
				out = append(out, string(e.Kind)+" "+e.Detail)
			default:
				return out
			}
		}
	}
	for range 100 {
		g.ready(id, "devices=1")
		g.reset(id)
	}
	if n := news(); len(n) != 1 || n[0] != "changed guest.devices_missing" {
		t.Errorf("news %q", n)
	}
	doubt = errors.New("another reason")
	g.ready(id, "")
	if s := g.vms[id]; len(s.Doubts) != 2 || s.Ready != 0 {
		t.Errorf("%+v", s)
	}
	g.setRebooting(id, true)
	g.reset(id)
	if s := g.vms[id]; len(s.Doubts) != 0 {
		t.Errorf("in the next boot: %+v", s)
	}
	doubt = nil
	g.ready(id, "")
	if s := g.vms[id]; s.Ready == 0 {
		t.Error("a guest that is believed is not ready")
	}
}
