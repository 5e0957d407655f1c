package domain

import (
	"fmt"
	"slices"
)

// The invariants that are functions of world and events. checkDecision looks at
// them incrementally before anything is applied or appended: a decision that would
// break one is refused and alarmed, and the site goes on. CheckAll recomputes
// everything; tests and simulation call it after every event.

// broken is a refusal that is our fault.
func broken(format string, args ...any) *Error {
	return &Error{Kind: Internal, Code: "invariant.broken", Message: "internal error", Cause: fmt.Errorf(format, args...)}
}

// checkDecision holds a decision against the invariants. What touches no slot, no line
// and no money costs one look at its type.
func (w *World) checkDecision(at Time, events []EventBody) *Error {
	d := decisionCheck{w: w, at: at}
	for _, e := range events {
		if err := d.check(e); err != nil {
			return err
		}
	}
	return d.checkMoved()
}

// decisionCheck is what the events of one decision did before the present one: none of
// it is applied yet.
type decisionCheck struct {
	w        *World
	at       Time
	taken    []uint32 // slots
	moved    map[Account]Micros
	released map[AllocationID]bool
	opened   map[VMID]bool
	billed   map[[16]byte]Time // posted up to, by VM or tenant
}

func (d *decisionCheck) check(e EventBody) *Error {
	switch e := e.(type) {
	case *AllocationPlaced:
		return d.checkPlaced(e)
	case *SlotWiped:
		return d.w.checkWiped(e)
	case *LedgerPosted:
		return d.checkPosted(e)
	case *VMBillable:
		return d.checkOpened(e)
	case *AllocationReleasing:
		return d.checkClosed(e)
	case *AllocationReleased:
		if a := d.w.allocations.get(e.ID); a == nil || a.State < Releasing && !d.released[e.ID] {
			return broken("allocation %s leaves with its lines open", e.ID) // invariant 6
		}
	case *SlotWipeStarted:
		for i := range e.Slots {
			if err := d.checkLetGo(e.Slots[i].Slot); err != nil {
				return err
			}
		}
	case *SlotQuarantined:
		return d.checkLetGo(e.Slot)
	case *SlotRetired:
		return d.checkLetGo(e.Slot)
	case *MapAmended:
		for i := range e.Slots {
			if s := &e.Slots[i]; s.Change != "kept" {
				if err := d.checkLetGo(s.ID); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// checkPlaced: every slot is free and given away once (invariants 1 and 2).
func (d *decisionCheck) checkPlaced(e *AllocationPlaced) *Error {
	w := d.w
	d.taken = slices.Grow(d.taken, len(e.VMs)*int(min(e.Shape, 8)))
	for _, v := range e.VMs {
		if len(v.Slots) == 0 || len(v.Slots) > 8 || uint32(len(v.Slots)) != e.Shape {
			return broken("VM %s with %d slots", v.VM, len(v.Slots))
		}
		on := w.slotsOf(v.Host)
		for _, id := range v.Slots {
			row := on.find(id)
			if row == none || w.slots.row(row).State != SlotIsAvailable || w.slots.row(row).vm != none || slices.Contains(d.taken, row) {
				return broken("slot %s is not free on host %s", id, v.Host)
			}
			d.taken = append(d.taken, row)
		}
	}
	return nil
}

// checkPosted: a transaction sums to zero (invariant 5). What it moves is added up for
// checkMoved.
func (d *decisionCheck) checkPosted(e *LedgerPosted) *Error {
	var sum Micros
	for _, l := range e.Legs {
		sum = sum.add(l.Amount)
		if l.Account.Kind == AccountLot || l.Account.Kind == AccountHold {
			if d.moved == nil {
				d.moved = make(map[Account]Micros, 4)
			}
			d.moved[l.Account] = d.moved[l.Account].add(l.Amount)
		}
	}
	if sum != 0 {
		return broken("transaction %s sums to %d", e.Tx, sum)
	}
	return d.checkUsage(e)
}

// checkMoved: no lot and no hold falls below zero.
func (d *decisionCheck) checkMoved() *Error {
	for a, n := range d.moved {
		var have Micros
		if a.Kind == AccountLot {
			if g := d.w.grants.get(GrantID(a.Ref)); g != nil {
				have = g.Balance
			}
		} else if al := d.w.allocations.get(AllocationID(a.Ref)); al != nil {
			have = al.Hold
		}
		if have.add(n) < 0 {
			return broken("account %s would be %d", a, have+n)
		}
	}
	return nil
}

// checkWiped: only a wipe of exactly the slot's devices, all verified, for the
// ended lease, frees a slot (invariants 2 and 3).
func (w *World) checkWiped(e *SlotWiped) *Error {
	s := w.slots.get(e.Slot)
	if s == nil || s.State != SlotIsWiping || s.Condemned || s.Generation != e.Generation || e.Nonce != s.lease().Nonce {
		return broken("slot %s: wiped without a wipe", e.Slot)
	}
	want, kept := s.devices, !s.Real || w.LogicLevel < 2
	for _, d := range e.Devices {
		kept = kept || d.Component == "host" && d.Result == WipeVerified
		for k, name := range deviceComponents {
			if d.Component == name && d.Result == WipeVerified && deviceKey(k, d.Serial) == want[k] {
				want[k] = 0
			}
		}
	}
	if want != [3]uint64{} {
		return broken("slot %s: not every device is wiped", e.Slot)
	}
	if !kept {
		return broken("slot %s: nobody looked for what its host kept", e.Slot)
	}
	return nil
}

// CheckAll recomputes what the world keeps beside its events, and returns the
// first thing that is not so.
func (w *World) CheckAll() error {
	for _, check := range []func() error{w.checkSlots, w.checkFleet, w.checkLedger, w.checkLines, w.checkCounts} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (w *World) checkSlots() error {
	holders := map[uint32]uint32{}
	for row := uint32(0); row < w.vms.next; row++ {
		v := w.vms.row(row)
		if v.ID.IsZero() || v.State >= Releasing {
			continue
		}
		for _, s := range v.slots[:v.n] {
			if other, twice := holders[s]; twice {
				return fmt.Errorf("slot row %d is held by VM rows %d and %d", s, other, row)
			}
			holders[s] = row
			if w.slots.row(s).host != v.host {
				return fmt.Errorf("VM %s holds a slot of another host", v.ID)
			}
		}
	}
	for row := uint32(0); row < w.slots.next; row++ {
		s := w.slots.row(row)
		if s.ID.IsZero() {
			continue
		}
		holder, held := holders[row]
		inUse := s.State == SlotIsReserved || s.State == SlotIsActive
		leaving := s.vm != none && !held && w.vms.row(s.vm).State == Releasing
		if inUse != held || held && s.vm != holder || !held && s.vm != none && !leaving {
			return fmt.Errorf("slot %s is %s, held by a VM: %v", s.ID, s.State, held)
		}
	}
	return nil
}

func (w *World) checkFleet() error {
	for row := uint32(0); row < w.hosts.next; row++ {
		h := w.hosts.row(row)
		if h.ID.IsZero() || h.MapID.IsZero() {
			continue
		}
		n := uint8(0)
		for _, s := range h.slots {
			if h.placeable() && w.slots.row(s).State == SlotIsAvailable {
				n++
			}
		}
		at := w.fleet.free[row]
		if at.free != n || n > 0 && at.class.byFree[n].next(row) != row {
			return fmt.Errorf("host %s has %d free slots, the index says %d", h.ID, n, at.free)
		}
	}
	return w.checkHardware()
}

// checkHardware: no device is in two slots, and each is found by its serial.
func (w *World) checkHardware() error {
	for row, s := range w.slots.rows() {
		if s.State == SlotIsRetired && s.devices != [3]uint64{} {
			return fmt.Errorf("slot %s is retired and has devices", s.ID)
		}
		for k, key := range s.devices {
			if key != 0 && w.slotByDevice(k, key) != row {
				return fmt.Errorf("the %s of slot %s is found in slot row %d", deviceComponents[k], s.ID, w.slotByDevice(k, key))
			}
		}
		if s.State == SlotIsAvailable && s.Dirty {
			return fmt.Errorf("slot %s is available, and no wipe was verified", s.ID)
		}
	}
	for _, d := range w.duties.rows() {
		if w.dutyOf[d.device] != d.ID {
			return fmt.Errorf("wipe duty %s is not found by its device", d.ID)
		}
	}
	return nil
}

func (w *World) checkLedger() error {
	sums := map[Currency]Micros{}
	held := map[uint32]Micros{}
	for row := uint32(0); row < w.allocations.next; row++ {
		a := w.allocations.row(row)
		if a.ID.IsZero() {
			continue
		}
		var parts Micros
		for _, p := range a.parts {
			parts = parts.add(p.amount)
		}
		if parts != a.Hold || a.Hold < 0 {
			return fmt.Errorf("hold of %s is %d, its parts %d", a.ID, a.Hold, parts)
		}
		held[a.tenant] = held[a.tenant].add(a.Hold)
	}
	for row := uint32(0); row < w.tenants.next; row++ {
		t := w.tenants.row(row)
		if t.Held != held[row] {
			return fmt.Errorf("tenant %s holds %d, its allocations %d", t.ID, t.Held, held[row])
		}
		sums[t.Currency] += t.Held + t.Receivable + t.Credit
	}
	for row := uint32(0); row < w.grants.next; row++ {
		g := w.grants.row(row)
		if g.ID.IsZero() {
			continue
		}
		if g.Balance < 0 {
			return fmt.Errorf("lot %s is %d", g.ID, g.Balance)
		}
		sums[w.tenants.get(g.Tenant).Currency] += g.Balance
	}
	for key, n := range w.platform {
		sums[key.Currency] += n
	}
	for cur, sum := range sums {
		if sum != 0 {
			return fmt.Errorf("the ledger sums to %d %s", sum, cur)
		}
	}
	return nil
}

func (w *World) checkCounts() error {
	gpus, lines := map[uint32]uint32{}, map[uint32]int{}
	for row := uint32(0); row < w.allocations.next; row++ {
		if a := w.allocations.row(row); !a.ID.IsZero() && a.State < Releasing {
			gpus[a.tenant] += uint32(len(a.vms)) * a.Shape
		}
	}
	for row := uint32(0); row < w.vms.next; row++ {
		v := w.vms.row(row)
		if !v.ID.IsZero() && v.lineOpen() {
			t := w.allocations.row(v.alloc).tenant
			lines[t]++
			if w.tenants.row(t).vms[v.lineAt] != row {
				return fmt.Errorf("VM %s is not where its tenant's list has it", v.ID)
			}
		}
	}
	for row := uint32(0); row < w.tenants.next; row++ {
		t := w.tenants.row(row)
		if t.GPUs != gpus[row] || len(t.vms) != lines[row] {
			return fmt.Errorf("tenant %s: %d GPUs and %d lines counted, %d and %d found", t.ID, t.GPUs, len(t.vms), gpus[row], lines[row])
		}
	}
	return nil
}
