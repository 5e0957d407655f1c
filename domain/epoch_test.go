package domain

import (
	"crypto/sha256"
	"slices"
	"testing"
)

// restored is the site of a backup of its log: its first n commits.
func (s *site) restored(n int) *site {
	s.t.Helper()
	old := &site{t: s.t, w: NewWorld(), now: s.now, seq: s.seq + 1000, admin: s.admin, check: true}
	for _, b := range s.log[:n] {
		c, err := DecodeCommit(b)
		if err != nil {
			s.t.Fatal(err)
		}
		if err := old.w.ApplyCommit(c, sha256.Sum256(b)); err != nil {
			s.t.Fatal(err)
		}
	}
	old.log = slices.Clone(s.log[:n])
	return old
}

// newRented is a site with a second operator, a host of whose slots each is one of gpu-1x,
// and a tenant who can pay.
func newRented(t *testing.T, slots int) (s *site, second Actor, h *fakeHost, f tenantFixture) {
	t.Helper()
	s = newSite(t)
	second, _ = s.second()
	h = s.host("h1", slots, "r")
	s.sku("gpu-1x", 1, 3_600_000)
	return s, second, h, s.tenant("acme", 1e9)
}

// second makes another operator.
func (s *site) second() (Actor, UserID) {
	user := UserID{2}
	s.must(s.admin, &SetOperator{User: user, Roles: RoleOperator})
	s.must(s.admin, &CreateAPIKey{User: user, Name: "second", Hash: Digest{2}})
	return Actor{Kind: ActorKey, Key: s.w.keyByHash[Digest{2}]}, user
}

func (s *site) openEpoch(second Actor) *OpenEpoch {
	return &OpenEpoch{
		Epoch: s.w.Epoch + 1, Survived: s.w.Head, SurvivedAt: s.w.At, Reason: "restored-backup",
		Approved: []APIKeyID{s.admin.Key, second.Key}, Lost: []LostSign{{Source: "feed", Commit: s.w.Head.N + 7}},
	}
}

// holdings is what the host says when its placement is what the site had made before.
func (h *fakeHost) holdings(before *Placement) *HoldingsReport {
	r := &HoldingsReport{Epoch: before.Desired.Epoch, Generation: before.Desired.Generation, SlotMap: before.Desired.SlotMap}
	for _, v := range before.Desired.VMs {
		held := HeldVM{VM: v.VM, Allocation: v.Allocation, Tenant: v.Tenant, Boot: v.Boot, Running: true}
		for _, l := range v.Leases {
			held.Slots = append(held.Slots, l.Index)
		}
		r.VMs = append(r.VMs, held)
	}
	return r
}

// remembered is what the host says of its slots when it remembers them as the log does.
func (h *fakeHost) remembered() (slots []HeldSlot) {
	for _, row := range h.s.w.hosts.get(h.id).slots {
		s := h.s.w.slots.row(row)
		slots = append(slots, HeldSlot{Index: uint32(s.Index), Slot: s.ID, Generation: s.Generation})
	}
	return slots
}

// on is the host as it goes on with another site: that of a backup.
func (h *fakeHost) on(r *site) *fakeHost {
	same := *h
	same.s = r
	return &same
}

func TestEpochNeedsTwoOperatorsAndALoss(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	second, _ := s.second()
	finance := UserID{3}
	s.must(s.admin, &SetOperator{User: finance, Roles: RoleFinance})
	for i, user := range []UserID{{1}, finance} {
		s.must(s.admin, &CreateAPIKey{User: user, Name: "other", Hash: Digest{9, byte(i)}})
	}
	same, low := s.w.keyByHash[Digest{9, 0}], s.w.keyByHash[Digest{9, 1}]
	refused := func(code string, change func(*OpenEpoch)) {
		t.Helper()
		m := s.openEpoch(second)
		change(m)
		s.refused(System, m, code)
	}
	refused("epoch.two_operators", func(m *OpenEpoch) { m.Approved = m.Approved[:1] })
	refused("epoch.same_operator", func(m *OpenEpoch) { m.Approved[1] = m.Approved[0] })
	refused("epoch.same_operator", func(m *OpenEpoch) { m.Approved[1] = same })
	refused("epoch.not_operator", func(m *OpenEpoch) { m.Approved[1] = low })
	refused("epoch.key_invalid", func(m *OpenEpoch) { m.Approved[1] = APIKeyID{7} })
	refused("epoch.not_next", func(m *OpenEpoch) { m.Epoch++ })
	refused("epoch.not_next", func(m *OpenEpoch) { m.Epoch-- })
	refused("epoch.other_end", func(m *OpenEpoch) { m.Survived.N-- })
	refused("epoch.nothing_lost", func(m *OpenEpoch) { m.Lost = nil })
	s.refused(s.admin, s.openEpoch(second), "command.not_found")
	s.must(s.admin, &RevokeAPIKey{Key: second.Key})
	s.refused(System, s.openEpoch(second), "epoch.key_invalid")
}

// TestLostTailIsReconciled loses a tail in which one VM ended and its slot was let to
// another tenant, one slot was used and wiped, and one VM began. What the host says
// decides: nothing runs twice, nothing unknown is touched or billed.
func TestLostTailIsReconciled(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	second, _ := s.second()
	h := s.host("h1", 5, "r")
	s.sku("gpu-1x", 1, 3_600_000)
	acme, other := s.tenant("acme", 1e9), s.tenant("other", 1e9)
	stays := s.launch(acme, "stays", "gpu-1x", 1)
	ends := s.launch(acme, "ends", "gpu-1x", 1)
	h.boot()
	s.after(30 * Minute)
	last := s.launch(acme, "last", "gpu-1x", 1) // placed by the last commit that is left: it reached the host
	cut := len(s.log)

	h.boot()
	s.release(acme, ends, h)
	s.launch(other, "begins", "gpu-1x", 1) // on the slot of the one that ended
	h.boot()
	short := s.launch(other, "short", "gpu-1x", 1)
	h.boot()
	s.release(other, short, h) // used, and wiped again
	s.after(Hour)
	before := h.placement()
	seen, ids := map[uint32]uint32{}, map[uint32]SlotID{}
	for _, row := range s.w.hosts.get(h.id).slots {
		seen[uint32(s.w.slots.row(row).Index)], ids[uint32(s.w.slots.row(row).Index)] = s.w.slots.row(row).Generation, s.w.slots.row(row).ID
	}

	r := s.restored(cut)
	survived, at := r.w.Head, r.w.At
	opened := r.must(System, r.openEpoch(second))[0].(*EpochOpened)
	if opened.Epoch != 2 || opened.Survived != survived || opened.SurvivedAt != at || len(opened.Approved) != 2 {
		t.Fatalf("%+v", opened)
	}
	h = h.on(r)
	h.n += 5 // reports that the log has forgotten, too
	asked := h.placement().Desired
	if !asked.Account || asked.Epoch != 2 || len(asked.VMs)+len(asked.Wipes) != 0 || asked.SlotMap != before.Desired.SlotMap {
		t.Fatalf("it does not only ask: %+v", asked)
	}
	if _, err := r.try(acme.key, &CreateAllocation{Project: acme.project, SKUName: "gpu-1x", Count: 1}); err == nil || err.Code != "capacity.exhausted" {
		t.Fatalf("a host that was not heard takes VMs: %v", err)
	}

	says := h.holdings(before)
	for index := range uint32(5) {
		says.Slots = append(says.Slots, HeldSlot{Index: index, Slot: ids[index], Generation: seen[index]})
	}
	e := h.report(Report{Kind: ReportInventory, Holdings: says})
	done := ofType[*HostReconciled](e)
	if len(done) != 1 || len(done[0].Unknown) != 1 || done[0].Unknown[0].Tenant != other.id {
		t.Fatalf("%+v", done)
	}
	for _, used := range done[0].Slots {
		if sl := r.w.slots.get(used.Slot); !sl.Dirty {
			t.Errorf("slot %d was used since, and nothing is owed for it", sl.Index)
		}
	}
	unknown := done[0].Unknown[0]
	if gone := ofType[*AllocationReleasing](e); len(gone) != 1 || gone[0].ID != ends || gone[0].Reason != "epoch.not_on_host" || gone[0].BilledTo != at {
		t.Errorf("what ended: %+v", gone)
	}
	if len(ofType[*AllocationReleased](e)) != 1 || r.w.allocations.get(ends) != nil || r.w.allocations.get(stays) == nil || r.w.allocations.get(last) == nil {
		t.Errorf("%+v", e)
	}
	if q := ofType[*SlotQuarantined](e); len(q) != 1 || q[0].Reason != "epoch.unknown_vm" {
		t.Errorf("quarantined: %+v", q)
	}
	if u := ofType[*SlotWipeStarted](e); len(u) != 2 || u[1].Cause != "epoch" || len(u[1].Slots) != 1 {
		t.Errorf("the slot that was used since is not wiped: %+v", u)
	}
	for _, row := range r.w.hosts.get(h.id).slots {
		if sl := r.w.slots.row(row); sl.Generation < seen[uint32(sl.Index)] {
			t.Errorf("slot %d is at generation %d, its host has seen %d", sl.Index, sl.Generation, seen[uint32(sl.Index)])
		}
	}
	now := h.placement().Desired
	if now.Account || !slices.Equal(now.Keep, []VMID{unknown.VM}) || len(now.VMs) != 2 {
		t.Errorf("%+v", now)
	}
	held := r.w.slots.row(r.w.hosts.get(h.id).slots[unknown.Slots[0]])
	r.refused(r.admin, &RewipeSlot{Slot: held.ID}, "slot.unknown_vm")
	r.refused(r.admin, &RetireSlot{Slot: held.ID, Reason: "no"}, "slot.unknown_vm")
	if again := h.report(Report{Kind: ReportInventory, Holdings: says}); again[0].(*HostReported).Refused != "report.late" {
		t.Errorf("a second account: %+v", again)
	}
	h.boot() // both go on: what is said again changes nothing
	h.wipe()
	r.after(3 * Hour)
	if used := r.balance(other); used.Available != 1e9 {
		t.Errorf("the tenant of the unknown VM has %d left", used.Available)
	}

	// The operator decides; then the slot comes back, and only by a wipe.
	r.refused(r.admin, &DestroyUnknownVM{Host: h.id, VM: VMID{5}, Reason: "no"}, "vm.not_found")
	r.must(r.admin, &DestroyUnknownVM{Host: h.id, VM: unknown.VM, Reason: "tenant-agreed"})
	if now := h.placement().Desired; len(now.Keep) != 0 || len(now.Wipes) != 1 || held.State != SlotIsWiping {
		t.Errorf("%+v", now)
	}
	nonce := h.placement().Desired.Wipes[0].Lease.Nonce
	for _, b := range before.Desired.VMs {
		for _, l := range b.Leases {
			if l.Nonce == nonce {
				t.Error("a nonce of the lost epoch comes again")
			}
		}
	}
	h.wipe()
	if held.State != SlotIsAvailable {
		t.Errorf("the slot is %s", held.State)
	}
	r.replays()
}

// Nobody wrote between the end of the log and the epoch: what was to happen in that time
// may have, unheard, so a launch and a wipe have as long as they had left.
func TestEpochExtendsDeadlines(t *testing.T) {
	t.Parallel()
	s, second, h, f := newRented(t, 2)
	s.release(f, s.launch(f, "ends", "gpu-1x", 1))
	v := s.w.vms.row(s.w.allocations.get(s.launch(f, "begins", "gpu-1x", 1)).vms[0])
	slot := s.w.slots.get(h.placement().Desired.Wipes[0].Lease.Slot)
	launch, wipe := v.Deadline, slot.Deadline
	m := s.openEpoch(second)
	s.now = s.now.Add(2 * Day) // both are over by the clock
	s.must(System, m)
	s.to(s.now)
	if v.State != Provisioning || v.Deadline != launch.Add(2*Day) {
		t.Errorf("the VM is %s until %s, it was until %s", v.State, v.Deadline, launch)
	}
	if slot.State != SlotIsWiping || slot.Deadline != wipe.Add(2*Day) {
		t.Errorf("the slot is %s until %s, it was until %s", slot.State, slot.Deadline, wipe)
	}
	s.replays()
}

// An opening of an epoch may be lost itself. Its number does not come again: hosts that
// have seen it would not follow.
func TestLostOpeningIsNotRepeated(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	second, _ := s.second()
	h := s.host("h1", 1, "r")
	s.must(System, &NoteHostAhead{Host: h.id, Epoch: 1, Generation: 99}) // before a placement of the lost epoch arrived
	s.must(System, &NoteHostAhead{Host: h.id, Epoch: 4, Generation: 9})
	if e, _ := s.try(System, &NoteHostAhead{Host: h.id, Epoch: 4, Generation: 10}); e != nil {
		t.Errorf("noted once more: %+v", e)
	}
	if epoch := s.w.AheadEpoch(h.id); epoch != 4 {
		t.Errorf("the host has seen epoch %d", epoch)
	}
	m := s.openEpoch(second)
	m.Lost = append(m.Lost, LostSign{Source: "host", Epoch: 4}, LostSign{Source: "placement", Epoch: 3}, LostSign{Source: "host", Epoch: 4e9})
	s.refused(System, m, "epoch.not_next")
	m.Epoch = 5
	if opened := s.must(System, m)[0].(*EpochOpened); opened.Epoch != 5 || s.w.Epoch != 5 || s.w.AheadEpoch(h.id) != 0 {
		t.Errorf("%+v", opened)
	}
	s.replays()
}

// A host that is ahead of the log is told nothing: what the log places would pass what
// the host has seen, and remove what the log does not know.
func TestHostAheadIsToldNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h1", 1, "r")
	if _, ok := s.w.PlacementOf(h.id); !ok {
		t.Fatal("it has no placement")
	}
	if e, _ := s.try(System, &NoteHostAhead{Host: h.id, Epoch: 1, Generation: 1}); e != nil {
		t.Errorf("a host that is behind is ahead: %+v", e)
	}
	s.must(System, &NoteHostAhead{Host: h.id, Epoch: 1, Generation: 1, Forked: true})
	if x, ok := s.w.PlacementOf(h.id); ok {
		t.Errorf("it is told %+v", x)
	}
	s.must(s.admin, &ActOnHost{Host: h.id, Action: HostCordon})
	if x, ok := s.w.PlacementOf(h.id); ok {
		t.Errorf("it is told %+v", x)
	}
	if e, _ := s.try(System, &NoteHostAhead{Host: h.id, Epoch: 0, Generation: 1, Forked: true}); e != nil {
		t.Error("said twice, of an epoch that is over")
	}
	s.replays()
}
