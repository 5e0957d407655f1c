package domain

import (
	"crypto/sha256"
	"encoding/hex"
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
	b := append(make([]byte, 0, len("02:00:00:00:00:00")), "02"...)
	for i := range 5 {
		b = hex.AppendEncode(append(b, ':'), h[i:i+1])
	}
	return string(b)
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
