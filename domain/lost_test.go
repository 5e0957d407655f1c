package domain

import "testing"

// running is a VM that ran for an hour in boot 1.
func running(t *testing.T) (s *site, h *fakeHost, f tenantFixture, id AllocationID, v PlacedVM) {
	t.Helper()
	s = newSite(t)
	h = s.host("h1", 2, "r")
	s.sku("gpu-1x", 1, 3_600_000)
	f = s.tenant("acme", 1e9)
	id = s.launch(f, "", "gpu-1x", 1)
	h.boot()
	s.after(Hour)
	return s, h, f, id, h.placement().Desired.VMs[0]
}

// said is a report of a VM and what became of it.
func (h *fakeHost) said(kind ReportKind, v PlacedVM, change func(*VMReport)) []EventBody {
	h.s.t.Helper()
	r := &VMReport{VM: v.VM, Boot: v.Boot, At: h.s.now}
	change(r)
	return h.report(Report{Kind: kind, VM: r})
}

// Its host booted: the VM is not stopped, keeps its boot, its slots and its line, and
// its events say from when to when it was away and why.
func TestLostWithItsHost(t *testing.T) {
	t.Parallel()
	s, h, f, id, v := running(t)
	before := h.placement().Desired
	events := h.said(ReportStopped, v, func(r *VMReport) { r.Lost, r.Reason = true, "host.rebooted" })
	e, ok := events[1].(*VMLost)
	if !ok || e.Reason != "host.rebooted" || e.At != s.now || e.Boot != 1 {
		t.Fatalf("%+v", events[1])
	}
	if a := s.w.allocations.get(id); a.State != Starting {
		t.Fatalf("the allocation is %s", a.State)
	}
	if after := h.placement().Desired; after.Digest() != before.Digest() {
		t.Fatalf("the host is asked for something else: %+v", after)
	}
	s.after(3 * Minute)
	h.boot() // of the same boot
	if a, vm := s.w.allocations.get(id), s.w.vms.get(v.VM); a.State != Running || vm.Deadline != 0 || vm.Started != s.now {
		t.Fatalf("%s, %+v", a.State, vm)
	}
	s.after(57 * Minute)
	s.release(f, id, h)
	if b := s.balance(f); b.Available != 1e9-2*3_600_000 {
		t.Fatalf("two hours of one line: %+v", b)
	}
	s.replays()
}

func TestLostAndNotBack(t *testing.T) {
	t.Parallel()
	lose := func(h *fakeHost, v PlacedVM) []EventBody {
		return h.said(ReportStopped, v, func(r *VMReport) { r.Lost, r.Reason = true, "domain.crashed" })
	}
	t.Run("it is never heard of again", func(t *testing.T) {
		t.Parallel()
		s, h, _, id, v := running(t)
		lose(h, v)
		s.after(2 * Hour)
		if a := s.w.allocations.get(id); a == nil || a.State != Stopped {
			t.Fatalf("its disk is the tenant's: %+v", a)
		}
	})
	t.Run("it cannot be started", func(t *testing.T) {
		t.Parallel()
		s, h, _, id, v := running(t)
		lose(h, v)
		events := h.said(ReportFailed, v, func(r *VMReport) { r.Reason = "domain.start_failed" })
		if e, ok := events[1].(*VMStopped); !ok || e.Reason != "domain.start_failed" || s.w.allocations.get(id).State != Stopped {
			t.Fatalf("%+v", events[1])
		}
		// Again, by a host that does not remember that it said so.
		if events := h.said(ReportFailed, v, func(r *VMReport) { r.Reason = "domain.start_failed" }); len(events) != 1 || s.w.allocations.get(id).State != Stopped {
			t.Fatalf("%+v", events[1])
		}
	})
	t.Run("it was to be stopped, and cannot be started", func(t *testing.T) {
		t.Parallel()
		s, h, f, id, v := running(t)
		lose(h, v)
		s.must(f.key, &ActOnAllocation{Allocation: id, Action: ActionStop})
		h.said(ReportFailed, v, func(r *VMReport) { r.Reason = "domain.start_failed" })
		if a := s.w.allocations.get(id); a == nil || a.State != Stopped {
			t.Fatalf("its disk is the tenant's: %+v", a)
		}
	})
	t.Run("it was to be stopped", func(t *testing.T) {
		t.Parallel()
		s, h, f, id, v := running(t)
		s.must(f.key, &ActOnAllocation{Allocation: id, Action: ActionStop})
		if events := lose(h, v); len(events) != 1 {
			t.Fatalf("%+v", events[1])
		}
		h.vm(ReportStopped, v, s.now)
		if a := s.w.allocations.get(id); a.State != Stopped {
			t.Fatal(a.State)
		}
	})
	t.Run("it went down too often", func(t *testing.T) {
		t.Parallel()
		_, h, _, _, v := running(t)
		events := h.said(ReportStopped, v, func(r *VMReport) { r.Reason = "domain.crashed" })
		if e, ok := events[1].(*VMStopped); !ok || e.Reason != "domain.crashed" {
			t.Fatalf("%+v", events[1])
		}
	})
}

// A drive that is another's, or a GPU that cannot be proven, in a boot after the first:
// the bill ends then, what ran is paid, and the slot is not sold again.
func TestBrokenUnderATenant(t *testing.T) {
	t.Parallel()
	for _, boot := range []uint32{1, 2} {
		s, h, f, id, v := running(t)
		if boot == 2 {
			s.must(f.key, &ActOnAllocation{Allocation: id, Action: ActionStop})
			h.vm(ReportStopped, v, s.now)
			s.must(f.key, &ActOnAllocation{Allocation: id, Action: ActionStart})
			v = h.placement().Desired.VMs[0]
		} else {
			h.said(ReportStopped, v, func(r *VMReport) { r.Lost, r.Reason = true, "host.rebooted" })
		}
		other := h.said(ReportFailed, v, func(r *VMReport) { r.Reason, r.Component, r.Slot = "drive.other", "nvme", SlotID{9} })
		if code := other[0].(*HostReported).Refused; code != "report.foreign_slot" {
			t.Errorf("a slot that is not the VM's: %q", code)
		}
		events := h.said(ReportFailed, v, func(r *VMReport) {
			r.Reason, r.Component, r.Scope, r.Slot = "drive.other", "nvme", "device", v.Leases[0].Slot
		})
		c, ok := events[1].(*SlotCondemned)
		if !ok || c.Component != "nvme" || c.Reason != "drive.other" {
			t.Fatalf("boot %d: %+v", boot, events[1])
		}
		h.report(Report{Kind: ReportRemoved, VM: &VMReport{VM: v.VM, Boot: v.Boot, At: s.now}})
		s.after(2 * Hour)
		if b := s.balance(f); b.Available != 1e9-3_600_000 || b.Held != 0 {
			t.Errorf("boot %d: one hour ran: %+v", boot, b)
		}
		h.wipe()
		if slot := s.w.slots.get(v.Leases[0].Slot); slot.State != SlotIsQuarantined {
			t.Errorf("boot %d: the slot is %s", boot, slot.State)
		}
		s.replays()
	}
}

// Before its first boot a VM whose slot fails costs nothing, and the slot is kept back
// as well.
func TestBrokenBeforeTheFirstBoot(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h1", 1, "r")
	s.sku("gpu-1x", 1, 3_600_000)
	f := s.tenant("acme", 1e9)
	s.launch(f, "", "gpu-1x", 1)
	v := h.placement().Desired.VMs[0]
	events := h.said(ReportFailed, v, func(r *VMReport) {
		r.Reason, r.Component, r.Slot = "device.unproved", "gpu", v.Leases[0].Slot
	})
	if c, ok := events[1].(*SlotCondemned); !ok || c.Component != "gpu" {
		t.Fatalf("%+v", events[1])
	}
	h.wipe()
	if slot := s.w.slots.get(v.Leases[0].Slot); slot.State != SlotIsQuarantined || s.balance(f).Available != 1e9 {
		t.Errorf("%s, %+v", slot.State, s.balance(f))
	}
}

// A guest that says ready and does not see its devices is an alarm; it is billed as
// one that lives, and its word alone takes no slot out of service.
func TestGuestWithoutItsDevices(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h1", 1, "r")
	s.sku("gpu-1x", 1, 3_600_000)
	s.launch(s.tenant("acme", 1e9), "", "gpu-1x", 1)
	v := h.placement().Desired.VMs[0]
	h.vm(ReportStarted, v, s.now)
	deadline := s.w.vms.get(v.VM).Deadline
	events := h.said(ReportAlive, v, func(r *VMReport) { r.Address, r.Reason = "10.0.0.9", "guest.devices_missing" })
	o, ok := events[len(events)-1].(*VMOverdue)
	if !ok || o.Reason != "guest.devices_missing" {
		t.Fatalf("%+v", events)
	}
	if vm := s.w.vms.get(v.VM); vm.Deadline != deadline || vm.BillStart == 0 || s.w.slots.get(v.Leases[0].Slot).Condemned {
		t.Errorf("%+v", vm)
	}
	s.after(2 * Hour) // its own time to say so is over
	if vm := s.w.vms.get(v.VM); vm.State != Running || vm.Ready {
		t.Errorf("%+v", vm)
	}
	h.said(ReportAlive, v, func(r *VMReport) { r.Address, r.Reason = "10.0.0.9", "guest.devices_missing" })
	if vm := s.w.vms.get(v.VM); vm.State != Running || vm.Deadline != 0 {
		t.Errorf("said later: %+v", vm)
	}
	s.replays()
}

// At level 1 history decides as it did.
func TestLostAtTheFirstLevel(t *testing.T) {
	t.Parallel()
	s, h, _, _, v := running(t)
	s.w.LogicLevel = 1
	events := h.said(ReportStopped, v, func(r *VMReport) { r.Lost, r.Reason = true, "host.rebooted" })
	if e, ok := events[1].(*VMStopped); !ok || e.Reason != "guest" {
		t.Errorf("%+v", events[1])
	}
	s, h, _, _, v = running(t)
	s.w.LogicLevel = 1
	events = h.said(ReportFailed, v, func(r *VMReport) { r.Reason, r.Component, r.Slot = "drive.other", "nvme", v.Leases[0].Slot })
	if e, ok := events[len(events)-2].(*AllocationReleasing); !ok || !e.Free {
		t.Errorf("%+v", events)
	}
}

// A guest's word of a boot that was stopped meanwhile does not make it run.
func TestWordOfAStoppedGuest(t *testing.T) {
	t.Parallel()
	s, h, f, id, _ := running(t)
	s.must(f.key, &ActOnAllocation{Allocation: id, Action: ActionReboot})
	s.must(f.key, &ActOnAllocation{Allocation: id, Action: ActionStop})
	v := h.placement().Desired.VMs[0]
	for _, kind := range []ReportKind{ReportStarted, ReportStopped, ReportAlive, ReportReady} {
		h.vm(kind, v, s.now)
	}
	if a := s.w.allocations.get(id); a.State != Stopped {
		t.Fatalf("it is %s", a.State)
	}
	s.must(f.key, &ActOnAllocation{Allocation: id, Action: ActionStart})
	h.boot()
	if a := s.w.allocations.get(id); a.State != Running {
		t.Fatalf("it is %s", a.State)
	}
	s.replays()
}

// A boot that the log never asked for: it has lost its end, and went on before anybody
// noticed. The host is known to be ahead, and is told nothing until an epoch.
func TestLaterBootThanTheLogs(t *testing.T) {
	t.Parallel()
	s, h, _, _, v := running(t)
	events := h.said(ReportStopped, v, func(r *VMReport) { r.Boot, r.Reason = 2, "requested" })
	if e, ok := events[1].(*HostAhead); !ok || e.Host != h.id || e.SeenEpoch != s.w.Epoch || events[0].(*HostReported).Refused != "" {
		t.Fatalf("%+v", events)
	}
	if _, told := s.w.PlacementOf(h.id); told || s.w.vms.get(v.VM).State != Running {
		t.Fatalf("told %v, the VM is %s", told, s.w.vms.get(v.VM).State)
	}
	s.replays()
}

// An account that follows a placement which this log never made, since it was given just
// before the tail was lost: whatever its number, its host is ahead. Nobody asks for it
// again but the next epoch.
func TestReportFromTheFuture(t *testing.T) {
	t.Parallel()
	s, h, _, _, _ := running(t)
	second, _ := s.second()
	before, r := h.placement(), s.restored(len(s.log))
	r.must(System, r.openEpoch(second))
	h = h.on(r)
	g := h.placement().Desired.Generation
	says := func(number uint64) *RecordReport {
		return &RecordReport{Host: h.id, Report: EncodeReport(&Report{
			Host: h.id, Journal: h.journal, Number: number, At: r.now, Epoch: r.w.Epoch, Generation: g + 1, Kind: ReportInventory, Holdings: h.holdings(before),
		})}
	}
	host := Actor{Kind: ActorHost, Host: h.id}
	events := r.must(host, says(h.n+5)) // the log has forgotten those between, too
	if e, ok := events[0].(*HostAhead); len(events) != 1 || !ok || e.SeenGeneration != g+1 || e.Generation != g {
		t.Fatalf("%+v", events)
	}
	if _, told := r.w.PlacementOf(h.id); told {
		t.Fatal("the host is told something")
	}
	r.refused(host, says(h.n+5), "report.out_of_order")
	if e, ok := r.must(host, says(h.n+1))[0].(*HostReported); !ok || e.Refused != "report.from_the_future" {
		t.Fatalf("%+v", e)
	}
	r.replays()
}
