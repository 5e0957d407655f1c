package domain

// A live allocation is stopped, started and rebooted; it is released once.

// ActOnAllocation stops, starts, reboots or releases.
type ActOnAllocation struct {
	Allocation AllocationID     `json:"allocation_id"`
	Action     AllocationAction `json:"action"`
}

// AllocationAction is what ActOnAllocation asks for.
type AllocationAction uint8

// The actions.
const (
	ActionStop AllocationAction = iota + 1
	ActionStart
	ActionReboot
	ActionRelease
)

var allocationActionNames = [...]string{"", "stop", "start", "reboot", "release"}

func (a AllocationAction) String() string { return enumName(allocationActionNames[:], a) }

// MarshalText implements encoding.TextMarshaler.
func (a AllocationAction) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *AllocationAction) UnmarshalText(b []byte) error {
	return enumParse(a, allocationActionNames[:], string(b), "action")
}

// CommandType implements CommandBody.
func (*ActOnAllocation) CommandType() string { return "allocation.act" }

func (m *ActOnAllocation) wire(c *coder) {
	idField(c, 1, &m.Allocation)
	uintField(c, 2, &m.Action)
}

func (m *ActOnAllocation) decide(w *World, x *Context) ([]EventBody, *Error) {
	a, err := w.requireAllocation(x, m.Allocation, ProjectMember)
	if err != nil {
		return nil, err
	}
	wrong := func(verb string) ([]EventBody, *Error) {
		return nil, Errorf(Conflict, "allocation.wrong_state", "the allocation is %s: it cannot be %s", a.State, verb)
	}
	//exhaustive:enforce
	switch m.Action {
	case ActionStop:
		switch a.State {
		case Stopping, Stopped:
			return nil, nil
		case Running, Starting:
			return []EventBody{w.stopRequested(a, "requested", x.At)}, nil
		}
		return wrong("stopped")
	case ActionStart:
		switch a.State {
		case Running, Starting:
			return nil, nil
		case Stopped:
			if t := w.tenants.row(a.tenant); t.State != TenantActive {
				return nil, Errorf(PaymentRequired, "tenant."+t.State.String(), "the tenant is %s: add credit to start again", t.State)
			}
			return []EventBody{&AllocationStartRequested{w.powerChange(a, "requested", x.At.Add(bootDeadline+Duration(a.Shape)*perSlotAllowance))}}, nil
		}
		return wrong("started")
	case ActionReboot:
		if a.State != Running {
			return wrong("rebooted")
		}
		return []EventBody{&AllocationRebootRequested{w.powerChange(a, "requested", x.At.Add(bootDeadline+Duration(a.Shape)*perSlotAllowance))}}, nil
	case ActionRelease:
		if a.State >= Releasing {
			return nil, nil
		}
		return w.release(newPurse(w, w.tenants.row(a.tenant), x), a, "requested", x.At, false), nil
	}
	return nil, invalidField("action", "allocation.unknown_action", "no such action")
}

// PowerChange is what the power events share.
type PowerChange struct {
	ID       AllocationID `json:"id"`
	Tenant   TenantID     `json:"tenant_id"`
	Cause    string       `json:"cause"` // "requested", "suspended"
	Deadline Time         `json:"deadline"`
}

// Owner implements EventBody.
func (e *PowerChange) Owner() string { return e.Tenant.String() }

// Resource implements EventBody.
func (e *PowerChange) Resource() string { return e.ID.String() }

func (e *PowerChange) wire(c *coder) {
	idField(c, 1, &e.ID)
	idField(c, 2, &e.Tenant)
	c.str(3, &e.Cause)
	c.time(4, &e.Deadline)
}

// The power events.
type (
	AllocationStopRequested   struct{ PowerChange }
	AllocationStartRequested  struct{ PowerChange }
	AllocationRebootRequested struct{ PowerChange }
)

// EventType implements EventBody.
func (*AllocationStopRequested) EventType() string { return "allocation.stop_requested" }

// EventType implements EventBody.
func (*AllocationStartRequested) EventType() string { return "allocation.start_requested" }

// EventType implements EventBody.
func (*AllocationRebootRequested) EventType() string { return "allocation.reboot_requested" }

func (w *World) powerChange(a *Allocation, cause string, deadline Time) PowerChange {
	return PowerChange{ID: a.ID, Tenant: a.Tenant, Cause: cause, Deadline: deadline}
}

func (w *World) stopRequested(a *Allocation, cause string, at Time) *AllocationStopRequested {
	return &AllocationStopRequested{w.powerChange(a, cause, at.Add(stopDeadline))}
}

func (e *AllocationStopRequested) apply(w *World, _ *Applied) {
	w.eachVM(e.ID, func(row uint32, v *VM) {
		v.Power = PowerOff
		if v.State == Running || v.State == Starting {
			w.wait(row, v, Stopping, e.Deadline)
		}
	})
}

func (e *AllocationStartRequested) apply(w *World, _ *Applied) {
	w.eachVM(e.ID, func(row uint32, v *VM) {
		v.Power = PowerOn
		if v.State == Stopped {
			v.Boot++
			w.wait(row, v, Starting, e.Deadline)
		}
	})
}

func (e *AllocationRebootRequested) apply(w *World, _ *Applied) {
	w.eachVM(e.ID, func(row uint32, v *VM) {
		if v.State == Running {
			v.Boot++
			w.wait(row, v, Starting, e.Deadline)
		}
	})
}

// eachVM changes all VMs of an allocation, and then what follows from them.
func (w *World) eachVM(id AllocationID, f func(uint32, *VM)) {
	a := w.allocations.get(id)
	for _, row := range a.vms {
		v := w.vms.row(row)
		f(row, v)
		w.touch(w.hosts.row(v.host))
	}
	w.derive(a)
}

func (w *World) wait(row uint32, v *VM, s AllocationState, deadline Time) {
	v.State, v.Deadline = s, deadline
	w.timers.add(deadline, timerVM, row)
}

// derive sets the allocation's state: that of its least advanced VM.
func (w *World) derive(a *Allocation) {
	if a.State >= Releasing {
		return
	}
	s := Failed
	for _, row := range a.vms {
		s = min(s, w.vms.row(row).State)
	}
	a.State = s
}
