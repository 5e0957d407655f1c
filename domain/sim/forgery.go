package sim

import (
	"encoding/binary"
	"slices"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/journal"
)

// A forged placement stands for every way in which a host may be asked for what the
// log does not say: a tail that was lost, a control plane gone mad. A host cannot know
// it; what it must not do it must not do for anybody.

func (h *host) forgeries() {
	s, d := h.s, h.s.dice
	x := s.placements[h.id]
	if x == nil || x.placement.Desired.Epoch != h.fence.Epoch || x.placement.Desired.Account || !h.up || h.cut || h.frozen || h.fence.Generation == 0 || !h.remembers() {
		return
	}
	switch {
	case d.happens(Rogue):
		f := h.forge(&x.placement.Desired)
		f.Generation = h.fence.Generation + 1 + d.work.Uint64N(3)
		h.forged = true
		h.deceive(f)
	case d.happens(TwoDigests):
		f := h.forge(&x.placement.Desired)
		f.Generation = h.fence.Generation
		before := h.fence
		if f.Digest() == before.Digest {
			return
		}
		h.frozen, h.forged = true, true
		h.deceive(f)
		if h.fence.Conflict.IsZero() {
			s.fail("host %s took a second content of generation %d", h.name, f.Generation)
		}
		if _, v := h.fence.Admit(&x.placement.Desired); v == journal.Execute {
			s.fail("host %s goes on after two contents of generation %d", h.name, f.Generation)
		}
	}
}

// forgeWipe asks for a wipe of everything, when something has just failed: what is
// placed and does not run is not free.
func (h *host) forgeWipe() {
	if h.desired == nil || h.desired.Account || h.approved == nil || h.frozen || h.cut || !h.remembers() || !h.s.dice.happens(Rogue) {
		return
	}
	f := *h.desired
	f.Generation, f.Wipes = h.fence.Generation+1, nil
	for i := range h.approved.Slots {
		f.Wipes = append(f.Wipes, domain.PlacedWipe{Lease: domain.Lease{Slot: h.mem.slotID[uint32(i)], Index: uint32(i), Generation: 97}, Policy: domain.WipeAuto})
	}
	h.forged = true
	h.deceive(f)
}

// remembers reports whether the host knows of every used drive that it is used: one
// that lost its journal has only the control plane's word.
func (h *host) remembers() bool {
	for i := range h.machine.hardware.Slots {
		serial := h.machine.hardware.Slots[i].NVMe.Serial
		if by, knows := h.mem.dirty[serial]; (!knows || by.IsZero()) && !h.s.drives[serial].data.IsZero() {
			return false
		}
	}
	return true
}

// forge changes a placement in one of the ways that would do harm.
func (h *host) forge(d *domain.Desired) domain.Desired {
	r := h.s.dice.work
	f := *d
	f.VMs, f.Wipes = slices.Clone(f.VMs), slices.Clone(f.Wipes)
	slot := uint32(r.IntN(len(h.machine.hardware.Slots)))
	thief := domain.PlacedVM{Power: domain.PowerOn, Boot: 1, Hostname: "x", Image: "x", Leases: []domain.Lease{{Slot: h.mem.slotID[slot], Index: slot, Generation: 99}}}
	binary.BigEndian.PutUint64(thief.VM[:], r.Uint64()|1)
	on := func(v domain.PlacedVM) bool {
		return slices.ContainsFunc(v.Leases, func(l domain.Lease) bool { return l.Index == slot })
	}
	switch r.IntN(5) {
	case 0: // in a tenant's place, and no wipe
		f.VMs = append(slices.DeleteFunc(f.VMs, on), thief)
		f.Wipes = slices.DeleteFunc(f.Wipes, func(w domain.PlacedWipe) bool { return w.Lease.Index == slot })
	case 1: // beside it
		f.VMs = append(f.VMs, thief)
	case 2: // a wipe under its feet
		f.Wipes = append(f.Wipes, domain.PlacedWipe{Lease: domain.Lease{Slot: h.mem.slotID[slot], Index: slot, Generation: 99}, Policy: domain.WipeAuto})
	case 3: // a VM moves to another slot
		if len(f.VMs) > 0 {
			v := &f.VMs[r.IntN(len(f.VMs))]
			v.Leases, v.Boot = thief.Leases, v.Boot+1
		}
		f.VMs = append(f.VMs, domain.PlacedVM{VM: thief.VM, Power: domain.PowerOn, Boot: 1})
	case 4: // twice, and in a slot that is to be wiped
		thief.Leases = append(thief.Leases, domain.Lease{Index: (slot + 1) % uint32(len(h.machine.hardware.Slots))})
		f.VMs = append(f.VMs, thief)
		f.Wipes = append(f.Wipes, domain.PlacedWipe{Lease: domain.Lease{Index: slot, Generation: 98}, Policy: domain.WipeAuto})
	}
	return f
}

// deceive delivers what a forger makes of the newest placement: it acknowledges what that
// does, or the host would take it for a log that has lost its end.
func (h *host) deceive(d domain.Desired) {
	p := domain.Placement{Desired: d}
	if x := h.s.placements[h.id]; x != nil {
		p.From, p.Journal, p.Acked = x.placement.From, x.placement.Journal, x.placement.Acked
	}
	h.deliver(&p)
}
