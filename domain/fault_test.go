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

func last(e []EventBody) EventBody { return e[len(e)-1] }
