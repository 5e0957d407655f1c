package projections

import "github.com/gpuaas/gpuaas/domain"

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
	leaseSlot       = text("slot_id", func(r *leaseRow) string { return r.key.slot.String() })
	leaseGeneration = integer("generation", func(r *leaseRow) uint32 { return r.key.generation })
	leaseEnded      = instant("ended_at", func(r *leaseRow) domain.Time { return r.ended })

	leaseInserts = inserts("leases", leaseSlot, leaseGeneration,
		text("host_id", func(r *leaseRow) string { return r.host.String() }),
		text("tenant_id", func(r *leaseRow) string { return r.tenant }),
		text("allocation_id", func(r *leaseRow) string { return r.allocation.String() }),
		text("vm_id", func(r *leaseRow) string { return r.vm.String() }),
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
}

// prove stores the outcome of a lease's last wipe; wiped_at stands only beside a
// verified one.
func (b *batch) prove(x *at, key leaseKey, e *wipeEvidence) {
	if e.Devices == nil {
		e.Devices = []domain.DeviceWipe{}
	}
	r := &leaseRow{key: key, result: e.Result, evidence: encode(e)}
	if e.Result == "verified" {
		r.wiped = x.At
	}
	b.evidence[key] = r
}
