package domain

import "slices"

// RecordReport is a host's evidence as it came in. The edge has verified the
// host's signature over Report; whether to believe it is decided here.
type RecordReport struct {
	Host      HostID `json:"host_id"` // by the credential it came with
	Report    []byte `json:"report"`
	Signature []byte `json:"signature"`
	// Refused records the report without judging it: why it could not be judged, as
	// often as that was tried. What the host says after it would wait for ever.
	Refused string `json:"refused,omitempty"`
}

// CommandType implements CommandBody.
func (*RecordReport) CommandType() string { return "host.report" }

func (m *RecordReport) wire(c *coder) {
	idField(c, 1, &m.Host)
	c.bytes(2, &m.Report)
	c.bytes(3, &m.Signature)
	c.str(4, &m.Refused)
}

// HostReported says that a report was recorded, and what became of it. It moves
// the mark up to which the host may forget its journal.
type HostReported struct {
	Host    HostID     `json:"host_id"`
	Journal JournalID  `json:"journal"`
	Number  uint64     `json:"report"`
	Kind    ReportKind `json:"kind"`
	Refused string     `json:"refused,omitempty"` // code, if it was not believed
}

// EventType implements EventBody.
func (*HostReported) EventType() string { return "host.reported" }

// Owner implements EventBody.
func (e *HostReported) Owner() string { return e.Host.String() }

// Resource implements EventBody.
func (e *HostReported) Resource() string { return e.Host.String() }

func (e *HostReported) wire(c *coder) {
	idField(c, 1, &e.Host)
	idField(c, 2, &e.Journal)
	c.uvar(3, &e.Number)
	stringField(c, 4, &e.Kind)
	c.str(5, &e.Refused)
}

func (e *HostReported) apply(w *World, _ *Applied) {
	h := w.hosts.get(e.Host)
	if e.Journal != h.Journal && !h.Journal.IsZero() && w.LogicLevel >= 2 {
		h.ended = append(h.ended, h.Journal)
		h.ended = h.ended[max(0, len(h.ended)-maxEndedJournals):]
	}
	h.Journal, h.Acked = e.Journal, e.Number
	w.markDirty(h)
}

// maxEndedJournals bounds what is remembered of a host's journals: one ends when its
// file was damaged or lost, and its reports may be delivered after those of the next.
const maxEndedJournals = 16

// maxReportBytes bounds a report: an inventory of 64 slots is some 20 KB.
const maxReportBytes = 48 << 10

func (m *RecordReport) decide(w *World, x *Context) ([]EventBody, *Error) {
	if x.Actor.Kind != ActorHost || x.Actor.Host != m.Host {
		return nil, notFound("host")
	}
	hi := w.hosts.find(m.Host)
	if hi == none || w.hosts.row(hi).Removed {
		return nil, notFound("host")
	}
	if len(m.Report) > maxReportBytes {
		return nil, Errorf(Invalid, "report.too_large", "%d bytes, at most %d", len(m.Report), maxReportBytes)
	}
	r, derr := DecodeReport(m.Report)
	if derr != nil {
		return nil, Errorf(Invalid, "report.malformed", "%v", derr)
	}
	h := w.hosts.row(hi)
	ahead := w.aheadBy(h, r)
	outOfTurn := func(err *Error) ([]EventBody, *Error) {
		if ahead != nil { // whatever its number; it comes again
			return ahead, nil
		}
		return nil, err
	}
	switch {
	case r.Host != m.Host:
		return nil, Errorf(Invalid, "report.foreign_host", "the report speaks of another host")
	case r.Journal.IsZero():
		return nil, Errorf(Invalid, "report.no_journal", "the report names no journal")
	case h.Accounts != 0 && r.Epoch < w.Epoch:
		return nil, Errorf(Conflict, "report.old_epoch", "epoch %d is over: what it said is asked for anew", r.Epoch)
	case h.Accounts != 0 && r.Holdings != nil && (w.placed(h, r) || w.LogicLevel < 2): // whatever came before it is lost, or in it
	case r.Journal == h.Journal && r.Number <= h.Acked:
		return nil, nil // a repeat
	case r.Journal != h.Journal && slices.Contains(h.ended, r.Journal): // one that had ended may be the newest again, by its account
		return outOfTurn(Errorf(Conflict, "report.old_journal", "the journal has ended: another one of this host was heard of since"))
	case r.Journal == h.Journal && r.Number != h.Acked+1, r.Journal != h.Journal && r.Number != 1:
		return outOfTurn(Errorf(Unavailable, "report.out_of_order", "report %d, awaited is the one after %d: send again from there", r.Number, h.Acked))
	}
	done := &HostReported{Host: m.Host, Journal: r.Journal, Number: r.Number, Kind: r.Kind}
	if m.Refused != "" {
		done.Refused = clip(m.Refused, 64)
		return []EventBody{done}, nil
	}
	events, err := w.judge(x, hi, r)
	if err != nil {
		done.Refused, events = err.Code, ahead
	}
	events = append(events, w.discharged(events)...)
	return append([]EventBody{done}, events...), nil
}

// aheadBy is the fact that the host is ahead, of a report that follows a placement which
// this log never made.
func (w *World) aheadBy(h *Host, r *Report) []EventBody {
	if w.LogicLevel < 2 || w.placed(h, r) {
		return nil
	}
	return w.noteAhead(&NoteHostAhead{Host: h.ID, Epoch: r.Epoch, Generation: r.Generation})
}

// placed reports whether the placement that the report follows is one that this log made.
func (w *World) placed(h *Host, r *Report) bool {
	return r.Epoch < w.Epoch || r.Epoch == w.Epoch && r.Generation <= h.Generation
}

// judge decides whether to believe a report: epoch and generation first, then
// what it says.
func (w *World) judge(x *Context, hi uint32, r *Report) ([]EventBody, *Error) {
	h := w.hosts.row(hi)
	if !w.placed(h, r) {
		return nil, Errorf(Invalid, "report.from_the_future", "generation %d.%d was never placed", r.Epoch, r.Generation)
	}
	if r.Epoch < w.Epoch && (r.Kind != ReportInventory || r.Holdings != nil) {
		return nil, Errorf(Conflict, "report.old_epoch", "epoch %d is over", r.Epoch)
	}
	switch {
	case r.Inventory != nil && r.Kind == ReportInventory:
		return w.judgeInventory(h, r.Inventory)
	case r.Holdings != nil && r.Kind == ReportInventory:
		return w.judgeHoldings(x, hi, r.Holdings)
	case r.VM != nil:
		return w.judgeVM(x, hi, r.Kind, r.VM)
	case r.Wipe != nil && r.Kind == ReportWiped:
		return w.judgeWipe(x, hi, r.Wipe)
	case r.Fault != nil && r.Kind == ReportFaulted:
		return w.judgeFault(hi, r.Fault)
	}
	return nil, Errorf(Invalid, "report.unknown_kind", "unknown kind of report")
}

func (w *World) judgeInventory(h *Host, m *SlotMap) ([]EventBody, *Error) {
	d := m.Digest()
	// Found again as it was approved, another proposal is withdrawn.
	if d == h.proposalID() || d == h.MapID && (h.Proposal == nil || w.LogicLevel < 2) {
		return nil, nil
	}
	if len(m.Slots) > maxSlotsOnMap || len(m.Nodes) > 64 || len(m.Unsafe) > 256 {
		return nil, Errorf(Invalid, "report.too_large", "more slots, nodes or devices than a host can have")
	}
	return []EventBody{&MapProposed{Host: h.ID, Digest: d, Map: *m}}, nil
}

// judgeFault takes the slot out of service, and for a fault of the whole host all
// its slots.
func (w *World) judgeFault(hi uint32, f *FaultReport) ([]EventBody, *Error) {
	h := w.hosts.row(hi)
	component, scope, reason := f.Component, f.Scope, "fault.reported"
	if checkWord("reason", f.Reason, 128, false) == nil {
		reason = f.Reason
	}
	if checkWord("component", component, 32, true) != nil || checkWord("scope", scope, 32, true) != nil {
		return nil, Errorf(Invalid, "report.malformed", "component or scope is not a word")
	}
	if component == "host" || scope == "host" {
		var events []EventBody
		for _, row := range h.slots {
			events = append(events, w.takeOut(row, "host", "host", reason)...)
		}
		return events, nil
	}
	row := w.slots.find(f.Slot)
	if row == none || w.slots.row(row).host != hi {
		return nil, Errorf(Invalid, "report.foreign_slot", "the slot is not on this host")
	}
	return w.takeOut(row, component, scope, reason), nil
}

// decidePowerOff is an operator's word that nothing runs on the host any more:
// its VMs have failed, billed to the last heartbeat, and its slots wait in
// quarantine until the host is back and they are wiped. Ticks that are due at once
// release the VMs, a few allocations each.
func (w *World) decidePowerOff(x *Context, h *Host) ([]EventBody, *Error) {
	if h.Silent == 0 {
		return nil, Errorf(Conflict, "host.in_touch", "the host is not silent: power it off first, and wait until it is")
	}
	events := []EventBody{&HostPowerOff{HostChange{ID: h.ID, Since: h.Silent}}}
	if w.LogicLevel >= 2 {
		if h.Faulted {
			return nil, nil
		}
		return events, nil
	}
	purses, done := map[uint32]*purse{}, map[uint32]bool{}
	for _, row := range h.vms {
		v := w.vms.row(row)
		if done[v.alloc] {
			continue
		}
		done[v.alloc] = true
		a := w.allocations.row(v.alloc)
		if purses[a.tenant] == nil {
			purses[a.tenant] = newPurse(w, w.tenants.row(a.tenant), x)
		}
		events = append(events, w.release(purses[a.tenant], a, "host.lost", h.Silent, false)...)
	}
	return events, nil
}

// maxLostEvents is after how many events a tick leaves the rest of a lost host's
// allocations to the next.
const maxLostEvents = 32

// loseVMs releases allocations that had VMs on a host that was powered off.
func (w *World) loseVMs(k *tick, h *Host) (events []EventBody) {
	done := map[uint32]bool{}
	for _, row := range h.vms {
		v := w.vms.row(row)
		if done[v.alloc] {
			continue
		}
		if len(events) >= maxLostEvents {
			break
		}
		done[v.alloc] = true
		a := w.allocations.row(v.alloc)
		events = append(events, w.release(k.purse(a.tenant), a, "host.lost", h.LostAt, false)...)
	}
	return events
}

// markDirty asks for the host's placement to be published again.
func (w *World) markDirty(h *Host) {
	if !h.dirty {
		h.dirty = true
		w.dirtyHosts = append(w.dirtyHosts, w.hosts.find(h.ID))
	}
}

// TakeDirtyHosts returns the hosts whose placement changed since the last call.
func (w *World) TakeDirtyHosts() []HostID {
	if len(w.dirtyHosts) == 0 {
		return nil
	}
	out := make([]HostID, 0, len(w.dirtyHosts))
	for _, row := range w.dirtyHosts {
		h := w.hosts.row(row)
		h.dirty = false
		out = append(out, h.ID)
	}
	w.dirtyHosts = w.dirtyHosts[:0]
	return out
}

// PlacementDraft is a host's placement as the world has it, without what costs most
// and needs no world: whoever publishes it makes the nonces and addresses, and only
// for the newest draft of a host. It is not safe for concurrent use.
type PlacementDraft struct {
	placement Placement
	seeds     [][16]byte // of the leases' nonces: the VMs' first, then the wipes'
}

// Host is the host that is placed on.
func (d *PlacementDraft) Host() HostID { return d.placement.Desired.Host }

// From says which commit the placement follows from: the caller knows what is durable.
func (d *PlacementDraft) From(h Head) *PlacementDraft {
	d.placement.From = h
	return d
}

// lease is the slot's lease; its nonce follows.
func (d *PlacementDraft) lease(s *Slot) Lease {
	d.seeds = append(d.seeds, s.seed)
	return Lease{Slot: s.ID, Index: uint32(s.Index), Generation: s.Generation}
}

// Placement finishes the draft.
func (d *PlacementDraft) Placement() *Placement {
	p := &d.placement
	finish := func(l *Lease) {
		l.Nonce = leaseNonce(d.seeds[0], l.Slot, l.Generation)
		d.seeds = d.seeds[1:]
	}
	if len(d.seeds) == 0 {
		return p // finished, or nothing to finish
	}
	for i := range p.Desired.VMs {
		v := &p.Desired.VMs[i]
		v.MAC = macOf(v.VM)
		for k := range v.Leases {
			finish(&v.Leases[k])
		}
	}
	for i := range p.Desired.Wipes {
		finish(&p.Desired.Wipes[i].Lease)
	}
	return p
}

// PlacementOf is the placement of a host as the world has it. Its place in the log is
// filled in by the caller, who knows what is durable.
func (w *World) PlacementOf(id HostID) (*Placement, bool) {
	d, ok := w.DraftPlacement(id)
	if !ok {
		return nil, false
	}
	return d.Placement(), true
}

// DraftPlacement is PlacementOf, not finished. A host that is ahead of the log is told
// nothing until an epoch is opened.
func (w *World) DraftPlacement(id HostID) (*PlacementDraft, bool) {
	hi := w.hosts.find(id)
	if hi == none {
		return nil, false
	}
	h := w.hosts.row(hi)
	if h.Ahead { // it would pass what the host has seen, and remove what this log does not know
		return nil, false
	}
	d := &PlacementDraft{seeds: make([][16]byte, 0, len(h.slots)), placement: Placement{Journal: h.Journal, Acked: h.Acked, Desired: Desired{
		Site: w.Site, Epoch: w.Epoch, Host: id, Generation: h.Generation, SlotMap: h.MapID,
		VMs: make([]PlacedVM, 0, len(h.vms)),
	}}}
	p := &d.placement
	if h.Accounts != 0 {
		p.Desired.Account = true
		return d, true
	}
	for i := range h.unknown {
		p.Desired.Keep = append(p.Desired.Keep, h.unknown[i].VM)
	}
	for _, row := range h.vms {
		v := w.vms.row(row)
		a := w.allocations.row(v.alloc)
		pv := PlacedVM{
			VM: v.ID, Allocation: a.ID, Tenant: a.Tenant, Hostname: a.Name, Power: v.Power, Boot: v.Boot, Image: a.Image,
			ImageHash: a.ImageHash, Private: a.PrivateImage, Features: a.Features, UserData: a.UserData, Leases: make([]Lease, v.n),
		}
		if len(a.vms) > 1 {
			pv.Hostname = hostnameOf(a.Name, int(v.index))
		}
		for i := range pv.Leases {
			pv.Leases[i] = d.lease(w.slots.row(v.slots[i]))
		}
		p.Desired.VMs = append(p.Desired.VMs, pv)
	}
	for _, row := range h.slots {
		if s := w.slots.row(row); s.State == SlotIsWiping {
			p.Desired.Wipes = append(p.Desired.Wipes, PlacedWipe{Lease: d.lease(s), Attempt: s.Attempt, Policy: s.Policy})
		}
	}
	return d, true
}

// hostnameOf is the host name of the i-th VM of a gang, within 63 characters.
func hostnameOf(name string, i int) string {
	suffix := "-" + string(rune('0'+i/10)) + string(rune('0'+i%10))
	if len(name) > maxName-len(suffix) {
		name = name[:maxName-len(suffix)]
	}
	return name + suffix
}
