package projections

import (
	"context"
	"encoding/json"

	"github.com/gpuaas/gpuaas/domain"
)

// A lease is one tenant's time on one slot, with the proof of its erasure.

type leaseKey struct {
	slot       domain.SlotID
	generation uint32
}

// leaseRow is a row of leases; the statements below each write a part of it.
type leaseRow struct {
	key        leaseKey
	host       domain.HostID
	tenant     string
	allocation domain.AllocationID
	vm         domain.VMID
	started    domain.Time
	ended      domain.Time
	result     string
	wiped      domain.Time
	evidence   string
}

var (
	leaseSlot       = ident("slot_id", func(r *leaseRow) domain.SlotID { return r.key.slot })
	leaseGeneration = bigint("generation", func(r *leaseRow) uint32 { return r.key.generation })
	leaseEnded      = instant("ended_at", func(r *leaseRow) domain.Time { return r.ended })

	leaseInserts = inserts("leases", leaseSlot, leaseGeneration,
		ident("host_id", func(r *leaseRow) domain.HostID { return r.host }),
		text("tenant_id", func(r *leaseRow) string { return r.tenant }),
		ident("allocation_id", func(r *leaseRow) domain.AllocationID { return r.allocation }),
		ident("vm_id", func(r *leaseRow) domain.VMID { return r.vm }),
		instant("started_at", func(r *leaseRow) domain.Time { return r.started }),
		leaseEnded,
	)
	leaseEnds     = updates("leases", 2, leaseSlot, leaseGeneration, leaseEnded)
	leaseEvidence = updates("leases", 2, leaseSlot, leaseGeneration,
		text("wipe_result", func(r *leaseRow) string { return r.result }),
		instant("wiped_at", func(r *leaseRow) domain.Time { return r.wiped }),
		document("evidence", func(r *leaseRow) string { return r.evidence }),
	)
)

// wipeEvidence is what proves, or fails to prove, that a lease's data is gone.
type wipeEvidence struct {
	Result    string              `json:"result"`
	Component string              `json:"component,omitempty"`
	Reason    string              `json:"reason,omitempty"`
	StartedAt domain.Time         `json:"started_at,omitzero"`
	EndedAt   domain.Time         `json:"ended_at,omitzero"`
	Nonce     domain.Digest       `json:"nonce,omitzero"`
	Devices   []domain.DeviceWipe `json:"devices"`
	Sequence  uint64              `json:"sequence"` // the commit that recorded it,
	Position  int                 `json:"position"` // and which of its decisions
	At        domain.Time         `json:"recorded_at,omitzero"`
}

// prove stores the outcome of a lease's last wipe; wiped_at stands only beside a
// verified one. That of the one before, if it was wiped again, is kept beside.
func (b *batch) prove(x *at, key leaseKey, again bool, e *wipeEvidence) {
	if e.Devices == nil {
		e.Devices = []domain.DeviceWipe{}
	}
	e.Sequence, e.Position, e.At = x.N, x.Position, x.At
	if before := b.evidence[key]; before != nil {
		b.exec(1, `INSERT INTO earlier_wipes (slot_id, generation, number, evidence) VALUES ($1, $2, $3, $4::text::jsonb)`,
			key.slot.String(), int64(key.generation), int64(x.Number), before.evidence)
	} else if again {
		b.exec(1, `INSERT INTO earlier_wipes (slot_id, generation, number, evidence) SELECT slot_id, generation, $3, evidence FROM leases WHERE slot_id = $1 AND generation = $2 AND evidence IS NOT NULL`,
			key.slot.String(), int64(key.generation), int64(x.Number))
	}
	r := &leaseRow{key: key, result: e.Result, evidence: encode(e)}
	if e.Result == "verified" {
		r.wiped = x.At
	}
	b.evidence[key] = r
}

// Lease is a tenant's time on one slot, and the proof that nothing was left there.
type Lease struct {
	SlotID     string          `json:"slot_id" db:"slot_id"`
	Generation uint32          `json:"generation" db:"generation"`
	HostID     string          `json:"host_id" db:"host_id"`
	VMID       string          `json:"vm_id" db:"vm_id"`
	StartedAt  domain.Time     `json:"started_at" db:"started_at"`
	EndedAt    domain.Time     `json:"ended_at,omitzero" db:"ended_at"`
	Result     string          `json:"wipe_result,omitempty" db:"wipe_result"` // "verified", "quarantined", "" not yet
	WipedAt    domain.Time     `json:"wiped_at,omitzero" db:"wiped_at"`
	Evidence   json.RawMessage `json:"evidence,omitempty" db:"evidence"`
}

// Erasure is the proof for an allocation: all its leases with their wipes.
func (r *Reader) Erasure(ctx context.Context, scope Scope, id domain.AllocationID) (out []Lease, n uint64, err error) {
	n, err = r.view(ctx, scope, func(ctx context.Context, v *view) error {
		if _, err := v.allocation(ctx, id); err != nil {
			return err
		}
		out, err = collect[Lease](ctx, v, `SELECT slot_id, generation, host_id, vm_id, started_at, ended_at, wipe_result, wiped_at, evidence
			FROM leases WHERE allocation_id = $1 ORDER BY vm_id, slot_id, generation`, id.String())
		return err
	})
	return out, n, err
}

// SlotLeases is a slot's history, newest first; generation 0 is its first wipe.
func (r *Reader) SlotLeases(ctx context.Context, scope Scope, id domain.SlotID) (out []Lease, n uint64, err error) {
	n, err = r.view(ctx, scope, func(ctx context.Context, v *view) error {
		if !v.platform {
			return notFound("slot")
		}
		out, err = collect[Lease](ctx, v, `SELECT slot_id, generation, host_id, vm_id, started_at, ended_at, wipe_result, wiped_at, evidence
			FROM leases WHERE slot_id = $1 ORDER BY generation DESC LIMIT 500`, id.String())
		if err == nil && len(out) == 0 {
			return notFound("slot")
		}
		return err
	})
	return out, n, err
}
