package projections

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/gpuaas/gpuaas/domain"
)

// allocationRow is a row of allocations with its VMs. placed is only there in a
// row that is to be inserted.
type allocationRow struct {
	placed  *domain.AllocationPlaced
	number  uint64
	created domain.Time

	id       domain.AllocationID
	state    domain.AllocationState
	reason   string
	hold     domain.Micros
	released domain.Time
	changed  domain.Time

	vms  []*vmRow
	mark mark
}

var allocationMutable = []column[allocationRow]{
	text("state", func(r *allocationRow) string { return r.state.String() }),
	text("reason", func(r *allocationRow) string { return r.reason }),
	integer("hold_micros", func(r *allocationRow) domain.Micros { return r.hold }),
	instant("released_at", func(r *allocationRow) domain.Time { return r.released }),
	instant("changed_at", func(r *allocationRow) domain.Time { return r.changed }),
}

var (
	allocationID      = text("id", func(r *allocationRow) string { return r.id.String() })
	allocationInserts = inserts("allocations", append([]column[allocationRow]{
		allocationID,
		integer("number", func(r *allocationRow) uint64 { return r.number }),
		text("tenant_id", func(r *allocationRow) string { return r.placed.Tenant.String() }),
		text("project_id", func(r *allocationRow) string { return r.placed.Project.String() }),
		text("name", func(r *allocationRow) string { return r.placed.Name }),
		text("sku_id", func(r *allocationRow) string { return r.placed.SKU.String() }),
		integer("shape", func(r *allocationRow) uint32 { return r.placed.Shape }),
		integer("count", func(r *allocationRow) int { return len(r.placed.VMs) }),
		text("image", func(r *allocationRow) string { return r.placed.Image }),
		text("image_digest", func(r *allocationRow) string { return r.placed.ImageHash.String() }),
		text("user_data_digest", func(r *allocationRow) string { return r.placed.UserData.String() }),
		text("requested_by_user_id", func(r *allocationRow) string { return r.placed.User.String() }),
		integer("locked_micros", func(r *allocationRow) domain.Micros { return r.placed.LockedRate }),
		instant("created_at", func(r *allocationRow) domain.Time { return r.created }),
		instant("expires_at", func(r *allocationRow) domain.Time { return r.placed.Expires }),
	}, allocationMutable...)...)
	allocationUpdates = updates("allocations", 1, append([]column[allocationRow]{allocationID}, allocationMutable...)...)
)

func (c *cache) loadAllocations(ctx context.Context, conn *pgx.Conn, need *needs) error {
	ids := missing(need.allocations, need.placed, c.allocations)
	if len(ids) == 0 {
		return nil
	}
	rows, err := conn.Query(ctx, `SELECT id, state, reason, hold_micros, released_at FROM allocations WHERE id = ANY($1)`, ids)
	if err != nil {
		return err
	}
	var r allocationRow
	var id, state string
	_, err = pgx.ForEachRow(rows, []any{&id, &state, &r.reason, &r.hold, &r.released}, func() error {
		row := r
		err := parse(id, &row.id, state, &row.state)
		c.allocations[row.id] = &row
		return err
	})
	if err != nil {
		return err
	}
	return c.loadVMs(ctx, conn, ids)
}

// changeAllocation applies f to the allocation's row.
func (b *batch) changeAllocation(x *at, id domain.AllocationID, f func(*allocationRow)) {
	a := b.rows.allocations[id]
	if a == nil {
		b.fail("event %d: no row for allocation %s", x.Number, id)
		return
	}
	f(a)
	a.changed = x.At
	if a.mark == clean {
		a.mark = dirty
		b.allocations = append(b.allocations, a)
	}
}

// derive sets the allocation's state: that of its least advanced VM.
func (a *allocationRow) derive() {
	if a.state >= domain.Releasing {
		return
	}
	s := domain.Failed
	for _, v := range a.vms {
		s = min(s, v.state)
	}
	a.state = s
}

func (a *allocationRow) vm(id domain.VMID) *vmRow {
	for _, v := range a.vms {
		if v.id == id {
			return v
		}
	}
	return nil
}

// allocationPlaced makes the allocation, its VMs and their leases, and takes the
// slots.
func (b *batch) allocationPlaced(x *at, e *domain.AllocationPlaced) {
	a := &allocationRow{placed: e, number: x.Number, created: x.At, id: e.ID, state: domain.Provisioning, changed: x.At, mark: fresh}
	b.rows.allocations[e.ID] = a
	b.newAllocations = append(b.newAllocations, a)
	tenant := e.Tenant.String()
	for i := range e.VMs {
		pv := &e.VMs[i]
		v := &vmRow{
			placed: e, host: pv.Host, allocation: e.ID, position: uint32(i), id: pv.VM, slots: pv.Slots,
			state: domain.Provisioning, power: domain.PowerOn, boot: 1, changed: x.At, mark: fresh,
		}
		a.vms = append(a.vms, v)
		b.newVMs = append(b.newVMs, v)
		for _, id := range pv.Slots {
			b.changeSlot(x, id, func(r *slotRow) {
				r.state, r.attempt, r.tenant, r.allocation, r.vm = domain.SlotIsReserved, 0, tenant, e.ID, pv.VM
				r.generation++
				b.newLeases = append(b.newLeases, &leaseRow{
					key: leaseKey{id, r.generation}, host: pv.Host, tenant: tenant, allocation: e.ID, vm: pv.VM, started: x.At,
				})
			})
		}
	}
}

func (b *batch) stopRequested(x *at, e *domain.AllocationStopRequested) {
	b.eachVM(x, e.ID, func(v *vmRow) {
		v.power = domain.PowerOff
		if v.state == domain.Running || v.state == domain.Starting {
			v.state = domain.Stopping
		}
	})
}

func (b *batch) startRequested(x *at, e *domain.AllocationStartRequested) {
	b.eachVM(x, e.ID, func(v *vmRow) {
		v.power = domain.PowerOn
		if v.state == domain.Stopped {
			v.state = domain.Starting
			v.boot++
		}
	})
}

func (b *batch) rebootRequested(x *at, e *domain.AllocationRebootRequested) {
	b.eachVM(x, e.ID, func(v *vmRow) {
		if v.state == domain.Running {
			v.state = domain.Starting
			v.boot++
		}
	})
}

// allocationReleasing closes the lines; failed keeps its reason to the end.
func (b *batch) allocationReleasing(x *at, e *domain.AllocationReleasing) {
	b.eachVM(x, e.ID, func(v *vmRow) {
		v.state, v.overdue = domain.Releasing, false
		if v.billStart != 0 && v.billEnd == 0 {
			v.billEnd, v.free = max(e.BilledTo, v.billStart), e.Free
		}
	})
	b.changeAllocation(x, e.ID, func(a *allocationRow) {
		a.state, a.reason = domain.Releasing, e.Reason
		if e.Failed {
			a.state = domain.Failed
		}
	})
}

func (b *batch) allocationReleased(x *at, e *domain.AllocationReleased) {
	b.eachVM(x, e.ID, func(v *vmRow) { v.state = domain.Released })
	b.changeAllocation(x, e.ID, func(a *allocationRow) {
		a.released = x.At
		if a.state != domain.Failed {
			a.state = domain.Released
		}
	})
}

// eachVM changes all VMs of an allocation, and then what follows from them.
func (b *batch) eachVM(x *at, id domain.AllocationID, f func(*vmRow)) {
	b.changeAllocation(x, id, func(a *allocationRow) {
		for _, v := range a.vms {
			b.changeVM(x, v, f)
		}
		a.derive()
	})
}
