package lab

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/google/uuid"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/durable"
	"github.com/gpuaas/gpuaas/hostd/guest"
	"github.com/gpuaas/gpuaas/hostd/image"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/network"
	"github.com/gpuaas/gpuaas/hostd/vm"
)

// PrepareDisk writes the image onto the first slot's drive and compares it. The
// other drives stay as the last wipe left them. Faults: those of image.Write;
// slot.in_use when another VM or a wipe has one of the drives.
func (m *Machine) PrepareDisk(ctx context.Context, v *machine.VM) error {
	release, err := m.guests.Act(ctx, v.VM)
	if err != nil {
		return err
	}
	defer release()
	s, err := m.claim(v)
	if err != nil || s.Prepared {
		return err
	}
	path, err := m.drive(s.Drives[0])
	if err != nil {
		return err
	}
	if v.ImagePath == "" {
		return &machine.Fault{Code: "image.missing", Err: errors.New("no image file")}
	}
	if err := image.Write(ctx, m.o.Run, v.ImagePath, image.Target{Path: path, Bytes: m.id.DriveBytes}); err != nil {
		return err
	}
	if err := durable.SyncFile(path); err != nil {
		return err
	}
	return m.guests.Update(v.VM, func(s *guest.State) { s.Prepared = true })
}

// claim gives the VM its drives, which have to be this lab's.
func (m *Machine) claim(v *machine.VM) (guest.State, error) {
	if len(v.Slots) > maxSlots {
		return guest.State{}, fmt.Errorf("lab: VM %s with %d slots", v.VM, len(v.Slots))
	}
	for _, slot := range v.Slots {
		if _, err := m.drive(slot.NVMe.Serial); err != nil {
			return guest.State{}, err
		}
	}
	return m.guests.Claim(v)
}

// PrepareSeed makes the cloud-init seed.
func (m *Machine) PrepareSeed(ctx context.Context, v *machine.VM) error {
	release, err := m.guests.Act(ctx, v.VM)
	if err != nil {
		return err
	}
	defer release()
	s, err := m.claim(v)
	if err != nil || s.Running {
		return err // a running guest has its seed open
	}
	return image.WriteSeed(m.guests.File(v.VM, "seed.iso"), &image.Seed{
		InstanceID: v.VM.String(), Hostname: v.Hostname,
		SSHKeys: v.SSHKeys, UserData: v.UserData, ReadyPort: vm.ReadyPort,
	})
}

// AttachNetwork gives the VM its port and static lease.
func (m *Machine) AttachNetwork(ctx context.Context, v *machine.VM) error {
	release, err := m.guests.Act(ctx, v.VM)
	if err != nil {
		return err
	}
	defer release()
	s, err := m.claim(v)
	if err != nil {
		return err
	}
	_, err = m.net.Attach(ctx, network.Port{
		VM: v.VM.String(), Tenant: v.Tenant.String(), Slot: s.Slots[0], MAC: v.MAC, Hostname: v.Hostname,
	})
	return err
}

// Start defines and starts the domain. Faults: domain.not_prepared,
// domain.start_failed.
func (m *Machine) Start(ctx context.Context, v *machine.VM) error {
	release, err := m.guests.Act(ctx, v.VM)
	if err != nil {
		return err
	}
	defer release()
	if _, err := m.claim(v); err != nil {
		return err
	}
	return m.guests.Start(ctx, v, func(s guest.State) (string, error) { return m.domain(v, s) })
}

// domain renders the VM's domain.
func (m *Machine) domain(v *machine.VM, s guest.State) (string, error) {
	port, attached := m.net.Port(v.VM.String())
	if _, err := os.Stat(m.guests.File(v.VM, "seed.iso")); err != nil || !attached || !s.Prepared {
		return "", &machine.Fault{Code: "domain.not_prepared", Err: errors.New("disk, seed or network is missing")}
	}
	spec := vm.Spec{
		Name: v.VM.String(), UUID: uuid.UUID(v.VM).String(),
		MemoryMiB: m.o.MemoryMiB * uint64(len(s.Slots)), CPUs: uint(len(s.Slots)), KVM: m.kvm,
		Firmware: firmware, FirmwareVars: firmwareVars, NVRAM: m.guests.File(v.VM, "nvram.fd"),
		Accelerators: len(s.Slots), Seed: m.guests.File(v.VM, "seed.iso"),
		Bridge: port.Bridge(), Tap: port.Tap(), MAC: port.MAC,
		ConsoleLog: m.guests.File(v.VM, "console.log"), ReadySocket: "/run/libvirt/gpuaas/" + readySocket(v.VM),
	}
	for _, serial := range s.Drives {
		path, err := m.drive(serial)
		if err != nil {
			return "", err
		}
		spec.Drives = append(spec.Drives, vm.Drive{Path: path, Serial: serial})
	}
	return spec.XML()
}

// readySocket is the name, below run/gpuaas, of the host's end of the ready port.
func readySocket(id domain.VMID) string { return id.String() + ".ready" }

// Remove pulls the plug and removes everything of the VM but the data on its
// drives. An absent VM is left alone.
func (m *Machine) Remove(ctx context.Context, id domain.VMID) error {
	release, err := m.guests.Act(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	return m.guests.Remove(ctx, id, func(guest.State) error {
		if err := m.net.Detach(ctx, id.String()); err != nil {
			return err
		}
		for _, path := range []string{m.d.path("run", "gpuaas", readySocket(id)), m.d.path("log", "qemu", id.String()+".log")} {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("lab: %w", err)
			}
		}
		return nil
	})
}
