package domain

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// An amendment changes the slot map of a host in service. A slot is known again by
// its GPU. One that is in use, or in a wipe, stays exactly as it is; one that is
// available or quarantined may get another drive, VF, cores or memory; new ones come
// in; none is left out that is not retired.

// SlotAmendment is what an amendment does to one slot of the map.
type SlotAmendment struct {
	ID     SlotID     `json:"id"`
	Policy WipePolicy `json:"wipe_policy"`
	Spec   SlotSpec   `json:"spec"`
	Change string     `json:"change"` // "kept", "changed" (the same devices), "replaced" (another device), "added"
}

func (a *SlotAmendment) wire(c *coder) {
	idField(c, 1, &a.ID)
	uintField(c, 2, &a.Policy)
	c.sub(3, &a.Spec)
	c.str(4, &a.Change)
}

// MapAmended is the fact: the host has this map now. What was added or has another
// device is wiped first; a device that left unwiped is owed (slot.wipe_owed).
type MapAmended struct {
	Host   HostID          `json:"host_id"`
	Digest Digest          `json:"digest"`
	Class  string          `json:"gpu_class"` // as before
	Slots  []SlotAmendment `json:"slots"`     // all of the map, in its order

	Features Features `json:"features,omitzero"`
}

// EventType implements EventBody.
func (*MapAmended) EventType() string { return "host.map_amended" }

// Owner implements EventBody.
func (e *MapAmended) Owner() string { return e.Host.String() }

// Resource implements EventBody.
func (e *MapAmended) Resource() string { return e.Host.String() }

func (e *MapAmended) wire(c *coder) {
	idField(c, 1, &e.Host)
	c.digest(2, &e.Digest)
	c.str(3, &e.Class)
	msgs(c, 4, &e.Slots)
	uintField(c, 5, &e.Features)
}

func (s *SlotSpec) deviceKeys() (keys [3]uint64) {
	for k, serial := range [3]string{s.GPU.Serial, s.NVMe.Serial, s.IBVF.Serial} {
		keys[k] = deviceKey(k, serial)
	}
	return keys
}

// room is what of a spec a VM in the slot has beside the devices: cores and memory.
func (s *SlotSpec) room() uint64 {
	b := binary.BigEndian.AppendUint64(nil, s.MemoryMiB)
	for _, t := range s.Threads {
		b = binary.BigEndian.AppendUint16(b, t)
	}
	h := sha256.Sum256(b)
	return binary.BigEndian.Uint64(h[:])
}

// amend decides the approval of a changed map of a host in service.
func (w *World) amend(x *Context, h *Host, m *ApproveMap, policies map[uint32]WipePolicy) ([]EventBody, *Error) {
	if h.Proposal.GPUClass != h.GPUClass {
		return nil, Errorf(Conflict, "host.map_class", "the host's slots are of the GPU class %q, the map says %q: retire them all, and enrol the host anew", h.GPUClass, clip(h.Proposal.GPUClass, 64))
	}
	byGPU, left := map[uint64]uint32{}, map[uint32]bool{}
	for _, row := range h.slots {
		if s := w.slots.row(row); s.State != SlotIsRetired {
			byGPU[s.devices[0]], left[row] = row, true
		}
	}
	amended := &MapAmended{Host: m.Host, Digest: m.Digest, Class: h.GPUClass, Features: h.Proposal.Features}
	wipe := &SlotWipeStarted{Host: m.Host, Cause: "amended"}
	var owed []EventBody
	for i := range h.Proposal.Slots {
		spec := &h.Proposal.Slots[i]
		row, known := byGPU[spec.deviceKeys()[0]]
		delete(left, row)
		a := SlotAmendment{Policy: policies[spec.Index], Spec: *spec, Change: "added"}
		attempt, generation := uint32(0), uint32(0)
		if known {
			s := w.slots.row(row)
			a.ID = s.ID
			if policies[spec.Index] == WipeUnset {
				a.Policy = s.Policy
			}
			var err *Error
			if a.Change, err = s.amendment(spec, a.Policy); err != nil {
				return nil, err
			}
			generation = s.Generation + 1
		} else {
			a.ID = deriveID[slotKind](x.Entropy, i)
			if a.Policy == WipeUnset {
				a.Policy = m.Policy
			}
		}
		if err := checkPolicy(a.Policy, spec.Index); err != nil {
			return nil, err
		}
		if a.Change == "added" || a.Change == "replaced" {
			if err := w.checkDevices(spec, h); err != nil {
				return nil, err
			}
			if known {
				owed = append(owed, w.owe(x, w.slots.row(row), spec.deviceKeys(), "replaced", len(owed))...)
			}
			wipe.Slots = append(wipe.Slots, WipingSlot{Slot: a.ID, Generation: generation, Attempt: attempt, Deadline: x.At.Add(wipeDeadline(a.Policy))})
		}
		amended.Slots = append(amended.Slots, a)
	}
	for _, row := range h.slots {
		if left[row] {
			return nil, Errorf(Conflict, "host.map_drops_slot", "the map does not have slot %s (number %d), which is %s: retire it first with POST /v1/slots/{s}/retire", w.slots.row(row).ID, w.slots.row(row).Index, w.slots.row(row).State)
		}
	}
	events := append(w.notMoved(h.Proposal, owed), amended)
	if len(wipe.Slots) == 0 {
		return events, nil
	}
	seed := x.Entropy.derive("wipe-seed", 0)
	copy(wipe.Seed[:], seed[:])
	return append(events, wipe), nil
}

// notMoved leaves out the duties for devices that the new map has in another slot:
// they are wiped there.
func (w *World) notMoved(m *SlotMap, owed []EventBody) (out []EventBody) {
	here := map[uint64]bool{}
	for i := range m.Slots {
		for _, key := range m.Slots[i].deviceKeys() {
			here[key] = true
		}
	}
	for _, e := range owed {
		o := e.(*WipeOwed)
		if s := w.slots.get(o.Slot); !here[s.devices[slices.Index(deviceComponents[:], o.Component)]] {
			out = append(out, e)
		}
	}
	return out
}

// amendment says what the spec changes of the slot.
func (s *Slot) amendment(spec *SlotSpec, policy WipePolicy) (string, *Error) {
	change := "kept"
	switch {
	case spec.deviceKeys() != s.devices:
		change = "replaced"
	case uint32(s.Index) != spec.Index || s.NUMA != spec.NUMANode || s.room != spec.room() || s.Policy != policy:
		change = "changed"
	}
	if change != "kept" && s.State != SlotIsAvailable && s.State != SlotIsQuarantined {
		return "", Errorf(Conflict, "host.map_in_use", "slot %s (number %d) is %s, and the map changes its devices, number, cores, memory or wipe policy: release or quarantine it and wait for its wipe, or let the host propose a map that leaves it as it is", s.ID, s.Index, s.State)
	}
	return change, nil
}

// checkDevices refuses devices that are in a slot of another host, or that were
// said to be destroyed.
func (w *World) checkDevices(spec *SlotSpec, h *Host) *Error {
	for k, serial := range [3]string{spec.GPU.Serial, spec.NVMe.Serial, spec.IBVF.Serial} {
		key := deviceKey(k, serial)
		if other := w.slotByDevice(k, key); other != none && w.hosts.row(w.slots.row(other).host) != h {
			return Errorf(Conflict, "slot.device_in_use", "%s %q already belongs to slot %s", deviceComponents[k], clip(serial, 64), w.slots.row(other).ID)
		}
		if w.destroyed(key) {
			return Errorf(Conflict, "slot.device_destroyed", "%s %q was reported and confirmed as destroyed: find out what this device is", deviceComponents[k], clip(serial, 64))
		}
	}
	return nil
}

func (e *MapAmended) apply(w *World, _ *Applied) {
	hi := w.hosts.find(e.Host)
	h := w.hosts.row(hi)
	h.MapID, h.Features, h.Proposal = e.Digest, e.Features, nil
	rows := make([]uint32, len(e.Slots))
	for i := range e.Slots { // what leaves goes before what comes: drives may change places
		a := &e.Slots[i]
		if a.Change == "added" {
			row, s := w.slots.add(a.ID)
			*s = Slot{ID: a.ID, host: hi, vm: none, State: SlotIsProposed, Dirty: true}
			rows[i] = row
			continue
		}
		rows[i] = w.slots.find(a.ID)
		s := w.slots.row(rows[i])
		keep := a.Spec.deviceKeys()
		for k := range keep {
			if s.devices[k] != keep[k] {
				keep[k] = 0
			}
		}
		w.setDevices(rows[i], keep)
	}
	for i := range e.Slots {
		a, s := &e.Slots[i], w.slots.row(rows[i])
		s.Index, s.NUMA, s.Policy, s.Real, s.room = uint16(a.Spec.Index), a.Spec.NUMANode, a.Policy, a.Spec.real(), a.Spec.room()
		w.setDevices(rows[i], a.Spec.deviceKeys())
		if a.Change == "replaced" { // the wipe of a new device says nothing of the old lease's
			s.Generation++
			s.Attempt, s.Dirty, s.Condemned = 0, true, false
		}
	}
	h.slots = rows
	slices.SortStableFunc(h.slots, func(a, b uint32) int { return cmp.Compare(w.slots.row(a).Index, w.slots.row(b).Index) })
	w.touch(h)
	w.fleet.refresh(w, hi)
}
