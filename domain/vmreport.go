package domain

import "slices"

// judgeVM decides what a host's report about a VM is worth.
func (w *World) judgeVM(x *Context, host uint32, kind ReportKind, r *VMReport) ([]EventBody, *Error) {
	row := w.vms.find(r.VM)
	if row == none {
		return nil, Errorf(Conflict, "report.late", "no such VM: it was released")
	}
	v := w.vms.row(row)
	if v.host != host {
		return nil, Errorf(Invalid, "report.foreign_vm", "the VM is not on this host")
	}
	if kind == ReportRemoved {
		return w.vmRemoved(x, row, v)
	}
	if v.State >= Releasing {
		return nil, Errorf(Conflict, "report.late", "the VM is %s", v.State)
	}
	if r.Boot > v.Boot && w.LogicLevel >= 2 {
		// Nobody but a log that has lost its end asked for that boot: an epoch has to compare.
		h := w.hosts.row(host)
		if ahead := w.noteAhead(&NoteHostAhead{Host: h.ID, Epoch: w.Epoch, Generation: h.Generation, Forked: true}); ahead != nil {
			return ahead, nil
		}
	}
	if r.Boot != v.Boot {
		return nil, Errorf(Conflict, "report.stale", "the report is about boot %d, the present one is %d", r.Boot, v.Boot)
	}
	at := w.claimed(v, kind, r.At, x.At)
	if len(r.Address) > 64 || len(r.Reason) > 128 {
		return nil, Errorf(Invalid, "report.too_long", "address or reason too long")
	}
	switch kind {
	case ReportStarted:
		if v.Started != 0 && v.Started >= min(max(r.At, v.Placed), x.At) {
			return nil, nil // said before, whatever was believed of it
		}
		return w.vmStarted(v, at, x.At), nil
	case ReportAlive, ReportReady:
		return w.vmLives(v, kind, r, at), nil
	case ReportStopped:
		if r.Lost && w.LogicLevel >= 2 {
			return w.vmLost(v, r, at, x.At), nil
		}
		return w.vmStopped(v, r, at), nil
	case ReportFailed:
		return w.vmFailed(x, v, r, at)
	}
	return nil, Errorf(Invalid, "report.unknown_kind", "unknown kind of report")
}

// vmFailed is a boot that the host gave up. A VM that never ran is let go, for
// nothing if that is the provider's failure. The disk of one that ran is the
// tenant's and is not thrown away, also while it is being stopped, unless a device of its
// slot is what fails: then it will not run there again, and its bill ends. The slot is kept
// for the operator.
func (w *World) vmFailed(x *Context, v *VM, r *VMReport, at Time) ([]EventBody, *Error) {
	a := w.allocations.row(v.alloc)
	reason := wordOr(r.Reason, "machine.error")
	ran := r.Boot > 1
	var events []EventBody
	if w.LogicLevel >= 2 {
		ran = ran || v.State != Provisioning // lost in its first boot
		if r.Component != "" && !r.Theirs {
			row := w.slots.find(r.Slot)
			if row == none || !slices.Contains(v.slots[:v.n], row) {
				return nil, Errorf(Invalid, "report.foreign_slot", "the slot is not the VM's")
			}
			if checkWord("component", r.Component, 32, false) != nil || checkWord("scope", r.Scope, 32, true) != nil {
				return nil, Errorf(Invalid, "report.malformed", "component or scope is not a word")
			}
			events = w.takeOut(row, r.Component, r.Scope, reason)
		}
	}
	broken := r.Component != "" && !r.Theirs && w.LogicLevel >= 2
	if v.State == Stopped && !broken && w.LogicLevel >= 2 {
		return nil, nil // said again by a host that does not remember it, or too late
	}
	if ran && !r.Theirs && !broken && (v.Power == PowerOn || w.LogicLevel >= 2) {
		c := w.vmChange(v, at)
		c.Reason = reason
		return []EventBody{&VMStopped{c}}, nil
	}
	free := !r.Theirs
	if ran && broken {
		free = false // what ran was delivered
	}
	return append(events, w.release(newPurse(w, w.tenants.row(a.tenant), x), a, reason, at, free)...), nil
}

// wordOr is a host's word for something, if it is one.
func wordOr(word, otherwise string) string {
	if checkWord("reason", word, 128, false) != nil {
		return otherwise
	}
	return word
}

func (w *World) vmStarted(v *VM, at, now Time) []EventBody {
	c := w.vmChange(v, at)
	c.Deadline = now.Add(bootDeadline + Duration(v.n)*perSlotAllowance)
	events := []EventBody{&VMStarted{c}}
	if w.slots.row(v.slots[0]).State == SlotIsReserved {
		e := &SlotActivated{Host: w.hosts.row(v.host).ID, VM: v.ID}
		for _, s := range v.slots[:v.n] {
			e.Slots = append(e.Slots, w.slots.row(s).ID)
		}
		events = append(events, e)
	}
	return events
}

// vmLives handles ready and the first sign of life. Either begins the line.
func (w *World) vmLives(v *VM, kind ReportKind, r *VMReport, at Time) (events []EventBody) {
	c := w.vmChange(v, at)
	c.Address = r.Address
	if v.BillStart == 0 {
		b := c
		b.Reason, b.Address = string(kind), ""
		events = append(events, &VMBillable{b})
	}
	if v.State == Stopped && w.LogicLevel >= 2 {
		return events // said before it was stopped, and heard after: it starts with another boot
	}
	if kind == ReportAlive {
		if !v.Alive || v.Address != r.Address {
			events = append(events, &VMAlive{c})
		}
		if r.Reason != "" && w.LogicLevel >= 2 { // it says ready, and its host has its doubts
			o := w.vmChange(v, at)
			o.Reason, o.Deadline = wordOr(r.Reason, "guest.not_ready"), v.Deadline
			events = append(events, &VMOverdue{o})
		}
		return events
	}
	if v.State == Stopping || v.Ready {
		return events
	}
	return append(events, &VMRunning{c})
}

func (w *World) vmStopped(v *VM, r *VMReport, at Time) []EventBody {
	if v.State == Stopped {
		return nil
	}
	c := w.vmChange(v, at)
	c.Reason = "guest"
	switch {
	case v.State == Stopping:
		c.Reason = "requested"
	case w.LogicLevel >= 2:
		c.Reason = wordOr(r.Reason, "guest")
	}
	return []EventBody{&VMStopped{c}}
}

// vmLost is a VM that its host lost and starts again. One that is to be off is
// reported stopped as well; nothing of it is lost.
func (w *World) vmLost(v *VM, r *VMReport, at, now Time) []EventBody {
	if v.Power != PowerOn || v.Started == 0 {
		return nil
	}
	c := w.vmChange(v, max(at, v.Started))
	c.Reason = wordOr(r.Reason, "machine.error")
	c.Deadline = now.Add(bootDeadline + Duration(v.n)*perSlotAllowance)
	return []EventBody{&VMLost{c}}
}

// vmRemoved ends a VM; the last one ends its allocation.
func (w *World) vmRemoved(x *Context, row uint32, v *VM) ([]EventBody, *Error) {
	if v.State < Releasing {
		return nil, Errorf(Conflict, "report.not_releasing", "the VM is %s: it should not have been removed", v.State)
	}
	if v.State == Released {
		return nil, nil
	}
	events := []EventBody{&VMRemoved{w.vmChange(v, x.At)}}
	a := w.allocations.row(v.alloc)
	for _, other := range a.vms {
		if other != row && w.vms.row(other).State != Released {
			return events, nil
		}
	}
	return append(events, &AllocationReleased{ID: a.ID, Tenant: a.Tenant}), nil
}
