package domain

import "fmt"

// Invariant 6: what is billed of a slot never overlaps and never exceeds the time
// that passed. A line opens while its VM holds its slots, and no slot is let go
// before it is closed; usage is posted forward, up to now and not beyond the line.

// checkOpened: a VM has one line, which begins between its placing and now, on slots
// that are its own.
func (d *decisionCheck) checkOpened(e *VMBillable) *Error {
	row := d.w.vms.find(e.VM)
	if row == none {
		return broken("VM %s is billed and is not there", e.VM)
	}
	v := d.w.vms.row(row)
	if v.BillStart != 0 || d.opened[e.VM] || v.State >= Releasing || e.At < v.Placed || e.At > d.at {
		return broken("VM %s, %s, placed %s, is billed from %s", e.VM, v.State, v.Placed, e.At)
	}
	for _, s := range v.slots[:v.n] {
		if d.w.slots.row(s).vm != row {
			return broken("VM %s is billed for slot %s, which it does not hold", e.VM, d.w.slots.row(s).ID)
		}
	}
	if d.opened == nil {
		d.opened = make(map[VMID]bool, 1)
	}
	d.opened[e.VM] = true
	return nil
}

// checkClosed: an allocation's lines are closed once, not later than now, and not
// before what this decision posts of them.
func (d *decisionCheck) checkClosed(e *AllocationReleasing) *Error {
	a := d.w.allocations.get(e.ID)
	if a == nil || a.State >= Releasing || d.released[e.ID] || e.BilledTo > d.at {
		return broken("allocation %s is released and billed to %s", e.ID, e.BilledTo)
	}
	for _, row := range a.vms {
		v := d.w.vms.row(row)
		end := max(v.BillStart, e.BilledTo)
		if e.Free {
			end = v.BillStart
		}
		if d.opened[v.ID] || d.billed[v.ID] > end {
			return broken("VM %s is billed to %s and posted to %s", v.ID, end, d.billed[v.ID])
		}
	}
	if d.released == nil {
		d.released = make(map[AllocationID]bool, 1)
	}
	d.released[e.ID] = true
	return nil
}

// checkLetGo: a slot leaves a VM only after the VM's line is closed.
func (d *decisionCheck) checkLetGo(id SlotID) *Error {
	s := d.w.slots.get(id)
	if s == nil || s.vm == none {
		return nil
	}
	v := d.w.vms.row(s.vm)
	if (v.lineOpen() || d.opened[v.ID]) && !d.released[d.w.allocations.row(v.alloc).ID] {
		return broken("slot %s is taken from VM %s, which is billed for it", id, v.ID)
	}
	return nil
}

// checkUsage: usage is posted from where the last posting ended, of lines that are
// open, and of no time to come.
func (d *decisionCheck) checkUsage(e *LedgerPosted) *Error {
	if d.w.LogicLevel < 2 { // it gave back by closing a line once more
		return nil
	}
	var of [16]byte
	var from Time
	switch e.Kind {
	case TxCapture, TxClose:
		v := d.w.vms.get(e.VM)
		if v == nil || !v.lineOpen() {
			return broken("transaction %s is for VM %s, which has no open line", e.Tx, e.VM)
		}
		of, from = e.VM, d.w.postedTo(v)
	case TxAccrual:
		t := d.w.tenants.get(e.Tenant)
		if t == nil {
			return broken("transaction %s is for tenant %s, which is not there", e.Tx, e.Tenant)
		}
		of, from = e.Tenant, t.AccruedTo
		if len(e.Legs) == 0 { // only the deadline goes
			from--
		}
	case TxCorrection:
		if e.From > e.To || e.To > d.at {
			return broken("transaction %s corrects usage from %s to %s", e.Tx, e.From, e.To)
		}
		return nil
	default:
		return nil
	}
	if from = max(from, d.billed[of]); e.Effective <= from || e.Effective > d.at {
		return broken("transaction %s posts usage from %s to %s", e.Tx, from, e.Effective)
	}
	if d.billed == nil {
		d.billed = make(map[[16]byte]Time, 4)
	}
	d.billed[of] = e.Effective
	return nil
}

// checkLines recomputes what lines there can be.
func (w *World) checkLines() error {
	for _, v := range w.vms.rows() {
		if v.BillStart == 0 {
			if v.BillEnd != 0 || v.Captured {
				return fmt.Errorf("VM %s has no line and is billed", v.ID)
			}
			continue
		}
		if v.BillStart < v.Placed || max(v.BillStart, v.BillEnd, v.PostedTo) > w.At || v.BillEnd != 0 && v.BillEnd < v.BillStart {
			return fmt.Errorf("VM %s, placed %s, is billed from %s to %s and posted to %s", v.ID, v.Placed, v.BillStart, v.BillEnd, v.PostedTo)
		}
		if v.lineOpen() != (v.State < Releasing) {
			return fmt.Errorf("VM %s is %s, its line open: %v", v.ID, v.State, v.lineOpen())
		}
	}
	return nil
}
