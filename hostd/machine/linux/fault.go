package linux

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
		for _, s := range m.guests.States() {
			if s.Running {
				for _, f := range m.faults(s) {
					m.guests.Emit(f)
				}
			}
		}
	}
}

// faults are what is wrong with a running VM's devices and was not said yet.
func (m *Machine) faults(s guest.State) (out []machine.Event) {
	for _, slot := range s.Devices {
		for _, d := range []struct {
			component string
			domain.Device
		}{{"gpu", slot.GPU}, {"nvme", slot.NVMe}, {"ib_vf", slot.IBVF}} {
			if d.Address == "" {
				continue
			}
			why := m.wrong(d.Address)
			key := fmt.Sprintf("%s %d %s", s.VM, s.Boot, d.Address)
			m.mu.Lock()
			said := m.faulted[key]
			if why == "" {
				delete(m.faulted, key)
			} else {
				m.faulted[key] = true
			}
			m.mu.Unlock()
			if why != "" && !said {
				out = append(out, machine.Event{
					Kind: machine.DeviceFault, VM: s.VM, Slot: slot.Index, Component: d.component, Scope: "device",
					Detail: fmt.Sprintf("%s %s at %s %s", d.component, d.Serial, d.Address, why),
				})
			}
		}
	}
	return out
}

// wrong says what is wrong with a function that a VM has, "" if nothing.
func (m *Machine) wrong(address string) string {
	a, err := pci.Parse(address)
	if err != nil {
		return err.Error()
	}
	d, err := m.sys.Device(a)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "is gone"
	case err != nil:
		return "cannot be read: " + err.Error()
	case d.Driver != vfio.Driver:
		return fmt.Sprintf("is bound to %q", d.Driver)
	}
	return ""
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
// have to be, or it says itself that it sees fewer ("ready 10de:2330=7",
// or "ready devices=7" for GPUs and drives together). A guest
// that counts nothing is believed as to what it sees; its word alone is no fault of
// ours, so it only delays what is the tenant's own.
func (m *Machine) doubt(s guest.State, said string) error {
	set, err := vfio.SetOf(s.Devices...)
	if err != nil {
		return err
	}
	if err := m.bind.Bound(set); err != nil {
		return err
	}
	want := expected(s.Devices)
	for word := range strings.FieldsSeq(said) {
		id, count, ok := strings.Cut(word, "=")
		n, err := strconv.Atoi(count)
		if all := 2 * len(s.Devices); ok && err == nil && id == "devices" && n < all {
			return fmt.Errorf("the guest sees %d of %d GPUs and drives", n, all)
		}
		if !ok || err != nil || want[id] == 0 {
			continue
		}
		if n < want[id] {
			return fmt.Errorf("the guest sees %d of %d devices %s", n, want[id], id)
		}
	}
	return nil
}
