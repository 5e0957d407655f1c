package domain

import "google.golang.org/protobuf/encoding/protowire"

// The rows. A field that follows from other rows (an index, a list in the other
// direction) is not written.

func (t *Tenant) wire(c *coder) {
	idField(c, 1, &t.ID)
	c.str(2, &t.Name)
	uintField(c, 3, &t.State)
	stringField(c, 4, &t.Currency)
	intField(c, 5, &t.CreditLine)
	c.time(6, &t.Created)
	uints(c, 7, &t.grants)
	intField(c, 8, &t.Receivable)
	intField(c, 9, &t.Credit)
	c.time(10, &t.AccruedTo)
	c.time(11, &t.AccrueAt)
	c.time(12, &t.RunwayAt)
	c.time(13, &t.GraceUntil)
	intField(c, 14, &t.Rate)
	c.time(15, &t.ratedAt)
	t.keys.wire(c, 16) // and 17
	c.fixedBytes(18, t.lastUsage[:])
	uintField(c, 19, &t.repriced)
	c.time(20, &t.endedSince)
	msgs(c, 21, &t.ended)
	zone := t.Zone()
	c.str(22, &zone)
	if !c.enc && zone != UTCZone {
		t.calendar = &calendar{zone: zone} // rebuild puts the site's in its place
	}
}

func (k *idemKeys) wire(c *coder, n protowire.Number) {
	uintField(c, n, &k.dropped)
	msgs(c, n+1, &k.entries)
	if !c.enc && len(k.entries) > 0 {
		k.byKey = make(map[Digest]uint32, len(k.entries))
		for i := range k.entries {
			k.byKey[k.entries[i].key] = uint32(i) + k.dropped
		}
	}
}

func (e *idemEntry) wire(c *coder) {
	c.digest(1, &e.key)
	c.digest(2, &e.body)
	c.time(3, &e.at)
	c.uvar(4, &e.pos.N)
	uintField(c, 5, &e.pos.Index)
}

func (m *Member) wire(c *coder) {
	idField(c, 1, &m.ID)
	idField(c, 2, &m.Tenant)
	uintField(c, 3, &m.Role)
	uintField(c, 4, &m.Platform)
}

func (p *Project) wire(c *coder) {
	idField(c, 1, &p.ID)
	idField(c, 2, &p.Tenant)
	c.str(3, &p.Name)
}

func (k *APIKey) wire(c *coder) {
	idField(c, 1, &k.ID)
	c.digest(2, &k.Hash)
	idField(c, 3, &k.Tenant)
	idField(c, 4, &k.User)
	c.time(5, &k.Expires)
	c.time(6, &k.Revoked)
}

func (s *SKU) wire(c *coder) {
	idField(c, 1, &s.ID)
	c.str(2, &s.Name)
	uintField(c, 3, &s.Shape)
	c.str(4, &s.GPUClass)
	msgs(c, 5, &s.prices)
	c.time(6, &s.usedTo)
	uintField(c, 7, &s.Features)
}

func (p *Price) wire(c *coder) {
	idField(c, 1, &p.ID)
	idField(c, 2, &p.Tenant)
	stringField(c, 3, &p.Currency)
	intField(c, 4, &p.Micros)
	c.time(5, &p.Effective)
	c.time(6, &p.Recorded)
	uintField(c, 7, &p.late)
}

func (g *Grant) wire(c *coder) {
	idField(c, 1, &g.ID)
	idField(c, 2, &g.Tenant)
	uintField(c, 3, &g.Kind)
	uintField(c, 4, &g.Priority)
	c.time(5, &g.Granted)
	c.time(6, &g.Expires)
	intField(c, 7, &g.Amount)
	intField(c, 8, &g.Balance)
	uintField(c, 9, &g.holds)
	c.bool(10, &g.lapsed)
}

func (h *Host) wire(c *coder) {
	idField(c, 1, &h.ID)
	c.str(2, &h.Name)
	if !c.enc {
		h.Location = new(Location)
	}
	c.str(3, &h.Rack)
	c.str(4, &h.Leaf)
	c.str(5, &h.Spine)
	c.digest(6, &h.TokenID)
	c.str(7, &h.NATSKey)
	c.fixedBytes(8, h.SignKey[:])
	optional(c, 9, &h.Proposal)
	c.digest(11, &h.MapID)
	c.str(12, &h.GPUClass)
	c.bool(13, &h.Cordoned)
	c.bool(14, &h.Draining)
	c.time(15, &h.Silent)
	c.bool(16, &h.Faulted)
	c.uvar(17, &h.Generation)
	idField(c, 18, &h.Journal)
	c.uvar(19, &h.Acked)
	uints(c, 20, &h.slots)
	uints(c, 21, &h.vms)
	c.bool(22, &h.Removed)
	uintField(c, 23, &h.Features)
	c.time(24, &h.LostAt)
	ids(c, 25, &h.ended)
	c.sub(26, &h.away)
	c.time(27, &h.Accounts)
	c.bool(28, &h.Ahead)
	msgs(c, 29, &h.unknown)
	uintField(c, 30, &h.AheadEpoch)
}

func (s *Slot) wire(c *coder) {
	idField(c, 1, &s.ID)
	c.fixedBytes(2, s.seed[:])
	for i := range s.devices {
		c.fixed64(protowire.Number(3+i), &s.devices[i])
	}
	c.time(6, &s.Deadline)
	uintField(c, 7, &s.host)
	rowField(c, 8, &s.vm)
	uintField(c, 9, &s.Generation)
	uintField(c, 10, &s.Attempt)
	uintField(c, 11, &s.Index)
	uintField(c, 12, &s.State)
	uintField(c, 13, &s.NUMA)
	uintField(c, 14, &s.Policy)
	c.bool(15, &s.Condemned)
	c.bool(16, &s.Dirty)
	c.fixed64(17, &s.room)
	c.bool(18, &s.Real)
}

// rowField is a row's number, with none left out.
func rowField(c *coder, n protowire.Number, v *uint32) {
	x := *v + 1
	if !c.enc {
		x = 0
	}
	uintField(c, n, &x)
	*v = x - 1
}

func (a *Allocation) wire(c *coder) {
	idField(c, 1, &a.ID)
	idField(c, 2, &a.Project)
	idField(c, 3, &a.Tenant)
	c.str(4, &a.Name)
	c.str(5, &a.Image)
	c.digest(6, &a.ImageHash)
	c.digest(7, &a.UserData)
	idField(c, 8, &a.User)
	uintField(c, 9, &a.Shape)
	uintField(c, 10, &a.State)
	c.str(11, &a.Reason)
	c.time(12, &a.Created)
	c.time(13, &a.Expires)
	intField(c, 14, &a.LockedRate)
	intField(c, 15, &a.Hold)
	msgs(c, 16, &a.parts)
	uints(c, 17, &a.vms)
	uintField(c, 18, &a.tenant)
	uintField(c, 19, &a.sku)
	c.bool(20, &a.PrivateImage)
	uintField(c, 21, &a.Features)
}

func (p *holdPart) wire(c *coder) {
	rowField(c, 1, &p.grant)
	intField(c, 2, &p.amount)
}

func (v *VM) wire(c *coder) {
	idField(c, 1, &v.ID)
	c.time(2, &v.Placed)
	c.time(3, &v.Started)
	c.time(4, &v.BillStart)
	c.time(5, &v.BillEnd)
	c.time(6, &v.PostedTo)
	c.time(7, &v.Deadline)
	slots := v.slots[:v.n]
	uints(c, 8, &slots)
	if !c.enc {
		v.n = uint8(copy(v.slots[:], slots))
	}
	uintField(c, 9, &v.alloc)
	uintField(c, 10, &v.host)
	uintField(c, 11, &v.Boot)
	uintField(c, 12, &v.index)
	uintField(c, 13, &v.State)
	uintField(c, 14, &v.Power)
	c.bool(15, &v.Captured)
	c.bool(16, &v.Ready)
	c.bool(17, &v.Alive)
	c.str(18, &v.Address)
}
