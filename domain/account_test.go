package domain

import (
	"slices"
	"testing"
)

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
	says.Slots = h.remembered()
	h.report(Report{Kind: ReportInventory, Holdings: says})
	if owed := retire(2); owed != 0 {
		t.Errorf("said to be clean: %d wipes are owed", owed)
	}
	s.replays()
}

// A VM that a host holds against a lease of the log's: the lease ends, the VM stays.
func TestAccountOfAnotherHistory(t *testing.T) {
	t.Parallel()
	s, second, h, f := newRented(t, 2)
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
	s, second, h, f := newRented(t, 3)
	runs, leaves := s.launch(f, "runs", "gpu-1x", 1), s.launch(f, "leaves", "gpu-1x", 1)
	h.boot()
	before := h.placement()
	vm := func(id AllocationID) VMID { return s.w.vms.row(s.w.allocations.get(id).vms[0]).ID }
	running, leaving := vm(runs), vm(leaves)
	s.release(f, leaves)
	s.must(System, s.openEpoch(second))
	says, free := h.holdings(before), SlotID{}
	says.Slots = h.remembered()
	for _, held := range says.Slots {
		if s.w.slots.get(held.Slot).State == SlotIsAvailable {
			free = held.Slot
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

// A VM that was booted again in the lost tail goes on from there: its host would take
// the log's next boot for one that it has had.
func TestBootsGoOnAboveTheHosts(t *testing.T) {
	t.Parallel()
	s, second, h, f := newRented(t, 1)
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
	s, second, h, f := newRented(t, 1)
	id := s.launch(f, "a", "gpu-1x", 1)
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
