package linux

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/discovery"
	"github.com/gpuaas/gpuaas/hostd/pci"
	"github.com/gpuaas/gpuaas/hostd/vfio"
)

// classNVMe is the class and subclass of NVMe controllers.
const classNVMe = 0x0108

// prove reads who a drive at vfio-pci is, for discovery: it goes to the nvme driver for
// a moment and comes back. Only a drive that is approved, or was a slot's before, is
// touched, and none that a running VM has; nor a GPU: the host has no driver of its
// own for it.
func (m *Machine) prove(ctx context.Context, a pci.Address) (f discovery.Facts, err error) {
	d, err := m.sys.Device(a)
	if err != nil {
		return f, fmt.Errorf("linux: %w", err)
	}
	switch {
	case d.Class>>8 != classNVMe:
		return f, fmt.Errorf("linux: %s is no drive: unbind it from %s and let its own driver have it once", a, vfio.Driver)
	case !m.ours(a):
		return f, fmt.Errorf("linux: the drive at %s was never a slot's: unbind it from %s", a, vfio.Driver)
	}
	for _, s := range m.guests.States() {
		for _, slot := range s.Devices {
			if slot.NVMe.Address == a.String() && s.Running {
				return f, fmt.Errorf("linux: %s is %s's, which runs", a, s.VM)
			}
		}
	}
	release, err := m.turns.take(ctx, a)
	if err != nil {
		return f, err
	}
	defer release()
	set := vfio.Set{Drives: []pci.Address{a}}
	defer func() { err = errors.Join(err, m.giveBack(ctx, set)) }()
	if err := m.bind.Take(ctx, set, a, vfio.DriverNVMe); err != nil {
		return f, err
	}
	serial, err := m.bind.Serial(ctx, a)
	if err != nil {
		return f, fmt.Errorf("linux: %w", err)
	}
	ns, err := m.takeDrive(ctx, set, a, domain.SlotSpec{NVMe: domain.Device{Serial: serial}})
	if err != nil {
		return f, err
	}
	f = discovery.Facts{Serial: serial, SizeBytes: ns.SizeBytes, LBABytes: ns.LBABytes}
	dir := path.Join(d.Path, "nvme", ns.Controller)
	if f.Model, err = m.sys.Tree.Text(path.Join(dir, "model")); err != nil {
		return f, fmt.Errorf("linux: %w", err)
	}
	if f.Firmware, err = m.sys.Tree.Text(path.Join(dir, "firmware_rev")); err != nil {
		return f, fmt.Errorf("linux: %w", err)
	}
	return f, nil
}

// ours says whether the address is that of an approved slot's drive, or of one that
// was a slot's before.
func (m *Machine) ours(a pci.Address) bool {
	if m.o.Discovery.Approved != nil {
		if sm := m.o.Discovery.Approved(); sm != nil && slices.ContainsFunc(sm.Slots, func(s domain.SlotSpec) bool { return s.NVMe.Address == a.String() }) {
			return true
		}
	}
	return m.book.been(a)
}
