package lab

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/disk"
	"github.com/gpuaas/gpuaas/hostd/machine"
)

// bare is a machine without daemons: what can be tested without root.
func bare(t *testing.T, o Options) *Machine {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	o, err := o.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	m := &Machine{
		o: o, vms: map[domain.VMID]*vmState{}, acts: map[domain.VMID]chan struct{}{},
		erasing: map[string]bool{}, watchers: map[domain.VMID]context.CancelFunc{},
		events: make(chan machine.Event, 16),
	}
	for _, sub := range []string{"drives", "vms"} {
		if err := os.MkdirAll(filepath.Join(o.Dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if m.id, err = loadIdentity(o.Dir, o); err != nil {
		t.Fatal(err)
	}
	for i := range m.id.Slots {
		path, err := m.drive(m.id.nvme(i))
		if err != nil {
			t.Fatal(err)
		}
		if err := disk.Create(path, m.id.DriveBytes); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func TestDiscover(t *testing.T) {
	t.Parallel()
	for _, slots := range []int{1, 2, 5, 8} {
		m := bare(t, Options{Slots: slots, DriveBytes: 64 << 20})
		sm, err := m.Discover(t.Context())
		if err != nil || len(sm.Slots) != slots || len(sm.Nodes) != 2 {
			t.Fatalf("%+v, %v", sm, err)
		}
		free := map[uint16]bool{}
		memory := map[uint8]uint64{}
		for _, n := range sm.Nodes {
			for _, th := range n.Threads {
				free[th] = true
			}
			memory[n.Node] = n.MemoryMiB
		}
		seen := map[string]bool{}
		for _, s := range sm.Slots {
			for _, th := range s.Threads {
				if !free[th] {
					t.Errorf("%d slots: thread %d is given twice or not there", slots, th)
				}
				delete(free, th)
			}
			memory[s.NUMANode] -= s.MemoryMiB
			for _, d := range []domain.Device{s.GPU, s.NVMe, s.IBVF} {
				if seen[d.Serial] || seen[d.Address] || d.Serial == "" {
					t.Errorf("%d slots: %+v is not its own", slots, d)
				}
				seen[d.Serial], seen[d.Address] = true, true
			}
			if len(s.NVMe.Serial) > 20 || s.OnDisk != "empty" || s.NVMe.SizeBytes != 64<<20 {
				t.Errorf("%+v", s.NVMe)
			}
		}
		for n, left := range memory {
			if left < 1024 || left > 1<<40 || len(free) < 4 {
				t.Errorf("%d slots: node %d has %d MiB and the host %d threads left", slots, n, left, len(free))
			}
		}
		// Another start, with other options: the same host.
		again := bare(t, Options{Dir: m.o.Dir, Slots: 3, DriveBytes: 128 << 20})
		sm2, err := again.Discover(t.Context())
		if diff := cmp.Diff(sm, sm2); err != nil || diff != "" {
			t.Errorf("%v\n%s", err, diff)
		}
	}
}

func TestOptionsRefused(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]Options{
		"no folder":    {},
		"below /run":   {Dir: "/run/user/0/lab"},
		"nine slots":   {Dir: "/x", Slots: 9},
		"odd drives":   {Dir: "/x", DriveBytes: 64<<20 + 1},
		"small drives": {Dir: "/x", DriveBytes: 1 << 20},
		"no memory":    {Dir: "/x", MemoryMiB: 32},
	} {
		if _, err := o.withDefaults(); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestWipeRefusedWhileHeld(t *testing.T) {
	t.Parallel()
	m := bare(t, Options{DriveBytes: 64 << 20})
	sm, err := m.Discover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	v := &machine.VM{PlacedVM: domain.PlacedVM{VM: domain.VMID{1}}, Slots: sm.Slots[:1]}
	if _, err := m.claim(v); err != nil {
		t.Fatal(err)
	}
	other := &machine.VM{PlacedVM: domain.PlacedVM{VM: domain.VMID{2}}, Slots: sm.Slots}
	if _, err := m.claim(other); code(err) != "slot.in_use" {
		t.Errorf("a drive was given twice: %v", err)
	}
	w := domain.PlacedWipe{Policy: domain.WipeAuto}
	if _, err := m.Wipe(t.Context(), sm.Slots[0], w); code(err) != "slot.in_use" {
		t.Errorf("a drive in use was wiped: %v", err)
	}
	ev, err := m.Wipe(t.Context(), sm.Slots[1], w)
	if err != nil || len(ev) != 3 {
		t.Fatalf("%+v, %v", ev, err)
	}
	for _, d := range ev {
		if d.Result != domain.WipeVerified {
			t.Errorf("%+v", d)
		}
	}
	if ev[1].BytesRead != 64<<20 {
		t.Errorf("read back %d bytes", ev[1].BytesRead)
	}
	// What the drive cannot do fails; it is never called done.
	for _, p := range []domain.WipePolicy{domain.WipeSanitize, domain.WipeFormat, domain.WipeUnset, 99} {
		ev, err := m.Wipe(t.Context(), sm.Slots[1], domain.PlacedWipe{Policy: p})
		if err != nil || ev[1].Result != domain.WipeFailed {
			t.Errorf("policy %s: %+v, %v", p, ev, err)
		}
	}
	strange := sm.Slots[1]
	strange.NVMe.Serial = "OTHER"
	if _, err := m.Wipe(t.Context(), strange, w); err == nil {
		t.Error("a drive of another host was wiped")
	}
}

func code(err error) string {
	if f, ok := err.(*machine.Fault); ok {
		return f.Code
	}
	return ""
}

// TestStatesAfterCrash: what a start that was cut short leaves behind.
func TestStatesAfterCrash(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		was, want vmState
		runs      bool
		event     machine.EventKind
	}{
		"died before the start": {was: vmState{Boot: 1, Starting: 2}, want: vmState{Boot: 1}},
		"died after the start":  {was: vmState{Boot: 1, Starting: 2}, runs: true, want: vmState{Boot: 2, Running: true}},
		"guest went off":        {was: vmState{Boot: 2, Running: true}, want: vmState{Boot: 2}, event: machine.GuestStopped},
		"nothing happened":      {was: vmState{Boot: 2, Running: true}, runs: true, want: vmState{Boot: 2, Running: true}},
	} {
		m := bare(t, Options{DriveBytes: 64 << 20})
		s := c.was
		s.VM = domain.VMID{1}
		if err := m.observe(&s, c.runs); err != nil {
			t.Fatal(err)
		}
		if s.Boot != c.want.Boot || s.Running != c.want.Running || s.Starting != 0 {
			t.Errorf("%s: %+v, want %+v", name, s, c.want)
		}
		var got machine.EventKind
		select {
		case e := <-m.events:
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
	m := bare(t, Options{DriveBytes: 64 << 20})
	s := &vmState{VM: domain.VMID{1}, Running: true, Since: 100_500}
	for _, c := range []struct{ at, want domain.Time }{{99_000, 0}, {100_000, 100_500}, {104_000, 100_500}} {
		if err := m.alive(s, c.at, "10.77.0.10"); err != nil || s.Alive != c.want {
			t.Errorf("lease at %d: alive %d, %v; want %d", c.at, s.Alive, err, c.want)
		}
	}
}

func TestResetOfReboot(t *testing.T) {
	t.Parallel()
	m := bare(t, Options{DriveBytes: 64 << 20})
	id := domain.VMID{1}
	m.vms[id] = &vmState{VM: id, Running: true, Boot: 1, Ready: 5, Alive: 4}
	m.reset(id) // by the guest itself
	if s := m.vms[id]; s.Boot != 1 || s.Ready != 5 {
		t.Errorf("a guest's own reboot: %+v", s)
	}
	m.setRebooting(id, true)
	m.reset(id)
	if s := m.vms[id]; s.Boot != 2 || s.Ready != 0 || s.Alive != 0 || s.rebooting {
		t.Errorf("a reboot of ours: %+v", s)
	}
	again := bare(t, Options{Dir: m.o.Dir})
	if err := again.loadStates(); err != nil || again.vms[id].Boot != 2 {
		t.Errorf("after a restart: %+v, %v", again.vms[id], err)
	}
}

func TestConsole(t *testing.T) {
	t.Parallel()
	m := bare(t, Options{DriveBytes: 64 << 20})
	id := domain.VMID{1}
	m.vms[id] = &vmState{VM: id}
	if b, next, err := m.Console(t.Context(), id, 7, 10); len(b) != 0 || next != 7 || err != nil {
		t.Errorf("no console yet: %q, %d, %v", b, next, err)
	}
	if err := m.save(m.vms[id]); err != nil {
		t.Fatal(err)
	}
	log := m.vmFile(id, "console.log")
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
		b, n, err := m.Console(t.Context(), id, at, limit)
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
	gap := int64(15 + consoleFileBytes) // behind the file that held f, which was full when it was rotated
	read(16, 100, "hij", gap+3)
	read(gap+1, 1, "i", gap+2)
}

func TestDaemonsArguments(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var ran []string
	d := &daemons{dir: dir, run: func(_ context.Context, name string, args ...string) ([]byte, error) {
		ran = append(ran, strings.ReplaceAll(name+" "+strings.Join(args, " "), dir, "DIR"))
		return nil, os.ErrPermission
	}}
	if err := d.ensure(t.Context()); err == nil {
		t.Error("a namespace that could not be made was passed over")
	}
	want := []string{"env GPUAAS_LAB=DIR unshare --net --mount --propagation private setsid --fork sh DIR/namespace.sh DIR"}
	if diff := cmp.Diff(want, ran); diff != "" {
		t.Error(diff)
	}
	if _, err := d.inside(t.Context(), "ip"); err == nil || len(ran) != 1 {
		t.Error("a program ran outside the namespace")
	}
	// A pid file that names a process of another's is nobody's.
	if err := os.WriteFile(filepath.Join(dir, "namespace.pid"), []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.stop(t.Context()); err != nil || d.namespace() != 0 {
		t.Errorf("process 1 was taken for ours: %v", err)
	}
}

func TestTryKVM(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/dev/kvm"); err != nil {
		t.Skip("no /dev/kvm")
	}
	for out, want := range map[string]bool{"BdsDxe: loading": true, "KVM internal error. Suberror: 1": false} {
		runs := 0
		run := func(context.Context, string, ...string) ([]byte, error) {
			runs++
			return []byte(out), context.DeadlineExceeded
		}
		m := bare(t, Options{DriveBytes: 64 << 20, Run: run})
		for range 2 { // the second time it is remembered
			if got := m.tryKVM(t.Context()); got != want || runs != 1 {
				t.Errorf("%q: %v after %d runs", out, got, runs)
			}
		}
	}
}
