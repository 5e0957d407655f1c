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
	"github.com/gpuaas/gpuaas/hostd/guest"
	"github.com/gpuaas/gpuaas/hostd/guest/guesttest"
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
	m := &Machine{o: o}
	for _, sub := range []string{"drives", "vms"} {
		if err := os.MkdirAll(filepath.Join(o.Dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if m.id, err = loadIdentity(o.Dir, o); err != nil {
		t.Fatal(err)
	}
	signs := func() (map[string]guest.Sign, error) { return nil, nil }
	m.guests, err = guest.Open(t.Context(), guest.Options{Dir: filepath.Join(o.Dir, "vms"), Host: guesttest.New(), Signs: signs})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.guests.Close)
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
