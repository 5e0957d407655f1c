package linux

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
	"github.com/gpuaas/gpuaas/hostd/vfio"
	"github.com/gpuaas/gpuaas/hostd/vm"
)

// PrepareSeed makes the cloud-init seed.
func (m *Machine) PrepareSeed(ctx context.Context, v *machine.VM) error {
	release, err := m.guests.Act(ctx, v.VM)
	if err != nil {
		return err
	}
	defer release()
	_, running, err := m.claim(ctx, v)
	if err != nil || running {
		return err // a running guest has its seed open
	}
	if err := m.introduce(v); err != nil {
		return err
	}
	return image.WriteSeed(m.guests.File(v.VM, "seed.iso"), m.seed(v))
}

// AttachNetwork gives the VM its port and static lease.
func (m *Machine) AttachNetwork(ctx context.Context, v *machine.VM) error {
	release, err := m.guests.Act(ctx, v.VM)
	if err != nil {
		return err
	}
	defer release()
	s, err := m.guests.Claim(v)
	if err != nil {
		return err
	}
	_, err = m.o.Network.Attach(ctx, network.Port{
		VM: v.VM.String(), Tenant: v.Tenant.String(), Slot: s.Slots[0], MAC: v.MAC, Hostname: v.Hostname,
	})
	return errors.Join(err, m.metadata.Apply(m.o.Network.Interfaces()))
}

// Start proves the VM's functions, defines its domain and starts it. Faults:
// domain.not_prepared, domain.no_feature, domain.start_failed, and those of unproved:
// drive.other, drive.silent, device.gone, device.silent, device.unproved.
func (m *Machine) Start(ctx context.Context, v *machine.VM) error {
	release, err := m.guests.Act(ctx, v.VM)
	if err != nil {
		return err
	}
	defer release()
	if _, running, err := m.claim(ctx, v); err != nil || running {
		return err
	}
	return m.guests.Start(ctx, v, func(s guest.State) (string, error) { return m.domain(ctx, v, s) })
}

// domain proves the functions and renders the VM's domain.
func (m *Machine) domain(ctx context.Context, v *machine.VM, s guest.State) (string, error) {
	port, attached := m.o.Network.Port(v.VM.String())
	if _, err := os.Stat(m.guests.File(v.VM, "seed.iso")); err != nil || !attached || !s.Prepared {
		return "", &machine.Fault{Code: "domain.not_prepared", Err: errors.New("disk, seed or network is missing")}
	}
	set, err := vfio.SetOf(v.Slots...)
	if err != nil {
		return "", err
	}
	done, err := m.turns.take(ctx, set.Drives...)
	if err != nil {
		return "", err
	}
	defer done()
	if err := m.hold(ctx, v.Slots); err != nil {
		return "", m.unproved(ctx, v, err)
	}
	if err := m.bind.Prove(ctx, set); err != nil {
		return "", m.unproved(ctx, v, err)
	}
	if err := m.guardVFs(v.Slots); err != nil {
		return "", err
	}
	p := &vm.Passthrough{Slots: v.Slots, LockMemory: m.o.LockMemory}
	if p.Pins, err = m.pins(ctx, v); err != nil {
		return "", err
	}
	if m.o.Users != (vm.Users{}) {
		if p.User, err = m.o.Users.Of(s.Slots[0]); err != nil {
			return "", err
		}
	}
	if err := m.processors(ctx, p); err != nil {
		return "", err
	}
	spec := vm.Spec{
		Name: v.VM.String(), UUID: uuid.UUID(v.VM).String(),
		Owner: &vm.Owner{Tenant: v.Tenant.String(), Allocation: v.Allocation.String()},
		KVM:   !m.o.Emulated, Passthrough: p,
		Seed: m.guests.File(v.VM, "seed.iso"), Bridge: port.Bridge(), Tap: port.Tap(), MAC: port.MAC,
		ConsoleLog: m.guests.File(v.VM, "console.log"), ReadySocket: m.readySocket(v.VM),
	}
	if spec.Kernel = m.o.Kernel; spec.Kernel == "" {
		spec.NVRAM = m.guests.File(v.VM, "nvram.fd")
	}
	if err := m.equip(&spec, v.Features); err != nil {
		return "", err
	}
	return spec.XML()
}

// unproved is why a VM's functions are not what was approved, as a fault. It names the
// device only where that is beyond doubt: it is gone or silent, another is in its group or in its
// place. Then the VM fails for good; else it can be tried again, with its data, and the
// slot is kept for the operator.
func (m *Machine) unproved(ctx context.Context, v *machine.VM, err error) error {
	if ctx.Err() != nil || errors.Is(err, vfio.ErrStuck) {
		return err
	}
	doubt := machine.Event{Kind: machine.DeviceFault, VM: v.VM, Slot: v.Slots[0].Index, Component: "gpu", Scope: "baseboard", Detail: err.Error()}
	var f *machine.Fault
	if !errors.As(err, &f) {
		f = m.blame(v, err)
	} else {
		doubt.Slot, doubt.Component, doubt.Scope = f.Slot, "nvme", "device"
	}
	if f.Component == "" {
		doubt.Code = f.Code
		m.guests.Emit(doubt)
	}
	return f
}

// blame looks for the device that is why a proof failed.
func (m *Machine) blame(v *machine.VM, err error) *machine.Fault {
	var foreign *vfio.Foreign
	errors.As(err, &foreign)
	for _, slot := range v.Slots {
		for _, d := range devices(slot) {
			f := &machine.Fault{Code: "device.unproved", Err: err, Slot: slot.Index, Component: d.component, Scope: "device"}
			if code, _ := m.wrong(d.Address); code == "device.gone" || code == deviceSilent {
				f.Code = code
				return f
			}
			if foreign != nil && d.has(foreign.With) {
				return f
			}
		}
	}
	return &machine.Fault{Code: "device.unproved", Err: err}
}

// pins are the choices of the VM's first start, kept in its own folder.
func (m *Machine) pins(ctx context.Context, v *machine.VM) (vm.Pins, error) {
	path := m.guests.File(v.VM, "pins.json")
	var p vm.Pins
	err := durable.ReadJSON(path, &p)
	if err == nil {
		return p, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return p, fmt.Errorf("linux: %w", err)
	}
	machineType, err := m.host.Machine(ctx, !m.o.Emulated)
	if err != nil {
		return p, err
	}
	p = vm.NewPins(machineType, vm.MMIO64MiB(v.Slots))
	if err := durable.WriteJSON(path, p); err != nil {
		return p, fmt.Errorf("linux: %w", err)
	}
	return p, nil
}

// Remove pulls the plug and removes everything of the VM but the data on its
// drives. Its functions stay with vfio-pci, out of the host's reach, until they are
// erased. An absent VM is left alone.
func (m *Machine) Remove(ctx context.Context, id domain.VMID) error {
	release, err := m.guests.Act(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	return m.guests.Remove(ctx, id, func(s guest.State) error {
		if err := m.o.Network.Detach(ctx, id.String()); err != nil {
			return err
		}
		return errors.Join(m.metadata.Apply(m.o.Network.Interfaces()), m.forget(id))
	})
}
