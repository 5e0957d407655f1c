package linux

import (
	"context"
	"errors"
	"fmt"

	"github.com/gpuaas/gpuaas/hostd/guest"
	"github.com/gpuaas/gpuaas/hostd/image"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/vfio"
	"github.com/gpuaas/gpuaas/hostd/vm"
)

// PrepareDisk writes the image onto the first slot's drive, compares it, and hands
// all functions of all slots to vfio-pci. The other drives stay as the last wipe left
// them. What cannot be right is refused before a device is touched. Faults: those of
// image.Check and image.Seed, slot.in_use, drive.in_use, image.compare, those of unproved.
func (m *Machine) PrepareDisk(ctx context.Context, v *machine.VM) error {
	if len(v.Slots) == 0 {
		return fmt.Errorf("linux: VM %s without slots", v.VM)
	}
	if _, err := m.seed(v).Files(); err != nil {
		return err
	}
	release, err := m.guests.Act(ctx, v.VM)
	if err != nil {
		return err
	}
	defer release()
	s, running, err := m.claim(ctx, v)
	if err != nil || running {
		return err
	}
	set, err := vfio.SetOf(v.Slots...)
	if err != nil {
		return err
	}
	done, err := m.turns.take(ctx, set.Drives...)
	if err != nil {
		return err
	}
	defer done()
	if !s.Prepared {
		if err := m.writeImage(ctx, v, set); err != nil {
			return err
		}
		if err := m.guests.Update(v.VM, func(s *guest.State) { s.Prepared = true }); err != nil {
			return err
		}
	}
	if err := m.hold(ctx, v.Slots); err != nil {
		return m.unproved(ctx, v, err)
	}
	return nil
}

// claim gives the VM its slots, remembers where their devices are in this boot of the
// host, and says whether it runs: then it has them, and nothing is to be done.
func (m *Machine) claim(ctx context.Context, v *machine.VM) (s guest.State, running bool, err error) {
	if s, err = m.guests.Claim(v); err != nil {
		return s, false, err
	}
	if running, err = m.host.Running(ctx, v.VM.String()); err != nil || running {
		return s, running, err
	}
	return s, false, m.guests.Update(v.VM, func(s *guest.State) { s.Devices = v.Slots })
}

// writeImage puts the image onto the boot drive.
func (m *Machine) writeImage(ctx context.Context, v *machine.VM, set vfio.Set) error {
	boot := v.Slots[0].NVMe
	if v.ImagePath == "" {
		return &machine.Fault{Code: "image.missing", Err: errors.New("no image file")}
	}
	if _, err := image.Check(v.ImagePath, boot.SizeBytes); err != nil {
		return err
	}
	ns, err := m.takeDrive(ctx, set, set.Drives[0], v.Slots[0])
	if err != nil {
		return err
	}
	defer m.work(ns.Block)()
	f, err := m.exclusive(ns)
	if err != nil {
		return err
	}
	defer f.Close() // nothing was written through it
	zero, err := m.book.write(boot.Serial)
	if err != nil {
		return err
	}
	return image.Write(ctx, m.o.Run, v.ImagePath, image.Target{Path: m.node(ns), Bytes: ns.SizeBytes, Device: true, Zero: zero})
}

// seed is the VM's cloud-init seed.
func (m *Machine) seed(v *machine.VM) *image.Seed {
	s := &image.Seed{
		InstanceID: v.VM.String(), Hostname: v.Hostname,
		SSHKeys: v.SSHKeys, UserData: v.UserData, ReadyPort: vm.ReadyPort,
	}
	for id := range expected(v.Slots) {
		s.Devices = append(s.Devices, id)
	}
	return s
}
