package linux

import (
	"context"
	"fmt"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/nvme"
	"github.com/gpuaas/gpuaas/hostd/pci"
	"github.com/gpuaas/gpuaas/hostd/vfio"
	"github.com/gpuaas/gpuaas/hostd/wipe"
)

// eraser is the real Wiper: hostd/wipe with this host's hands.
type eraser struct{ m *Machine }

// Wipe implements Wiper.
func (e eraser) Wipe(ctx context.Context, slot domain.SlotSpec, w domain.PlacedWipe) ([]domain.DeviceWipe, error) {
	set, err := vfio.SetOf(slot)
	if err != nil {
		return nil, err
	}
	f := functions{e.m, set}
	slot.IBVF.GUID = e.m.approvedGUID(slot.IBVF.Serial) // not the one it has now
	h := &wipe.Host{
		Drives:    wipe.System{Finder: nvme.Finder{Sys: e.m.o.Discovery.Sys, Dev: e.m.o.Discovery.Dev}},
		Functions: f, VFs: f, Remnants: e.m, Store: e.m.store, Boot: e.m.book.boot,
	}
	if e.m.o.Probe != "" {
		h.Probe = prober(e)
	}
	return wipe.Slot(ctx, h, &slot, &w)
}

// functions resets the functions of one slot and reads what their physical functions
// keep. It implements wipe.Resetter and wipe.VFs.
type functions struct {
	m   *Machine
	set vfio.Set
}

// Methods implements wipe.Resetter.
func (f functions) Methods(_ context.Context, address string) ([]wipe.Reset, error) {
	d, err := f.device(address)
	if err != nil {
		return nil, err
	}
	var out []wipe.Reset
	for _, r := range d.Resets {
		out = append(out, wipe.Reset(r))
	}
	return out, nil
}

// Private implements wipe.Resetter.
func (f functions) Private(_ context.Context, address string) (bool, error) {
	d, err := f.device(address)
	if err != nil {
		return false, err
	}
	return f.m.bind.Private(f.set, d.Address) == nil, nil
}

// Fingerprint implements wipe.Resetter.
func (f functions) Fingerprint(_ context.Context, address string) (string, error) {
	d, err := f.device(address)
	if err != nil {
		return "", err
	}
	c, err := f.m.sys.Tree.Bytes(d.Path + "/config")
	if err != nil {
		return "", fmt.Errorf("linux: %w", err)
	}
	if !pci.Answers(c) {
		return "", fmt.Errorf("linux: %s does not answer", address)
	}
	return fmt.Sprintf("%s %s class %06x serial %016x", d.IDs(), d.Subsystem(), d.Class, d.SerialNumber), nil
}

// Reset implements wipe.Resetter.
func (f functions) Reset(ctx context.Context, address string, r wipe.Reset) error {
	d, err := f.device(address)
	if err != nil {
		return err
	}
	return f.m.bind.Reset(ctx, f.set, d.Address, string(r))
}

// State implements wipe.VFs.
func (f functions) State(_ context.Context, address string) (wipe.VFState, error) {
	d, err := f.device(address)
	if err != nil {
		return wipe.VFState{}, err
	}
	c, err := f.m.bind.VF(f.set, d.Address, f.m.o.Links)
	return wipe.VFState{
		MAC: c.MAC, VLAN: c.VLAN, NodeGUID: c.NodeGUID, PortGUID: c.PortGUID, Trust: c.Trust, Spoofchk: c.SpoofCheck, Link: string(c.Link), RateMbps: c.RateMbps,
	}, err
}

// Restore implements wipe.VFs.
func (f functions) Restore(_ context.Context, address string, s wipe.VFState) error {
	d, err := f.device(address)
	if err != nil {
		return err
	}
	now, err := f.m.bind.VF(f.set, d.Address, f.m.o.Links)
	if err != nil {
		return err
	}
	return f.m.bind.SetVF(f.set, d.Address, f.m.o.Links, vfio.VFConfig{
		InfiniBand: now.InfiniBand, NodeGUID: s.NodeGUID, PortGUID: s.PortGUID,
		MAC: s.MAC, VLAN: s.VLAN, SpoofCheck: s.Spoofchk, Trust: s.Trust, Link: vfio.Link(s.Link), RateMbps: s.RateMbps,
	})
}

func (f functions) device(address string) (*pci.Device, error) {
	a, err := pci.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("linux: %w", err)
	}
	d, err := f.m.sys.Device(a)
	if err != nil {
		return nil, fmt.Errorf("linux: %w", err)
	}
	return d, nil
}

// approvedGUID is the GUID that the map in force says of a virtual function; "" if it
// says none, or no map is known.
func (m *Machine) approvedGUID(serial string) string {
	if m.o.Discovery.Approved == nil {
		return ""
	}
	approved := m.o.Discovery.Approved()
	if approved == nil {
		return ""
	}
	for i := range approved.Slots {
		if vf := &approved.Slots[i].IBVF; serial != "" && vf.Serial == serial {
			return vf.GUID
		}
	}
	return ""
}

// guardVFs has the slots' Ethernet functions send with their own address only, and
// without trust, before a tenant has them. Their link is down where the card can do
// that: which network a tenant's functions are on is not decided yet.
func (m *Machine) guardVFs(slots []domain.SlotSpec) error {
	for _, s := range slots {
		if s.IBVF.Address == "" {
			continue
		}
		set, err := vfio.SetOf(s)
		if err != nil {
			return err
		}
		c, err := m.bind.VF(set, set.VFs[0], m.o.Links)
		if err != nil {
			return err
		}
		if c.InfiniBand { // its GUIDs are the physical function's word, its partitions the subnet manager's
			continue
		}
		was := c.Link
		c.SpoofCheck, c.Trust, c.Link = true, false, vfio.LinkDown
		err = m.bind.SetVF(set, set.VFs[0], m.o.Links, c)
		if vfio.NoLinkState(err) {
			c.Link = was
			err = m.bind.SetVF(set, set.VFs[0], m.o.Links, c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
