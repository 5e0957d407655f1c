package domain

import (
	"slices"
	"testing"
)

// clone is a copy of a map to change.
func (h *fakeHost) clone() *SlotMap {
	m := new(SlotMap)
	if err := decodeKept(encodeMessage(h.m), m); err != nil {
		h.s.t.Fatal(err)
	}
	return m
}

// propose reports a map and makes it the host's own.
func (h *fakeHost) propose(m *SlotMap) *ApproveMap {
	h.s.t.Helper()
	h.m = m
	h.report(Report{Kind: ReportInventory, Inventory: m})
	return &ApproveMap{Host: h.id, Digest: m.Digest()}
}

func (h *fakeHost) slot(i int) *Slot { return h.s.w.slots.row(h.s.w.hosts.get(h.id).slots[i]) }

func ofType[E EventBody](events []EventBody) (out []E) {
	for _, e := range events {
		if e, ok := e.(E); ok {
			out = append(out, e)
		}
	}
	return out
}

// failedWipe releases an allocation whose drive cannot be wiped: its slot is
// quarantined with the tenant's data on it.
func (s *site) failedWipe(f tenantFixture, h *fakeHost, id AllocationID) SlotID {
	s.t.Helper()
	h.boot()
	s.must(f.key, &ActOnAllocation{Allocation: id, Action: ActionRelease})
	w := h.placement().Desired.Wipes[0]
	h.report(wiped(h.evidence(w), func(r *WipeReport) { r.Devices[1].Result = WipeFailed }))
	if st := s.w.slots.get(w.Lease.Slot).State; st != SlotIsQuarantined {
		s.t.Fatalf("the slot is %s", st)
	}
	return w.Lease.Slot
}

func TestMapsThatAmend(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change  func(s *site, h *fakeHost, m *SlotMap)
		policy  WipePolicy
		refused string
		changes []string // by slot
		wiped   int
	}{
		"nothing of the slots": {func(_ *site, _ *fakeHost, m *SlotMap) { m.Slots[0].GPU.Address = "0000:77:00.0" }, 0, "", []string{"kept", "kept", "kept", "kept"}, 0},
		"a spare drive":        {func(_ *site, _ *fakeHost, m *SlotMap) { m.Slots[1].NVMe.Serial = "SPARE" }, 0, "", []string{"kept", "replaced", "kept", "kept"}, 1},
		"more memory":          {func(_ *site, _ *fakeHost, m *SlotMap) { m.Slots[1].MemoryMiB *= 2 }, 0, "", []string{"kept", "changed", "kept", "kept"}, 0},
		"a new slot": {func(_ *site, _ *fakeHost, m *SlotMap) {
			more := testMap("other", 4).Slots[3]
			more.Index, more.Threads = 4, []uint16{127}
			more.GPU.Address, more.NVMe.Address, more.IBVF.Address = "a", "b", "c"
			m.Slots = append(m.Slots, more)
		}, WipeSanitize, "", []string{"kept", "kept", "kept", "kept", "added"}, 1},
		"a new slot without a policy": {func(_ *site, _ *fakeHost, m *SlotMap) {
			more := testMap("other", 4).Slots[3]
			more.Index, more.Threads = 4, []uint16{127}
			more.GPU.Address, more.NVMe.Address, more.IBVF.Address = "a", "b", "c"
			m.Slots = append(m.Slots, more)
		}, 0, "slot.no_wipe_policy", nil, 0},
		"drives change places": {func(_ *site, _ *fakeHost, m *SlotMap) {
			m.Slots[1].NVMe.Serial, m.Slots[2].NVMe.Serial = m.Slots[2].NVMe.Serial, m.Slots[1].NVMe.Serial
		}, 0, "", []string{"kept", "replaced", "replaced", "kept"}, 2},
		"an active slot's drive":  {func(_ *site, _ *fakeHost, m *SlotMap) { m.Slots[0].NVMe.Serial = "SPARE" }, 0, "host.map_in_use", nil, 0},
		"an active slot's cores":  {func(_ *site, _ *fakeHost, m *SlotMap) { m.Slots[0].Threads = m.Slots[0].Threads[1:] }, 0, "host.map_in_use", nil, 0},
		"an active slot's memory": {func(_ *site, _ *fakeHost, m *SlotMap) { m.Slots[0].MemoryMiB-- }, 0, "host.map_in_use", nil, 0},
		"an active slot's number": {func(_ *site, _ *fakeHost, m *SlotMap) {
			m.Slots[0], m.Slots[1] = m.Slots[1], m.Slots[0]
			m.Slots[0].Index, m.Slots[1].Index = 0, 1
		}, 0, "host.map_in_use", nil, 0},
		"available slots' numbers": {func(_ *site, _ *fakeHost, m *SlotMap) {
			m.Slots[2], m.Slots[1] = m.Slots[1], m.Slots[2]
			m.Slots[1].Index, m.Slots[2].Index = 1, 2
		}, 0, "", []string{"kept", "changed", "changed", "kept"}, 0},
		"a slot is missing": {func(_ *site, _ *fakeHost, m *SlotMap) { m.Slots = m.Slots[:3] }, 0, "host.map_drops_slot", nil, 0},
		"a retired slot is missing": {func(s *site, h *fakeHost, m *SlotMap) {
			s.must(s.admin, &RetireSlot{Slot: h.slot(3).ID, Reason: "broken"})
			m.Slots = m.Slots[:3]
		}, 0, "", []string{"kept", "kept", "kept"}, 0},
		"a retired slot's devices": {func(s *site, h *fakeHost, m *SlotMap) {
			s.must(s.admin, &RetireSlot{Slot: h.slot(3).ID, Reason: "broken"})
			m.Slots[3].OnDisk = "another look"
		}, WipeAuto, "", []string{"kept", "kept", "kept", "added"}, 1},
		"another host's drive": {func(s *site, _ *fakeHost, m *SlotMap) { m.Slots[1].NVMe.Serial = "NVME-other-0" }, 0, "slot.device_in_use", nil, 0},
		"another GPU class":    {func(_ *site, _ *fakeHost, m *SlotMap) { m.GPUClass = "b200" }, 0, "host.map_class", nil, 0},
		"not sane":             {func(_ *site, _ *fakeHost, m *SlotMap) { m.Slots[1].MemoryMiB = 1 << 30 }, 0, "host.map_unsafe", nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			h := s.host("h", 4, "r")
			s.host("other", 1, "r")
			s.sku("gpu-1x", 1, 1)
			f := s.tenant("acme", 1e9)
			for _, row := range s.w.hosts.get(h.id).slots[1:] { // the first slot is the one that is launched on
				s.must(s.admin, &QuarantineSlot{Slot: s.w.slots.row(row).ID, Reason: "test"})
			}
			s.must(s.admin, &ActOnHost{Host: s.w.hosts.row(s.w.hosts.next - 1).ID, Action: HostCordon})
			id := s.launch(f, "", "gpu-1x", 1)
			h.boot()
			for _, row := range s.w.hosts.get(h.id).slots[1:] {
				s.must(s.admin, &RewipeSlot{Slot: s.w.slots.row(row).ID})
			}
			h.wipe()
			before := *h.slot(0)
			m := h.clone()
			c.change(s, h, m)
			approve := h.propose(m)
			approve.Policy = c.policy
			if c.refused != "" {
				s.refused(s.admin, approve, c.refused)
				return
			}
			events := s.must(s.admin, approve)
			var changes []string
			for _, a := range ofType[*MapAmended](events)[0].Slots {
				changes = append(changes, a.Change)
			}
			if !slices.Equal(changes, c.changes) {
				t.Fatalf("%v, want %v", changes, c.changes)
			}
			if after := *h.slot(0); after != before {
				t.Fatalf("the active slot was %+v, is %+v", before, after)
			}
			if got := len(h.placement().Desired.Wipes); got != c.wiped || h.placement().Desired.SlotMap != m.Digest() {
				t.Fatalf("%d wipes of map %s", got, h.placement().Desired.SlotMap)
			}
			if again := s.must(s.admin, approve); again != nil {
				t.Fatalf("approved again: %v", again)
			}
			h.wipe()
			s.release(f, id, h)
			if n := s.w.Count().SlotStates["available"]; n != len(m.Slots)+1 {
				t.Fatalf("%d slots are available", n)
			}
			s.replays()
		})
	}
}

// A drive that could not be wiped leaves its slot: a spare takes its place at once,
// and the duty goes with the drive, to the host where it is found.
func TestWipeDutyFollowsTheDrive(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h, other := s.host("h", 1, "r"), s.host("other", 1, "r")
	s.must(s.admin, &ActOnHost{Host: other.id, Action: HostCordon})
	s.sku("gpu-1x", 1, 1)
	f := s.tenant("acme", 1e9)
	slot := s.failedWipe(f, h, s.launch(f, "", "gpu-1x", 1))
	lease := s.w.slots.get(slot).lease()

	m := h.clone()
	bad := m.Slots[0].NVMe.Serial
	m.Slots[0].NVMe.Serial = "SPARE"
	owed := ofType[*WipeOwed](s.must(s.admin, h.propose(m)))
	if len(owed) != 1 || owed[0].Component != "nvme" || owed[0].Slot != slot || owed[0].Generation != lease.Generation || owed[0].Cause != "replaced" {
		t.Fatalf("%+v", owed)
	}
	// The wipe of the spare proves nothing about the lease that ended.
	w := h.placement().Desired.Wipes[0]
	if w.Lease.Generation == lease.Generation || w.Lease.Nonce == lease.Nonce {
		t.Fatal("the spare's wipe would pass for the old drive's")
	}
	if e := h.report(wiped(h.evidence(w), func(r *WipeReport) { r.Devices[1].Serial = bad })); len(ofType[*SlotWiped](e)) != 0 {
		t.Fatal("the old drive's serial passed for the spare's")
	}
	s.must(s.admin, &RewipeSlot{Slot: slot})
	if e := h.report(wiped(h.evidence(h.placement().Desired.Wipes[0]), nil)); len(ofType[*SlotWiped](e)) != 1 || len(ofType[*WipeDischarged](e)) != 0 {
		t.Fatalf("%v", e)
	}

	// The drive turns up in another host, whose slot is sold only after its wipe.
	m = other.clone()
	m.Slots[0].NVMe.Serial = bad
	s.must(s.admin, other.propose(m))
	if st := other.slot(0).State; st != SlotIsWiping {
		t.Fatal(st)
	}
	e := other.report(wiped(other.evidence(other.placement().Desired.Wipes[0]), func(r *WipeReport) { r.Devices[1].Fresh = true }))
	if d := ofType[*WipeDischarged](e); len(d) != 1 || d[0].ID != owed[0].ID || !d[0].Fresh || s.w.duties.len() != 0 {
		t.Fatalf("%+v", e)
	}
	s.replays()
}

func TestRetiredSlotsNeverReturn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h", 2, "r")
	s.sku("gpu-1x", 1, 1)
	f := s.tenant("acme", 1e9)
	id := s.launch(f, "", "gpu-1x", 1)
	active, idle := s.w.slots.row(s.w.vms.row(s.w.allocations.get(id).vms[0]).slots[0]).ID, SlotID{}
	for _, row := range s.w.hosts.get(h.id).slots {
		if sl := s.w.slots.row(row); sl.ID != active {
			idle = sl.ID
		}
	}
	s.refused(f.key, &RetireSlot{Slot: idle, Reason: "old"}, "auth.platform_only")
	s.refused(s.admin, &RetireSlot{Slot: SlotID{9}, Reason: "old"}, "slot.not_found")
	s.refused(s.admin, &RetireSlot{Slot: idle}, "name.invalid")
	s.refused(s.admin, &RetireSlot{Slot: active, Reason: "old"}, "slot.in_use")
	if e := s.must(s.admin, &RetireSlot{Slot: idle, Reason: "old"}); len(e) != 1 {
		t.Fatalf("a wiped slot owes nothing: %+v", e)
	}
	if e := s.must(s.admin, &RetireSlot{Slot: idle, Reason: "old"}); e != nil {
		t.Fatalf("retired twice: %v", e)
	}
	s.refused(s.admin, &RewipeSlot{Slot: idle}, "slot.not_quarantined")
	if e := s.must(s.admin, &QuarantineSlot{Slot: idle, Reason: "x"}); e != nil {
		t.Fatalf("%v", e)
	}
	s.refused(f.key, &CreateAllocation{Project: f.project, SKUName: "gpu-1x", Count: 1}, "capacity.exhausted")
	if h.report(Report{Kind: ReportFaulted, Fault: &FaultReport{Component: "host"}}); s.w.slots.get(idle).State != SlotIsRetired {
		t.Fatal("a fault brought it back")
	}

	// The active slot has a fault now: its wipe fails, it is retired unwiped, and every
	// device is owed.
	slot := s.failedWipe(f, h, id)
	e := s.must(s.admin, &RetireSlot{Slot: slot, Reason: "broken"})
	owed := ofType[*WipeOwed](e)
	if len(owed) != 3 || len(e) != 4 {
		t.Fatalf("%+v", e)
	}
	s.destroy(owed[1])
	s.refused(s.admin, &RemoveHost{Host: HostID{7}}, "host.not_found")
	s.must(s.admin, &RemoveHost{Host: h.id})

	// In another host the destroyed drive is not taken for an ordinary one.
	again := &fakeHost{s: s, journal: JournalID{8}}
	again.id = s.must(s.admin, &EnrollHost{Name: "h", TokenID: Digest{8}})[0].(*HostEnrolled).ID
	m := testMap("new", 1)
	m.Slots[0].NVMe.Serial = h.m.Slots[s.w.slots.get(slot).Index].NVMe.Serial
	approve := again.propose(m)
	approve.Policy = WipeAuto
	s.refused(s.admin, approve, "slot.device_destroyed")
	s.replays()
}

// destroy has two operators say that the device of a duty is destroyed.
func (s *site) destroy(owed *WipeOwed) {
	s.t.Helper()
	report := &ReportDestroyed{Duty: owed.ID, Evidence: "certificate-17"}
	second := UserID{2}
	s.must(s.admin, &SetOperator{User: second, Roles: RoleOperator})
	s.must(s.admin, &CreateAPIKey{User: second, Name: "second", Hash: Digest{2}})
	other := Actor{Kind: ActorKey, Key: s.w.keyByHash[Digest{2}]}
	s.refused(s.admin, &ReportDestroyed{Duty: WipeDutyID{4}, Evidence: "x"}, "wipe_duty.not_found")
	s.refused(s.admin, &ReportDestroyed{Duty: owed.ID}, "word.invalid")
	s.refused(System, report, "auth.platform_only")
	if e := s.must(s.admin, report); len(ofType[*DestructionReported](e)) != 1 {
		s.t.Fatalf("%+v", e)
	}
	if e := s.must(s.admin, &ReportDestroyed{Duty: owed.ID, Evidence: "certificate-18"}); e != nil {
		s.t.Fatalf("one operator is not two: %+v", e)
	}
	e := s.must(other, report)
	if d := ofType[*DeviceDestroyed](e); len(d) != 1 || d[0].First == d[0].Second || d[0].Second != second {
		s.t.Fatalf("%+v", e)
	}
	if e := s.must(other, report); e != nil {
		s.t.Fatalf("%+v", e)
	}
}

func TestHostIsRemoved(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h, stays := s.host("h", 2, "r"), s.host("stays", 1, "r")
	s.refused(s.admin, &RemoveHost{Host: h.id}, "host.has_slots")
	for i := range 2 {
		s.must(s.admin, &RetireSlot{Slot: h.slot(i).ID, Reason: "old"})
	}
	s.must(s.admin, &RemoveHost{Host: h.id})
	if e := s.must(s.admin, &RemoveHost{Host: h.id}); e != nil {
		t.Fatalf("removed twice: %v", e)
	}
	if key, removed := s.w.HostKey(h.id); key == "" || !removed || len(s.w.RemovedHostKeys()) != 1 {
		t.Fatal("its credential is not known to be revoked")
	}
	if hosts := s.w.AdmittedHosts(); len(hosts) != 1 || hosts[0] != stays.id {
		t.Fatalf("%v", hosts)
	}
	report := Report{Host: h.id, Journal: h.journal, Number: h.n + 1, Epoch: 1, Kind: ReportInventory, Inventory: h.m}
	s.refused(Actor{Kind: ActorHost, Host: h.id}, &RecordReport{Host: h.id, Report: EncodeReport(&report)}, "host.not_found")
	s.refused(s.admin, &ActOnHost{Host: h.id, Action: HostUncordon}, "host.not_found")
	s.refused(s.admin, &ApproveMap{Host: h.id, Digest: h.m.Digest(), Policy: WipeAuto}, "host.not_found")
	s.refused(System, &AdmitHost{TokenID: DigestOf([]byte("token h")), NATSKey: "U" + string(make([]byte, 55)), SignKey: make([]byte, 32)}, "host.token_invalid")
	// Its name and devices are free for the machine that comes after it.
	s.host("h", 2, "r2")
	s.sku("gpu-1x", 1, 1)
	f := s.tenant("acme", 1e9)
	for range 3 {
		s.launch(f, "", "gpu-1x", 1)
	}
	s.refused(f.key, &CreateAllocation{Project: f.project, SKUName: "gpu-1x", Count: 1}, "capacity.exhausted")
	s.replays()
}

// A proposal that the host no longer stands by is not approved.
func TestProposalIsWithdrawn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h", 2, "r")
	approved, other := h.m, h.clone()
	other.Slots[1].NVMe.Serial = "SPARE"
	approve := h.propose(other)
	h.propose(approved)
	s.refused(s.admin, approve, "host.wrong_digest")
	if e := s.must(s.admin, &ApproveMap{Host: h.id, Digest: approved.Digest()}); e != nil {
		t.Fatalf("%+v", e)
	}
	s.replays()
}
