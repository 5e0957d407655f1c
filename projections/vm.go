package projections

import (
	"context"
	"encoding"
	"encoding/json"

	"github.com/jackc/pgx/v5"

	"github.com/gpuaas/gpuaas/domain"
)

// vmRow is a row of vms. placed and host are only there in a row that is to be
// inserted.
type vmRow struct {
	placed *domain.AllocationPlaced
	host   domain.HostID

	allocation domain.AllocationID
	position   uint32
	id         domain.VMID
	slots      []domain.SlotID
	state      domain.AllocationState
	power      domain.Power
	boot       uint32
	address    string
	overdue    bool
	reason     string // of its last stop
	started    domain.Time
	usage      uint64
	billStart  domain.Time
	billEnd    domain.Time
	free       bool
	changed    domain.Time

	mark mark
}

var vmMutable = []column[vmRow]{
	text("state", func(r *vmRow) string { return r.state.String() }),
	text("power", func(r *vmRow) string { return r.power.String() }),
	bigint("boot", func(r *vmRow) uint32 { return r.boot }),
	text("address", func(r *vmRow) string { return r.address }),
	flag("overdue", func(r *vmRow) bool { return r.overdue }),
	text("reason", func(r *vmRow) string { return r.reason }),
	instant("started_at", func(r *vmRow) domain.Time { return r.started }),
	bigint("usage_number", func(r *vmRow) uint64 { return r.usage }),
	instant("bill_start", func(r *vmRow) domain.Time { return r.billStart }),
	instant("bill_end", func(r *vmRow) domain.Time { return r.billEnd }),
	flag("free", func(r *vmRow) bool { return r.free }),
	instant("changed_at", func(r *vmRow) domain.Time { return r.changed }),
}

var (
	vmKey = []column[vmRow]{
		ident("allocation_id", func(r *vmRow) domain.AllocationID { return r.allocation }),
		integer("position", func(r *vmRow) uint32 { return r.position }),
	}
	vmInserts = inserts("vms", append(append(vmKey[:2:2],
		ident("id", func(r *vmRow) domain.VMID { return r.id }),
		ident("tenant_id", func(r *vmRow) domain.TenantID { return r.placed.Tenant }),
		ident("project_id", func(r *vmRow) domain.ProjectID { return r.placed.Project }),
		ident("sku_id", func(r *vmRow) domain.SKUID { return r.placed.SKU }),
		ident("host_id", func(r *vmRow) domain.HostID { return r.host }),
		document("slot_ids", func(r *vmRow) string { return encode(r.slots) }),
		integer("gpus", func(r *vmRow) uint32 { return r.placed.Shape }),
	), vmMutable...)...)
	vmUpdates = updates("vms", 2, append(vmKey[:2:2], vmMutable...)...)
)

func (c *cache) loadVMs(ctx context.Context, conn *pgx.Conn, allocations []string) error {
	rows, err := conn.Query(ctx, `SELECT allocation_id, position, id, slot_ids::text, state, power, boot, address, overdue, reason, started_at, usage_number, bill_start, bill_end, free
		FROM vms WHERE allocation_id = ANY($1) ORDER BY allocation_id, position`, allocations)
	if err != nil {
		return err
	}
	var r vmRow
	var allocation, id, slots, state, power string
	_, err = pgx.ForEachRow(rows, []any{
		&allocation, &r.position, &id, &slots, &state, &power, &r.boot, &r.address, &r.overdue, &r.reason, &r.started, &r.usage, &r.billStart, &r.billEnd, &r.free,
	}, func() error {
		row := r
		row.slots = nil
		if err := json.Unmarshal([]byte(slots), &row.slots); err != nil {
			return err
		}
		if err := parse(allocation, &row.allocation, id, &row.id, state, &row.state, power, &row.power); err != nil {
			return err
		}
		if a := c.allocations[row.allocation]; a != nil {
			a.vms = append(a.vms, &row)
		}
		return nil
	})
	return err
}

// parse reads pairs of text and where it goes.
func parse(pairs ...any) error {
	for i := 0; i < len(pairs); i += 2 {
		if err := pairs[i+1].(encoding.TextUnmarshaler).UnmarshalText([]byte(pairs[i].(string))); err != nil {
			return err
		}
	}
	return nil
}

func (b *batch) changeVM(x *at, v *vmRow, f func(*vmRow)) {
	f(v)
	v.changed = x.At
	if v.mark == clean {
		v.mark = dirty
		b.vms = append(b.vms, v)
	}
}

// onVM changes one VM, and then its allocation's state.
func (b *batch) onVM(x *at, c *domain.VMChange, f func(*vmRow)) {
	b.changeAllocation(x, c.Allocation, func(a *allocationRow) {
		v := a.vm(c.VM)
		if v == nil {
			b.fail("event %d: no row for VM %s", x.Number, c.VM)
			return
		}
		b.changeVM(x, v, f)
		a.derive()
	})
}

func (b *batch) vmStarted(x *at, e *domain.VMStarted) {
	b.onVM(x, &e.VMChange, func(v *vmRow) {
		v.started = e.At
		for _, s := range v.slots {
			b.changeSlot(x, s, func(r *slotRow) { r.state = domain.SlotIsActive })
		}
	})
}

func (b *batch) vmBillable(x *at, e *domain.VMBillable) {
	b.onVM(x, &e.VMChange, func(v *vmRow) { v.billStart, v.usage = e.At, x.Number })
}

func (b *batch) vmAlive(x *at, e *domain.VMAlive) {
	b.onVM(x, &e.VMChange, func(v *vmRow) { v.address = e.Address })
}

func (b *batch) vmRunning(x *at, e *domain.VMRunning) {
	b.onVM(x, &e.VMChange, func(v *vmRow) {
		v.state, v.overdue = domain.Running, false
		if e.Address != "" {
			v.address = e.Address
		}
	})
}

func (b *batch) vmStopped(x *at, e *domain.VMStopped) {
	b.onVM(x, &e.VMChange, func(v *vmRow) {
		v.state, v.power, v.overdue, v.reason = domain.Stopped, domain.PowerOff, false, e.Reason
	})
}

func (b *batch) vmLost(x *at, e *domain.VMLost) {
	b.onVM(x, &e.VMChange, func(v *vmRow) {
		if v.state == domain.Running {
			v.state = domain.Starting
		}
	})
}

func (b *batch) vmRemoved(x *at, e *domain.VMRemoved) {
	b.onVM(x, &e.VMChange, func(v *vmRow) { v.state, v.overdue = domain.Released, false })
}

func (b *batch) vmOverdue(x *at, e *domain.VMOverdue) {
	b.onVM(x, &e.VMChange, func(v *vmRow) { v.overdue = true })
}

// UsageLine is one VM's billable time.
type UsageLine struct {
	Number       int64       `json:"-" db:"usage_number"`
	VMID         string      `json:"vm_id" db:"id"`
	AllocationID string      `json:"allocation_id" db:"allocation_id"`
	Allocation   string      `json:"allocation" db:"allocation"`
	ProjectID    string      `json:"project_id" db:"project_id"`
	SKU          string      `json:"sku" db:"sku"`
	SKUID        string      `json:"sku_id" db:"sku_id"`
	GPUs         uint32      `json:"gpus" db:"gpus"`
	Start        domain.Time `json:"start" db:"bill_start"`
	End          domain.Time `json:"end,omitzero" db:"bill_end"` // zero: still running
	Free         bool        `json:"free" db:"free"`             // the provider's failure: not charged
	LockedMicros *int64      `json:"locked_micros_per_unit_hour,omitempty" db:"locked_micros"`
}

func (u UsageLine) place() cursor { return cursor{a: u.Number} }

// UsageFilter narrows usage to lines that overlap [From, To); zero is no bound.
type UsageFilter struct {
	From, To domain.Time
	Project  domain.ProjectID
}

// Usage lists a tenant's billable lines.
func (r *Reader) Usage(ctx context.Context, scope Scope, tenant domain.TenantID, by UsageFilter, o ListOptions) (page Page[UsageLine], err error) {
	page.N, err = r.view(ctx, scope, func(ctx context.Context, v *view) error {
		if err := v.requireTenant(ctx, tenant); err != nil {
			return err
		}
		var f filter
		f.add("v.tenant_id = ? AND v.usage_number > 0", tenant.String())
		if !by.Project.IsZero() {
			f.add("v.project_id = ?", by.Project.String())
		}
		if by.From != 0 {
			f.add("(v.bill_end IS NULL OR v.bill_end > ?)", timestamp(by.From))
		}
		if by.To != 0 {
			f.add("v.bill_start < ?", timestamp(by.To))
		}
		page, err = list[UsageLine](ctx, v, listUsage, `SELECT v.usage_number, v.id, v.allocation_id, a.name AS allocation, v.project_id, k.name AS sku, v.sku_id, v.gpus,
			v.bill_start, v.bill_end, v.free, nullif(a.locked_micros, -1) AS locked_micros
			FROM vms v JOIN allocations a ON a.id = v.allocation_id JOIN skus k ON k.id = v.sku_id`, f, []string{"v.usage_number"}, o)
		return err
	})
	return page, err
}
