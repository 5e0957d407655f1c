package linux

import (
	"strings"
	"testing"

	"github.com/gpuaas/gpuaas/hostd/guest"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/pci"
)

func TestDeviceGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	v := w.vm(2)
	if err := w.up(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	w.k.Unplug(v.Slots[1].GPU.Address)
	for e := range w.m.Events() {
		if e.Kind != machine.DeviceFault {
			continue
		}
		if e.Slot != 1 || e.Component != "gpu" || e.Scope != "device" || e.Code != "device.gone" || !strings.Contains(e.Detail, "GPU1") {
			t.Errorf("fault %+v", e)
		}
		break
	}
	if err := w.m.Stop(t.Context(), v.VM, 0); err != nil {
		t.Fatal(err)
	}
	v.Boot = 2
	if f := fault(w.up(t.Context(), v)); f == nil || f.Code != "device.gone" || f.Slot != 1 || f.Component != "gpu" {
		t.Errorf("started without a GPU: %v", f)
	}
}

// A drive and a VF that are pulled under a VM stay in sysfs, and answer nothing. One that
// is silent for a moment is being reset by its guest.
func TestDevicePulled(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, 1, true)
	v := w.vm(1)
	if err := w.up(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	m := &Machine{sys: w.m.sys}
	states := []guest.State{{VM: v.VM, Boot: 1, Running: true, Devices: v.Slots}}
	slot := v.Slots[0]
	w.k.Pull(slot.NVMe.Address)
	w.k.Pull(slot.IBVF.Address)
	if early := m.faults(states); len(early) != 0 {
		t.Errorf("said at once: %+v", early)
	}
	found := m.faults(states)
	if len(found) != 2 || found[0].Component != "nvme" || found[1].Component != "ib_vf" || found[0].Code != "device.silent" || found[1].Code != "device.silent" {
		t.Errorf("found %+v", found)
	}
	if again := m.faults(states); len(again) != 0 {
		t.Errorf("said again: %+v", again)
	}
	if err := w.m.Stop(t.Context(), v.VM, 0); err != nil {
		t.Fatal(err)
	}
	v.Boot = 2
	if f := fault(w.up(t.Context(), v)); f == nil || f.Code != "device.silent" || f.Component != "nvme" {
		t.Errorf("started without its drive: %v", f)
	}
}

func TestProve(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	v := w.vm(1)
	a, gpu := mustParse(t, w.slots[0].NVMe.Address), mustParse(t, w.slots[0].GPU.Address)
	if _, err := w.m.prove(t.Context(), a); err == nil || w.k.Driver(a.String()) != "nvme" {
		t.Errorf("a drive that was never a slot's: %v", err)
	}
	if err := w.m.PrepareDisk(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	f, err := w.m.prove(t.Context(), a)
	if err != nil || f.Serial != "DRIVE0" || f.SizeBytes != driveBytes || f.Firmware != "1.0" {
		t.Errorf("%+v, %v", f, err)
	}
	if out := w.notGiven(v.Slots); len(out) != 0 {
		t.Errorf("after the proof: %v", out)
	}
	if _, err := w.m.prove(t.Context(), gpu); err == nil {
		t.Error("a GPU was proved")
	}
	if err := w.up(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if _, err := w.m.prove(t.Context(), a); err == nil || w.k.Driver(a.String()) != "vfio-pci" {
		t.Errorf("a running VM's drive: %v", err)
	}
}

func mustParse(t *testing.T, s string) pci.Address {
	t.Helper()
	a, err := pci.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
