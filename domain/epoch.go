package domain

import "slices"

// A log that lost its end (a restored backup, a disk that lied) is gone on with in a
// new site epoch, on the word of two operators. What was acknowledged after the end is
// forgotten by the log, not by the hosts: each says what it holds before anything of it
// is placed again, and what the log does not know is kept, quarantined and shown until
// an operator has decided.

// LostSign is something that knows of more than the log that is left.
type LostSign struct {
	Source string `json:"source"` // "snapshot", "feed", "read_models", "placement", "host"
	Name   string `json:"name,omitempty"`
	Commit uint64 `json:"commit,omitempty"` // the newest that it knows
	Hash   Digest `json:"hash,omitzero"`
	Epoch  uint32 `json:"epoch,omitempty"` // that it has seen: of a placement or a host
}

func (s *LostSign) wire(c *coder) {
	c.str(1, &s.Source)
	c.str(2, &s.Name)
	c.uvar(3, &s.Commit)
	c.digest(4, &s.Hash)
	uintField(c, 5, &s.Epoch)
}

// OpenEpoch opens the site's next epoch. Who asks has checked that whoever approves
// holds the keys, and has looked for the signs.
type OpenEpoch struct {
	Epoch    uint32 `json:"epoch"`
	Survived Head   `json:"survived"` // the last commit that is left
	// SurvivedAt is that commit's time. Nobody wrote since: it is an outage.
	SurvivedAt Time       `json:"survived_at"`
	Reason     string     `json:"reason"`
	Approved   []APIKeyID `json:"approved_by_key_ids"` // of two operators
	Lost       []LostSign `json:"lost"`
}

// CommandType implements CommandBody.
func (*OpenEpoch) CommandType() string { return "site.open_epoch" }

func (m *OpenEpoch) wire(c *coder) {
	uintField(c, 1, &m.Epoch)
	c.uvar(2, &m.Survived.N)
	c.digest(3, &m.Survived.Hash)
	c.time(4, &m.SurvivedAt)
	c.str(5, &m.Reason)
	ids(c, 6, &m.Approved)
	msgs(c, 7, &m.Lost)
}

// EpochOpened is the fact. From now on every admitted host has to account for itself.
type EpochOpened struct {
	Site       string     `json:"site"`
	Epoch      uint32     `json:"epoch"`
	Survived   Head       `json:"survived"`
	SurvivedAt Time       `json:"survived_at"`
	Reason     string     `json:"reason"`
	Approved   []UserID   `json:"approved_by_user_ids"`
	Keys       []APIKeyID `json:"approved_by_key_ids"`
	Lost       []LostSign `json:"lost"`
}

// EventType implements EventBody.
func (*EpochOpened) EventType() string { return "site.epoch_opened" }

// Owner implements EventBody.
func (*EpochOpened) Owner() string { return "" }

// Resource implements EventBody.
func (e *EpochOpened) Resource() string { return e.Site }

func (e *EpochOpened) wire(c *coder) {
	c.str(1, &e.Site)
	uintField(c, 2, &e.Epoch)
	c.uvar(3, &e.Survived.N)
	c.digest(4, &e.Survived.Hash)
	c.time(5, &e.SurvivedAt)
	c.str(6, &e.Reason)
	ids(c, 7, &e.Approved)
	ids(c, 8, &e.Keys)
	msgs(c, 9, &e.Lost)
}

// maxLostSigns bounds what an epoch records of what was lost.
const maxLostSigns = 64

func (m *OpenEpoch) decide(w *World, x *Context) ([]EventBody, *Error) {
	if x.Actor.Kind != ActorSystem {
		return nil, notFound("command")
	}
	if err := checkWord("reason", m.Reason, 256, false); err != nil {
		return nil, err
	}
	switch {
	case m.Epoch != w.NextEpoch(m.Lost):
		return nil, Errorf(Conflict, "epoch.not_next", "the site is in epoch %d: the next one is %d, not %d", w.Epoch, w.NextEpoch(m.Lost), m.Epoch)
	case m.Survived != w.Head:
		return nil, Errorf(Conflict, "epoch.other_end", "the log ends at commit %d %s, not at %d %s", w.Head.N, w.Head.Hash, m.Survived.N, m.Survived.Hash)
	case m.SurvivedAt > x.At || w.At != m.SurvivedAt && w.At != x.At:
		return nil, Errorf(Invalid, "epoch.other_time", "the log ends at %s, not at %s", w.At, m.SurvivedAt)
	case len(m.Lost) == 0:
		return nil, Errorf(Conflict, "epoch.nothing_lost", "nothing knows of more than the log: start the site as it is")
	case len(m.Lost) > maxLostSigns:
		return nil, Errorf(Invalid, "epoch.too_many_signs", "%d signs of what was lost, at most %d", len(m.Lost), maxLostSigns)
	case len(m.Approved) != 2:
		return nil, Errorf(Forbidden, "epoch.two_operators", "a new epoch needs two operators, %d approved", len(m.Approved))
	}
	e := &EpochOpened{Site: w.Site, Epoch: m.Epoch, Survived: w.Head, SurvivedAt: m.SurvivedAt, Reason: m.Reason, Keys: m.Approved, Lost: m.Lost}
	for _, key := range m.Approved {
		p, err := w.principal(&Context{At: x.At, Actor: Actor{Kind: ActorKey, Key: key}})
		switch {
		case err != nil:
			return nil, Errorf(Forbidden, "epoch.key_invalid", "the key %s is unknown, expired or revoked in the log that is left", key)
		case p.platform&RoleOperator == 0:
			return nil, Errorf(Forbidden, "epoch.not_operator", "the key %s is not an operator's in the log that is left", key)
		case slices.Contains(e.Approved, p.user):
			return nil, Errorf(Forbidden, "epoch.same_operator", "both keys are %s's: a new epoch needs two different operators", p.user)
		}
		e.Approved = append(e.Approved, p.user)
	}
	return []EventBody{e}, nil
}

// NextEpoch is the epoch that can be opened. The opening of one may have been lost itself:
// its number must not come again, or hosts that have seen it would not follow.
func (w *World) NextEpoch(lost []LostSign) uint32 {
	seen := w.Epoch
	for _, s := range lost {
		if s.Epoch <= w.Epoch+maxEpochsLost { // a host can say what it likes
			seen = max(seen, s.Epoch)
		}
	}
	return seen + 1
}

// maxEpochsLost bounds how many openings are believed to be lost.
const maxEpochsLost = 1000

func (e *EpochOpened) apply(w *World, x *Applied) {
	w.Epoch = e.Epoch
	w.extendDeadlines(x.At.Sub(e.SurvivedAt)) // nobody wrote, as far as this log knows
	w.addOutage(gap{e.SurvivedAt, x.At})
	for row, h := range w.hosts.rows() {
		if h.Removed || h.NATSKey == "" {
			continue
		}
		h.Accounts, h.Ahead, h.AheadEpoch = e.SurvivedAt, false, 0
		w.touch(h)
		w.fleet.refresh(w, row)
	}
}

// NoteHostAhead is the site's own observation: the host has seen a placement that this
// log never made. Nothing new goes there until an epoch is opened.
type NoteHostAhead struct {
	Host       HostID `json:"host_id"`
	Epoch      uint32 `json:"epoch"`
	Generation uint64 `json:"generation"`
	// Forked: the placement that it follows came from a commit that this log does not have.
	Forked bool `json:"forked,omitempty"`
}

// CommandType implements CommandBody.
func (*NoteHostAhead) CommandType() string { return "host.note_ahead" }

func (m *NoteHostAhead) wire(c *coder) {
	idField(c, 1, &m.Host)
	uintField(c, 2, &m.Epoch)
	c.uvar(3, &m.Generation)
	c.bool(4, &m.Forked)
}

// HostAhead is the fact: the log has lost its end, or is another than the host's.
type HostAhead struct {
	Host           HostID `json:"host_id"`
	SeenEpoch      uint32 `json:"seen_epoch"`
	SeenGeneration uint64 `json:"seen_generation"`
	Epoch          uint32 `json:"epoch"` // the log's
	Generation     uint64 `json:"generation"`
}

// EventType implements EventBody.
func (*HostAhead) EventType() string { return "host.ahead" }

// Owner implements EventBody.
func (e *HostAhead) Owner() string { return e.Host.String() }

// Resource implements EventBody.
func (e *HostAhead) Resource() string { return e.Host.String() }

func (e *HostAhead) wire(c *coder) {
	idField(c, 1, &e.Host)
	uintField(c, 2, &e.SeenEpoch)
	c.uvar(3, &e.SeenGeneration)
	uintField(c, 4, &e.Epoch)
	c.uvar(5, &e.Generation)
}

// AheadOf reports whether a host that has seen the pair has seen more than the log
// ever placed on it.
func (w *World) AheadOf(host HostID, epoch uint32, generation uint64) bool {
	return w.mayBeAhead(host, epoch) && (epoch > w.Epoch || generation > w.hosts.get(host).Generation)
}

// Behind reports whether the host has yet to see what the log places: it has seen the
// generation of an epoch, and waits with so many reports for their acknowledgement. One that
// is ahead of the log is told nothing.
func (w *World) Behind(host HostID, epoch uint32, generation, backlog uint64) bool {
	h := w.hosts.get(host)
	if h == nil || h.Removed || h.Ahead || epoch > w.Epoch {
		return false
	}
	return epoch < w.Epoch || generation < h.Generation || backlog > 0
}

// mayBeAhead: what is known already is not noted again, but a later epoch is, since the
// next one has to be after it.
func (w *World) mayBeAhead(host HostID, epoch uint32) bool {
	h := w.hosts.get(host)
	return h != nil && !h.Removed && epoch >= w.Epoch && (!h.Ahead || epoch > h.AheadEpoch && epoch <= w.Epoch+maxEpochsLost)
}

func (m *NoteHostAhead) decide(w *World, x *Context) ([]EventBody, *Error) {
	if x.Actor.Kind != ActorSystem {
		return nil, notFound("host")
	}
	return w.noteAhead(m), nil
}

// noteAhead is the fact, unless it is known already.
func (w *World) noteAhead(m *NoteHostAhead) []EventBody {
	if !w.AheadOf(m.Host, m.Epoch, m.Generation) && !(m.Forked && w.mayBeAhead(m.Host, m.Epoch)) {
		return nil
	}
	return []EventBody{&HostAhead{Host: m.Host, SeenEpoch: m.Epoch, SeenGeneration: m.Generation, Epoch: w.Epoch, Generation: w.hosts.get(m.Host).Generation}}
}

func (e *HostAhead) apply(w *World, _ *Applied) {
	w.changeHost(e.Host, func(h *Host) { h.Ahead, h.AheadEpoch = true, e.SeenEpoch })
}

// DestroyUnknownVM is an operator's decision on a VM that the log does not know: it is
// removed, and its slots are wiped.
type DestroyUnknownVM struct {
	Host   HostID `json:"host_id"`
	VM     VMID   `json:"vm_id"`
	Reason string `json:"reason"`
}

// CommandType implements CommandBody.
func (*DestroyUnknownVM) CommandType() string { return "host.destroy_unknown_vm" }

func (m *DestroyUnknownVM) wire(c *coder) {
	idField(c, 1, &m.Host)
	idField(c, 2, &m.VM)
	c.str(3, &m.Reason)
}

// UnknownVMDestroyed is the decision: the host no longer keeps the VM.
type UnknownVMDestroyed struct {
	Host   HostID `json:"host_id"`
	VM     VMID   `json:"vm_id"`
	User   UserID `json:"user_id"`
	Reason string `json:"reason"`
}

// EventType implements EventBody.
func (*UnknownVMDestroyed) EventType() string { return "host.unknown_vm_destroyed" }

// Owner implements EventBody.
func (e *UnknownVMDestroyed) Owner() string { return e.Host.String() }

// Resource implements EventBody.
func (e *UnknownVMDestroyed) Resource() string { return e.VM.String() }

func (e *UnknownVMDestroyed) wire(c *coder) {
	idField(c, 1, &e.Host)
	idField(c, 2, &e.VM)
	idField(c, 3, &e.User)
	c.str(4, &e.Reason)
}

func (m *DestroyUnknownVM) decide(w *World, x *Context) ([]EventBody, *Error) {
	if err := w.requirePlatform(x, RoleOperator); err != nil {
		return nil, err
	}
	who, err := w.principal(x)
	if err != nil {
		return nil, err
	}
	if err := checkSlug("reason", m.Reason); err != nil {
		return nil, err
	}
	hi := w.hosts.find(m.Host)
	if hi == none {
		return nil, notFound("host")
	}
	h := w.hosts.row(hi)
	at := slices.IndexFunc(h.unknown, func(v HeldVM) bool { return v.VM == m.VM })
	if at < 0 {
		return nil, notFound("vm")
	}
	if h.Accounts != 0 {
		return nil, Errorf(Conflict, "host.accounting", "the host has not said yet what it holds in this epoch: wait for it")
	}
	events := []EventBody{&UnknownVMDestroyed{Host: m.Host, VM: m.VM, User: who.user, Reason: m.Reason}}
	wipe := &SlotWipeStarted{Host: m.Host, Cause: causeEpoch}
	for _, index := range h.unknown[at].Slots {
		row := w.slotAt(h, index)
		if row == none || w.slots.row(row).State != SlotIsQuarantined || w.unknownOn(row, m.VM) {
			continue
		}
		s := w.slots.row(row)
		wipe.Slots = append(wipe.Slots, WipingSlot{Slot: s.ID, Generation: s.Generation, Attempt: s.Attempt + 1, Deadline: x.At.Add(releaseDeadline + wipeDeadline(s.Policy))})
	}
	if len(wipe.Slots) == 0 {
		return events, nil
	}
	seed := x.Entropy.derive("wipe-seed", 0)
	copy(wipe.Seed[:], seed[:])
	return append(events, wipe), nil
}

func (e *UnknownVMDestroyed) apply(w *World, _ *Applied) {
	w.changeHost(e.Host, func(h *Host) {
		h.unknown = slices.DeleteFunc(h.unknown, func(v HeldVM) bool { return v.VM == e.VM })
		w.touch(h)
	})
}

// unknownOn reports whether a VM that the log does not know holds the slot, other than
// the one excepted.
func (w *World) unknownOn(row uint32, except VMID) bool {
	s := w.slots.row(row)
	for _, v := range w.hosts.row(s.host).unknown {
		if v.VM != except && slices.Contains(v.Slots, uint32(s.Index)) {
			return true
		}
	}
	return false
}

func errUnknownVM() *Error {
	return Errorf(Conflict, "slot.unknown_vm", "a VM that the log does not know holds the slot: decide on it first, see GET /v1/epoch")
}

// UnknownVM is a VM that a host has and the log does not know.
type UnknownVM struct {
	Host HostID
	HeldVM
}

// EpochState is the epoch and what is left to reconcile in it, in the order of hosts.
func (w *World) EpochState() (epoch uint32, awaited, ahead []HostID, unknown []UnknownVM) {
	for _, h := range w.hosts.rows() {
		if h.Removed {
			continue
		}
		if h.Accounts != 0 {
			awaited = append(awaited, h.ID)
		}
		if h.Ahead {
			ahead = append(ahead, h.ID)
		}
		for _, v := range h.unknown {
			v.Slots = slices.Clone(v.Slots)
			unknown = append(unknown, UnknownVM{h.ID, v})
		}
	}
	return w.Epoch, awaited, ahead, unknown
}

// AheadEpoch is the epoch that a host which is ahead of the log has seen.
func (w *World) AheadEpoch(host HostID) uint32 {
	if h := w.hosts.get(host); h != nil {
		return h.AheadEpoch
	}
	return 0
}
