package domain

import (
	"cmp"
	"fmt"
)

// A host proposes a slot map; slots come into being when an operator approves its
// digest.

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
	if err := decodeKept(encodeMessage(&e.Map), m); err != nil { // a copy of its own: it stays until approval
		panic(err)
	}
	h.Proposal = m
}

// ApproveMap approves a proposed slot map by its digest. Every slot must have a
// wipe policy, from the map's or from its own entry; with a host in service, what a
// slot has stays unless its own entry says otherwise.
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
	Features Features       `json:"features,omitzero"`
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
	uintField(c, 5, &e.Features)
}

func (m *ApproveMap) decide(w *World, x *Context) ([]EventBody, *Error) {
	if err := w.requirePlatform(x, RoleOperator); err != nil {
		return nil, err
	}
	h := w.hosts.get(m.Host)
	if h == nil || h.Removed {
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
	if err := checkMap(h.Proposal); err != nil {
		return nil, err
	}
	policies := make(map[uint32]WipePolicy, len(m.Slots))
	for _, o := range m.Slots {
		if int(o.Index) >= len(h.Proposal.Slots) {
			return nil, invalidField("slots", "slot.unknown_index", "slots: the map has no slot %d", o.Index)
		}
		policies[o.Index] = o.Policy
	}
	if len(h.slots) > 0 {
		return w.amend(x, h, m, policies)
	}
	approved := &MapApproved{Host: m.Host, Digest: m.Digest, GPUClass: h.Proposal.GPUClass, Features: h.Proposal.Features}
	wipe := &SlotWipeStarted{Host: m.Host, Cause: "approved"}
	for i, spec := range h.Proposal.Slots {
		policy := cmp.Or(policies[spec.Index], m.Policy)
		if err := checkPolicy(policy, spec.Index); err != nil {
			return nil, err
		}
		if err := w.checkDevices(&spec, h); err != nil {
			return nil, err
		}
		id := deriveID[slotKind](x.Entropy, i)
		approved.Slots = append(approved.Slots, ApprovedSlot{ID: id, Policy: policy, Spec: spec})
		wipe.Slots = append(wipe.Slots, WipingSlot{Slot: id, Deadline: x.At.Add(wipeDeadline(policy))})
	}
	seed := x.Entropy.derive("wipe-seed", 0)
	copy(wipe.Seed[:], seed[:])
	return []EventBody{approved, wipe}, nil
}

func checkPolicy(p WipePolicy, index uint32) *Error {
	if p == WipeUnset || p > WipeOverwrite {
		return invalidField("wipe_policy", "slot.no_wipe_policy", "slot %d has no wipe policy: give wipe_policy (auto, sanitize, format or overwrite) for the map or the slot", index)
	}
	return nil
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
	h.MapID, h.GPUClass, h.Features, h.Proposal = e.Digest, w.word(e.GPUClass), e.Features, nil
	for i := range e.Slots {
		a := &e.Slots[i]
		row, s := w.slots.add(a.ID)
		*s = Slot{ID: a.ID, host: hi, vm: none, Index: uint16(a.Spec.Index), State: SlotIsProposed, NUMA: a.Spec.NUMANode, Policy: a.Policy, Dirty: true, Real: a.Spec.real(), room: a.Spec.room()}
		w.setDevices(row, a.Spec.deviceKeys())
		h.slots = append(h.slots, row)
	}
	w.touch(h)
	w.fleet.refresh(w, hi)
}
