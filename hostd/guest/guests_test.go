package guest

import (
	"os"
	"testing"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/vm"
)

// testFileBytes is the size of a console's file in these tests.
const testFileBytes = 512 << 10

// bare is a host without libvirt.
func bare(t *testing.T, dir string) *Guests {
	t.Helper()
	if dir == "" {
		dir = t.TempDir()
	}
	g, err := prepare(Options{Dir: dir, HostBoot: "now", ConsoleFileBytes: testFileBytes})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// TestStatesAfterCrash: what a start that was cut short leaves behind.
func TestStatesAfterCrash(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		was, want State
		runs      bool
		event     machine.EventKind
	}{
		"died before the start":       {was: State{Boot: 1, Starting: 2}, want: State{Boot: 1}},
		"died after the start":        {was: State{Boot: 1, Starting: 2}, runs: true, want: State{Boot: 2, Running: true}},
		"died in a start anew":        {was: State{Boot: 2, Starting: 2, Lost: true}, want: State{Boot: 2, Lost: true}},
		"died after a start anew":     {was: State{Boot: 2, Starting: 2, Lost: true}, runs: true, want: State{Boot: 2, Running: true}},
		"guest went off":              {was: State{Boot: 2, Running: true}, want: State{Boot: 2}, event: machine.GuestStopped},
		"nothing happened":            {was: State{Boot: 2, Running: true}, runs: true, want: State{Boot: 2, Running: true}},
		"of a daemon without boots":   {was: State{Boot: 2, Running: true, Ready: 7}, runs: true, want: State{Boot: 2, Running: true, Ready: 7}},
		"started by a person":         {was: State{Boot: 2, Lost: true}, runs: true, want: State{Boot: 2, Running: true}},
		"by a person, after a reboot": {was: State{Boot: 2, Running: true, HostBoot: "before", Ready: 7}, runs: true, want: State{Boot: 2, Running: true}},
	} {
		g := bare(t, "")
		s := c.was
		s.VM = domain.VMID{1}
		if err := g.observe(&s, &vm.State{Running: c.runs}); err != nil {
			t.Fatal(err)
		}
		if s.Boot != c.want.Boot || s.Running != c.want.Running || s.Starting != 0 || s.Lost != c.want.Lost || s.Ready != c.want.Ready || s.Running && s.HostBoot != "now" {
			t.Errorf("%s: %+v, want %+v", name, s, c.want)
		}
		var got machine.EventKind
		select {
		case e := <-g.events:
			got = e.Kind
		default:
		}
		if got != c.event {
			t.Errorf("%s: event %q, want %q", name, got, c.event)
		}
	}
}

// TestAliveOfThisBoot: a lease of the boot before is no sign of life.
func TestAliveOfThisBoot(t *testing.T) {
	t.Parallel()
	g := bare(t, "")
	s := &State{VM: domain.VMID{1}, Running: true, Since: 100_500}
	for _, c := range []struct{ at, want domain.Time }{{99_000, 0}, {100_000, 100_500}, {104_000, 100_500}} {
		if err := g.alive(s, c.at, "10.77.0.10"); err != nil || s.Alive != c.want {
			t.Errorf("lease at %d: alive %d, %v; want %d", c.at, s.Alive, err, c.want)
		}
	}
}

func TestResetOfReboot(t *testing.T) {
	t.Parallel()
	g := bare(t, "")
	id := domain.VMID{1}
	g.vms[id] = &State{VM: id, Running: true, Boot: 1, Ready: 5, Alive: 4}
	g.reset(id) // by the guest itself
	if s := g.vms[id]; s.Boot != 1 || s.Ready != 5 {
		t.Errorf("a guest's own reboot: %+v", s)
	}
	g.setRebooting(id, true)
	g.reset(id)
	if s := g.vms[id]; s.Boot != 2 || s.Ready != 0 || s.Alive != 0 || s.rebooting {
		t.Errorf("a reboot of ours: %+v", s)
	}
	again := bare(t, g.o.Dir)
	if err := again.load(); err != nil || again.vms[id].Boot != 2 {
		t.Errorf("after a restart: %+v, %v", again.vms[id], err)
	}
}

func TestConsole(t *testing.T) {
	t.Parallel()
	g := bare(t, "")
	id := domain.VMID{1}
	g.vms[id] = &State{VM: id}
	if b, next, err := g.Console(t.Context(), id, 7, 10); len(b) != 0 || next != 7 || err != nil {
		t.Errorf("no console yet: %q, %d, %v", b, next, err)
	}
	if err := g.save(g.vms[id]); err != nil {
		t.Fatal(err)
	}
	log := g.File(id, "console.log")
	write := func(s string) {
		t.Helper()
		f, err := os.OpenFile(log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(s); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	rotate := func() {
		_ = os.Rename(log+".0", log+".1")
		_ = os.Rename(log, log+".0")
	}
	read := func(at int64, limit int, want string, next int64) {
		t.Helper()
		b, n, err := g.Console(t.Context(), id, at, limit)
		if string(b) != want || n != next || err != nil {
			t.Errorf("from %d: %q, %d, %v; want %q, %d", at, b, n, err, want, next)
		}
	}
	write("0123456789")
	read(0, 4, "0123", 4)
	read(4, 100, "456789", 10)
	read(10, 100, "", 10)
	rotate()
	write("abc")
	read(8, 100, "89abc", 13) // over the border
	rotate()
	write("de")
	read(0, 100, "0123456789abcde", 15)
	rotate()
	write("f")
	read(0, 100, "abcdef", 16)                          // the oldest is gone: the rest keeps its place
	for _, more := range []string{"g", "h", "i", "j"} { // nobody read: all that was known is gone
		rotate()
		write(more)
	}
	gap := int64(15 + testFileBytes) // behind the file that held f, which was full when it was rotated
	read(16, 100, "hij", gap+3)
	read(gap+1, 1, "i", gap+2)
}
