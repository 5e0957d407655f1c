package linux

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/guest"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/vm"
)

func code(err error) string {
	if f := fault(err); f != nil {
		return f.Code
	}
	return ""
}

func fault(err error) (f *machine.Fault) {
	errors.As(err, &f)
	return f
}

// TestFaultsAreForgotten: what was said of a VM that ended is not kept.
func TestFaultsAreForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	m := &Machine{sys: w.m.sys}
	states := func(n int) (out []guest.State) {
		for i := range n {
			out = append(out, guest.State{VM: domain.VMID{byte(i)}, Running: true, Devices: w.slots})
		}
		return out
	}
	if n := len(m.faults(states(8))); n != 16 || len(m.faulted) != 16 {
		t.Errorf("%d faults of 8 VMs with two unbound devices, %d kept", n, len(m.faulted))
	}
	if again := m.faults(states(8)); len(again) != 0 {
		t.Errorf("said twice: %+v", again)
	}
	if again := m.faults(states(1)); len(again) != 0 || len(m.faulted) != 2 {
		t.Errorf("of one VM: %+v, %d kept", again, len(m.faulted))
	}
	m.faults(nil)
	if len(m.faulted) != 0 {
		t.Errorf("%d kept of nothing", len(m.faulted))
	}
}

func TestStartRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	v := w.vm(1)
	if err := w.m.Start(t.Context(), v); code(err) != "domain.not_prepared" {
		t.Errorf("nothing is prepared: %v", err)
	}
	if err := w.up(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	other := w.vm(2)
	other.VM = domain.VMID{9}
	if err := w.m.PrepareDisk(t.Context(), other); code(err) != "slot.in_use" {
		t.Errorf("a slot given twice: %v", err)
	}
	if err := w.m.Stop(t.Context(), v.VM, domain.Second); err != nil {
		t.Fatal(err)
	}
	// A neighbour's function appears in the GPU's group: the re-proof stops it.
	w.tree.SetGroup(w.slots[1].GPU.Address, 0)
	v.Boot = 2
	if f := fault(w.m.Start(t.Context(), v)); f == nil || f.Code != "device.unproved" || f.Component != "gpu" || f.Slot != 0 || !strings.Contains(f.Error(), w.slots[1].GPU.Address) {
		t.Errorf("a foreign member of the group: %v", f)
	}
	if on, _ := w.lv.Running(t.Context(), v.VM.String()); on {
		t.Error("started")
	}
}

// await looks until ok; the test's own deadline ends it.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(time.Minute)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// Accounts of their own are of no use to VMs that cannot reach their files.
func TestPassable(t *testing.T) {
	t.Parallel()
	m := &Machine{o: Options{Users: vm.Users{First: 70000, Count: 1}}}
	dir := t.TempDir()
	closed := filepath.Join(dir, "closed")
	if err := os.MkdirAll(filepath.Join(closed, "below"), 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(closed, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := m.passable(filepath.Join(closed, "below")); err == nil || !strings.Contains(err.Error(), "chmod 711 "+closed) {
		t.Errorf("through a closed folder: %v", err)
	}
	if err := m.passable(filepath.Join(dir, "none")); err != nil {
		t.Errorf("a folder that is not there: %v", err)
	}
	m.o.Users = vm.Users{}
	if err := m.passable(closed); err != nil {
		t.Errorf("with libvirt's own account: %v", err)
	}
}

func TestSandboxed(t *testing.T) {
	t.Parallel()
	for content, ok := range map[string]bool{
		"":                                true,
		"#seccomp_sandbox = 0\n":          true,
		"seccomp_sandbox = 1\n":           true,
		"user = \"x\"\nseccomp_sandbox=0": false,
	} {
		w := newWorld(t, 1)
		w.write(filepath.Join(w.root, "/etc/libvirt/qemu.conf"), content)
		if err := w.m.sandboxed(); (err == nil) != ok {
			t.Errorf("%q: %v", content, err)
		}
	}
}
