package domain

import "testing"

// A host found a device that is not the approved one: a free slot is out of service
// at once, one in use when its tenant is gone and it was wiped. Only an operator's
// new wipe brings it back.
func TestChangedDeviceTakesItsSlotOut(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h1", 2, "r1")
	s.sku("gpu-1x", 1, 1)
	acme := s.tenant("acme", 100_000_000)
	s.launch(acme, "a", "gpu-1x", 1)
	h.boot()
	used, free := none, none
	for _, row := range s.w.hosts.get(h.id).slots {
		if s.w.slots.row(row).State == SlotIsActive {
			used = row
		} else {
			free = row
		}
	}
	fault := func(row uint32) []EventBody {
		f := &FaultReport{Slot: s.w.slots.row(row).ID, Component: "nvme", Scope: "device", Reason: "slot.firmware_changed"}
		return h.report(Report{Kind: ReportFaulted, Fault: f})
	}
	q, ok := last(fault(free)).(*SlotQuarantined)
	if !ok || q.Component != "nvme" || q.Reason != "slot.firmware_changed" || s.w.slots.row(free).State != SlotIsQuarantined {
		t.Errorf("free slot: %+v", q)
	}
	c, ok := last(fault(used)).(*SlotCondemned)
	if !ok || c.Reason != "slot.firmware_changed" || s.w.slots.row(used).State != SlotIsActive {
		t.Errorf("slot in use: %+v", c)
	}
	if e := fault(used); len(e) != 1 {
		t.Errorf("said again: %+v", e)
	}
}

// A fault of the whole host takes all its slots out, by whichever word it says so.
func TestFaultOfAHostTakesAllItsSlotsOut(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]FaultReport{
		"component": {Component: "host", Scope: "device", Reason: "host.hot"},
		"scope":     {Component: "gpu", Scope: "host", Reason: "host.hot"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			h := s.host("h1", 4, "r1")
			other := s.host("h2", 1, "r1")
			s.sku("gpu-2x", 2, 1)
			s.launch(s.tenant("acme", 100_000_000), "a", "gpu-2x", 1)
			h.boot()
			e := h.report(Report{Kind: ReportFaulted, Fault: &f})
			if q, c := ofType[*SlotQuarantined](e), ofType[*SlotCondemned](e); len(q) != 2 || len(c) != 2 || q[0].Scope != "host" || c[0].Scope != "host" {
				t.Errorf("%+v", e)
			}
			for _, row := range s.w.hosts.get(h.id).slots {
				if sl := s.w.slots.row(row); sl.State != SlotIsQuarantined && !sl.Condemned {
					t.Errorf("slot %d is %s", sl.Index, sl.State)
				}
			}
			if sl := s.w.slots.row(s.w.hosts.get(other.id).slots[0]); sl.State != SlotIsAvailable {
				t.Errorf("the other host's slot is %s", sl.State)
			}
			s.replays()
		})
	}
}

// A slot is taken out of service while its VM, which its host has never seen, is on its
// way out: the wipe goes on and is the end of both.
func TestTakenOutOnTheWayOut(t *testing.T) {
	t.Parallel()
	setUp := func(t *testing.T) (s *site, h *fakeHost, id AllocationID, slot *Slot) {
		s = newSite(t)
		h = s.host("h1", 1, "r1")
		s.sku("gpu-1x", 1, 1)
		acme := s.tenant("acme", 100_000_000)
		id = s.launch(acme, "a", "gpu-1x", 1)
		s.release(acme, id)
		slot = s.w.slots.row(s.w.hosts.get(h.id).slots[0])
		c, ok := last(s.must(s.admin, &QuarantineSlot{Slot: slot.ID, Reason: "fan"})).(*SlotCondemned)
		if !ok || slot.State != SlotIsWiping || !slot.Condemned {
			t.Fatalf("%T %+v", c, slot)
		}
		return s, h, id, slot
	}
	t.Run("wiped", func(t *testing.T) {
		t.Parallel()
		s, h, id, slot := setUp(t)
		h.wipe()
		if s.w.allocations.get(id) != nil || slot.State != SlotIsQuarantined || slot.Dirty {
			t.Errorf("%v %+v", s.w.allocations.get(id), slot)
		}
	})
	t.Run("wiped badly", func(t *testing.T) {
		t.Parallel()
		s, h, id, slot := setUp(t)
		bad := h.evidence(h.placement().Desired.Wipes[0])
		bad.Devices = bad.Devices[:2]
		h.report(Report{Kind: ReportWiped, Wipe: bad})
		if s.w.allocations.get(id) != nil || slot.State != SlotIsQuarantined || !slot.Dirty {
			t.Errorf("%v %+v", s.w.allocations.get(id), slot)
		}
	})
	t.Run("said again", func(t *testing.T) {
		t.Parallel()
		s, _, _, slot := setUp(t)
		if e := s.must(s.admin, &QuarantineSlot{Slot: slot.ID, Reason: "fan"}); len(e) > 0 || slot.State != SlotIsWiping {
			t.Errorf("%+v, %s", e, slot.State)
		}
	})
}

func last(e []EventBody) EventBody { return e[len(e)-1] }
