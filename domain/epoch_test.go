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
	lost := *h
	h = &lost
	h.s, h.n = r, h.n+5 // reports that the log has forgotten, too
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

// What a host did in the lost tail is known when it has said it. A slot that is retired
// before leaves drives that are owed a wipe, however clean the log calls them.
func TestRetiredBeforeItsHostHasSaidWhatItHolds(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	second, _ := s.second()
	h := s.host("h1", 3, "r")
	retire := func(index int) int {
		t.Helper()
		row := s.w.hosts.get(h.id).slots[index]
		return len(ofType[*WipeOwed](s.must(s.admin, &RetireSlot{Slot: s.w.slots.row(row).ID, Reason: "old"})))
	}
	s.must(System, &NoteHostAhead{Host: h.id, Epoch: 1, Generation: 99})
	if owed := retire(0); owed != len(deviceComponents) {
		t.Errorf("ahead of the log: %d wipes are owed", owed)
	}
	s.must(System, s.openEpoch(second))
	if owed := retire(1); owed != len(deviceComponents) {
		t.Errorf("not heard in the epoch: %d wipes are owed", owed)
	}
	says := &HoldingsReport{Epoch: 1, Generation: 99, SlotMap: s.w.hosts.get(h.id).MapID}
	for _, row := range s.w.hosts.get(h.id).slots {
		sl := s.w.slots.row(row)
		says.Slots = append(says.Slots, HeldSlot{Index: uint32(sl.Index), Slot: sl.ID, Generation: sl.Generation})
	}
	h.report(Report{Kind: ReportInventory, Holdings: says})
	if owed := retire(2); owed != 0 {
		t.Errorf("said to be clean: %d wipes are owed", owed)
	}
	s.replays()
}

// A VM that a host holds against a lease of the log's: the lease ends, the VM stays.
func TestAccountOfAnotherHistory(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	second, _ := s.second()
	h := s.host("h1", 2, "r")
	s.sku("gpu-1x", 1, 3_600_000)
	f := s.tenant("acme", 1e9)
	ours := s.launch(f, "ours", "gpu-1x", 1) // the host refused it: its fence was ahead
	slot := s.w.vms.row(s.w.allocations.get(ours).vms[0]).slots[0]
	s.must(System, &NoteHostAhead{Host: h.id, Epoch: 1, Generation: 99})
	if e, _ := s.try(System, &NoteHostAhead{Host: h.id, Epoch: 1, Generation: 99}); e != nil {
		t.Error("said twice")
	}
	if _, err := s.try(f.key, &CreateAllocation{Project: f.project, SKUName: "gpu-1x", Count: 1}); err == nil {
		t.Error("a host that is ahead takes VMs")
	}
	s.must(System, s.openEpoch(second))
	theirs := HeldVM{VM: VMID{8}, Slots: []uint32{uint32(s.w.slots.row(slot).Index)}, Running: true}
	e := h.report(Report{Kind: ReportInventory, Holdings: &HoldingsReport{Epoch: 1, Generation: 99, VMs: []HeldVM{theirs}, SlotMap: Digest{1}}})
	if s.w.allocations.get(ours) != nil || s.w.slots.row(slot).State != SlotIsQuarantined {
		t.Errorf("%+v", e)
	}
	if q := ofType[*SlotQuarantined](e); len(q) != 2 || q[1].Reason != "epoch.map_differs" && q[0].Reason != "epoch.map_differs" {
		t.Errorf("with another map: %+v", q)
	}
	s.replays()
}

// What a host said before the epoch, and what arrives after its account, is refused: the
// account is newer. Only its inventory is what it was.
func TestReportOfAnOldEpochAfterTheAccount(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	second, _ := s.second()
	h := s.host("h1", 3, "r")
	s.sku("gpu-1x", 1, 3_600_000)
	f := s.tenant("acme", 1e9)
	runs, leaves := s.launch(f, "runs", "gpu-1x", 1), s.launch(f, "leaves", "gpu-1x", 1)
	h.boot()
	before := h.placement()
	vm := func(id AllocationID) VMID { return s.w.vms.row(s.w.allocations.get(id).vms[0]).ID }
	running, leaving := vm(runs), vm(leaves)
	s.release(f, leaves)
	s.must(System, s.openEpoch(second))
	says, free := h.holdings(before), SlotID{}
	for _, row := range s.w.hosts.get(h.id).slots {
		sl := s.w.slots.row(row)
		says.Slots = append(says.Slots, HeldSlot{Index: uint32(sl.Index), Slot: sl.ID, Generation: sl.Generation})
		if sl.State == SlotIsAvailable {
			free = sl.ID
		}
	}
	h.report(Report{Kind: ReportInventory, Holdings: says})
	now := h.placement().Desired
	if now.Account || len(now.VMs) != 1 || len(now.Wipes) != 1 || free.IsZero() {
		t.Fatalf("%+v", now)
	}
	late := func(r Report) []EventBody {
		t.Helper()
		h.n++
		r.Host, r.Journal, r.Number, r.At, r.Epoch, r.Generation = h.id, h.journal, h.n, s.now, 1, before.Desired.Generation
		return s.must(Actor{Kind: ActorHost, Host: h.id}, &RecordReport{Host: h.id, Report: EncodeReport(&r)})
	}
	for _, r := range []Report{
		{Kind: ReportStopped, VM: &VMReport{VM: running, Boot: 1, At: s.now}},
		{Kind: ReportFailed, VM: &VMReport{VM: running, Boot: 1, At: s.now}},
		{Kind: ReportRemoved, VM: &VMReport{VM: leaving, Boot: 1, At: s.now}},
		{Kind: ReportWiped, Wipe: h.evidence(now.Wipes[0])},
		{Kind: ReportFaulted, Fault: &FaultReport{Slot: free, Component: "gpu", Scope: "device"}},
		{Kind: ReportInventory, Holdings: says},
	} {
		if e := late(r); len(e) != 1 || e[0].(*HostReported).Refused != "report.old_epoch" {
			t.Errorf("%s: %+v", r.Kind, e)
		}
	}
	if e := late(Report{Kind: ReportInventory, Inventory: testMap("h1", 2)}); len(e) != 2 || e[0].(*HostReported).Refused != "" {
		t.Errorf("another map: %+v", e)
	}
	s.replays()
}

// Nobody wrote between the end of the log and the epoch: what was to happen in that time
// may have, unheard, so a launch and a wipe have as long as they had left.
func TestEpochExtendsDeadlines(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	second, _ := s.second()
	h := s.host("h1", 2, "r")
	s.sku("gpu-1x", 1, 3_600_000)
	f := s.tenant("acme", 1e9)
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

// Two VMs that the log does not know hold one slot: it is wiped when an operator has
// decided on both, and not under the one that is left.
func TestTwoUnknownVMsOnOneSlot(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	second, _ := s.second()
	h := s.host("h1", 2, "r")
	s.must(System, s.openEpoch(second))
	one, two := HeldVM{VM: VMID{8}, Slots: []uint32{0, 1}}, HeldVM{VM: VMID{9}, Slots: []uint32{1}, Running: true}
	h.report(Report{Kind: ReportInventory, Holdings: &HoldingsReport{
		Epoch: 1, Generation: 99, SlotMap: s.w.hosts.get(h.id).MapID, VMs: []HeldVM{one, two},
	}})
	free, shared := s.w.slots.row(s.w.hosts.get(h.id).slots[0]), s.w.slots.row(s.w.hosts.get(h.id).slots[1])
	s.must(s.admin, &DestroyUnknownVM{Host: h.id, VM: one.VM, Reason: "tenant-agreed"})
	if free.State != SlotIsWiping || shared.State != SlotIsQuarantined {
		t.Errorf("with one left: the slot of its own is %s, the shared one %s", free.State, shared.State)
	}
	if p := h.placement().Desired; !slices.Equal(p.Keep, []VMID{two.VM}) || len(p.Wipes) != 1 || p.Wipes[0].Lease.Slot != free.ID {
		t.Errorf("%+v", p)
	}
	s.must(s.admin, &DestroyUnknownVM{Host: h.id, VM: two.VM, Reason: "tenant-agreed"})
	if shared.State != SlotIsWiping {
		t.Errorf("with none left: the slot is %s", shared.State)
	}
	h.wipe()
	if free.State != SlotIsAvailable || shared.State != SlotIsAvailable {
		t.Errorf("wiped: %s, %s", free.State, shared.State)
	}
	s.replays()
}

// A VM that never reached its host is still to be started there, unless the host has lost
// its memory: then nobody knows what it did on the slot after the end of the log.
func TestAccountOfAHostThatForgot(t *testing.T) {
	t.Parallel()
	for name, remembers := range map[string]func(*HeldSlot){
		"all":                  func(*HeldSlot) {},
		"nothing":              func(held *HeldSlot) { held.Slot, held.Generation = SlotID{}, 0 },
		"not the lease before": func(held *HeldSlot) { held.Generation = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			second, _ := s.second()
			h := s.host("h1", 1, "r")
			s.sku("gpu-1x", 1, 3_600_000)
			f := s.tenant("acme", 1e9)
			s.release(f, s.launch(f, "first", "gpu-1x", 1), h)
			ours := s.launch(f, "ours", "gpu-1x", 1)
			vm := s.w.vms.row(s.w.allocations.get(ours).vms[0])
			slot := s.w.slots.row(vm.slots[0])
			s.must(System, s.openEpoch(second))
			held := HeldSlot{Index: uint32(slot.Index), Slot: slot.ID, Generation: slot.Generation - 1}
			remembers(&held)
			h.report(Report{Kind: ReportInventory, Holdings: &HoldingsReport{Epoch: 1, Generation: 99, SlotMap: s.w.hosts.get(h.id).MapID, Slots: []HeldSlot{held}}})
			switch have := s.w.allocations.get(ours); {
			case name == "all" && (have == nil || slot.State != SlotIsReserved):
				t.Errorf("%+v, the slot is %s", have, slot.State)
			case name != "all" && (have != nil || slot.State != SlotIsWiping):
				t.Errorf("%+v, the slot is %s", have, slot.State)
			}
			s.replays()
		})
	}
}

// A journal that had ended, when a late report of an earlier one came, is the newest again
// by its account.
func TestAccountOfAJournalThatHadEnded(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	second, _ := s.second()
	h := s.host("h1", 1, "r")
	late := Report{Host: h.id, Journal: JournalID{5}, Number: 1, Epoch: 1, Kind: ReportInventory, Inventory: h.m}
	s.must(Actor{Kind: ActorHost, Host: h.id}, &RecordReport{Host: h.id, Report: EncodeReport(&late)})
	before := h.placement()
	s.must(System, s.openEpoch(second))
	h.n += 3 // a gap
	if e := h.report(Report{Kind: ReportInventory, Holdings: h.holdings(before)}); e[0].(*HostReported).Refused != "" {
		t.Fatalf("%+v", e[0])
	}
	if e := h.report(Report{Kind: ReportInventory, Inventory: h.m}); len(e) == 0 {
		t.Fatal("the report after it is not taken")
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

// A VM that was booted again in the lost tail goes on from there: its host would take
// the log's next boot for one that it has had.
func TestBootsGoOnAboveTheHosts(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	second, _ := s.second()
	h := s.host("h1", 1, "r")
	s.sku("gpu-1x", 1, 3_600_000)
	f := s.tenant("acme", 1e9)
	id := s.launch(f, "a", "gpu-1x", 1)
	h.boot()
	before := h.placement()
	v := s.w.vms.row(s.w.allocations.get(id).vms[0])
	s.must(System, s.openEpoch(second))
	says := h.holdings(before)
	says.VMs[0].Boot = 3
	e := h.report(Report{Kind: ReportInventory, Holdings: says})
	if done := ofType[*HostReconciled](e); len(done) != 1 || !slices.Equal(done[0].Boots, []HeldBoot{{id, v.ID, 3}}) || v.Boot != 3 {
		t.Fatalf("boot %d: %+v", v.Boot, done)
	}
	if p := h.placement().Desired.VMs; len(p) != 1 || p[0].Boot != 3 {
		t.Errorf("%+v", p)
	}
	h.vm(ReportStarted, h.placement().Desired.VMs[0], s.now)
	s.must(f.key, &ActOnAllocation{Allocation: id, Action: ActionStop})
	h.vm(ReportStopped, h.placement().Desired.VMs[0], s.now)
	if v.State != Stopped {
		t.Errorf("the VM is %s", v.State)
	}
	s.must(f.key, &ActOnAllocation{Allocation: id, Action: ActionStart})
	if v.Boot != 4 {
		t.Errorf("it is started as boot %d", v.Boot)
	}
	s.replays()
}

// A VM that was booted again in the lost tail has run, though the log that is left does not
// know it: when it is not heard of, its disk stays.
func TestBootedInTheLostTailKeepsItsDisk(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	second, _ := s.second()
	h := s.host("h1", 1, "r")
	s.sku("gpu-1x", 1, 3_600_000)
	id := s.launch(s.tenant("acme", 1e9), "a", "gpu-1x", 1)
	before := h.placement()
	s.must(System, s.openEpoch(second))
	says := h.holdings(before)
	says.VMs[0].Boot = 2
	h.report(Report{Kind: ReportInventory, Holdings: says})
	s.after(2 * Hour)
	if a := s.w.allocations.get(id); a == nil || a.State != Stopped {
		t.Fatalf("%+v", a)
	}
	s.replays()
}

// A host that has lost everything is asked until all that is gone has ended: at once it
// would be more than a decision may have.
func TestAccountOfAFullHostThatLostAll(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.check = false
	second, _ := s.second()
	h, _ := s.fullHost()
	s.must(System, s.openEpoch(second))
	accounts, generation, released := 0, uint64(0), 0
	for s.w.hosts.get(h.id).Accounts != 0 {
		if p := h.placement().Desired; !p.Account || p.Generation <= generation {
			t.Fatalf("it is not asked again: %+v", p)
		} else {
			generation = p.Generation
		}
		accounts++
		released += len(ofType[*AllocationReleasing](h.report(Report{Kind: ReportInventory, Holdings: &HoldingsReport{Epoch: 1, Generation: 99, SlotMap: s.w.hosts.get(h.id).MapID}})))
	}
	if accounts < 3 || released != maxSlotsOnMap {
		t.Errorf("%d allocations released in %d accounts", released, accounts)
	}
	h.wipe()
	if n := s.w.Count().SlotStates["available"]; n != maxSlotsOnMap {
		t.Errorf("%d slots are available", n)
	}
	if err := s.w.CheckAll(); err != nil {
		t.Error(err)
	}
	s.replays()
}

// A gang of which a VM never reached its host, which forgot, is for nothing, as when it
// could not be started in time.
func TestGangThatAHostForgot(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	second, _ := s.second()
	hosts := []*fakeHost{s.host("h1", 1, "r"), s.host("h2", 1, "r")}
	s.sku("gpu-1x", 1, 3_600_000)
	f := s.tenant("acme", 1e9)
	id := s.launch(f, "a", "gpu-1x", 2)
	hosts[0].boot()
	s.after(10 * Minute)
	before := hosts[0].placement()
	s.must(System, s.openEpoch(second))
	hosts[0].report(Report{Kind: ReportInventory, Holdings: hosts[0].holdings(before)})
	e := hosts[1].report(Report{Kind: ReportInventory, Holdings: &HoldingsReport{Epoch: 1, Generation: 99}})
	if r := ofType[*AllocationReleasing](e); len(r) != 1 || r[0].ID != id || !r[0].Free {
		t.Fatalf("%+v", r)
	}
	if b := s.balance(f); b.Available != 1e9 {
		t.Errorf("%+v", b)
	}
	s.replays()
}
