package domain

import "slices"

// HeldGeneration is a slot whose leases go on above what its host has seen.
type HeldGeneration struct {
	Slot       SlotID `json:"slot_id"`
	Generation uint32 `json:"generation"`
}

func (s *HeldGeneration) wire(c *coder) {
	idField(c, 1, &s.Slot)
	uintField(c, 2, &s.Generation)
}

// HeldBoot is a VM that both know, and that its host has booted more often.
type HeldBoot struct {
	Allocation AllocationID `json:"allocation_id"`
	VM         VMID         `json:"vm_id"`
	Boot       uint32       `json:"boot"`
}

func (b *HeldBoot) wire(c *coder) {
	idField(c, 1, &b.Allocation)
	idField(c, 2, &b.VM)
	uintField(c, 3, &b.Boot)
}

// HostReconciled is a host's account of itself, compared with the log: it is placed
// again. Unknown VMs are none of the log's. Nobody is billed for them.
type HostReconciled struct {
	Host           HostID           `json:"host_id"`
	Epoch          uint32           `json:"epoch"`
	SeenEpoch      uint32           `json:"seen_epoch"` // the highest before it
	SeenGeneration uint64           `json:"seen_generation"`
	SlotMap        Digest           `json:"slot_map,omitzero"` // in force on the host
	Unknown        []HeldVM         `json:"unknown_vms"`
	Slots          []HeldGeneration `json:"slots"`                  // whose generation rises: they were used since
	Used           []SlotID         `json:"perhaps_used,omitempty"` // since, too: of what the host does not remember nobody knows
	Boots          []HeldBoot       `json:"boots,omitempty"`
}

// EventType implements EventBody.
func (*HostReconciled) EventType() string { return "host.reconciled" }

// Owner implements EventBody.
func (e *HostReconciled) Owner() string { return e.Host.String() }

// Resource implements EventBody.
func (e *HostReconciled) Resource() string { return e.Host.String() }

func (e *HostReconciled) wire(c *coder) {
	idField(c, 1, &e.Host)
	uintField(c, 2, &e.Epoch)
	uintField(c, 3, &e.SeenEpoch)
	c.uvar(4, &e.SeenGeneration)
	c.digest(5, &e.SlotMap)
	msgs(c, 6, &e.Unknown)
	msgs(c, 7, &e.Slots)
	msgs(c, 8, &e.Boots)
	ids(c, 9, &e.Used)
}

// mapDiffers reports whether the host has another map in force than the log.
func (e *HostReconciled) mapDiffers(h *Host) bool { return !e.SlotMap.IsZero() && e.SlotMap != h.MapID }

func (e *HostReconciled) apply(w *World, _ *Applied) {
	w.changeHost(e.Host, func(h *Host) {
		h.Accounts, h.unknown = 0, nil
		for i := range e.Unknown {
			v := e.Unknown[i]
			v.Slots = slices.Clone(v.Slots)
			h.unknown = append(h.unknown, v)
		}
		for _, s := range e.Slots {
			slot := w.slots.get(s.Slot)
			slot.Generation = s.Generation
			slot.Dirty = slot.Dirty || w.LogicLevel >= 2 // whoever used it since left something
		}
		for _, id := range e.Used {
			w.slots.get(id).Dirty = true
		}
		for _, b := range e.Boots { // or the host would not do what is asked of a boot that it has had
			w.vms.get(b.VM).Boot = b.Boot
		}
		if w.LogicLevel >= 2 && e.mapDiffers(h) {
			for _, row := range h.slots {
				w.slots.row(row).Dirty = true
			}
		}
		w.touch(h)
	})
}

// The reasons of what an account leads to.
const (
	reasonUnknownVM  = "epoch.unknown_vm"  // of a quarantine: a VM that the log does not know holds the slot
	reasonMapDiffers = "epoch.map_differs" // of a quarantine: the host has another map than the log
	reasonNotOnHost  = "epoch.not_on_host" // of a release: the host has had the VM, and has it no more
	causeEpoch       = "epoch"             // of a wipe: the slot was used after the end of the log
)

// judgeHoldings compares a host's account with the log. What both know goes on. A VM
// of the log's that the host has had and has no more is released, billed to the end of
// the log that was left. A slot that was used since is wiped, or quarantined while
// something holds it.
func (w *World) judgeHoldings(x *Context, hi uint32, r *HoldingsReport) ([]EventBody, *Error) {
	h := w.hosts.row(hi)
	if h.Accounts == 0 {
		return nil, Errorf(Conflict, "report.late", "the host has accounted for itself already")
	}
	if len(r.VMs) > maxSlotsOnMap || len(r.Slots) > maxSlotsOnMap {
		return nil, Errorf(Invalid, "report.too_large", "more slots or VMs than a host can have")
	}
	a := account{w: w, x: x, h: h, hi: hi, e: &HostReconciled{
		Host: h.ID, Epoch: w.Epoch, SeenEpoch: r.Epoch, SeenGeneration: r.Generation, SlotMap: r.SlotMap,
	}, held: map[VMID]bool{}, seen: map[uint32]HeldSlot{}, unknown: map[uint32]bool{}, let: map[uint32]bool{}}
	a.read(r)
	if !a.endVMs() {
		return a.events, nil // which change what is placed: the host is asked again
	}
	a.events = append(a.events, a.e)
	a.slots(a.e.mapDiffers(h))
	return a.events, nil
}

// account is one judgement of holdings.
type account struct {
	w       *World
	x       *Context
	h       *Host
	hi      uint32
	e       *HostReconciled
	held    map[VMID]bool
	seen    map[uint32]HeldSlot // by slot row, as the host remembers it
	unknown map[uint32]bool     // slot rows that unknown VMs hold
	let     map[uint32]bool     // slot rows that are released here
	events  []EventBody
}

// slotAt finds a slot of the host by its index on the map; none if there is none, or
// it is retired.
func (w *World) slotAt(h *Host, index uint32) uint32 {
	for _, row := range h.slots {
		if s := w.slots.row(row); uint32(s.Index) == index && s.State != SlotIsRetired {
			return row
		}
	}
	return none
}

func (a *account) read(r *HoldingsReport) {
	for _, v := range r.VMs {
		if a.held[v.VM] {
			continue
		}
		a.held[v.VM] = true
		if row := a.w.vms.find(v.VM); row != none && a.w.vms.row(row).host == a.hi {
			if have := a.w.vms.row(row); v.Boot > have.Boot && have.State < Releasing && a.w.LogicLevel >= 2 {
				a.e.Boots = append(a.e.Boots, HeldBoot{a.w.allocations.row(have.alloc).ID, v.VM, v.Boot})
			}
			continue
		}
		a.e.Unknown = append(a.e.Unknown, v)
		for _, index := range v.Slots {
			if row := a.w.slotAt(a.h, index); row != none {
				a.unknown[row] = true
			}
		}
	}
	for _, s := range r.Slots {
		row := a.w.slotAt(a.h, s.Index)
		if row == none || !s.Slot.IsZero() && s.Slot != a.w.slots.row(row).ID {
			continue
		}
		a.seen[row] = s
		if s.Generation > a.w.slots.row(row).Generation {
			a.e.Slots = append(a.e.Slots, HeldGeneration{a.w.slots.row(row).ID, s.Generation})
		}
	}
	for _, row := range a.h.slots {
		s, seen := a.w.slots.row(row), a.seen[row]
		if !s.Dirty && s.State != SlotIsRetired && seen.Generation <= s.Generation && (seen.Dirty && a.w.LogicLevel >= 2 || a.forgotten(row)) {
			a.e.Used = append(a.e.Used, s.ID)
		}
	}
}

// forgotten reports whether the host does not remember the slot as the log does: it has
// lost its journal, and with it what it did after the end of the log.
func (a *account) forgotten(row uint32) bool {
	seen := a.seen[row]
	return a.w.LogicLevel >= 2 && (seen.Slot.IsZero() || seen.Generation < a.w.slots.row(row).Generation)
}

// gone reports whether the host has had the VM and has it no more. One that never
// reached it is still to be started there, if the host remembers the lease before: or what
// it did on the slot after the end of the log is forgotten, and may be on the drive.
func (a *account) gone(v *VM) bool {
	if a.held[v.ID] {
		return false
	}
	if v.State >= Releasing || v.Started != 0 {
		return true
	}
	for _, row := range v.slots[:v.n] {
		s, ok := a.seen[row]
		now := a.w.slots.row(row).Generation
		if a.unknown[row] || ok && s.Generation >= now {
			return true
		}
		if a.w.LogicLevel >= 2 && (s.Slot.IsZero() || s.Generation+1 < now) {
			return true
		}
	}
	return false
}

// maxAccountEvents is after how many events the rest of what is gone waits for the host's
// next account: a gang takes some hundred, and a decision may have 256.
const maxAccountEvents = 96

// endVMs releases what is gone, and reports whether that was all.
func (a *account) endVMs() bool {
	var rows []uint32
	add := func(row uint32) {
		if row != none && !slices.Contains(rows, row) && a.gone(a.w.vms.row(row)) {
			rows = append(rows, row)
		}
	}
	for _, row := range a.h.vms {
		add(row)
	}
	for _, row := range a.h.slots {
		add(a.w.slots.row(row).vm) // also one that was being released
	}
	purses, done := map[uint32]*purse{}, map[uint32]bool{}
	for _, row := range rows {
		al := a.w.vms.row(row).alloc
		if done[al] {
			continue
		}
		if len(a.events) >= maxAccountEvents && a.w.LogicLevel >= 2 {
			return false
		}
		done[al] = true
		a.endAllocation(purses, a.w.allocations.row(al), rows)
	}
	return true
}

// endAllocation releases an allocation of which VMs are gone, the whole of it, as ever.
func (a *account) endAllocation(purses map[uint32]*purse, al *Allocation, gone []uint32) {
	w := a.w
	if w.vms.row(al.vms[0]).State < Releasing {
		if purses[al.tenant] == nil {
			purses[al.tenant] = newPurse(w, w.tenants.row(al.tenant), a.x)
		}
		// A launch that the site did not finish is for nothing, as at its deadline.
		free := w.LogicLevel >= 2 && slices.ContainsFunc(al.vms, func(vi uint32) bool {
			v := w.vms.row(vi)
			return slices.Contains(gone, vi) && v.State == Provisioning && v.Boot == 1 && v.Started == 0
		})
		a.events = append(a.events, w.release(purses[al.tenant], al, reasonNotOnHost, a.h.Accounts, free)...)
		for _, vi := range al.vms {
			v := w.vms.row(vi)
			for _, s := range v.slots[:v.n] {
				a.let[s] = true
			}
		}
	}
	left := false
	for _, vi := range al.vms {
		v := w.vms.row(vi)
		switch {
		case v.State == Released:
		case slices.Contains(gone, vi):
			a.events = append(a.events, &VMRemoved{w.vmChange(v, a.x.At)})
		default:
			left = true
		}
	}
	if !left {
		a.events = append(a.events, &AllocationReleased{ID: al.ID, Tenant: al.Tenant})
	}
}

// slots takes out of service what is held, and wipes what was used.
func (a *account) slots(mapDiffers bool) {
	again := &SlotWipeStarted{Host: a.h.ID, Cause: causeEpoch}
	for _, row := range a.h.slots {
		s := a.w.slots.row(row)
		leased := (s.State == SlotIsReserved || s.State == SlotIsActive) && !a.let[row]
		seen := a.seen[row]
		switch {
		case s.State == SlotIsRetired || s.State == SlotIsProposed || leased:
		case a.unknown[row]:
			a.quarantine(s, reasonUnknownVM)
		case s.State == SlotIsQuarantined:
		case mapDiffers:
			a.quarantine(s, reasonMapDiffers)
		case a.let[row]: // goes to its wipe
		case seen.Generation > s.Generation || (seen.Dirty || a.forgotten(row)) && s.State == SlotIsAvailable:
			again.Slots = append(again.Slots, WipingSlot{
				Slot: s.ID, Generation: max(s.Generation, seen.Generation), Attempt: s.Attempt + 1, Deadline: a.x.At.Add(wipeDeadline(s.Policy)),
			})
		}
	}
	if len(again.Slots) > 0 {
		seed := a.x.Entropy.derive("wipe-seed", 0)
		copy(again.Seed[:], seed[:])
		a.events = append(a.events, again)
	}
}

func (a *account) quarantine(s *Slot, reason string) {
	a.events = append(a.events, &SlotQuarantined{Host: a.h.ID, Slot: s.ID, Component: "host", Scope: "host", Reason: reason})
}
