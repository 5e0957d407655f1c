package domain

import "testing"

// realEvidence is what a real host says of a whole wipe.
func (h *fakeHost) realEvidence(w PlacedWipe) *WipeReport {
	r := h.evidence(w)
	r.Devices[1] = driveEvidence(r.Devices[1].Serial)
	r.Devices[2].Method, r.Devices[2].Baseline = "flr", Digest{2}
	r.Devices = append(r.Devices, DeviceWipe{Component: "host", Serial: "slot 0", Method: "remove", Result: WipeVerified})
	return r
}

// realHost is a host of real hardware, by its PCI ids, whose first wipe is awaited.
func (s *site) realHost(name string) *fakeHost {
	s.t.Helper()
	h := s.host(name, 1, "r")
	again := *h.m
	again.Slots = append([]SlotSpec(nil), h.m.Slots...)
	again.Slots[0].NVMe.PCIID = "144d:a80a"
	h.m = &again
	h.report(Report{Kind: ReportInventory, Inventory: h.m})
	s.must(s.admin, &ApproveMap{Host: h.id, Digest: h.m.Digest()})
	slot := s.w.slots.row(s.w.hosts.get(h.id).slots[0]).ID
	s.must(s.admin, &QuarantineSlot{Slot: slot, Reason: "test"})
	s.must(s.admin, &RewipeSlot{Slot: slot})
	return h
}

// Evidence of real devices has to be whole: what a lab host may leave out, a real one
// may not.
func TestEvidenceOfRealDevicesIsWhole(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*WipeReport)
		reason string
		scope  string
	}{
		"whole": {func(*WipeReport) {}, "", ""},
		"as a lab host's": {func(r *WipeReport) {
			r.Devices[1] = DeviceWipe{Component: "nvme", Serial: r.Devices[1].Serial, Method: "overwrite", Result: WipeVerified}
		}, "wipe.no_baseline", "device"},
		"no canaries":        {func(r *WipeReport) { r.Devices[1].Planted, r.Devices[1].Gone = 0, 0 }, "wipe.no_canaries", "device"},
		"not read back":      {func(r *WipeReport) { r.Devices[1].Coverage = "" }, "wipe.not_all_read", "device"},
		"drive not compared": {func(r *WipeReport) { r.Devices[1].Baseline = Digest{} }, "wipe.no_baseline", "device"},
		"VF not looked at":   {func(r *WipeReport) { r.Devices[2].Baseline = Digest{} }, "wipe.no_baseline", "device"},
		"GPU not reset":      {func(r *WipeReport) { r.Devices[0].Method = "none" }, "wipe.wrong_method", "device"},
		"host not looked at": {func(r *WipeReport) { r.Devices = r.Devices[:3] }, "wipe.remnants", "host"},
		"something was left": {func(r *WipeReport) {
			r.Devices[3].Result, r.Devices[3].Reason, r.Devices[3].Scope = WipeFailed, "wipe.remnants", "host"
		}, "wipe.remnants", "host"},
		"host in a device's place": {func(r *WipeReport) { r.Devices[0] = r.Devices[3] }, "wipe.missing_device", "device"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			h := s.realHost("h1")
			events := h.report(wiped(h.realEvidence(h.placement().Desired.Wipes[0]), c.change))
			switch e := events[len(events)-1].(type) {
			case *SlotWiped:
				if c.reason != "" {
					t.Errorf("freed, want %s", c.reason)
				}
			case *SlotQuarantined:
				if e.Reason != c.reason || e.Scope != c.scope {
					t.Errorf("quarantined: %s, scope %s; want %q, %q", e.Reason, e.Scope, c.reason, c.scope)
				}
			default:
				t.Errorf("%T", e)
			}
		})
	}
}

// What was decided before the second level is decided so again; the devices of a slot
// that was approved then are known to be real all the same.
func TestOldEvidenceStaysEnough(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.w.LogicLevel = 1
	h := s.realHost("h1")
	h.wipe()
	slot := s.w.slots.row(s.w.hosts.get(h.id).slots[0])
	if slot.State != SlotIsAvailable || !slot.Real {
		t.Fatalf("%+v", slot)
	}
	s.w.LogicLevel = LogicLevel
	s.must(s.admin, &QuarantineSlot{Slot: slot.ID, Reason: "test"})
	s.must(s.admin, &RewipeSlot{Slot: slot.ID})
	if h.wipe(); slot.State != SlotIsQuarantined {
		t.Errorf("thin evidence freed it at level %d: %s", LogicLevel, slot.State)
	}
}
