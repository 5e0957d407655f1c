package domain

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// A slot is what a tenant rents: one GPU, one NVMe drive and one InfiniBand VF,
// with whole cores and memory of their NUMA node.

// SlotState is where a slot is in its life.
type SlotState uint8

// The states. Nothing but a verified wipe leads to SlotIsAvailable; anything
// unknown, missing, skipped or late leads to SlotIsQuarantined.
const (
	SlotIsProposed SlotState = iota + 1
	SlotIsWiping
	SlotIsAvailable
	SlotIsReserved
	SlotIsActive
	SlotIsQuarantined
	SlotIsRetired
)

var slotStateNames = [...]string{"", "proposed", "wiping", "available", "reserved", "active", "quarantined", "retired"}

func (s SlotState) String() string { return enumName(slotStateNames[:], s) }

// MarshalText implements encoding.TextMarshaler.
func (s SlotState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *SlotState) UnmarshalText(b []byte) error {
	return enumParse(s, slotStateNames[:], string(b), "slot state")
}

// How long a wipe may take before the slot is quarantined. An overwrite of a
// large drive takes hours; a crypto erase or a format seconds to minutes.
const (
	wipeDeadlineFast = 2 * Hour
	wipeDeadlineSlow = 24 * Hour
)

func wipeDeadline(p WipePolicy) Duration {
	if p == WipeOverwrite || p == WipeAuto {
		return wipeDeadlineSlow
	}
	return wipeDeadlineFast
}

// Slot is a slot's state. A site has up to a million: no pointers here, and no
// more bytes than needed.
type Slot struct {
	ID         SlotID
	seed       [16]byte  // the lease's nonce is derived from it
	devices    [3]uint64 // deviceKey of GPU, NVMe, VF
	Deadline   Time      // of the wipe
	host       uint32
	vm         uint32 // row of the VM that holds it, or is on its way out; or none
	Generation uint32 // counts the leases
	Attempt    uint32 // wipes tried for the present generation
	Index      uint16
	State      SlotState
	NUMA       uint8
	Policy     WipePolicy
	Condemned  bool // goes to quarantine instead of back to available
}

var deviceComponents = [3]string{"gpu", "nvme", "ib_vf"}

// deviceKey names a device for ever: 64 bits of SHA-256(component, serial). Zero
// means no such device in the slot.
func deviceKey(component int, serial string) uint64 {
	if serial == "" {
		return 0
	}
	h := sha256.Sum256([]byte(deviceComponents[component] + "\x00" + serial))
	return binary.BigEndian.Uint64(h[:])
}

// leaseNonce is unique to one lease of one slot.
func leaseNonce(seed [16]byte, slot SlotID, generation uint32) Digest {
	var b [16 + 16 + 4]byte
	copy(b[:], seed[:])
	copy(b[16:], slot[:])
	binary.BigEndian.PutUint32(b[32:], generation)
	return sha256.Sum256(b[:])
}

func (s *Slot) lease() Lease {
	return Lease{Slot: s.ID, Index: uint32(s.Index), Generation: s.Generation, Nonce: leaseNonce(s.seed, s.ID, s.Generation)}
}

// MapProposed records what a host found. It stays a proposal until an operator
// approves its digest.
type MapProposed struct {
	Host   HostID  `json:"host_id"`
	Digest Digest  `json:"digest"`
	Map    SlotMap `json:"slot_map"`
}

// EventType implements EventBody.
func (*MapProposed) EventType() string { return "host.map_proposed" }

// Owner implements EventBody.
func (e *MapProposed) Owner() string { return e.Host.String() }

// Resource implements EventBody.
func (e *MapProposed) Resource() string { return e.Host.String() }

func (e *MapProposed) wire(c *coder) {
	idField(c, 1, &e.Host)
	c.digest(2, &e.Digest)
	c.sub(3, &e.Map)
}

func (e *MapProposed) apply(w *World, _ *Applied) {
	h := w.hosts.get(e.Host)
	m := new(SlotMap)
	if err := decodeKept(encodeMessage(nil, &e.Map), m); err != nil { // a copy of its own: it stays until approval
		panic(err)
	}
	h.Proposal = m
}

// ApproveMap approves a proposed slot map by its digest. Every slot must have a
// wipe policy, from the map's or from its own entry.
type ApproveMap struct {
	Host   HostID         `json:"host_id"`
	Digest Digest         `json:"digest"`
	Policy WipePolicy     `json:"wipe_policy"`
	Slots  []SlotOverride `json:"slots"`
}

// SlotOverride is a slot's own wipe policy.
type SlotOverride struct {
	Index  uint32     `json:"index"`
	Policy WipePolicy `json:"wipe_policy"`
}

func (o *SlotOverride) wire(c *coder) {
	uintField(c, 1, &o.Index)
	uintField(c, 2, &o.Policy)
}

// CommandType implements CommandBody.
func (*ApproveMap) CommandType() string { return "host.approve_map" }

func (m *ApproveMap) wire(c *coder) {
	idField(c, 1, &m.Host)
	c.digest(2, &m.Digest)
	uintField(c, 3, &m.Policy)
	msgs(c, 4, &m.Slots)
}

// ApprovedSlot is a slot as it came into being.
type ApprovedSlot struct {
	ID     SlotID     `json:"id"`
	Policy WipePolicy `json:"wipe_policy"`
	Spec   SlotSpec   `json:"spec"`
}

func (s *ApprovedSlot) wire(c *coder) {
	idField(c, 1, &s.ID)
	uintField(c, 2, &s.Policy)
	c.sub(3, &s.Spec)
}

// MapApproved brings a host's slots into being.
type MapApproved struct {
	Host     HostID         `json:"host_id"`
	Digest   Digest         `json:"digest"`
	GPUClass string         `json:"gpu_class"`
	Slots    []ApprovedSlot `json:"slots"`
}

// EventType implements EventBody.
func (*MapApproved) EventType() string { return "host.map_approved" }

// Owner implements EventBody.
func (e *MapApproved) Owner() string { return e.Host.String() }

// Resource implements EventBody.
func (e *MapApproved) Resource() string { return e.Host.String() }

func (e *MapApproved) wire(c *coder) {
	idField(c, 1, &e.Host)
	c.digest(2, &e.Digest)
	c.str(3, &e.GPUClass)
	msgs(c, 4, &e.Slots)
}

func (m *ApproveMap) decide(w *World, x *Context) ([]EventBody, *Error) {
	if err := w.requirePlatform(x, RoleOperator); err != nil {
		return nil, err
	}
	h := w.hosts.get(m.Host)
	if h == nil {
		return nil, notFound("host")
	}
	if !m.Digest.IsZero() && m.Digest == h.MapID {
		return nil, nil
	}
	if h.Proposal == nil {
		return nil, Errorf(Conflict, "host.no_proposal", "the host has proposed no slot map yet: is its hostd running?")
	}
	if m.Digest != h.proposalID() {
		return nil, Errorf(Conflict, "host.wrong_digest", "the host's present proposal has the digest %s: look at GET /v1/hosts/{h}/slot-map again", h.proposalID())
	}
	if len(h.slots) > 0 {
		return nil, Errorf(Conflict, "host.map_exists", "the host has an approved map: changing the slots of a running host is not supported yet")
	}
	if err := checkMap(h.Proposal); err != nil {
		return nil, err
	}
	approved := &MapApproved{Host: m.Host, Digest: m.Digest, GPUClass: h.Proposal.GPUClass}
	wipe := &SlotWipeStarted{Host: m.Host, Cause: "approved"}
	overrides := make(map[uint32]WipePolicy, len(m.Slots))
	for _, o := range m.Slots {
		if int(o.Index) >= len(h.Proposal.Slots) {
			return nil, invalidField("slots", "slot.unknown_index", "slots: the map has no slot %d", o.Index)
		}
		overrides[o.Index] = o.Policy
	}
	for i, spec := range h.Proposal.Slots {
		policy := m.Policy
		if p, ok := overrides[spec.Index]; ok {
			policy = p
		}
		if policy == WipeUnset || policy > WipeOverwrite {
			return nil, invalidField("wipe_policy", "slot.no_wipe_policy", "slot %d has no wipe policy: give wipe_policy (auto, sanitize, format or overwrite) for the map or the slot", spec.Index)
		}
		for k, serial := range [3]string{spec.GPU.Serial, spec.NVMe.Serial, spec.IBVF.Serial} {
			if other := w.slotByDevice(k, deviceKey(k, serial)); other != none {
				return nil, Errorf(Conflict, "slot.device_in_use", "%s %q already belongs to slot %s", deviceComponents[k], clip(serial, 64), w.slots.row(other).ID)
			}
		}
		id := deriveID[slotKind](x.Entropy, i)
		approved.Slots = append(approved.Slots, ApprovedSlot{ID: id, Policy: policy, Spec: spec})
		wipe.Slots = append(wipe.Slots, WipingSlot{Slot: id, Deadline: x.At.Add(wipeDeadline(policy))})
	}
	seed := x.Entropy.derive("wipe-seed", 0)
	copy(wipe.Seed[:], seed[:])
	return []EventBody{approved, wipe}, nil
}

// checkMap refuses a map that is not sane: slots that share devices, cores or
// more memory than a node has, or that leave the host nothing for itself.
func checkMap(m *SlotMap) *Error {
	bad := func(format string, args ...any) *Error {
		return Errorf(Conflict, "host.map_unsafe", "the proposed map cannot be approved: %s", fmt.Sprintf(format, args...))
	}
	if len(m.Slots) == 0 || len(m.Slots) > maxSlotsOnMap {
		return bad("%d slots, want 1 to %d", len(m.Slots), maxSlotsOnMap)
	}
	type node struct {
		threads map[uint16]bool
		memory  uint64
	}
	nodes, total := map[uint8]*node{}, 0
	for _, n := range m.Nodes {
		if nodes[n.Node] != nil {
			return bad("NUMA node %d twice", n.Node)
		}
		nd := &node{threads: map[uint16]bool{}, memory: n.MemoryMiB}
		for _, t := range n.Threads {
			nd.threads[t] = true
			total++
		}
		nodes[n.Node] = nd
	}
	devices, threads := map[string]bool{}, map[uint16]bool{}
	for i, s := range m.Slots {
		if int(s.Index) != i {
			return bad("slot %d stands at position %d", s.Index, i)
		}
		for _, d := range []Device{s.GPU, s.NVMe, s.IBVF} {
			if d.Serial == "" && d.Address == "" {
				continue
			}
			if d.Serial == "" || d.Address == "" {
				return bad("slot %d: a device without serial or address", i)
			}
			if devices[d.Address] || devices["#"+d.Serial] {
				return bad("slot %d: device %s (%s) is in two slots", i, clip(d.Address, 32), clip(d.Serial, 64))
			}
			devices[d.Address], devices["#"+d.Serial] = true, true
		}
		if s.GPU.Serial == "" || s.NVMe.Serial == "" {
			return bad("slot %d: wants a GPU and an NVMe drive", i)
		}
		n := nodes[s.NUMANode]
		if n == nil {
			return bad("slot %d: the host has no NUMA node %d", i, s.NUMANode)
		}
		if len(s.Threads) == 0 || s.MemoryMiB == 0 {
			return bad("slot %d: no cores or no memory", i)
		}
		for _, t := range s.Threads {
			if !n.threads[t] {
				return bad("slot %d: hardware thread %d is not on NUMA node %d", i, t, s.NUMANode)
			}
			if threads[t] {
				return bad("hardware thread %d is in two slots", t)
			}
			threads[t] = true
		}
		if s.MemoryMiB > n.memory {
			return bad("NUMA node %d is overcommitted: slot %d wants %d MiB, %d are left", s.NUMANode, i, s.MemoryMiB, n.memory)
		}
		n.memory -= s.MemoryMiB
	}
	reserve := uint64(0)
	for _, n := range nodes {
		reserve += n.memory
	}
	if len(threads) >= total || reserve == 0 {
		return bad("no hardware thread or no memory is left for the host itself")
	}
	return nil
}

func (e *MapApproved) apply(w *World, _ *Applied) {
	hi := w.hosts.find(e.Host)
	h := w.hosts.row(hi)
	h.MapID, h.GPUClass, h.Proposal = e.Digest, w.word(e.GPUClass), nil
	for i := range e.Slots {
		a := &e.Slots[i]
		row, s := w.slots.add(a.ID)
		*s = Slot{ID: a.ID, host: hi, vm: none, Index: uint16(a.Spec.Index), State: SlotIsProposed, NUMA: a.Spec.NUMANode, Policy: a.Policy}
		for k, serial := range [3]string{a.Spec.GPU.Serial, a.Spec.NVMe.Serial, a.Spec.IBVF.Serial} {
			s.devices[k] = deviceKey(k, serial)
		}
		w.indexDevices(row)
		h.slots = append(h.slots, row)
	}
	w.touch(h)
	w.fleet.refresh(w, hi)
}

// WipingSlot is one slot of a SlotWipeStarted.
type WipingSlot struct {
	Slot       SlotID `json:"slot_id"`
	Generation uint32 `json:"generation"` // of the ended lease; 0: the first wipe
	Attempt    uint32 `json:"attempt"`
	Deadline   Time   `json:"deadline"`
}

func (s *WipingSlot) wire(c *coder) {
	idField(c, 1, &s.Slot)
	uintField(c, 2, &s.Generation)
	uintField(c, 3, &s.Attempt)
	c.time(4, &s.Deadline)
}

// SlotWipeStarted sends slots of one host to be erased. A seed is given when the
// lease had none (the first wipe).
type SlotWipeStarted struct {
	Host  HostID       `json:"host_id"`
	Cause string       `json:"cause"` // "approved", "released", "rewipe"
	Slots []WipingSlot `json:"slots"`
	Seed  [16]byte     `json:"-"`
}

// EventType implements EventBody.
func (*SlotWipeStarted) EventType() string { return "slot.wipe_started" }

// Owner implements EventBody.
func (e *SlotWipeStarted) Owner() string { return e.Host.String() }

// Resource implements EventBody.
func (e *SlotWipeStarted) Resource() string { return e.Slots[0].Slot.String() }

func (e *SlotWipeStarted) wire(c *coder) {
	idField(c, 1, &e.Host)
	c.str(2, &e.Cause)
	msgs(c, 3, &e.Slots)
	c.fixedBytes(4, e.Seed[:])
}

func (e *SlotWipeStarted) apply(w *World, _ *Applied) {
	for _, ws := range e.Slots {
		row := w.slots.find(ws.Slot)
		s := w.slots.row(row)
		// A slot that was released keeps its VM's row until that is gone.
		s.State, s.Attempt, s.Deadline = SlotIsWiping, ws.Attempt, ws.Deadline
		if e.Seed != [16]byte{} {
			s.seed = e.Seed
		}
		w.timers.add(ws.Deadline, timerWipe, row)
	}
	w.touchHostSlots(e.Host)
}

// touchHostSlots keeps the placement and the placement index true after slots of
// the host changed.
func (w *World) touchHostSlots(id HostID) {
	hi := w.hosts.find(id)
	w.touch(w.hosts.row(hi))
	w.fleet.refresh(w, hi)
}

// SlotWiped frees a slot: every device's erasure was proven.
type SlotWiped struct {
	Host       HostID       `json:"host_id"`
	Slot       SlotID       `json:"slot_id"`
	Generation uint32       `json:"generation"`
	Nonce      Digest       `json:"nonce"`
	StartedAt  Time         `json:"started_at"`
	EndedAt    Time         `json:"ended_at"`
	Devices    []DeviceWipe `json:"devices"`
}

// EventType implements EventBody.
func (*SlotWiped) EventType() string { return "slot.wiped" }

// Owner implements EventBody.
func (e *SlotWiped) Owner() string { return e.Host.String() }

// Resource implements EventBody.
func (e *SlotWiped) Resource() string { return e.Slot.String() }

func (e *SlotWiped) wire(c *coder) {
	idField(c, 1, &e.Host)
	idField(c, 2, &e.Slot)
	uintField(c, 3, &e.Generation)
	c.digest(4, &e.Nonce)
	c.time(5, &e.StartedAt)
	c.time(6, &e.EndedAt)
	msgs(c, 7, &e.Devices)
}

func (e *SlotWiped) apply(w *World, _ *Applied) {
	s := w.slots.get(e.Slot)
	s.State, s.Deadline, s.Attempt = SlotIsAvailable, 0, 0
	w.touchHostSlots(e.Host)
}

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
	w.touchHostSlots(e.Host)
}

// SlotCondemned marks a slot that is in use: after its lease ends it is wiped as
// ever, and then quarantined instead of sold.
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
	return w.takeOut(row, "", "device", "operator."+m.Reason, nil), nil
}

// takeOut quarantines a slot, or condemns it while a VM holds it.
func (w *World) takeOut(row uint32, component, scope, reason string, evidence []DeviceWipe) []EventBody {
	s := w.slots.row(row)
	host := w.hosts.row(s.host).ID
	switch {
	case s.State == SlotIsQuarantined || s.State == SlotIsRetired || s.Condemned:
		return nil
	case s.State == SlotIsReserved || s.State == SlotIsActive:
		return []EventBody{&SlotCondemned{Host: host, Slot: s.ID, Component: component, Scope: scope, Reason: reason}}
	}
	return []EventBody{&SlotQuarantined{Host: host, Slot: s.ID, Component: component, Scope: scope, Reason: reason, Devices: evidence}}
}

// RewipeSlot sends a quarantined slot through another wipe.
type RewipeSlot struct {
	Slot SlotID `json:"slot_id"`
}

// CommandType implements CommandBody.
func (*RewipeSlot) CommandType() string { return "slot.rewipe" }

func (m *RewipeSlot) wire(c *coder) { idField(c, 1, &m.Slot) }

func (m *RewipeSlot) decide(w *World, x *Context) ([]EventBody, *Error) {
	if err := w.requirePlatform(x, RoleOperator); err != nil {
		return nil, err
	}
	s := w.slots.get(m.Slot)
	if s == nil {
		return nil, notFound("slot")
	}
	if s.State == SlotIsWiping {
		return nil, nil
	}
	if s.State != SlotIsQuarantined {
		return nil, Errorf(Conflict, "slot.not_quarantined", "the slot is %s: only a quarantined slot is wiped again", s.State)
	}
	return []EventBody{&SlotWipeStarted{Host: w.hosts.row(s.host).ID, Cause: "rewipe", Slots: []WipingSlot{
		{Slot: s.ID, Generation: s.Generation, Attempt: s.Attempt + 1, Deadline: x.At.Add(wipeDeadline(s.Policy))},
	}}}, nil
}

// judgeWipe decides what a host's wipe evidence is worth. Everything has to be
// right; the first doubt quarantines the slot.
func (w *World) judgeWipe(x *Context, host uint32, r *WipeReport) ([]EventBody, *Error) {
	row := w.slots.find(r.Slot)
	if row == none || w.slots.row(row).host != host {
		return nil, Errorf(Invalid, "report.foreign_slot", "the slot is not on this host")
	}
	s := w.slots.row(row)
	if s.State != SlotIsWiping {
		return nil, Errorf(Conflict, "report.late", "the slot is %s: no wipe is awaited", s.State)
	}
	if r.Generation != s.Generation || r.Attempt != s.Attempt {
		return nil, Errorf(Conflict, "report.stale", "wipe of generation %d attempt %d, awaited is %d attempt %d", r.Generation, r.Attempt, s.Generation, s.Attempt)
	}
	// A host wipes a slot only when no VM holds it any more: if it never said so
	// (it may never have seen the VM), its evidence does.
	var before []EventBody
	if s.vm != none {
		before, _ = w.vmRemoved(x, s.vm, w.vms.row(s.vm))
	}
	quarantine := func(component, reason string) ([]EventBody, *Error) {
		return append(before, w.takeOut(row, component, "device", reason, r.Devices)...), nil
	}
	if r.Nonce != s.lease().Nonce {
		return quarantine("host", "wipe.wrong_nonce")
	}
	seen := [3]bool{}
	for _, d := range r.Devices {
		k := -1
		for i, name := range deviceComponents {
			if d.Component == name {
				k = i
			}
		}
		switch {
		case k < 0 || seen[k]:
			return quarantine("host", "wipe.unknown_component")
		case deviceKey(k, d.Serial) != s.devices[k]:
			return quarantine(d.Component, "wipe.wrong_serial")
		case d.Result != WipeVerified:
			return quarantine(d.Component, "wipe."+d.Result.String())
		}
		seen[k] = true
	}
	for k, key := range s.devices {
		if key != 0 && !seen[k] {
			return quarantine(deviceComponents[k], "wipe.missing_device")
		}
	}
	if s.Condemned {
		return append(before, &SlotQuarantined{Host: w.hosts.row(host).ID, Slot: s.ID, Component: "", Scope: "device", Reason: "condemned", Devices: r.Devices}), nil
	}
	return append(before, &SlotWiped{Host: w.hosts.row(host).ID, Slot: s.ID, Generation: s.Generation, Nonce: r.Nonce, StartedAt: r.StartedAt, EndedAt: r.EndedAt, Devices: r.Devices}), nil
}
