package sim

import (
	"context"

	"github.com/gpuaas/gpuaas/domain"
)

// sampledBytes is what a wipe reads back.
const sampledBytes = 64 << 20

// Wipe erases the slot's drive and resets its devices. The evidence names the
// devices that are in the slot, or what the script makes it say.
func (m *Machine) Wipe(ctx context.Context, slot domain.SlotSpec, w domain.PlacedWipe) ([]domain.DeviceWipe, error) {
	m.mu.Lock()
	faults := m.strikes("wipe", []uint32{slot.Index})
	m.mu.Unlock()
	if err := suffer(ctx, faults); err != nil {
		return nil, err
	}
	if err := sleep(ctx, m.o.Timings.Wipe); err != nil {
		return nil, err
	}
	evidence := []domain.DeviceWipe{
		{Component: "nvme", Serial: m.serial(slot, "nvme"), Method: method(w.Policy), Result: domain.WipeVerified, BytesRead: sampledBytes},
		{Component: "gpu", Serial: m.serial(slot, "gpu"), Method: "flr", Result: domain.WipeVerified},
		{Component: "ib_vf", Serial: m.serial(slot, "ib_vf"), Method: "flr", Result: domain.WipeVerified},
	}
	erased := true
	for _, f := range faults {
		for i := range evidence {
			if evidence[i].Component != f.Component {
				continue
			}
			if f.Serial != "" {
				evidence[i].Serial = f.Serial
			}
			if f.Result != domain.WipeUnknown {
				evidence[i].Result, evidence[i].Detail = f.Result, "scripted fault"
				erased = erased && (f.Component != "nvme" || f.Result == domain.WipeVerified)
			}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.free(domain.VMID{}, slot.Index); err != nil {
		return nil, err
	}
	if erased {
		delete(m.drives, slot.Index)
	}
	return evidence, m.save()
}

// serial is what is really in the slot, whatever the map says.
func (m *Machine) serial(slot domain.SlotSpec, component string) string {
	real := slotMap(m.o.Seed, m.o.Slots)
	if int(slot.Index) >= len(real.Slots) {
		return ""
	}
	switch s := real.Slots[slot.Index]; component {
	case "nvme":
		return s.NVMe.Serial
	case "gpu":
		return s.GPU.Serial
	default:
		return s.IBVF.Serial
	}
}

func method(p domain.WipePolicy) string {
	switch p {
	case domain.WipeFormat:
		return "format-ses1"
	case domain.WipeOverwrite:
		return "overwrite"
	default:
		return "sanitize-crypto"
	}
}
