package domain

import "slices"

// A wipe duty is a device that left its slot with a tenant's data perhaps still on
// it: the slot was retired, or another drive took the device's place, before a wipe
// was verified. The duty follows the device by its serial: the host on which it is
// found discharges it with a verified wipe. What cannot be wiped is destroyed, on
// the word of two operators.

// WipeDuty is a duty's state.
type WipeDuty struct {
	ID         WipeDutyID
	Slot       SlotID // that the device left
	Host       HostID
	Component  string
	Generation uint32 // of the slot's last lease
	Claimed    UserID // who says that it is destroyed; zero: nobody
	Destroyed  bool
	device     uint64 // deviceKey
}

// WipeOwed begins a duty.
type WipeOwed struct {
	ID         WipeDutyID `json:"id"`
	Host       HostID     `json:"host_id"`
	Slot       SlotID     `json:"slot_id"`
	Component  string     `json:"component"`
	Generation uint32     `json:"generation"`
	Cause      string     `json:"cause"` // "retired", "replaced"
}

// EventType implements EventBody.
func (*WipeOwed) EventType() string { return "slot.wipe_owed" }

// Owner implements EventBody.
func (e *WipeOwed) Owner() string { return e.Host.String() }

// Resource implements EventBody.
func (e *WipeOwed) Resource() string { return e.ID.String() }

func (e *WipeOwed) wire(c *coder) {
	idField(c, 1, &e.ID)
	idField(c, 2, &e.Host)
	idField(c, 3, &e.Slot)
	c.str(4, &e.Component)
	uintField(c, 5, &e.Generation)
	c.str(6, &e.Cause)
}

// owe begins the duties of a slot that gives up devices: those in keep stay. first
// is the number of duties that the decision began before. What the log calls clean is
// not believed of a host that has seen more than the log: somebody may have used it in
// what was lost.
func (w *World) owe(x *Context, s *Slot, keep [3]uint64, cause string, first int) (events []EventBody) {
	h := w.hosts.row(s.host)
	clean := w.LogicLevel < 2 || h.Accounts == 0 && !h.Ahead
	if !s.Dirty && clean {
		return nil
	}
	for k, key := range s.devices {
		if _, owed := w.dutyOf[key]; owed || key == 0 || key == keep[k] {
			continue
		}
		events = append(events, &WipeOwed{
			ID: deriveID[wipeDutyKind](x.Entropy, first+len(events)), Host: h.ID, Slot: s.ID,
			Component: deviceComponents[k], Generation: s.Generation, Cause: cause,
		})
	}
	return events
}

func (e *WipeOwed) apply(w *World, _ *Applied) {
	s := w.slots.get(e.Slot)
	_, d := w.duties.add(e.ID)
	*d = WipeDuty{ID: e.ID, Slot: e.Slot, Host: e.Host, Component: w.word(e.Component), Generation: e.Generation}
	for k, name := range deviceComponents {
		if name == e.Component {
			d.device = s.devices[k]
		}
	}
	w.dutyOf[d.device] = e.ID
}

// WipeDischarged ends a duty: the device was found in a slot, and a wipe of it is
// verified.
type WipeDischarged struct {
	ID   WipeDutyID `json:"id"`
	Host HostID     `json:"host_id"`
	Slot SlotID     `json:"slot_id"` // where it is now

	// Fresh: the host that wiped it had never seen it, so that its firmware and settings
	// are compared from now on with what they were then, whoever had set them.
	Fresh bool `json:"baseline_fresh,omitempty"`
}

// EventType implements EventBody.
func (*WipeDischarged) EventType() string { return "slot.wipe_discharged" }

// Owner implements EventBody.
func (e *WipeDischarged) Owner() string { return e.Host.String() }

// Resource implements EventBody.
func (e *WipeDischarged) Resource() string { return e.ID.String() }

func (e *WipeDischarged) wire(c *coder) {
	idField(c, 1, &e.ID)
	idField(c, 2, &e.Host)
	idField(c, 3, &e.Slot)
	c.bool(4, &e.Fresh)
}

// discharged lists the duties that verified wipes among the events end.
func (w *World) discharged(events []EventBody) (out []EventBody) {
	if len(w.dutyOf) == 0 {
		return nil
	}
	for _, e := range events {
		if wiped, ok := e.(*SlotWiped); ok {
			for k, key := range w.slots.get(wiped.Slot).devices {
				if id, owed := w.dutyOf[key]; owed {
					fresh := slices.ContainsFunc(wiped.Devices, func(d DeviceWipe) bool { return d.Component == deviceComponents[k] && d.Fresh })
					out = append(out, &WipeDischarged{ID: id, Host: wiped.Host, Slot: wiped.Slot, Fresh: fresh})
				}
			}
		}
	}
	return out
}

func (e *WipeDischarged) apply(w *World, _ *Applied) {
	delete(w.dutyOf, w.duties.get(e.ID).device)
	w.duties.remove(e.ID)
}

// ReportDestroyed is an operator's word that the device of a duty is destroyed. It
// counts when a second operator gives it too.
type ReportDestroyed struct {
	Duty     WipeDutyID `json:"wipe_duty_id"`
	Evidence string     `json:"evidence"` // where it can be looked up: a certificate's number
}

// CommandType implements CommandBody.
func (*ReportDestroyed) CommandType() string { return "wipe_duty.report_destroyed" }

func (m *ReportDestroyed) wire(c *coder) {
	idField(c, 1, &m.Duty)
	c.str(2, &m.Evidence)
}

// DestructionReported is the first operator's word.
type DestructionReported struct {
	ID       WipeDutyID `json:"id"`
	Host     HostID     `json:"host_id"`
	User     UserID     `json:"user_id"`
	Evidence string     `json:"evidence"`
}

// EventType implements EventBody.
func (*DestructionReported) EventType() string { return "slot.destruction_reported" }

// Owner implements EventBody.
func (e *DestructionReported) Owner() string { return e.Host.String() }

// Resource implements EventBody.
func (e *DestructionReported) Resource() string { return e.ID.String() }

func (e *DestructionReported) wire(c *coder) {
	idField(c, 1, &e.ID)
	idField(c, 2, &e.Host)
	idField(c, 3, &e.User)
	c.str(4, &e.Evidence)
}

func (e *DestructionReported) apply(w *World, _ *Applied) { w.duties.get(e.ID).Claimed = e.User }

// DeviceDestroyed is the second operator's word: the duty has ended, and the device
// must never be seen again.
type DeviceDestroyed struct {
	ID       WipeDutyID `json:"id"`
	Host     HostID     `json:"host_id"`
	First    UserID     `json:"reported_by_user_id"`
	Second   UserID     `json:"confirmed_by_user_id"`
	Evidence string     `json:"evidence"`
}

// EventType implements EventBody.
func (*DeviceDestroyed) EventType() string { return "slot.device_destroyed" }

// Owner implements EventBody.
func (e *DeviceDestroyed) Owner() string { return e.Host.String() }

// Resource implements EventBody.
func (e *DeviceDestroyed) Resource() string { return e.ID.String() }

func (e *DeviceDestroyed) wire(c *coder) {
	idField(c, 1, &e.ID)
	idField(c, 2, &e.Host)
	idField(c, 3, &e.First)
	idField(c, 4, &e.Second)
	c.str(5, &e.Evidence)
}

func (m *ReportDestroyed) decide(w *World, x *Context) ([]EventBody, *Error) {
	if err := w.requirePlatform(x, RoleOperator); err != nil {
		return nil, err
	}
	who, err := w.principal(x)
	if err != nil {
		return nil, err
	}
	if who.user.IsZero() {
		return nil, Errorf(Forbidden, "auth.platform_only", "only an operator in person can say that a device is destroyed")
	}
	if err := checkWord("evidence", m.Evidence, 128, false); err != nil {
		return nil, err
	}
	d := w.duties.get(m.Duty)
	switch {
	case d == nil:
		return nil, notFound("wipe_duty")
	case d.Destroyed:
		return nil, nil
	case d.Claimed.IsZero():
		return []EventBody{&DestructionReported{ID: d.ID, Host: d.Host, User: who.user, Evidence: m.Evidence}}, nil
	case d.Claimed == who.user:
		return nil, nil // said already: it waits for somebody else
	}
	return []EventBody{&DeviceDestroyed{ID: d.ID, Host: d.Host, First: d.Claimed, Second: who.user, Evidence: m.Evidence}}, nil
}

// apply keeps the duty: its device must not come back.
func (e *DeviceDestroyed) apply(w *World, _ *Applied) { w.duties.get(e.ID).Destroyed = true }

// destroyed reports whether two operators have said that the device is destroyed.
func (w *World) destroyed(device uint64) bool {
	id, ok := w.dutyOf[device]
	return ok && w.duties.get(id).Destroyed
}

func (d *WipeDuty) key() WipeDutyID { return d.ID }

func (d *WipeDuty) wire(c *coder) {
	idField(c, 1, &d.ID)
	idField(c, 2, &d.Slot)
	idField(c, 3, &d.Host)
	c.str(4, &d.Component)
	uintField(c, 5, &d.Generation)
	idField(c, 6, &d.Claimed)
	c.bool(7, &d.Destroyed)
	c.fixed64(8, &d.device)
}
