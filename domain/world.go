package domain

import "fmt"

// World is the state of one site: the fold of all its events. It is not safe for
// concurrent use: one goroutine decides and applies, and answers questions.
type World struct {
	Site       string
	Epoch      uint32 // the site's; rises only when an operator opens a new one after a lost tail
	Term       uint64 // the writer's
	LogicLevel uint32
	Head       Head   // the commit this is the fold of
	At         Time   // that commit's time
	Number     uint64 // the last event's number

	tenants     table[TenantID, Tenant]
	members     table[UserID, Member]
	projects    table[ProjectID, Project]
	keys        table[APIKeyID, APIKey]
	skus        table[SKUID, SKU]
	grants      table[GrantID, Grant]
	hosts       table[HostID, Host]
	slots       table[SlotID, Slot]
	allocations table[AllocationID, Allocation]
	vms         table[VMID, VM]

	projectMembers map[projectMember]ProjectRole
	policies       map[policyAt]*policyRow
	platform       map[platformAccount]Micros
	parked         map[timer]bool
	commands       commandWindow
	platformKeys   idemKeys
	operators      uint32
	priceChanged   Time // the latest effective time of any price

	// What follows from the above, kept for speed.
	tenantNames  map[string]TenantID
	projectNames map[projectName]ProjectID
	skuNames     map[string]SKUID
	hostNames    map[string]HostID
	hostTokens   map[Digest]HostID
	keyByHash    map[Digest]APIKeyID
	deviceSlots  map[uint64]uint32
	skuLive      map[SKUID]uint32 // live allocations
	fleet        fleet
	timers       timers
	dirtyHosts   []uint32
}

// NewWorld is the world before the first commit.
func NewWorld() *World {
	return &World{
		Epoch:          1,
		projectMembers: map[projectMember]ProjectRole{},
		policies:       map[policyAt]*policyRow{},
		platform:       map[platformAccount]Micros{},
		parked:         map[timer]bool{},
		tenantNames:    map[string]TenantID{},
		projectNames:   map[projectName]ProjectID{},
		skuNames:       map[string]SKUID{},
		hostNames:      map[string]HostID{},
		hostTokens:     map[Digest]HostID{},
		keyByHash:      map[Digest]APIKeyID{},
		deviceSlots:    map[uint64]uint32{},
		skuLive:        map[SKUID]uint32{},
	}
}

// Begin opens a commit: what is applied from now on happens at `at`.
func (w *World) Begin(at Time) {
	w.At = at
	w.commands.forget(at)
}

// Apply makes one decision part of the world. pos is its place in the log. It
// never fails; a panic in it means that the world can no longer be trusted, and
// the process must end.
func (w *World) Apply(d *Decision, pos Position) {
	x := Applied{At: w.At, N: pos.N}
	for i := range d.Events {
		e := &d.Events[i]
		x.Number = e.Number
		w.Number = e.Number
		e.Body.apply(w, &x)
	}
	c := &d.Command
	if c.Actor.Kind != ActorKey {
		return
	}
	w.commands.add(c.ID, pos)
	if !c.IdemKey.IsZero() {
		keys := w.keysOf(c.Actor)
		keys.forget(w.At)
		keys.add(idemEntry{key: c.IdemKey, body: c.BodyHash, at: w.At, pos: pos})
	}
}

// End closes a commit: the world is its fold.
func (w *World) End(h Head) { w.Head = h }

// ApplyCommit folds one commit of the log. The hash chain is checked: an error
// means that the commit does not follow the ones before.
func (w *World) ApplyCommit(c *Commit, hash Digest) error {
	if c.N != w.Head.N+1 || c.Prev != w.Head.Hash {
		return fmt.Errorf("commit %d (previous %s) does not follow commit %d (%s): the log is forked or has a hole", c.N, c.Prev, w.Head.N, w.Head.Hash)
	}
	if c.At < w.At {
		return fmt.Errorf("commit %d is older than the one before it", c.N)
	}
	w.Begin(c.At)
	for i := range c.Decisions {
		d := &c.Decisions[i]
		for k := range d.Events {
			if want := w.Number + 1 + uint64(k); d.Events[k].Number != want {
				return fmt.Errorf("commit %d: event number %d, want %d", c.N, d.Events[k].Number, want)
			}
		}
		w.Apply(d, Position{N: c.N, Index: uint32(i)})
	}
	w.End(Head{N: c.N, Hash: hash})
	return nil
}

// extendDeadlines gives hosts and wipes the time back in which nobody wrote.
func (w *World) extendDeadlines(by Duration) {
	if by <= 0 {
		return
	}
	for row := uint32(0); row < w.slots.next; row++ {
		if s := w.slots.row(row); s.State == SlotIsWiping {
			s.Deadline = s.Deadline.Add(by)
			w.timers.add(s.Deadline, timerWipe, row)
		}
	}
	for row := uint32(0); row < w.vms.next; row++ {
		if v := w.vms.row(row); v.Deadline != 0 {
			v.Deadline = v.Deadline.Add(by)
			w.timers.add(v.Deadline, timerVM, row)
		}
	}
}
