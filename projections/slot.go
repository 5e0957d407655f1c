package projections

import (
	"context"

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
	integer("generation", func(r *slotRow) uint32 { return r.generation }),
	integer("attempt", func(r *slotRow) uint32 { return r.attempt }),
	instant("wipe_deadline", func(r *slotRow) domain.Time { return r.deadline }),
	text("tenant_id", func(r *slotRow) string { return r.tenant }),
	text("allocation_id", func(r *slotRow) string { return r.allocation.String() }),
	text("vm_id", func(r *slotRow) string { return r.vm.String() }),
	flag("condemned", func(r *slotRow) bool { return r.condemned }),
	text("component", func(r *slotRow) string { return r.component }),
	text("scope", func(r *slotRow) string { return r.scope }),
	text("reason", func(r *slotRow) string { return r.reason }),
	instant("changed_at", func(r *slotRow) domain.Time { return r.changed }),
}

var (
	slotID      = text("id", func(r *slotRow) string { return r.id.String() })
	slotInserts = inserts("slots", append([]column[slotRow]{
		slotID,
		integer("ordinal", func(r *slotRow) uint64 { return r.ordinal }),
		text("host_id", func(r *slotRow) string { return r.host.String() }),
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
	b.changeSlot(x, e.Slot, func(r *slotRow) {
		r.state, r.deadline, r.attempt = domain.SlotIsAvailable, 0, 0
	})
	b.prove(x, leaseKey{e.Slot, e.Generation}, &wipeEvidence{
		Result: "verified", StartedAt: e.StartedAt, EndedAt: e.EndedAt, Nonce: e.Nonce, Devices: e.Devices,
	})
}

func (b *batch) slotQuarantined(x *at, e *domain.SlotQuarantined) {
	b.changeSlot(x, e.Slot, func(r *slotRow) {
		if r.state == domain.SlotIsWiping {
			b.prove(x, leaseKey{e.Slot, r.generation}, &wipeEvidence{
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
