package projections

import "github.com/gpuaas/gpuaas/domain"

// reportRow is the last report of a host in a batch.
type reportRow struct {
	host    domain.HostID
	journal domain.JournalID
	number  uint64
	at      domain.Time
}

var reportUpdates = updates("hosts", 1,
	text("id", func(r *reportRow) string { return r.host.String() }),
	text("journal", func(r *reportRow) string { return r.journal.String() }),
	integer("acked_report", func(r *reportRow) uint64 { return r.number }),
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

// mapApproved brings the host's slots into being, and for each the lease of
// generation 0: nobody's, but its wipe has evidence like any other.
func (b *batch) mapApproved(x *at, e *domain.MapApproved) {
	b.exec(1, `UPDATE hosts SET map_digest = $2, map = $3::text::jsonb, gpu_class = $4, approved_at = $5,
		proposal_digest = '', proposal = NULL, proposed_at = NULL WHERE id = $1`,
		e.Host.String(), e.Digest.String(), encode(e), e.GPUClass, timestamp(x.At))
	for i := range e.Slots {
		s := &e.Slots[i]
		r := &slotRow{
			id: s.ID, host: e.Host, ordinal: x.Number<<6 | uint64(i&63), position: s.Spec.Index, class: e.GPUClass,
			numa: s.Spec.NUMANode, policy: s.Policy, spec: encode(&s.Spec), state: domain.SlotIsProposed, changed: x.At, mark: fresh,
		}
		b.rows.slots[s.ID] = r
		b.newSlots = append(b.newSlots, r)
		b.newLeases = append(b.newLeases, &leaseRow{key: leaseKey{s.ID, 0}, host: e.Host, started: x.At, ended: x.At})
	}
}
