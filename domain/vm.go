package domain

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
)

// A VM is one machine of an allocation. What happens to it is reported by its
// host; this file is where such a report becomes an event.

// VM is a VM's state.
type VM struct {
	ID        VMID
	Placed    Time
	Started   Time // domain start of the present boot
	BillStart Time
	BillEnd   Time
	PostedTo  Time
	Deadline  Time
	slots     [8]uint32
	alloc     uint32
	host      uint32
	hostAt    uint32 // position in the host's list
	lineAt    uint32 // position in the tenant's list of open lines
	Boot      uint32
	index     uint16
	n         uint8
	State     AllocationState
	Power     Power
	Captured  bool
	Ready     bool // the guest said so, in this boot
	Alive     bool // showed life, in this boot
	Address   string
}

// macOf is the VM's locally administered MAC address.
func macOf(id VMID) string {
	h := sha256.Sum256(id[:])
	return fmt.Sprintf("02:%02x:%02x:%02x:%02x:%02x", h[0], h[1], h[2], h[3], h[4])
}

// VMChange is what the allocation.vm_* events share.
type VMChange struct {
	Allocation AllocationID `json:"allocation_id"`
	Tenant     TenantID     `json:"tenant_id"`
	VM         VMID         `json:"vm_id"`
	Boot       uint32       `json:"boot"`
	At         Time         `json:"at"` // when it happened, as far as that is believed
	Address    string       `json:"address,omitempty"`
	Reason     string       `json:"reason,omitempty"`
	Deadline   Time         `json:"deadline,omitzero"`
}

// Owner implements EventBody.
func (e *VMChange) Owner() string { return e.Tenant.String() }

// Resource implements EventBody.
func (e *VMChange) Resource() string { return e.Allocation.String() }

func (e *VMChange) wire(c *coder) {
	idField(c, 1, &e.Allocation)
	idField(c, 2, &e.Tenant)
	idField(c, 3, &e.VM)
	uintField(c, 4, &e.Boot)
	c.time(5, &e.At)
	c.str(6, &e.Address)
	c.str(7, &e.Reason)
	c.time(8, &e.Deadline)
}

// The events of a VM's life.
type (
	// VMStarted: its domain runs.
	VMStarted struct{ VMChange }
	// VMBillable: its line begins at At; Reason says by what: "ready", "alive", "started".
	VMBillable struct{ VMChange }
	// VMAlive: it has an address.
	VMAlive struct{ VMChange }
	// VMRunning: the guest is ready, or has shown life and used up its time to say so
	// (Reason "guest.ready_not_reported").
	VMRunning struct{ VMChange }
	// VMStopped: it is off; Reason "requested", "guest", or what the host says.
	VMStopped struct{ VMChange }
	// VMLost: it went down and neither its tenant nor its guest meant it; Reason says
	// with what: "host.rebooted", "domain.crashed". Its host starts it again.
	VMLost struct{ VMChange }
	// VMRemoved: nothing of it runs any more.
	VMRemoved struct{ VMChange }
	// VMOverdue: it did not do in time what it should, or its guest does not see what it
	// should ("guest.devices_missing"); operators are alarmed.
	VMOverdue struct{ VMChange }
)

// EventType implements EventBody.
func (*VMStarted) EventType() string { return "allocation.vm_started" }

// EventType implements EventBody.
func (*VMBillable) EventType() string { return "allocation.vm_billable" }

// EventType implements EventBody.
func (*VMAlive) EventType() string { return "allocation.vm_alive" }

// EventType implements EventBody.
func (*VMRunning) EventType() string { return "allocation.vm_running" }

// EventType implements EventBody.
func (*VMStopped) EventType() string { return "allocation.vm_stopped" }

// EventType implements EventBody.
func (*VMLost) EventType() string { return "allocation.vm_lost" }

// EventType implements EventBody.
func (*VMRemoved) EventType() string { return "allocation.vm_removed" }

// EventType implements EventBody.
func (*VMOverdue) EventType() string { return "allocation.vm_overdue" }

func (e *VMStarted) apply(w *World, _ *Applied) {
	row := w.vms.find(e.VM)
	v := w.vms.row(row)
	v.Started, v.Ready, v.Alive = e.At, false, false
	if v.State != Stopping {
		w.wait(row, v, v.State, e.Deadline)
	}
	for _, s := range v.slots[:v.n] {
		w.slots.row(s).State = SlotIsActive
	}
	if v.BillStart == 0 {
		w.timers.add(e.At.Add(billAnywayAfter), timerBill, row)
	}
}

func (e *VMBillable) apply(w *World, _ *Applied) {
	row := w.vms.find(e.VM)
	w.openLine(w.vms.row(row), row, e.At)
}

func (e *VMAlive) apply(w *World, _ *Applied) {
	v := w.vms.get(e.VM)
	v.Alive, v.Address = true, strings.Clone(e.Address)
}

func (e *VMRunning) apply(w *World, _ *Applied) {
	v := w.vms.get(e.VM)
	v.State, v.Deadline = Running, 0
	v.Ready = e.Reason == ""
	if e.Address != "" {
		v.Address = strings.Clone(e.Address)
	}
	w.derive(w.allocations.row(v.alloc))
}

func (e *VMStopped) apply(w *World, _ *Applied) {
	v := w.vms.get(e.VM)
	v.State, v.Deadline, v.Power, v.Ready, v.Alive = Stopped, 0, PowerOff, false, false
	w.touch(w.hosts.row(v.host))
	w.derive(w.allocations.row(v.alloc))
}

func (e *VMLost) apply(w *World, _ *Applied) {
	row := w.vms.find(e.VM)
	v := w.vms.row(row)
	v.Ready, v.Alive = false, false
	state := v.State
	if state == Running {
		state = Starting
	}
	w.wait(row, v, state, e.Deadline)
	w.derive(w.allocations.row(v.alloc))
}

func (e *VMRemoved) apply(w *World, _ *Applied) {
	row := w.vms.find(e.VM)
	v := w.vms.row(row)
	v.State, v.Deadline = Released, 0
	for _, i := range v.slots[:v.n] {
		if s := w.slots.row(i); s.vm == row {
			s.vm = none
		}
	}
}

func (e *VMOverdue) apply(w *World, _ *Applied) {
	row := w.vms.find(e.VM)
	v := w.vms.row(row)
	w.wait(row, v, v.State, e.Deadline)
}

// SlotActivated says, on the host's subject, that a VM runs on the slots.
type SlotActivated struct {
	Host  HostID   `json:"host_id"`
	VM    VMID     `json:"vm_id"`
	Slots []SlotID `json:"slot_ids"`
}

// EventType implements EventBody.
func (*SlotActivated) EventType() string { return "slot.activated" }

// Owner implements EventBody.
func (e *SlotActivated) Owner() string { return e.Host.String() }

// Resource implements EventBody.
func (e *SlotActivated) Resource() string { return firstSlot(e.Slots) }

// firstSlot names an event by its first slot. One without is never written, and a
// reader must not fall over it.
func firstSlot(slots []SlotID) string {
	if len(slots) == 0 {
		return ""
	}
	return slots[0].String()
}

func (e *SlotActivated) wire(c *coder) {
	idField(c, 1, &e.Host)
	idField(c, 2, &e.VM)
	ids(c, 3, &e.Slots)
}

func (e *SlotActivated) apply(*World, *Applied) {} // VMStarted did it

func (w *World) vmChange(v *VM, at Time) VMChange {
	a := w.allocations.row(v.alloc)
	return VMChange{Allocation: a.ID, Tenant: a.Tenant, VM: v.ID, Boot: v.Boot, At: at}
}

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
