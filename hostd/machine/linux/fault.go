package linux

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/guest"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/pci"
	"github.com/gpuaas/gpuaas/hostd/vfio"
)

// watchDevices looks at the devices of the VMs that run until ctx ends: one that went
// away, or is not where it was bound, is a fault, said once.
func (m *Machine) watchDevices(ctx context.Context) {
	tick := time.NewTicker(m.o.DeviceWatch)
	defer tick.Stop()
	for { // ends with ctx
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, f := range m.faults(m.guests.States()) {
			m.guests.Emit(f)
		}
	}
}

// said names one device of one boot of a VM.
type said struct {
	vm      domain.VMID
	boot    uint32
	address string
}

// faults are what is wrong with the devices of the VMs that run and was not said yet. A
// device is silent only when two looks find it so: its guest may be resetting it. What
// was said of others is forgotten.
func (m *Machine) faults(states []guest.State) (out []machine.Event) {
	now := map[said]int{}
	for _, s := range states {
		if !s.Running {
			continue
		}
		for _, slot := range s.Devices {
			for _, d := range devices(slot) {
				code, why := m.wrong(d.Address)
				if code == "" {
					continue
				}
				key, first := said{s.VM, s.Boot, d.Address}, 1
				if code == deviceSilent {
					first = 2
				}
				now[key] = m.faulted[key] + 1
				if now[key] != first {
					continue
				}
				out = append(out, machine.Event{
					Kind: machine.DeviceFault, VM: s.VM, Slot: slot.Index, Component: d.component, Scope: "device",
					Code: code, Detail: fmt.Sprintf("%s %s at %s %s", d.component, d.Serial, d.Address, why),
				})
			}
		}
	}
	m.faulted = now
	return out
}

// component is a device of a slot, by what it is there.
type component struct {
	component string
	domain.Device
}

// devices are those that the slot has.
func devices(slot domain.SlotSpec) []component {
	all := []component{{"gpu", slot.GPU}, {"nvme", slot.NVMe}, {"ib_vf", slot.IBVF}}
	return slices.DeleteFunc(all, func(c component) bool { return c.Address == "" })
}

// has says whether the function is the device's.
func (c component) has(a pci.Address) bool {
	return c.Address == a.String() || slices.ContainsFunc(c.Functions, func(f domain.DeviceFunction) bool { return f.Address == a.String() })
}

// deviceSilent is the reason of a device that does not answer. One that is pulled under
// a VM stays in sysfs: the kernel waits for the VM to let it go.
const deviceSilent = "device.silent"

// wrong says what is wrong with a function that a VM has, as a stable code and in
// words; "" if nothing.
func (m *Machine) wrong(address string) (code, why string) {
	a, err := pci.Parse(address)
	if err != nil {
		return "device.unreadable", err.Error()
	}
	d, err := m.sys.Device(a)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "device.gone", "is gone"
	case err != nil:
		return "device.unreadable", "cannot be read: " + err.Error()
	case d.Dead:
		return deviceSilent, "does not answer: it was pulled, or has fallen off the bus"
	case d.Driver != vfio.Driver:
		return "device.unbound", fmt.Sprintf("is bound to %q", d.Driver)
	}
	return "", ""
}

// expected counts the VM's devices by their ids, as a guest's lspci would.
func expected(slots []domain.SlotSpec) map[string]int {
	out := map[string]int{}
	for _, s := range slots {
		for _, d := range []domain.Device{s.GPU, s.NVMe, s.IBVF} {
			if d.PCIID != "" {
				out[d.PCIID]++
			}
		}
	}
	return out
}

// doubt says why a guest that says ready is not: its devices are not all where they
// have to be (device.unbound), or it says itself that it sees fewer ("ready 10de:2330=7",
// or "ready devices=7" for GPUs and drives together: guest.devices_missing). A guest
// that counts nothing is believed as to what it sees. Its word alone is evidence for the
// operator and no fault of ours: a tenant could say it of every slot of the site.
func (m *Machine) doubt(s guest.State, line string) error {
	set, err := vfio.SetOf(s.Devices...)
	if err != nil {
		return err
	}
	if err := m.bind.Bound(set); err != nil {
		return &machine.Fault{Code: "device.unbound", Err: err}
	}
	want := expected(s.Devices)
	for word := range strings.FieldsSeq(line) {
		id, count, ok := strings.Cut(word, "=")
		n, err := strconv.Atoi(count)
		if !ok || err != nil {
			continue
		}
		of, counted := want[id]
		if id == "devices" {
			of, counted = 2*len(s.Devices), true
		}
		if counted && n < of {
			return &machine.Fault{Code: "guest.devices_missing", Err: fmt.Errorf("the guest sees %d of %d %s", n, of, id)}
		}
	}
	return nil
}
