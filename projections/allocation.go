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
	bigint("hold_micros", func(r *allocationRow) domain.Micros { return r.hold }),
	instant("released_at", func(r *allocationRow) domain.Time { return r.released }),
	instant("changed_at", func(r *allocationRow) domain.Time { return r.changed }),
}

var (
	allocationID      = ident("id", func(r *allocationRow) domain.AllocationID { return r.id })
	allocationInserts = inserts("allocations", append([]column[allocationRow]{
		allocationID,
		bigint("number", func(r *allocationRow) uint64 { return r.number }),
		ident("tenant_id", func(r *allocationRow) domain.TenantID { return r.placed.Tenant }),
		ident("project_id", func(r *allocationRow) domain.ProjectID { return r.placed.Project }),
		text("name", func(r *allocationRow) string { return r.placed.Name }),
		ident("sku_id", func(r *allocationRow) domain.SKUID { return r.placed.SKU }),
		integer("shape", func(r *allocationRow) uint32 { return r.placed.Shape }),
		integer("count", func(r *allocationRow) int { return len(r.placed.VMs) }),
		text("image", func(r *allocationRow) string { return r.placed.Image }),
		text("image_digest", func(r *allocationRow) string { return r.placed.ImageHash.String() }),
		text("user_data_digest", func(r *allocationRow) string { return r.placed.UserData.String() }),
		ident("requested_by_user_id", func(r *allocationRow) domain.UserID { return r.placed.User }),
		integer("features", func(r *allocationRow) domain.Features { return r.placed.Features }),
		bigint("locked_micros", func(r *allocationRow) domain.Micros { return r.placed.LockedRate }),
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

// Allocation is an allocation as its tenant sees it.
type Allocation struct {
	Number       int64           `json:"-" db:"number"`
	ID           string          `json:"id" db:"id"`
	CRN          string          `json:"crn" db:"-"`
	TenantID     string          `json:"tenant_id" db:"tenant_id"`
	ProjectID    string          `json:"project_id" db:"project_id"`
	Name         string          `json:"name" db:"name"`
	State        string          `json:"state" db:"state"` // "unreachable" while a host of it is silent
	Reason       string          `json:"reason,omitempty" db:"reason"`
	SKU          string          `json:"sku" db:"sku"`
	SKUID        string          `json:"sku_id" db:"sku_id"`
	Shape        uint32          `json:"shape" db:"shape"`
	Count        uint32          `json:"count" db:"count"`
	Image        string          `json:"image" db:"image"`
	ImageDigest  string          `json:"image_digest,omitempty" db:"image_digest"`
	UserData     string          `json:"-" db:"user_data_digest"` // names the vault document with tags, keys and user data
	RequestedBy  string          `json:"requested_by_user_id" db:"requested_by_user_id"`
	Features     domain.Features `json:"features" db:"features"`
	LockedMicros *int64          `json:"locked_micros_per_unit_hour,omitempty" db:"locked_micros"`
	HoldMicros   int64           `json:"hold_micros" db:"hold_micros"`
	CreatedAt    domain.Time     `json:"created_at" db:"created_at"`
	ExpiresAt    domain.Time     `json:"expires_at,omitzero" db:"expires_at"`
	ReleasedAt   domain.Time     `json:"released_at,omitzero" db:"released_at"`
	VMs          []VM            `json:"vms" db:"vms"`
}

func (a Allocation) place() cursor { return cursor{a: a.Number} }

// VM is one machine of an allocation.
type VM struct {
	ID      string   `json:"vm_id"`
	HostID  string   `json:"host_id"`
	SlotIDs []string `json:"slot_ids"`
	State   string   `json:"state"`
	Address string   `json:"address"`
	Boot    uint32   `json:"boot"`
	Overdue bool     `json:"overdue"` // it did not do in time what it should
	Reason  string   `json:"reason"`  // why it is off; "" while it is not
	// BilledSince is when its usage began, until it ends; 0: it is not billed.
	BilledSince domain.Time `json:"billed_since"`
}

// live are the states in which a silent host makes a VM unreachable.
const live = `('pending', 'provisioning', 'starting', 'running', 'stopping', 'stopped')`

const selectAllocations = `SELECT a.number, a.id, a.tenant_id, a.project_id, a.name, a.reason, k.name AS sku, a.sku_id, a.shape, a.count, a.image, a.image_digest,
	a.user_data_digest, a.requested_by_user_id, a.features, nullif(a.locked_micros, -1) AS locked_micros, a.hold_micros, a.created_at, a.expires_at, a.released_at,
	CASE WHEN u.silent AND a.state IN ` + live + ` THEN 'unreachable' ELSE a.state END AS state, u.vms
	FROM allocations a JOIN skus k ON k.id = a.sku_id
	CROSS JOIN LATERAL (SELECT bool_or(h.id IS NOT NULL) AS silent, jsonb_agg(jsonb_build_object('vm_id', v.id, 'host_id', v.host_id, 'slot_ids', v.slot_ids,
		'state', CASE WHEN h.id IS NOT NULL AND v.state IN ` + live + ` THEN 'unreachable' ELSE v.state END,
		'address', v.address, 'boot', v.boot, 'overdue', v.overdue, 'billed_since', CASE WHEN v.bill_end IS NULL THEN v.bill_start END,
		'reason', CASE WHEN v.state = 'stopped' THEN v.reason ELSE '' END) ORDER BY v.position) AS vms
		FROM vms v LEFT JOIN silent_hosts h ON h.id = v.host_id WHERE v.allocation_id = a.id) u`

// AllocationFilter narrows a list of allocations; zero values do not.
type AllocationFilter struct {
	States []string // as shown: any of them
	Live   bool     // not released yet
}

func (by *AllocationFilter) add(f *filter) {
	var conds []string
	var args []any
	for _, state := range by.States {
		if state == "unreachable" {
			conds = append(conds, "u.silent AND a.state IN "+live)
			continue
		}
		conds, args = append(conds, "a.state = ? AND NOT (u.silent AND a.state IN "+live+")"), append(args, state)
	}
	f.any(conds, args...)
	if by.Live {
		f.add("a.released_at IS NULL")
	}
}

// Allocations lists a project's allocations.
func (r *Reader) Allocations(ctx context.Context, scope Scope, project domain.ProjectID, by AllocationFilter, o ListOptions) (page Page[Allocation], err error) {
	page.N, err = r.view(ctx, scope, func(ctx context.Context, v *view) error {
		if err := v.requireProject(ctx, project); err != nil {
			return err
		}
		var f filter
		f.add("a.project_id = ?", project.String())
		f.own(v, "a.tenant_id")
		f.named(o, "a.name")
		by.add(&f)
		page, err = list[Allocation](ctx, v, listAllocations, selectAllocations, f, []string{"a.number"}, o)
		for i := range page.Items {
			r.nameAllocation(&page.Items[i])
		}
		return err
	})
	return page, err
}

// Allocation reads one allocation.
func (r *Reader) Allocation(ctx context.Context, scope Scope, id domain.AllocationID) (a Allocation, n uint64, err error) {
	n, err = r.view(ctx, scope, func(ctx context.Context, v *view) error {
		a, err = v.allocation(ctx, id)
		return err
	})
	return a, n, err
}

func (v *view) allocation(ctx context.Context, id domain.AllocationID) (Allocation, error) {
	a, err := get[Allocation](ctx, v, "allocation", selectAllocations+` WHERE a.id = $1 AND ($2 OR a.tenant_id = $3)`, id.String(), v.platform, v.tenant)
	v.r.nameAllocation(&a)
	return a, err
}

func (r *Reader) nameAllocation(a *Allocation) {
	a.CRN = r.crn(a.TenantID, a.ProjectID, "allocation", a.ID)
}
