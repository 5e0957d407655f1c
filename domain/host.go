package domain

import (
	"slices"
	"strings"
)

// A host is a server with GPUs. It is enrolled by an operator, proposes a slot
// map, and does what its placement says.

// Location is where a host stands: what placement keeps together or apart.
type Location struct{ Rack, Leaf, Spine string }

// Host is a host's state.
type Host struct {
	ID   HostID
	Name string
	*Location
	TokenID Digest   // hash of the one-time enrolment token; zero once used
	NATSKey string   // public nkey
	SignKey [32]byte // Ed25519 public key its reports are signed with

	Proposal   *SlotMap // waiting for approval
	MapID      Digest   // approved
	GPUClass   string
	Features   Features // what its VMs can have, by the approved map
	Cordoned   bool
	Draining   bool
	Silent     Time   // no heartbeat since; 0: in touch
	away       gap    // the last time it was silent
	Faulted    bool   // quarantined as a whole
	LostAt     Time   // its power-off was confirmed, nothing ran since; 0 once no VM is left
	Removed    bool   // taken out of the site: only the row is left
	Accounts   Time   // it has to say what it holds, since the log ended here; 0: it has
	Ahead      bool   // it has seen a placement that this log never made
	AheadEpoch uint32 // of which epoch that was

	Generation uint64    // of its desired state
	Journal    JournalID // reports recorded so far
	Acked      uint64
	ended      []JournalID // journals before it, the newest last: their reports are over
	slots      []uint32    // rows of slots, by index on the host
	vms        []uint32    // rows of VMs placed here, in the order of placing
	rack       uint32      // row of its rack in the placement index
	unknown    []HeldVM    // what it has and the log does not know
	dirty      bool        // desired state changed since placements were last taken
}

// proposalID is the digest of the map that waits for approval; zero: none does.
func (h *Host) proposalID() Digest {
	if h.Proposal == nil {
		return Digest{}
	}
	return h.Proposal.Digest()
}

// placeable reports whether new VMs may go there.
func (h *Host) placeable() bool {
	return !h.MapID.IsZero() && !h.Cordoned && !h.Draining && h.Silent == 0 && !h.Faulted && !h.Removed && h.Accounts == 0 && !h.Ahead
}

// EnrollHost makes a host. The token's hash lets the host exchange it for a
// credential; the token itself is answered once, at the edge.
type EnrollHost struct {
	Name    string `json:"name"`
	Rack    string `json:"rack"`
	Leaf    string `json:"leaf"`
	Spine   string `json:"spine"`
	TokenID Digest `json:"token_hash"`
}

// CommandType implements CommandBody.
func (*EnrollHost) CommandType() string { return "host.enroll" }

func (m *EnrollHost) wire(c *coder) {
	c.str(1, &m.Name)
	c.str(2, &m.Rack)
	c.str(3, &m.Leaf)
	c.str(4, &m.Spine)
	c.digest(5, &m.TokenID)
}

// HostEnrolled is the fact.
type HostEnrolled struct {
	ID      HostID `json:"id"`
	Name    string `json:"name"`
	Rack    string `json:"rack"`
	Leaf    string `json:"leaf"`
	Spine   string `json:"spine"`
	TokenID Digest `json:"token_hash"`
}

// EventType implements EventBody.
func (*HostEnrolled) EventType() string { return "host.enrolled" }

// Owner implements EventBody.
func (e *HostEnrolled) Owner() string { return e.ID.String() }

// Resource implements EventBody.
func (e *HostEnrolled) Resource() string { return e.ID.String() }

func (e *HostEnrolled) wire(c *coder) {
	idField(c, 1, &e.ID)
	c.str(2, &e.Name)
	c.str(3, &e.Rack)
	c.str(4, &e.Leaf)
	c.str(5, &e.Spine)
	c.digest(6, &e.TokenID)
}

func (m *EnrollHost) decide(w *World, x *Context) ([]EventBody, *Error) {
	if err := w.requirePlatform(x, RoleOperator); err != nil {
		return nil, err
	}
	if err := checkSlug("name", m.Name); err != nil {
		return nil, err
	}
	for _, f := range [...][2]string{{"rack", m.Rack}, {"leaf", m.Leaf}, {"spine", m.Spine}} {
		if err := checkWord(f[0], f[1], maxName, true); err != nil {
			return nil, err
		}
	}
	if w.hostByName(m.Name) != none {
		return nil, Errorf(Conflict, "host.name_taken", "a host named %q exists: choose another name", m.Name)
	}
	return []EventBody{&HostEnrolled{ID: deriveID[hostKind](x.Entropy, 0), Name: m.Name, Rack: m.Rack, Leaf: m.Leaf, Spine: m.Spine, TokenID: m.TokenID}}, nil
}

func (e *HostEnrolled) apply(w *World, _ *Applied) {
	i, h := w.hosts.add(e.ID)
	*h = Host{ID: e.ID, Name: strings.Clone(e.Name), Location: w.location(Location{e.Rack, e.Leaf, e.Spine}), TokenID: e.TokenID}
	w.indexHost(i)
	w.fleet.addHost(w, i)
}

// AdmitHost exchanges the one-time token for the right to speak: the host's
// public keys are recorded, the token is used up. The same keys again change
// nothing, so that a lost answer can be asked for again.
type AdmitHost struct {
	TokenID Digest `json:"token_hash"`
	NATSKey string `json:"nats_public_key"`
	SignKey []byte `json:"signing_public_key"`
}

// CommandType implements CommandBody.
func (*AdmitHost) CommandType() string { return "host.admit" }

func (m *AdmitHost) wire(c *coder) {
	c.digest(1, &m.TokenID)
	c.str(2, &m.NATSKey)
	c.bytes(3, &m.SignKey)
}

// HostAdmitted is the fact.
type HostAdmitted struct {
	ID      HostID `json:"id"`
	NATSKey string `json:"nats_public_key"`
	SignKey []byte `json:"signing_public_key"`
}

// EventType implements EventBody.
func (*HostAdmitted) EventType() string { return "host.admitted" }

// Owner implements EventBody.
func (e *HostAdmitted) Owner() string { return e.ID.String() }

// Resource implements EventBody.
func (e *HostAdmitted) Resource() string { return e.ID.String() }

func (e *HostAdmitted) wire(c *coder) {
	idField(c, 1, &e.ID)
	c.str(2, &e.NATSKey)
	c.bytes(3, &e.SignKey)
}

// HostByToken finds the host that a token was made for.
func (w *World) HostByToken(token Digest) (HostID, bool) {
	if r := w.hostByToken(token); r != none {
		return w.hosts.row(r).ID, true
	}
	return HostID{}, false
}

func (m *AdmitHost) decide(w *World, x *Context) ([]EventBody, *Error) {
	if x.Actor.Kind != ActorSystem {
		return nil, notFound("host")
	}
	id, ok := w.HostByToken(m.TokenID)
	if !ok {
		return nil, Errorf(Unauthenticated, "host.token_invalid", "the enrolment token is unknown: make a new host with POST /v1/hosts")
	}
	h := w.hosts.get(id)
	if len(m.SignKey) != 32 || len(m.NATSKey) != 56 || m.NATSKey[0] != 'U' {
		return nil, invalidField("signing_public_key", "host.bad_key", "want a 32-byte Ed25519 key and a public user nkey (U...)")
	}
	if h.NATSKey != "" {
		if h.NATSKey == m.NATSKey && slices.Equal(h.SignKey[:], m.SignKey) {
			return nil, nil
		}
		return nil, Errorf(Unauthenticated, "host.token_used", "the enrolment token was used with other keys: if it was not you, enrol the host anew under another name")
	}
	return []EventBody{&HostAdmitted{ID: id, NATSKey: m.NATSKey, SignKey: m.SignKey}}, nil
}

func (e *HostAdmitted) apply(w *World, _ *Applied) {
	h := w.hosts.get(e.ID)
	h.NATSKey = strings.Clone(e.NATSKey)
	copy(h.SignKey[:], e.SignKey)
	w.touch(h)
}

// HostAction is what an operator, or the site's liveness, does to a host.
type HostAction uint8

// The actions.
const (
	HostCordon     HostAction = iota + 1 // no new VMs
	HostUncordon                         // ends cordon, drain, and the quarantine after a confirmed power-off
	HostDrain                            // no new VMs; what runs is left to end
	HostSilent                           // no heartbeat: its allocations are unreachable
	HostInTouch                          // heartbeats are back
	HostPoweredOff                       // an operator confirms that nothing runs there any more
)

var hostActionNames = [...]string{"", "cordon", "uncordon", "drain", "silent", "in_touch", "powered_off"}

func (a HostAction) String() string { return enumName(hostActionNames[:], a) }

// MarshalText implements encoding.TextMarshaler.
func (a HostAction) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *HostAction) UnmarshalText(b []byte) error {
	return enumParse(a, hostActionNames[:], string(b), "host action")
}

// ActOnHost asks for an action. Since is the last heartbeat, for silent.
type ActOnHost struct {
	Host   HostID     `json:"host_id"`
	Action HostAction `json:"action"`
	Since  Time       `json:"since"`
}

// CommandType implements CommandBody.
func (*ActOnHost) CommandType() string { return "host.act" }

func (m *ActOnHost) wire(c *coder) {
	idField(c, 1, &m.Host)
	uintField(c, 2, &m.Action)
	c.time(3, &m.Since)
}

// HostChange is what the host.* action events share.
type HostChange struct {
	ID    HostID `json:"id"`
	Since Time   `json:"since,omitzero"`
}

// Owner implements EventBody.
func (e *HostChange) Owner() string { return e.ID.String() }

// Resource implements EventBody.
func (e *HostChange) Resource() string { return e.ID.String() }

func (e *HostChange) wire(c *coder) {
	idField(c, 1, &e.ID)
	c.time(2, &e.Since)
}

// The host.* events: one for each action.
type (
	HostCordoned   struct{ HostChange }
	HostUncordoned struct{ HostChange }
	HostDraining   struct{ HostChange }
	HostWentSilent struct{ HostChange }
	HostReturned   struct{ HostChange }
	HostPowerOff   struct{ HostChange }
)

// EventType implements EventBody.
func (*HostCordoned) EventType() string { return "host.cordoned" }

// EventType implements EventBody.
func (*HostUncordoned) EventType() string { return "host.uncordoned" }

// EventType implements EventBody.
func (*HostDraining) EventType() string { return "host.drain_started" }

// EventType implements EventBody.
func (*HostWentSilent) EventType() string { return "host.silent" }

// EventType implements EventBody.
func (*HostReturned) EventType() string { return "host.returned" }

// EventType implements EventBody.
func (*HostPowerOff) EventType() string { return "host.power_off_confirmed" }

func (m *ActOnHost) decide(w *World, x *Context) ([]EventBody, *Error) {
	if m.Action == HostSilent || m.Action == HostInTouch {
		if x.Actor.Kind != ActorSystem {
			return nil, notFound("host")
		}
	} else if err := w.requirePlatform(x, RoleOperator); err != nil {
		return nil, err
	}
	h := w.hosts.get(m.Host)
	if h == nil || h.Removed {
		return nil, notFound("host")
	}
	change := HostChange{ID: m.Host}
	switch m.Action {
	case HostCordon:
		if h.Cordoned {
			return nil, nil
		}
		return []EventBody{&HostCordoned{change}}, nil
	case HostUncordon:
		if !h.Cordoned && !h.Draining && !h.Faulted {
			return nil, nil
		}
		if h.Faulted && h.Silent != 0 {
			return nil, Errorf(Conflict, "host.silent", "the host's power-off was confirmed and it has not been heard since: it must send heartbeats before it can serve again")
		}
		if h.LostAt != 0 {
			return nil, Errorf(Conflict, "host.losing_vms", "the VMs that were lost with the host are still being released: try again in a moment")
		}
		return []EventBody{&HostUncordoned{change}}, nil
	case HostDrain:
		if h.Draining {
			return nil, nil
		}
		return []EventBody{&HostDraining{change}}, nil
	case HostSilent:
		if h.Silent != 0 || h.NATSKey == "" {
			return nil, nil
		}
		change.Since = min(m.Since, x.At)
		if change.Since == 0 {
			change.Since = x.At
		}
		return []EventBody{&HostWentSilent{change}}, nil
	case HostInTouch:
		if h.Silent == 0 {
			return nil, nil
		}
		return []EventBody{&HostReturned{change}}, nil
	case HostPoweredOff:
		return w.decidePowerOff(x, h)
	}
	return nil, invalidField("action", "host.unknown_action", "no such action")
}

func (e *HostCordoned) apply(w *World, _ *Applied) {
	w.changeHost(e.ID, func(h *Host) { h.Cordoned = true })
}

func (e *HostUncordoned) apply(w *World, _ *Applied) {
	w.changeHost(e.ID, func(h *Host) { h.Cordoned, h.Draining, h.Faulted = false, false, false })
}

func (e *HostDraining) apply(w *World, _ *Applied) {
	w.changeHost(e.ID, func(h *Host) { h.Draining = true })
}

func (e *HostWentSilent) apply(w *World, _ *Applied) {
	w.changeHost(e.ID, func(h *Host) { h.Silent = e.Since })
}

func (e *HostReturned) apply(w *World, x *Applied) {
	w.changeHost(e.ID, func(h *Host) {
		h.away, h.Silent = h.away.with(gap{h.Silent, x.At}), 0
	})
}

func (e *HostPowerOff) apply(w *World, _ *Applied) {
	w.changeHost(e.ID, func(h *Host) {
		h.Faulted = true
		if w.LogicLevel >= 2 && len(h.vms) > 0 {
			h.LostAt = e.Since
		}
	})
	w.timers.add(w.hosts.get(e.ID).LostAt, timerLost, w.hosts.find(e.ID))
}

// changeHost applies f and keeps the placement index true.
func (w *World) changeHost(id HostID, f func(*Host)) {
	i := w.hosts.find(id)
	h := w.hosts.row(i)
	f(h)
	w.fleet.refresh(w, i)
}

// touch marks the host's desired state as changed.
func (w *World) touch(h *Host) {
	h.Generation++
	if !h.dirty {
		h.dirty = true
		w.dirtyHosts = append(w.dirtyHosts, w.hosts.find(h.ID))
	}
}
