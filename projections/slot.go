package projections

import (
	"context"
	"encoding/json"

	"github.com/jackc/pgx/v5"

	"github.com/gpuaas/gpuaas/domain"
)

// slotRow is a row of slots. The first group never changes, and is only filled in
// a row that is to be inserted.
type slotRow struct {
	ordinal  uint64
	position uint32
	class    string
	numa     uint8
	policy   domain.WipePolicy
	spec     string

	id         domain.SlotID
	host       domain.HostID
	state      domain.SlotState
	generation uint32
	attempt    uint32
	deadline   domain.Time
	tenant     string
	allocation domain.AllocationID
	vm         domain.VMID
	condemned  bool
	component  string
	scope      string
	reason     string
	changed    domain.Time

	mark mark
}

var slotMutable = []column[slotRow]{
	text("state", func(r *slotRow) string { return r.state.String() }),
	bigint("generation", func(r *slotRow) uint32 { return r.generation }),
	bigint("attempt", func(r *slotRow) uint32 { return r.attempt }),
	instant("wipe_deadline", func(r *slotRow) domain.Time { return r.deadline }),
	text("tenant_id", func(r *slotRow) string { return r.tenant }),
	ident("allocation_id", func(r *slotRow) domain.AllocationID { return r.allocation }),
	ident("vm_id", func(r *slotRow) domain.VMID { return r.vm }),
	flag("condemned", func(r *slotRow) bool { return r.condemned }),
	text("component", func(r *slotRow) string { return r.component }),
	text("scope", func(r *slotRow) string { return r.scope }),
	text("reason", func(r *slotRow) string { return r.reason }),
	instant("changed_at", func(r *slotRow) domain.Time { return r.changed }),
}

var (
	slotID      = ident("id", func(r *slotRow) domain.SlotID { return r.id })
	slotInserts = inserts("slots", append([]column[slotRow]{
		slotID,
		bigint("ordinal", func(r *slotRow) uint64 { return r.ordinal }),
		ident("host_id", func(r *slotRow) domain.HostID { return r.host }),
		integer("position", func(r *slotRow) uint32 { return r.position }),
		text("gpu_class", func(r *slotRow) string { return r.class }),
		integer("numa_node", func(r *slotRow) uint8 { return r.numa }),
		text("wipe_policy", func(r *slotRow) string { return r.policy.String() }),
		document("spec", func(r *slotRow) string { return r.spec }),
	}, slotMutable...)...)
	slotUpdates = updates("slots", 1, append([]column[slotRow]{slotID}, slotMutable...)...)
)

// changeSlot applies f to the slot's row.
func (b *batch) changeSlot(x *at, id domain.SlotID, f func(*slotRow)) {
	r := b.rows.slots[id]
	if r == nil {
		b.fail("event %d: no row for slot %s", x.Number, id)
		return
	}
	f(r)
	r.changed = x.At
	if r.mark == clean {
		r.mark = dirty
		b.slots = append(b.slots, r)
	}
}

func (c *cache) loadSlots(ctx context.Context, conn *pgx.Conn, need *needs) error {
	ids := missing(need.slots, need.approved, c.slots)
	if len(ids) == 0 {
		return nil
	}
	rows, err := conn.Query(ctx, `SELECT id, host_id, state, generation, attempt, wipe_deadline, tenant_id, allocation_id, vm_id, condemned, component, scope, reason
		FROM slots WHERE id = ANY($1)`, ids)
	if err != nil {
		return err
	}
	var r slotRow
	var id, host, state, allocation, vm string
	_, err = pgx.ForEachRow(rows, []any{
		&id, &host, &state, &r.generation, &r.attempt, &r.deadline, &r.tenant, &allocation, &vm, &r.condemned, &r.component, &r.scope, &r.reason,
	}, func() error {
		row := r
		c.slots[row.id] = &row
		err := parse(id, &row.id, host, &row.host, state, &row.state, allocation, &row.allocation, vm, &row.vm)
		c.slots[row.id] = &row
		return err
	})
	return err
}

// slotWipeStarted: the lease, if one was held, is over.
func (b *batch) slotWipeStarted(x *at, e *domain.SlotWipeStarted) {
	for i := range e.Slots {
		ws := &e.Slots[i]
		b.changeSlot(x, ws.Slot, func(r *slotRow) {
			r.state, r.attempt, r.deadline = domain.SlotIsWiping, ws.Attempt, ws.Deadline
			if !r.condemned {
				r.component, r.scope, r.reason = "", "", ""
			}
			r.free()
		})
		if e.Cause == "released" {
			b.leaseEnds = append(b.leaseEnds, &leaseRow{key: leaseKey{ws.Slot, ws.Generation}, ended: x.At})
		}
	}
}

func (r *slotRow) free() {
	r.tenant, r.allocation, r.vm = "", domain.AllocationID{}, domain.VMID{}
}

func (b *batch) slotWiped(x *at, e *domain.SlotWiped) {
	again := false
	b.changeSlot(x, e.Slot, func(r *slotRow) {
		again = r.attempt > 0
		r.state, r.deadline, r.attempt = domain.SlotIsAvailable, 0, 0
	})
	b.prove(x, leaseKey{e.Slot, e.Generation}, again, &wipeEvidence{
		Result: "verified", StartedAt: e.StartedAt, EndedAt: e.EndedAt, Nonce: e.Nonce, Devices: e.Devices,
	})
}

func (b *batch) slotQuarantined(x *at, e *domain.SlotQuarantined) {
	b.changeSlot(x, e.Slot, func(r *slotRow) {
		if r.state == domain.SlotIsWiping {
			b.prove(x, leaseKey{e.Slot, r.generation}, r.attempt > 0, &wipeEvidence{
				Result: "quarantined", Component: e.Component, Reason: e.Reason, Devices: e.Devices,
			})
		}
		r.state, r.deadline, r.condemned = domain.SlotIsQuarantined, 0, false
		r.component, r.scope, r.reason = e.Component, e.Scope, e.Reason
		r.free()
	})
}

func (b *batch) slotCondemned(x *at, e *domain.SlotCondemned) {
	b.changeSlot(x, e.Slot, func(r *slotRow) {
		r.condemned, r.component, r.scope, r.reason = true, e.Component, e.Scope, e.Reason
	})
}

func (b *batch) slotRetired(x *at, e *domain.SlotRetired) {
	b.changeSlot(x, e.Slot, func(r *slotRow) {
		r.state, r.deadline, r.condemned, r.reason = domain.SlotIsRetired, 0, false, e.Reason
		b.emptySlot(x, e.Slot, r.generation)
	})
}

// Slot is a slot as operators see it.
type Slot struct {
	Ordinal      int64           `json:"-" db:"ordinal"`
	ID           string          `json:"id" db:"id"`
	HostID       string          `json:"host_id" db:"host_id"`
	Host         string          `json:"host" db:"host"`
	Index        uint32          `json:"index" db:"position"`
	GPUClass     string          `json:"gpu_class" db:"gpu_class"`
	NUMANode     uint32          `json:"numa_node" db:"numa_node"`
	WipePolicy   string          `json:"wipe_policy" db:"wipe_policy"`
	State        string          `json:"state" db:"state"` // "cordoned": available, but its host takes nothing new
	Generation   uint32          `json:"generation" db:"generation"`
	Attempt      uint32          `json:"wipe_attempt" db:"attempt"`
	WipeDeadline domain.Time     `json:"wipe_deadline,omitzero" db:"wipe_deadline"`
	TenantID     string          `json:"tenant_id,omitempty" db:"tenant_id"`
	AllocationID string          `json:"allocation_id,omitempty" db:"allocation_id"`
	VMID         string          `json:"vm_id,omitempty" db:"vm_id"`
	Condemned    bool            `json:"condemned" db:"condemned"` // goes to quarantine when its lease ends
	Component    string          `json:"component,omitempty" db:"component"`
	Scope        string          `json:"repair_scope,omitempty" db:"scope"`
	Reason       string          `json:"reason,omitempty" db:"reason"`
	ChangedAt    domain.Time     `json:"changed_at" db:"changed_at"`
	Spec         json.RawMessage `json:"spec" db:"spec"`
}

func (s Slot) place() cursor { return cursor{a: s.Ordinal} }

const selectSlots = `SELECT s.ordinal, s.id, s.host_id, h.name AS host, s.position, s.gpu_class, s.numa_node, s.wipe_policy,
	CASE WHEN s.state = 'available' AND (h.cordoned OR h.draining) THEN 'cordoned' ELSE s.state END AS state,
	s.generation, s.attempt, s.wipe_deadline, s.tenant_id, s.allocation_id, s.vm_id, s.condemned, s.component, s.scope, s.reason, s.changed_at, s.spec
	FROM slots s JOIN hosts h ON h.id = s.host_id`

// SlotFilter narrows a list of slots; zero values do not.
type SlotFilter struct {
	Host   domain.HostID
	States []string // as shown: any of them
}

// Slots lists slots, in the order of their approval.
func (r *Reader) Slots(ctx context.Context, scope Scope, by SlotFilter, o ListOptions) (page Page[Slot], err error) {
	page.N, err = r.view(ctx, scope, func(ctx context.Context, v *view) error {
		if err := v.requirePlatform(); err != nil {
			return err
		}
		var f filter
		if !by.Host.IsZero() {
			f.add("s.host_id = ?", by.Host.String())
		}
		var conds []string
		var args []any
		for _, state := range by.States {
			switch state {
			case "cordoned":
				conds = append(conds, "s.state = 'available' AND (h.cordoned OR h.draining)")
			case "available":
				conds = append(conds, "s.state = 'available' AND NOT (h.cordoned OR h.draining)")
			case "reserved", "active":
				conds, args = append(conds, "s.state = ?"), append(args, state)
			default: // by the index of those that nobody can rent
				conds, args = append(conds, "NOT s.in_service AND s.state = ?"), append(args, state)
			}
		}
		f.any(conds, args...)
		page, err = list[Slot](ctx, v, listSlots, selectSlots, f, []string{"s.ordinal"}, o)
		return err
	})
	return page, err
}

// Slot reads one slot.
func (r *Reader) Slot(ctx context.Context, scope Scope, id domain.SlotID) (s Slot, n uint64, err error) {
	n, err = r.view(ctx, scope, func(ctx context.Context, v *view) error {
		if !v.platform {
			return notFound("slot")
		}
		s, err = get[Slot](ctx, v, "slot", selectSlots+` WHERE s.id = $1`, id.String())
		return err
	})
	return s, n, err
}
