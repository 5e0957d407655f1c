package domain

// A retired slot never comes back. Its devices may: in another slot, after a wipe.

// RetireSlot takes a slot out for ever. It has to be available or quarantined.
type RetireSlot struct {
	Slot   SlotID `json:"slot_id"`
	Reason string `json:"reason"`
}

// CommandType implements CommandBody.
func (*RetireSlot) CommandType() string { return "slot.retire" }

func (m *RetireSlot) wire(c *coder) {
	idField(c, 1, &m.Slot)
	c.str(2, &m.Reason)
}

// SlotRetired is the fact. A slot.wipe_owed before it names each device that leaves
// unwiped.
type SlotRetired struct {
	Host   HostID `json:"host_id"`
	Slot   SlotID `json:"slot_id"`
	Reason string `json:"reason"`
}

// EventType implements EventBody.
func (*SlotRetired) EventType() string { return "slot.retired" }

// Owner implements EventBody.
func (e *SlotRetired) Owner() string { return e.Host.String() }

// Resource implements EventBody.
func (e *SlotRetired) Resource() string { return e.Slot.String() }

func (e *SlotRetired) wire(c *coder) {
	idField(c, 1, &e.Host)
	idField(c, 2, &e.Slot)
	c.str(3, &e.Reason)
}

func (m *RetireSlot) decide(w *World, x *Context) ([]EventBody, *Error) {
	if err := w.requirePlatform(x, RoleOperator); err != nil {
		return nil, err
	}
	if err := checkSlug("reason", m.Reason); err != nil {
		return nil, err
	}
	s := w.slots.get(m.Slot)
	if s == nil {
		return nil, notFound("slot")
	}
	switch s.State {
	case SlotIsRetired:
		return nil, nil
	case SlotIsAvailable, SlotIsQuarantined:
	default:
		return nil, Errorf(Conflict, "slot.in_use", "the slot is %s: only an available or quarantined slot is retired; quarantine it, and wait for its wipe", s.State)
	}
	if w.unknownOn(w.slots.find(m.Slot), VMID{}) {
		return nil, errUnknownVM()
	}
	events := w.owe(x, s, [3]uint64{}, "retired", 0)
	return append(events, &SlotRetired{Host: w.hosts.row(s.host).ID, Slot: s.ID, Reason: "operator." + m.Reason}), nil
}

func (e *SlotRetired) apply(w *World, _ *Applied) {
	row := w.slots.find(e.Slot)
	w.setDevices(row, [3]uint64{})
	s := w.slots.row(row)
	s.State, s.Deadline, s.Condemned = SlotIsRetired, 0, false
	w.touchHostSlots(e.Host)
}

// setDevices gives a slot other devices.
func (w *World) setDevices(row uint32, devices [3]uint64) {
	s := w.slots.row(row)
	for i, key := range s.devices {
		if key != 0 && key != devices[i] {
			w.devices.remove(key, row*4+uint32(i), w.deviceHash)
		}
	}
	for i, key := range devices {
		if old := s.devices[i]; old != key {
			s.devices[i] = key
			if key != 0 {
				w.devices.add(key, row*4+uint32(i), w.deviceHash)
			}
		}
	}
}

func (w *World) deviceHash(r uint32) uint64 { return w.slots.row(r / 4).devices[r%4] }

// RemoveHost takes a host out of the site. It must have no slots, or only retired
// ones. Its credential ends with it.
type RemoveHost struct {
	Host HostID `json:"host_id"`
}

// CommandType implements CommandBody.
func (*RemoveHost) CommandType() string { return "host.remove" }

func (m *RemoveHost) wire(c *coder) { idField(c, 1, &m.Host) }

// HostRemoved is the fact. The host's name is free again, its id is not.
type HostRemoved struct{ HostChange }

// EventType implements EventBody.
func (*HostRemoved) EventType() string { return "host.removed" }

func (m *RemoveHost) decide(w *World, x *Context) ([]EventBody, *Error) {
	if err := w.requirePlatform(x, RoleOperator); err != nil {
		return nil, err
	}
	h := w.hosts.get(m.Host)
	if h == nil {
		return nil, notFound("host")
	}
	if h.Removed {
		return nil, nil
	}
	left := 0
	for _, row := range h.slots {
		if w.slots.row(row).State != SlotIsRetired {
			left++
		}
	}
	if left > 0 || len(h.vms) > 0 {
		return nil, Errorf(Conflict, "host.has_slots", "the host has %d slots that are not retired: POST /v1/slots/{s}/retire for each first", left)
	}
	return []EventBody{&HostRemoved{HostChange{ID: m.Host}}}, nil
}

// apply keeps the row: VMs that were here may still be named by reports, and rows of
// hosts order the racks.
func (e *HostRemoved) apply(w *World, _ *Applied) {
	row := w.hosts.find(e.ID)
	h := w.hosts.row(row)
	w.forgetHost(row)
	h.Removed, h.Proposal = true, nil
	w.fleet.refresh(w, row)
}

// HostKey is the public nkey of a host, of a removed one too, to revoke it.
func (w *World) HostKey(id HostID) (key string, removed bool) {
	if h := w.hosts.get(id); h != nil {
		return h.NATSKey, h.Removed
	}
	return "", false
}

// RemovedHostKeys are the public nkeys whose credentials must not be good any more.
func (w *World) RemovedHostKeys() (keys []string) {
	for _, h := range w.hosts.rows() {
		if h.Removed && h.NATSKey != "" {
			keys = append(keys, h.NATSKey)
		}
	}
	return keys
}
