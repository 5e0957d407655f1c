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
const snapshotSchema = "gpuaas-world-11"

// ErrSnapshotSchema is a snapshot that another build wrote.
var ErrSnapshotSchema = errors.New("snapshot of another schema")

// Encode is the world's state.
func (w *World) Encode() []byte {
	return w.AppendTo(make([]byte, 0, 1<<14+128*w.slots.len()+400*w.allocations.len()))
}

// AppendTo appends to b what Encode returns.
func (w *World) AppendTo(b []byte) []byte {
	c := coder{enc: true, b: b}
	w.wire(&c)
	return c.b
}

// Hash is the state hash: equal for equal folds, on every machine and build.
func (w *World) Hash() Digest { return sha256.Sum256(w.Encode()) }

// DecodeWorld reads a snapshot.
func DecodeWorld(b []byte) (*World, error) {
	w := NewWorld()
	c := reading(b, true)
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
		c.failWith(fmt.Errorf("%w: %q", ErrSnapshotSchema, clip(schema, 64)))
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
	w.wireBilling(c)
	wireTable(c, 30, &w.duties)
	wireTable(c, 31, &w.images)
	msgs(c, 32, &w.outages)
	wireTable(c, 33, &w.corrections)
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
	if !c.enc && c.number() != 2 {
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
	t.ids.resize(size, nil)
	for len(t.chunks)*tableChunk < int(t.next) {
		t.chunks = append(t.chunks, make([]V, tableChunk))
	}
	for c.at(n, protowire.BytesType) {
		in := reading(c.consumeBytes(), true)
		var row uint32
		uintField(&in, 1, &row)
		if in.err != nil || row >= t.next {
			c.fail("bad row")
			return
		}
		v := P(t.row(row))
		in.sub(2, v)
		if err := in.finish(); err != nil {
			c.failWith(fmt.Errorf("row %d of table %d: %w", row, n, err))
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
		for i := range m.entries {
			m.ids.add(commandHash(m.entries[i].id), uint32(i), m.hashOf)
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

func (w *World) wireBilling(c *coder) {
	msgs(c, 28, &w.late)
	var calendars []calendar
	for _, zone := range slices.Sorted(maps.Keys(w.calendars)) {
		calendars = append(calendars, *w.calendars[zone])
	}
	msgs(c, 29, &calendars)
	if c.enc {
		return
	}
	for i := range calendars {
		w.calendars[calendars[i].zone] = &calendars[i]
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
