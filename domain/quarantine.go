package domain

// A slot in quarantine is out of service until an operator asks for another wipe.

// SlotQuarantined takes a slot out of service until an operator asks for another
// wipe. It names the component and what has to be repaired.
type SlotQuarantined struct {
	Host      HostID       `json:"host_id"`
	Slot      SlotID       `json:"slot_id"`
	Component string       `json:"component"` // "gpu", "nvme", "ib_vf", "host"
	Scope     string       `json:"scope"`     // repair scope: "device", "baseboard", "host"
	Reason    string       `json:"reason"`    // stable code
	Devices   []DeviceWipe `json:"devices,omitempty"`
}

// EventType implements EventBody.
func (*SlotQuarantined) EventType() string { return "slot.quarantined" }

// Owner implements EventBody.
func (e *SlotQuarantined) Owner() string { return e.Host.String() }

// Resource implements EventBody.
func (e *SlotQuarantined) Resource() string { return e.Slot.String() }

func (e *SlotQuarantined) wire(c *coder) {
	idField(c, 1, &e.Host)
	idField(c, 2, &e.Slot)
	c.str(3, &e.Component)
	c.str(4, &e.Scope)
	c.str(5, &e.Reason)
	msgs(c, 6, &e.Devices)
}

func (e *SlotQuarantined) apply(w *World, _ *Applied) {
	s := w.slots.get(e.Slot)
	s.State, s.Deadline, s.Condemned, s.vm = SlotIsQuarantined, 0, false, none
	if e.Reason == "condemned" { // after a wipe that was verified
		s.Dirty = false
	}
	w.touchHostSlots(e.Host)
}

// SlotCondemned marks a slot that is in use, or that a VM has not left yet: after its
// lease ends it is wiped as ever, and then quarantined instead of sold.
type SlotCondemned struct {
	Host      HostID `json:"host_id"`
	Slot      SlotID `json:"slot_id"`
	Component string `json:"component"`
	Scope     string `json:"scope"`
	Reason    string `json:"reason"`
}

// EventType implements EventBody.
func (*SlotCondemned) EventType() string { return "slot.condemned" }

// Owner implements EventBody.
func (e *SlotCondemned) Owner() string { return e.Host.String() }

// Resource implements EventBody.
func (e *SlotCondemned) Resource() string { return e.Slot.String() }

func (e *SlotCondemned) wire(c *coder) {
	idField(c, 1, &e.Host)
	idField(c, 2, &e.Slot)
	c.str(3, &e.Component)
	c.str(4, &e.Scope)
	c.str(5, &e.Reason)
}

func (e *SlotCondemned) apply(w *World, _ *Applied) { w.slots.get(e.Slot).Condemned = true }

// QuarantineSlot takes a slot out of service by hand.
type QuarantineSlot struct {
	Slot   SlotID `json:"slot_id"`
	Reason string `json:"reason"`
}

// CommandType implements CommandBody.
func (*QuarantineSlot) CommandType() string { return "slot.quarantine" }

func (m *QuarantineSlot) wire(c *coder) {
	idField(c, 1, &m.Slot)
	c.str(2, &m.Reason)
}

func (m *QuarantineSlot) decide(w *World, x *Context) ([]EventBody, *Error) {
	if err := w.requirePlatform(x, RoleOperator); err != nil {
		return nil, err
	}
	if err := checkSlug("reason", m.Reason); err != nil {
		return nil, err
	}
	row := w.slots.find(m.Slot)
	if row == none {
		return nil, notFound("slot")
	}
	return w.takeOut(row, "", "device", "operator."+m.Reason), nil
}

// takeOut quarantines a slot, or condemns it while a VM holds it or is on its way out
// of it: the wipe that ends both goes on.
func (w *World) takeOut(row uint32, component, scope, reason string) []EventBody {
	s := w.slots.row(row)
	host := w.hosts.row(s.host).ID
	held := s.State == SlotIsReserved || s.State == SlotIsActive
	if w.LogicLevel >= 2 {
		held = s.vm != none
	}
	switch {
	case s.State == SlotIsQuarantined || s.State == SlotIsRetired || s.Condemned && (held || w.LogicLevel < 2):
		return nil
	case held:
		return []EventBody{&SlotCondemned{Host: host, Slot: s.ID, Component: component, Scope: scope, Reason: reason}}
	}
	return []EventBody{&SlotQuarantined{Host: host, Slot: s.ID, Component: component, Scope: scope, Reason: reason}}
}
