package projections

import (
	"context"
	"encoding/json"

	"github.com/gpuaas/gpuaas/domain"
)

// reportRow is the last report of a host in a batch.
type reportRow struct {
	host    domain.HostID
	journal domain.JournalID
	number  uint64
	at      domain.Time
}

var reportUpdates = updates("hosts", 1,
	ident("id", func(r *reportRow) domain.HostID { return r.host }),
	ident("journal", func(r *reportRow) domain.JournalID { return r.journal }),
	bigint("acked_report", func(r *reportRow) uint64 { return r.number }),
	instant("reported_at", func(r *reportRow) domain.Time { return r.at }),
)

func (b *batch) hostEnrolled(x *at, e *domain.HostEnrolled) {
	b.exec(1, `INSERT INTO hosts (id, number, name, rack, leaf, spine, enrolled_at) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		e.ID.String(), int64(x.Number), e.Name, e.Rack, e.Leaf, e.Spine, timestamp(x.At))
}

func (b *batch) hostAdmitted(x *at, e *domain.HostAdmitted) {
	b.exec(1, `UPDATE hosts SET admitted_at = $2, nats_public_key = $3, signing_public_key = $4 WHERE id = $1`,
		e.ID.String(), timestamp(x.At), e.NATSKey, e.SignKey)
}

func (b *batch) hostReported(x *at, e *domain.HostReported) {
	b.reports[e.Host] = &reportRow{e.Host, e.Journal, e.Number, x.At}
}

// hostChanged sets flags; set is a constant of this package.
func (b *batch) hostChanged(id domain.HostID, set string) {
	b.exec(1, `UPDATE hosts SET `+set+` WHERE id = $1`, id.String())
}

func (b *batch) hostSilent(id domain.HostID, since domain.Time) {
	b.exec(1, `UPDATE hosts SET silent_since = $2 WHERE id = $1`, id.String(), timestamp(since))
}

func (b *batch) mapProposed(x *at, e *domain.MapProposed) {
	b.exec(1, `UPDATE hosts SET proposal_digest = $2, proposal = $3::text::jsonb, proposed_at = $4 WHERE id = $1`,
		e.Host.String(), e.Digest.String(), encode(&e.Map), timestamp(x.At))
}

// mapApproved brings the host's slots into being. What the proposal says beside the
// slots (nodes, spares, unsafe devices) is kept with it: the event names it by its
// digest only.
func (b *batch) mapApproved(x *at, e *domain.MapApproved) {
	b.exec(1, `UPDATE hosts SET map_digest = $2, map = $3::text::jsonb || jsonb_build_object('beside', proposal - 'slots'), gpu_class = $4, approved_at = $5,
		proposal_digest = '', proposal = NULL, proposed_at = NULL WHERE id = $1`,
		e.Host.String(), e.Digest.String(), encode(e), e.GPUClass, timestamp(x.At))
	places := make([]slotDevices, len(e.Slots))
	for i := range e.Slots {
		s := &e.Slots[i]
		b.addSlot(x, e.Host, e.GPUClass, i, s.ID, s.Policy, &s.Spec)
		places[i] = slotDevices{s.ID, i, 0, &s.Spec}
	}
	b.placeDevices(x, e.Host, places)
}

// mapAmended changes slots, and adds some. A slot with another device has a lease of
// nobody's, whose wipe is that device's first here.
func (b *batch) mapAmended(x *at, e *domain.MapAmended) {
	b.exec(1, `UPDATE hosts SET map_digest = $2, map = $3::text::jsonb || jsonb_build_object('beside', proposal - 'slots'), approved_at = $4, proposal_digest = '', proposal = NULL, proposed_at = NULL WHERE id = $1`,
		e.Host.String(), e.Digest.String(), encode(e), timestamp(x.At))
	var places []slotDevices
	for i := range e.Slots {
		s := &e.Slots[i]
		if s.Change == "added" {
			b.addSlot(x, e.Host, e.Class, i, s.ID, s.Policy, &s.Spec)
			places = append(places, slotDevices{s.ID, i, 0, &s.Spec})
			continue
		}
		b.changeSlot(x, s.ID, func(r *slotRow) {
			if r.mark == fresh { // inserted by this batch
				r.position, r.numa, r.policy, r.spec = s.Spec.Index, s.Spec.NUMANode, s.Policy, encode(&s.Spec)
			} else {
				b.exec(1, `UPDATE slots SET position = $2, numa_node = $3, wipe_policy = $4, spec = $5::text::jsonb WHERE id = $1`,
					s.ID.String(), int64(s.Spec.Index), int64(s.Spec.NUMANode), s.Policy.String(), encode(&s.Spec))
			}
			if s.Change == "replaced" {
				r.generation++
				r.attempt, r.condemned = 0, false
				b.newLeases = append(b.newLeases, &leaseRow{key: leaseKey{s.ID, r.generation}, host: e.Host, started: x.At, ended: x.At})
				places = append(places, slotDevices{s.ID, i, r.generation, &s.Spec})
			}
		})
	}
	b.placeDevices(x, e.Host, places)
}

// hostReconciled: leases that the log forgot, and with them their wipes. What is wiped
// now is the last of them, once more.
func (b *batch) hostReconciled(x *at, e *domain.HostReconciled) {
	for _, s := range e.Slots {
		b.changeSlot(x, s.Slot, func(r *slotRow) { r.generation = s.Generation })
		key := leaseKey{s.Slot, s.Generation}
		b.newLeases = append(b.newLeases, &leaseRow{key: key, host: e.Host, started: x.At, ended: x.At})
		b.prove(x, key, false, &wipeEvidence{Result: "quarantined", Component: "host", Reason: "epoch.forgotten"})
	}
	for _, h := range e.Boots {
		b.eachVM(x, h.Allocation, func(v *vmRow) {
			if v.id == h.VM {
				v.boot = h.Boot
			}
		})
	}
}

// addSlot brings a slot into being, with the lease of generation 0: nobody's, but
// its wipe has evidence like any other.
func (b *batch) addSlot(x *at, host domain.HostID, class string, i int, id domain.SlotID, policy domain.WipePolicy, spec *domain.SlotSpec) {
	r := &slotRow{
		id: id, host: host, ordinal: x.Number<<6 | uint64(i&63), position: spec.Index, class: class,
		numa: spec.NUMANode, policy: policy, spec: encode(spec), state: domain.SlotIsProposed, changed: x.At, mark: fresh,
	}
	b.rows.slots[id] = r
	b.newSlots = append(b.newSlots, r)
	b.newLeases = append(b.newLeases, &leaseRow{key: leaseKey{id, 0}, host: host, started: x.At, ended: x.At})
}

// Host is a host as operators see it.
type Host struct {
	Number         int64       `json:"-" db:"number"`
	ID             string      `json:"id" db:"id"`
	Name           string      `json:"name" db:"name"`
	State          string      `json:"state" db:"state"` // the most important of the flags below
	Rack           string      `json:"rack,omitempty" db:"rack"`
	Leaf           string      `json:"leaf,omitempty" db:"leaf"`
	Spine          string      `json:"spine,omitempty" db:"spine"`
	GPUClass       string      `json:"gpu_class,omitempty" db:"gpu_class"`
	Cordoned       bool        `json:"cordoned" db:"cordoned"`
	Draining       bool        `json:"draining" db:"draining"`
	Faulted        bool        `json:"faulted" db:"faulted"`
	SilentSince    domain.Time `json:"silent_since,omitzero" db:"silent_since"`
	EnrolledAt     domain.Time `json:"enrolled_at" db:"enrolled_at"`
	AdmittedAt     domain.Time `json:"admitted_at,omitzero" db:"admitted_at"`
	ApprovedAt     domain.Time `json:"approved_at,omitzero" db:"approved_at"`
	SlotMap        string      `json:"slot_map_digest,omitempty" db:"map_digest"`
	ProposedMap    string      `json:"proposed_slot_map_digest,omitempty" db:"proposal_digest"`
	ReportedAt     domain.Time `json:"reported_at,omitzero" db:"reported_at"`
	AckedReport    int64       `json:"acked_report" db:"acked_report"`
	Slots          int64       `json:"slots" db:"slots"`
	SlotsAvailable int64       `json:"slots_available" db:"slots_available"` // and could be launched on
	SlotsInUse     int64       `json:"slots_in_use" db:"slots_in_use"`
}

func (h Host) place() cursor { return cursor{a: h.Number} }

const selectHosts = `SELECT h.number, h.id, h.name, CASE WHEN h.removed_at IS NOT NULL THEN 'removed' WHEN h.faulted THEN 'quarantined' WHEN h.silent_since IS NOT NULL THEN 'silent' WHEN h.draining THEN 'draining'
	WHEN h.cordoned THEN 'cordoned' WHEN h.map_digest <> '' THEN 'in_service' WHEN h.proposal_digest <> '' THEN 'proposed'
	WHEN h.admitted_at IS NOT NULL THEN 'admitted' ELSE 'enrolled' END AS state,
	h.rack, h.leaf, h.spine, h.gpu_class, h.cordoned, h.draining, h.faulted, h.silent_since, h.enrolled_at, h.admitted_at, h.approved_at,
	h.map_digest, h.proposal_digest, h.reported_at, h.acked_report, s.slots, s.slots_in_use,
	CASE WHEN h.removed_at IS NOT NULL OR h.cordoned OR h.draining OR h.faulted OR h.silent_since IS NOT NULL THEN 0 ELSE s.available END AS slots_available
	FROM hosts h LEFT JOIN LATERAL (SELECT count(*) FILTER (WHERE state <> 'retired') AS slots, count(*) FILTER (WHERE state = 'available') AS available,
		count(*) FILTER (WHERE state IN ('reserved', 'active')) AS slots_in_use FROM slots WHERE host_id = h.id) s ON true`

// Hosts lists the fleet, without what was removed.
func (r *Reader) Hosts(ctx context.Context, scope Scope, o ListOptions) (page Page[Host], err error) {
	page.N, err = r.view(ctx, scope, func(ctx context.Context, v *view) error {
		if err := v.requirePlatform(); err != nil {
			return err
		}
		var f filter
		f.add("h.removed_at IS NULL")
		f.named(o, "h.name")
		page, err = list[Host](ctx, v, listHosts, selectHosts, f, []string{"h.number"}, o)
		return err
	})
	return page, err
}

// Host reads one host.
func (r *Reader) Host(ctx context.Context, scope Scope, id domain.HostID) (h Host, n uint64, err error) {
	n, err = r.view(ctx, scope, func(ctx context.Context, v *view) error {
		if !v.platform {
			return notFound("host")
		}
		h, err = get[Host](ctx, v, "host", selectHosts+` WHERE h.id = $1`, id.String())
		return err
	})
	return h, n, err
}

// SlotMaps are a host's proposal, which waits for approval, and its approved map.
type SlotMaps struct {
	HostID         string          `json:"host_id" db:"id"`
	ProposalDigest string          `json:"proposal_digest,omitempty" db:"proposal_digest"`
	Proposal       json.RawMessage `json:"proposal,omitempty" db:"proposal"`
	ProposedAt     domain.Time     `json:"proposed_at,omitzero" db:"proposed_at"`
	ApprovedDigest string          `json:"approved_digest,omitempty" db:"map_digest"`
	Approved       json.RawMessage `json:"approved,omitempty" db:"map"`
	ApprovedAt     domain.Time     `json:"approved_at,omitzero" db:"approved_at"`
}

// SlotMaps reads a host's slot maps.
func (r *Reader) SlotMaps(ctx context.Context, scope Scope, id domain.HostID) (m SlotMaps, n uint64, err error) {
	n, err = r.view(ctx, scope, func(ctx context.Context, v *view) error {
		if !v.platform {
			return notFound("host")
		}
		m, err = get[SlotMaps](ctx, v, "host", `SELECT id, proposal_digest, proposal, proposed_at, map_digest, map, approved_at FROM hosts WHERE id = $1`, id.String())
		return err
	})
	return m, n, err
}
