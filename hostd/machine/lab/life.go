package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/image"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/network"
	"github.com/gpuaas/gpuaas/hostd/vm"
)

// PrepareDisk writes the image onto the first slot's drive and compares it. The
// other drives stay as the last wipe left them. Faults: those of image.Write;
// slot.in_use when another VM or a wipe has one of the drives.
func (m *Machine) PrepareDisk(ctx context.Context, v *machine.VM) error {
	release, err := m.act(ctx, v.VM)
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
	if err := image.Write(ctx, image.Run(m.o.Run), v.ImagePath, path, m.id.DriveBytes); err != nil {
		return err
	}
	if err := syncFile(path); err != nil {
		return err
	}
	return m.update(v.VM, func(s *vmState) { s.Prepared = true })
}

// claim makes the VM's state if there is none and gives it its drives.
// It returns a copy.
func (m *Machine) claim(v *machine.VM) (vmState, error) {
	if v.VM.IsZero() || len(v.Slots) == 0 || len(v.Slots) > maxSlots {
		return vmState{}, fmt.Errorf("lab: VM %q with %d slots", v.VM, len(v.Slots))
	}
	s := &vmState{VM: v.VM, MAC: v.MAC}
	for _, slot := range v.Slots {
		if _, err := m.drive(slot.NVMe.Serial); err != nil {
			return vmState{}, err
		}
		s.Slots = append(s.Slots, slot.Index)
		s.Drives = append(s.Drives, slot.NVMe.Serial)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range s.Drives {
		if by, held := m.holder(d); held && by != v.VM {
			return vmState{}, &machine.Fault{Code: "slot.in_use", Err: fmt.Errorf("drive %s is held by %s", d, by)}
		}
		if m.erasing[d] {
			return vmState{}, &machine.Fault{Code: "slot.in_use", Err: fmt.Errorf("drive %s is being wiped", d)}
		}
	}
	if have := m.vms[v.VM]; have != nil {
		return *have, nil
	}
	if err := m.save(s); err != nil {
		return vmState{}, err
	}
	m.vms[v.VM] = s
	return *s, nil
}

// PrepareSeed makes the cloud-init seed.
func (m *Machine) PrepareSeed(ctx context.Context, v *machine.VM) error {
	release, err := m.act(ctx, v.VM)
	if err != nil {
		return err
	}
	defer release()
	s, err := m.claim(v)
	if err != nil || s.Running {
		return err // a running guest has its seed open
	}
	return image.WriteSeed(m.vmFile(v.VM, "seed.iso"), &image.Seed{
		InstanceID: v.VM.String(), Hostname: v.Hostname,
		SSHKeys: v.SSHKeys, UserData: v.UserData, ReadyPort: vm.ReadyPort,
	})
}

// AttachNetwork gives the VM its port and static lease.
func (m *Machine) AttachNetwork(ctx context.Context, v *machine.VM) error {
	release, err := m.act(ctx, v.VM)
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
	release, err := m.act(ctx, v.VM)
	if err != nil {
		return err
	}
	defer release()
	s, err := m.claim(v)
	if err != nil {
		return err
	}
	running, err := m.host.Running(ctx, v.VM.String())
	if err != nil || running {
		return err
	}
	xml, err := m.domain(v, s)
	if err != nil {
		return err
	}
	// What is known of the last boot goes first, so that nothing of it is taken for
	// the new one's; the new boot's number comes last, because a start that a crash
	// cuts short has to be repeated.
	err = m.update(v.VM, func(s *vmState) {
		s.Starting, s.Alive, s.Ready, s.Address, s.MAC = v.Boot, 0, 0, "", v.MAC
	})
	if err != nil {
		return err
	}
	began := now()
	if err = m.host.Define(ctx, xml); err == nil {
		err = m.host.Start(ctx, v.VM.String())
	}
	if err != nil {
		return errors.Join(&machine.Fault{Code: "domain.start_failed", Err: err},
			m.update(v.VM, func(s *vmState) { s.Starting = 0 }))
	}
	err = m.update(v.VM, func(s *vmState) {
		s.Boot, s.Starting, s.Running, s.Since, s.ours = v.Boot, 0, true, began, false
	})
	m.look()
	return err
}

// domain renders the VM's domain.
func (m *Machine) domain(v *machine.VM, s vmState) (string, error) {
	port, attached := m.net.Port(v.VM.String())
	if _, err := os.Stat(m.vmFile(v.VM, "seed.iso")); err != nil || !attached || !s.Prepared {
		return "", &machine.Fault{Code: "domain.not_prepared", Err: errors.New("disk, seed or network is missing")}
	}
	spec := vm.Spec{
		Name: v.VM.String(), UUID: uuid.UUID(v.VM).String(),
		MemoryMiB: m.o.MemoryMiB * uint64(len(s.Slots)), CPUs: uint(len(s.Slots)), KVM: m.kvm,
		Firmware: firmware, FirmwareVars: firmwareVars, NVRAM: m.vmFile(v.VM, "nvram.fd"),
		Accelerators: len(s.Slots), Seed: m.vmFile(v.VM, "seed.iso"),
		Bridge: port.Bridge(), Tap: port.Tap(), MAC: port.MAC,
		ConsoleLog: m.vmFile(v.VM, "console.log"), ReadySocket: "/run/libvirt/gpuaas/" + readySocket(v.VM),
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
	release, err := m.act(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	m.setOurs(id, true)
	if err := m.host.Destroy(ctx, id.String()); err != nil {
		return err
	}
	if err := m.host.Undefine(ctx, id.String()); err != nil {
		return err
	}
	if err := m.net.Detach(ctx, id.String()); err != nil {
		return err
	}
	// The state goes first: a folder without one is cleaned up at the next start.
	for _, path := range []string{m.vmFile(id, "state.json"), m.d.path("run", "gpuaas", readySocket(id)), m.d.path("log", "qemu", id.String()+".log")} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("lab: %w", err)
		}
	}
	if err := os.RemoveAll(m.vmDir(id)); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	if err := syncDir(filepath.Join(m.o.Dir, "vms")); err != nil {
		return err
	}
	m.mu.Lock()
	delete(m.vms, id)
	m.changes++
	m.mu.Unlock()
	m.look()
	return nil
}
