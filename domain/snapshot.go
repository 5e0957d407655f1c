package domain

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// A snapshot is the world's own state in the wire format: everything that does
// not follow from something else, in an order that does not depend on history
// (rows by their numbers, maps by their keys). So equal worlds have equal bytes,
// and the SHA-256 of a snapshot is the state hash. Deleting snapshots costs
// start-up time only.

// snapshotSchema changes whenever the encoding of the world does: a snapshot of
// another schema is not read, the log is.
const snapshotSchema = "gpuaas-world-2"

// ErrSnapshotSchema is a snapshot that another build wrote.
var ErrSnapshotSchema = errors.New("snapshot of another schema")

// Encode is the world's state.
func (w *World) Encode() []byte {
	c := coder{enc: true, b: make([]byte, 0, 1<<20+128*w.slots.len()+400*w.allocations.len())}
	w.wire(&c)
	return c.b
}

// Hash is the state hash: equal for equal folds, on every machine and build.
func (w *World) Hash() Digest { return sha256.Sum256(w.Encode()) }

// DecodeWorld reads a snapshot.
func DecodeWorld(b []byte) (*World, error) {
	w := NewWorld()
	c := coder{b: b, keep: true}
	c.next()
	w.wire(&c)
	if err := c.finish(); err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	if err := w.rebuild(); err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	return w, nil
}

func (w *World) wire(c *coder) {
	schema := snapshotSchema
	c.str(1, &schema)
	if !c.enc && schema != snapshotSchema {
		c.err = fmt.Errorf("%w: %q", ErrSnapshotSchema, clip(schema, 64))
		c.num, c.b = 0, nil
		return
	}
	c.str(2, &w.Site)
	uintField(c, 3, &w.Epoch)
	c.uvar(4, &w.Term)
	uintField(c, 5, &w.LogicLevel)
	c.uvar(6, &w.Head.N)
	c.digest(7, &w.Head.Hash)
	c.time(8, &w.At)
	c.uvar(9, &w.Number)
	c.time(10, &w.priceChanged)
	wireTable(c, 11, &w.tenants)
	wireTable(c, 12, &w.members)
	wireTable(c, 13, &w.projects)
	wireTable(c, 14, &w.keys)
	wireTable(c, 15, &w.skus)
	wireTable(c, 16, &w.grants)
	wireTable(c, 17, &w.hosts)
	wireTable(c, 18, &w.slots)
	wireTable(c, 19, &w.allocations)
	wireTable(c, 20, &w.vms)
	w.wireMaps(c)
	w.wireIdempotency(c)
}

// rowCoder is one row of a table with its number.
type rowCoder[V any, P interface {
	*V
	message
}] struct {
	row uint32
	v   P
}

func (r *rowCoder[V, P]) wire(c *coder) {
	uintField(c, 1, &r.row)
	if !c.enc && c.num != 2 {
		return
	}
	c.sub(2, r.v)
}

// wireTable writes the free rows' list, then the rows.
func wireTable[K ~[16]byte, V any, P interface {
	*V
	message
	key() K
}](c *coder, n protowire.Number, t *table[K, V, P]) {
	head := tableHead{next: t.next, free: t.free}
	if c.enc {
		wireBody(c, n, &head)
		var zero K
		for i := uint32(0); i < t.next; i++ {
			if v := P(t.row(i)); v.key() != zero {
				wireBody(c, n, &rowCoder[V, P]{i, v})
			}
		}
		return
	}
	if !c.at(n, protowire.BytesType) {
		c.fail(fmt.Sprintf("want table %d", n))
		return
	}
	c.consumeSub(&head)
	if head.next > maxRepeated {
		c.fail("table too large")
		return
	}
	t.next, t.free = head.next, head.free
	size := 16
	for size*3 < int(head.next)*4 {
		size *= 2
	}
	t.ids = index{slots: make([]uint32, size)}
	for len(t.chunks)*tableChunk < int(t.next) {
		t.chunks = append(t.chunks, make([]V, tableChunk))
	}
	for c.at(n, protowire.BytesType) {
		b := c.consumeBytes()
		in := coder{b: b, keep: true}
		in.next()
		var row uint32
		uintField(&in, 1, &row)
		if in.err != nil || row >= t.next {
			c.fail("bad row")
			return
		}
		v := P(t.row(row))
		in.sub(2, v)
		if err := in.finish(); err != nil {
			c.err, c.num, c.b = fmt.Errorf("row %d of table %d: %w", row, n, err), 0, nil
			return
		}
		t.ids.add(idHash(v.key()), row, t.hashOf)
		c.next()
	}
}

type tableHead struct {
	next uint32
	free []uint32
}

func (h *tableHead) wire(c *coder) {
	uintField(c, 1, &h.next)
	uints(c, 2, &h.free)
}

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
	t.keys.wire(c, 16)
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
}

func (p *Price) wire(c *coder) {
	idField(c, 1, &p.ID)
	idField(c, 2, &p.Tenant)
	stringField(c, 3, &p.Currency)
	intField(c, 4, &p.Micros)
	c.time(5, &p.Effective)
	c.time(6, &p.Recorded)
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

// memberRow is one entry of the map of project members.
type memberRow struct {
	key  projectMember
	role ProjectRole
}

func (r *memberRow) wire(c *coder) {
	idField(c, 1, &r.key.Project)
	idField(c, 2, &r.key.User)
	uintField(c, 3, &r.role)
}

func (r *policyRow) wire(c *coder) {
	idField(c, 1, &r.Scope.Tenant)
	idField(c, 2, &r.Scope.Project)
	c.str(3, &r.Key)
	c.sub(4, &r.Value)
	c.uvar(5, &r.Event)
}

type accountRow struct {
	key    platformAccount
	amount Micros
}

func (r *accountRow) wire(c *coder) {
	uintField(c, 1, &r.key.Account.Kind)
	c.fixedBytes(2, r.key.Account.Ref[:])
	stringField(c, 3, &r.key.Currency)
	intField(c, 4, &r.amount)
}

func (t *timer) wire(c *coder) {
	c.time(1, &t.at)
	uintField(c, 2, &t.row)
	uintField(c, 3, &t.kind)
}

// wireMaps writes maps in the order of their keys.
func (w *World) wireMaps(c *coder) {
	var members []memberRow
	for k, r := range w.projectMembers {
		members = append(members, memberRow{k, r})
	}
	slices.SortFunc(members, func(a, b memberRow) int {
		return cmp.Or(bytes.Compare(a.key.Project[:], b.key.Project[:]), bytes.Compare(a.key.User[:], b.key.User[:]))
	})
	msgs(c, 21, &members)
	var policies []policyRow
	for _, r := range w.policies {
		policies = append(policies, *r)
	}
	slices.SortFunc(policies, func(a, b policyRow) int {
		return cmp.Or(bytes.Compare(a.Scope.Tenant[:], b.Scope.Tenant[:]), bytes.Compare(a.Scope.Project[:], b.Scope.Project[:]), cmp.Compare(a.Key, b.Key))
	})
	msgs(c, 22, &policies)
	var accounts []accountRow
	for k, n := range w.platform {
		accounts = append(accounts, accountRow{k, n})
	}
	slices.SortFunc(accounts, func(a, b accountRow) int {
		return cmp.Or(cmp.Compare(a.key.Account.Kind, b.key.Account.Kind), bytes.Compare(a.key.Account.Ref[:], b.key.Account.Ref[:]), cmp.Compare(a.key.Currency, b.key.Currency))
	})
	msgs(c, 23, &accounts)
	parked := slices.SortedFunc(maps.Keys(w.parked), func(a, b timer) int {
		if a.before(b) {
			return -1
		}
		return 1
	})
	msgs(c, 24, &parked)
	if c.enc {
		return
	}
	for _, r := range members {
		w.projectMembers[r.key] = r.role
	}
	for i := range policies {
		w.policies[policyAt{policies[i].Scope, policies[i].Key}] = &policies[i]
	}
	for _, r := range accounts {
		w.platform[r.key] = r.amount
	}
	for _, t := range parked {
		w.parked[t] = true
	}
}

func (m *commandMinute) wire(c *coder) {
	intField(c, 1, &m.minute)
	msgs(c, 2, &m.entries)
	if !c.enc {
		m.byID = make(map[CommandID]uint32, len(m.entries))
		for i := range m.entries {
			m.byID[m.entries[i].id] = uint32(i)
		}
	}
}

func (e *commandEntry) wire(c *coder) {
	idField(c, 1, &e.id)
	c.uvar(2, &e.pos.N)
	uintField(c, 3, &e.pos.Index)
}

func (w *World) wireIdempotency(c *coder) {
	w.platformKeys.wire(c, 25)
	if c.enc {
		for _, m := range w.commands.minutes {
			wireBody(c, 27, m)
		}
		return
	}
	for c.at(27, protowire.BytesType) {
		m := new(commandMinute)
		c.consumeSub(m)
		w.commands.minutes = append(w.commands.minutes, m)
	}
}

// rebuild makes everything that follows from the rows.
func (w *World) rebuild() (err error) {
	defer func() {
		if r := recover(); r != nil { // a row that names a row that is not there
			err = fmt.Errorf("inconsistent: %v", r)
		}
	}()
	for _, u := range w.members.rows() {
		if u.Role == TenantOwner {
			w.tenants.get(u.Tenant).Owners++
		}
		w.operators += uint32(u.Platform & RoleOperator)
	}
	for _, k := range w.keys.rows() {
		w.keyByHash[k.Hash] = k.ID
	}
	for _, s := range w.skus.rows() {
		w.skuNames[s.Name] = s.ID
	}
	for _, p := range w.projects.rows() {
		w.projectNames[projectName{p.Tenant, p.Name}] = p.ID
	}
	for row, t := range w.tenants.rows() {
		w.tenantNames[t.Name] = t.ID
		w.timers.add(t.AccrueAt, timerAccrue, row)
		w.timers.add(t.RunwayAt, timerRunway, row)
		w.timers.add(t.GraceUntil, timerGrace, row)
	}
	for row, g := range w.grants.rows() {
		w.timers.add(g.Expires, timerGrant, row)
	}
	w.rebuildFleet()
	w.rebuildAllocations()
	return nil
}

func (w *World) rebuildFleet() {
	for row, s := range w.slots.rows() {
		w.indexDevices(row)
		if s.State == SlotIsWiping {
			w.timers.add(s.Deadline, timerWipe, row)
		}
	}
	for row, h := range w.hosts.rows() {
		h.Rack, h.Leaf, h.Spine, h.GPUClass = w.word(h.Rack), w.word(h.Leaf), w.word(h.Spine), w.word(h.GPUClass)
		w.indexHost(row)
		w.fleet.addHost(w, row)
		w.fleet.refresh(w, row)
		for at, vi := range h.vms {
			w.vms.row(vi).hostAt = uint32(at)
		}
	}
}

func (w *World) rebuildAllocations() {
	for row, a := range w.allocations.rows() {
		t := w.tenants.row(a.tenant)
		t.Held += a.Hold
		w.timers.add(a.Expires, timerExpire, row)
		if a.State >= Releasing {
			continue
		}
		prj := w.projects.get(a.Project)
		gpus := uint32(len(a.vms)) * a.Shape
		t.GPUs += gpus
		t.Allocations++
		prj.GPUs += gpus
		prj.Allocations++
		a.Image = w.word(a.Image)
		w.allocNames.add(w.allocNameHash(row), row, w.allocNameHash)
		w.skus.row(a.sku).live++
	}
	for row, v := range w.vms.rows() {
		w.timers.add(v.Deadline, timerVM, row)
		if v.BillStart == 0 && v.Started != 0 {
			w.timers.add(v.Started.Add(billAnywayAfter), timerBill, row)
		}
		if v.BillStart == 0 || v.BillEnd != 0 {
			continue
		}
		t := w.tenants.row(w.allocations.row(v.alloc).tenant)
		v.lineAt = uint32(len(t.vms))
		t.vms = append(t.vms, row)
		if v.Captured {
			t.captured++
		} else {
			w.timers.add(v.BillStart.Add(firstHour), timerCapture, row)
		}
	}
}

// rows yields the table's rows in the order of their numbers.
func (t *table[K, V, P]) rows() func(yield func(uint32, *V) bool) {
	dead := make(map[uint32]bool, len(t.free))
	for _, i := range t.free {
		dead[i] = true
	}
	return func(yield func(uint32, *V) bool) {
		for i := uint32(0); i < t.next; i++ {
			if !dead[i] && !yield(i, t.row(i)) {
				return
			}
		}
	}
}
