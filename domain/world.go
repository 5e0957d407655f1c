package domain

import (
	"encoding/binary"
	"fmt"
	"strings"
)

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

	tenants     table[TenantID, Tenant, *Tenant]
	members     table[UserID, Member, *Member]
	projects    table[ProjectID, Project, *Project]
	keys        table[APIKeyID, APIKey, *APIKey]
	skus        table[SKUID, SKU, *SKU]
	grants      table[GrantID, Grant, *Grant]
	hosts       table[HostID, Host, *Host]
	slots       table[SlotID, Slot, *Slot]
	allocations table[AllocationID, Allocation, *Allocation]
	vms         table[VMID, VM, *VM]
	duties      table[WipeDutyID, WipeDuty, *WipeDuty]
	images      table[ImageID, Image, *Image]
	corrections table[CorrectionID, Correction, *Correction] // that wait for another operator

	projectMembers map[projectMember]ProjectRole
	policies       map[policyAt]*policyRow
	platform       map[platformAccount]Micros
	parked         map[timer]bool
	commands       commandWindow
	platformKeys   idemKeys
	operators      uint32
	priceChanged   Time // the latest effective time of any price
	late           []latePrice
	outages        []gap                // times in which nobody wrote, the newest
	calendars      map[string]*calendar // by time zone

	// What follows from the above, kept for speed.
	tenantNames  map[string]TenantID
	projectNames map[projectName]ProjectID
	skuNames     map[string]SKUID
	keyByHash    map[Digest]APIKeyID
	hostNames    names
	hostTokens   index
	devices      index                 // slots by each of their devices
	dutyOf       map[uint64]WipeDutyID // by device
	allocNames   names                 // live allocations by project and name
	imageNames   map[imageName]ImageID
	imageCounts  map[ProjectID]int // live images
	siteImages   bool              // the site ever had one
	words        map[string]string
	locations    map[Location]*Location
	fleet        fleet
	timers       timers
	dirtyHosts   []uint32
}

// NewWorld is the world before the first commit.
func NewWorld() *World {
	w := &World{
		Epoch:          1,
		projectMembers: map[projectMember]ProjectRole{},
		policies:       map[policyAt]*policyRow{},
		platform:       map[platformAccount]Micros{},
		parked:         map[timer]bool{},
		calendars:      map[string]*calendar{},
		tenantNames:    map[string]TenantID{},
		projectNames:   map[projectName]ProjectID{},
		skuNames:       map[string]SKUID{},
		keyByHash:      map[Digest]APIKeyID{},
		words:          map[string]string{},
		locations:      map[Location]*Location{},
		dutyOf:         map[uint64]WipeDutyID{},
		imageNames:     map[imageName]ImageID{},
		imageCounts:    map[ProjectID]int{},
	}
	w.slots.ids.lean, w.devices.lean, w.hostNames.lean, w.hostTokens.lean = true, true, true, true
	return w
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
	x := Applied{At: w.At}
	for i := range d.Events {
		e := &d.Events[i]
		x.Number = e.Number
		w.Number = e.Number
		e.Body.apply(w, &x)
	}
	w.sweepTimers()
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

// word keeps one copy of a string that many rows share: a rack, an image, a GPU
// class. What apply keeps of an event it copies: the event's own strings belong to
// the bytes it was read from.
func (w *World) word(s string) string {
	if have, ok := w.words[s]; ok {
		return have
	}
	s = strings.Clone(s)
	w.words[s] = s
	return s
}

// location is the one copy of l that all hosts of its rack share.
func (w *World) location(l Location) *Location {
	if have, ok := w.locations[l]; ok {
		return have
	}
	own := &Location{w.word(l.Rack), w.word(l.Leaf), w.word(l.Spine)}
	w.locations[*own] = own
	return own
}

func (t *Tenant) key() TenantID         { return t.ID }
func (m *Member) key() UserID           { return m.ID }
func (p *Project) key() ProjectID       { return p.ID }
func (k *APIKey) key() APIKeyID         { return k.ID }
func (s *SKU) key() SKUID               { return s.ID }
func (g *Grant) key() GrantID           { return g.ID }
func (h *Host) key() HostID             { return h.ID }
func (s *Slot) key() SlotID             { return s.ID }
func (a *Allocation) key() AllocationID { return a.ID }
func (v *VM) key() VMID                 { return v.ID }

// hostByName, hostByToken, slotByDevice and allocationByName look rows up by what
// they contain.

func (w *World) hostByName(name string) uint32 {
	return w.hostNames.find([16]byte{}, name, func(r uint32) bool { return w.hosts.row(r).Name == name })
}

func (w *World) hostByToken(token Digest) uint32 {
	for p := w.hostTokens.probe(tokenHash(token)); ; p.next() {
		if r := p.row(); r == none || w.hosts.row(r).TokenID == token {
			return r
		}
	}
}

func tokenHash(d Digest) uint64 { return binary.LittleEndian.Uint64(d[:]) }

func (w *World) indexHost(row uint32) {
	h := w.hosts.row(row)
	w.hostNames.add(nameHash([16]byte{}, h.Name), row, w.hostNameHash)
	w.hostTokens.add(tokenHash(h.TokenID), row, w.hostTokenHash)
}

// forgetHost frees a host's name, and its token is good for nothing any more.
func (w *World) forgetHost(row uint32) {
	w.hostNames.remove(w.hostNameHash(row), row, w.hostNameHash)
	w.hostTokens.remove(w.hostTokenHash(row), row, w.hostTokenHash)
}

func (w *World) hostNameHash(r uint32) uint64  { return nameHash([16]byte{}, w.hosts.row(r).Name) }
func (w *World) hostTokenHash(r uint32) uint64 { return tokenHash(w.hosts.row(r).TokenID) }

// slotByDevice finds the slot that has the device as its GPU (0), drive (1) or VF (2).
func (w *World) slotByDevice(component int, key uint64) uint32 {
	if key == 0 {
		return none
	}
	for p := w.devices.probe(key); ; p.next() {
		if r := p.row(); r == none || w.slots.row(r / 4).devices[r%4] == key && r%4 == uint32(component) {
			if r == none {
				return none
			}
			return r / 4
		}
	}
}

// indexDevices enters a slot under each of its devices: row * 4 + component.
func (w *World) indexDevices(row uint32) {
	for i, key := range w.slots.row(row).devices {
		if key != 0 {
			w.devices.add(key, row*4+uint32(i), w.deviceHash)
		}
	}
}

func (w *World) allocationByName(project ProjectID, name string) uint32 {
	return w.allocNames.find(project, name, func(r uint32) bool {
		a := w.allocations.row(r)
		return a.Project == project && a.Name == name
	})
}

func (w *World) allocNameHash(row uint32) uint64 {
	a := w.allocations.row(row)
	return nameHash(a.Project, a.Name)
}
