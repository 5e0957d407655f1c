package lab

import (
	"context"
	"fmt"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/disk"
)

// Wipe erases the slot's drive and proves it; the stand-ins of GPU and VF have
// nothing that outlives the VM's process. It refuses, with slot.in_use, while any
// VM has the drive. The drive is found by its serial.
func (m *Machine) Wipe(ctx context.Context, slot domain.SlotSpec, w domain.PlacedWipe) ([]domain.DeviceWipe, error) {
	serial := slot.NVMe.Serial
	path, err := m.drive(serial)
	if err != nil {
		return nil, err
	}
	release, err := m.guests.Erase(serial)
	if err != nil {
		return nil, err
	}
	defer release()
	standIn := func(component string, d domain.Device) domain.DeviceWipe {
		return domain.DeviceWipe{
			Component: component, Serial: d.Serial, Method: "stand-in-reset", Result: domain.WipeVerified,
			Detail: "stand-in: its memory was the VM's process, which has ended",
		}
	}
	out := []domain.DeviceWipe{standIn("gpu", slot.GPU)}
	switch w.Policy {
	case domain.WipeAuto, domain.WipeOverwrite:
		ev, err := disk.Wipe(ctx, path, serial, m.id.DriveBytes, w.Lease.Nonce)
		if err != nil {
			return nil, err
		}
		out = append(out, ev)
	default:
		out = append(out, domain.DeviceWipe{
			Component: "nvme", Serial: serial, Method: "none", Result: domain.WipeFailed,
			Detail: fmt.Sprintf("policy %s: this drive can only be overwritten", w.Policy),
		})
	}
	if slot.IBVF.Serial != "" {
		out = append(out, standIn("ib_vf", slot.IBVF))
	}
	return out, nil
}
