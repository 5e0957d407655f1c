package domain

import (
	"slices"
	"strings"
	"testing"
)

// Reports that must not be believed: each is recorded as refused, and a slot in
// doubt is quarantined.
func TestReportsThatAreNotBelieved(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		report  func(s *site, h, other *fakeHost, w PlacedWipe) Report
		refused string // code, or
		reason  string // of the quarantine
	}{
		"foreign slot": {func(s *site, h, o *fakeHost, w PlacedWipe) Report { return wiped(o.evidence(w), nil) }, "report.foreign_slot", ""},
		"stale generation": {func(s *site, h, _ *fakeHost, w PlacedWipe) Report {
			return wiped(h.evidence(w), func(r *WipeReport) { r.Generation-- })
		}, "report.stale", ""},
		"future generation": {func(s *site, h, _ *fakeHost, w PlacedWipe) Report {
			return wiped(h.evidence(w), func(r *WipeReport) { r.Generation++ })
		}, "report.stale", ""},
		"another attempt": {func(s *site, h, _ *fakeHost, w PlacedWipe) Report {
			return wiped(h.evidence(w), func(r *WipeReport) { r.Attempt++ })
		}, "report.stale", ""},
		"forged nonce": {func(s *site, h, _ *fakeHost, w PlacedWipe) Report {
			return wiped(h.evidence(w), func(r *WipeReport) { r.Nonce[0]++ })
		}, "", "wipe.wrong_nonce"},
		"foreign serial": {func(s *site, h, _ *fakeHost, w PlacedWipe) Report {
			return wiped(h.evidence(w), func(r *WipeReport) { r.Devices[1].Serial = "NVME-h2-0" })
		}, "", "wipe.wrong_serial"},
		"swapped serials": {func(s *site, h, _ *fakeHost, w PlacedWipe) Report {
			return wiped(h.evidence(w), func(r *WipeReport) {
				r.Devices[0].Serial, r.Devices[1].Serial = r.Devices[1].Serial, r.Devices[0].Serial
			})
		}, "", "wipe.wrong_serial"},
		"missing device": {func(s *site, h, _ *fakeHost, w PlacedWipe) Report {
			return wiped(h.evidence(w), func(r *WipeReport) { r.Devices = r.Devices[:2] })
		}, "", "wipe.missing_device"},
		"no devices": {func(s *site, h, _ *fakeHost, w PlacedWipe) Report {
			return wiped(h.evidence(w), func(r *WipeReport) { r.Devices = nil })
		}, "", "wipe.missing_device"},
		"twice one device": {func(s *site, h, _ *fakeHost, w PlacedWipe) Report {
			return wiped(h.evidence(w), func(r *WipeReport) { r.Devices[2] = r.Devices[1] })
		}, "", "wipe.unknown_component"},
		"unknown component": {func(s *site, h, _ *fakeHost, w PlacedWipe) Report {
			return wiped(h.evidence(w), func(r *WipeReport) { r.Devices[2].Component = "dpu" })
		}, "", "wipe.unknown_component"},
		"failed":                    {result(WipeFailed), "", "wipe.failed"},
		"skipped":                   {result(WipeSkipped), "", "wipe.skipped"},
		"partial":                   {result(WipePartial), "", "wipe.partial"},
		"unknown":                   {result(WipeUnknown), "", "wipe.unknown"},
		"from the future":           {result(200), "", "wipe.unknown-200"},
		"failed, saying why":        {device(func(d *DeviceWipe) { d.Result, d.Reason = WipeFailed, "wipe.locked" }), "", "wipe.locked"},
		"failed, no word":           {device(func(d *DeviceWipe) { d.Result, d.Reason = WipeFailed, "two words" }), "", "wipe.failed"},
		"verified, saying why not":  {device(func(d *DeviceWipe) { d.Reason = "wipe.locked" }), "", "wipe.contradiction"},
		"a canary is left":          {device(func(d *DeviceWipe) { d.Gone-- }), "", "wipe.canary_survived"},
		"more gone than planted":    {device(func(d *DeviceWipe) { d.Planted = 0 }), "", "wipe.canary_survived"},
		"no canaries":               {device(func(d *DeviceWipe) { d.Planted, d.Gone = 0, 0 }), "", "wipe.no_canaries"},
		"other firmware":            {device(func(d *DeviceWipe) { d.Firmware = "2.0" }), "", "wipe.firmware_changed"},
		"no firmware":               {device(func(d *DeviceWipe) { d.Firmware = "" }), "", "wipe.firmware_changed"},
		"ended before it began":     {device(func(d *DeviceWipe) { d.EndedAt = d.StartedAt - 1 }), "", "wipe.wrong_times"},
		"not read to the end":       {device(func(d *DeviceWipe) { d.BytesRead-- }), "", "wipe.not_all_read"},
		"an unknown coverage":       {device(func(d *DeviceWipe) { d.Coverage = "most" }), "", "wipe.not_all_read"},
		"no coverage":               {device(func(d *DeviceWipe) { d.Coverage = "" }), "", "wipe.not_all_read"},
		"a sample without a digest": {device(func(d *DeviceWipe) { d.Coverage = CoverageSampled }), "", "wipe.not_sampled"},
		"a sample of nothing":       {device(func(d *DeviceWipe) { d.Coverage, d.Sample, d.BytesRead = CoverageSampled, Digest{1}, 0 }), "", "wipe.not_sampled"},
		"no method":                 {device(func(d *DeviceWipe) { d.Method = "" }), "", "wipe.wrong_method"},
		"remnants on the host":      {host(DeviceWipe{Result: WipeFailed, Reason: "wipe.remnants", Scope: "host"}), "", "wipe.remnants"},
		"unknown host evidence":     {host(DeviceWipe{}), "", "wipe.unknown"},
		"unknown VM": {func(*site, *fakeHost, *fakeHost, PlacedWipe) Report {
			return Report{Kind: ReportReady, VM: &VMReport{VM: VMID{9}, Boot: 1}}
		}, "report.late", ""},
		"unknown kind": {func(*site, *fakeHost, *fakeHost, PlacedWipe) Report {
			return Report{Kind: "dance", Fault: &FaultReport{}}
		}, "report.unknown_kind", ""},
		"kind and body": {func(_ *site, h *fakeHost, _ *fakeHost, w PlacedWipe) Report {
			return Report{Kind: ReportInventory, Wipe: h.evidence(w)}
		}, "report.unknown_kind", ""},
		"fault of a stranger": {func(_ *site, _, _ *fakeHost, _ PlacedWipe) Report {
			return Report{Kind: ReportFaulted, Fault: &FaultReport{Slot: SlotID{7}, Component: "gpu"}}
		}, "report.foreign_slot", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			h, other := s.host("h1", 1, "r"), s.host("h2", 1, "r")
			s.sku("gpu-1x", 1, 1)
			f := s.tenant("acme", 1e9)
			id := s.launch(f, "", "gpu-1x", 1)
			if len(h.placement().Desired.VMs) == 0 {
				h, other = other, h
			}
			h.boot()
			s.must(f.key, &ActOnAllocation{Allocation: id, Action: ActionRelease})
			w := h.placement().Desired.Wipes[0]
			reporter := h
			if name == "foreign slot" {
				reporter = other
			}
			events := reporter.report(c.report(s, h, other, w))
			if got := events[0].(*HostReported).Refused; got != c.refused {
				t.Fatalf("refused %q, want %q", got, c.refused)
			}
			slot := s.w.slots.get(w.Lease.Slot)
			if c.reason == "" {
				if slot.State != SlotIsWiping {
					t.Fatalf("the slot is %s", slot.State)
				}
				return
			}
			q, ok := events[len(events)-1].(*SlotQuarantined)
			if !ok || q.Reason != c.reason || slot.State != SlotIsQuarantined {
				t.Fatalf("%+v, slot %s", events[len(events)-1], slot.State)
			}
			// Only another wipe leads back, and only a good one.
			s.must(s.admin, &RewipeSlot{Slot: slot.ID})
			if events := h.report(wiped(h.evidence(w), nil)); events[0].(*HostReported).Refused != "report.stale" {
				t.Fatal("evidence of the first attempt was taken for the second")
			}
			h.wipe()
			if slot.State != SlotIsAvailable {
				t.Fatalf("the slot is %s after a good wipe", slot.State)
			}
			s.replays()
		})
	}
}

// device spoils whole evidence of the drive.
func device(change func(*DeviceWipe)) func(s *site, h, _ *fakeHost, w PlacedWipe) Report {
	return func(_ *site, h, _ *fakeHost, w PlacedWipe) Report {
		return wiped(h.evidence(w), func(r *WipeReport) {
			r.Devices[1] = driveEvidence(r.Devices[1].Serial)
			change(&r.Devices[1])
		})
	}
}

// host adds evidence of what the host kept.
func host(d DeviceWipe) func(s *site, h, _ *fakeHost, w PlacedWipe) Report {
	d.Component = "host"
	return func(_ *site, h, _ *fakeHost, w PlacedWipe) Report {
		return wiped(h.evidence(w), func(r *WipeReport) { r.Devices = append(r.Devices, d) })
	}
}

// driveEvidence is what a real drive's erasure says.
func driveEvidence(serial string) DeviceWipe {
	return DeviceWipe{
		Component: "nvme", Serial: serial, Method: "sanitize-crypto", Result: WipeVerified, BytesRead: 1 << 20, SizeBytes: 1 << 20, Coverage: CoverageAll,
		Planted: 8, Gone: 8, Firmware: "1.0", Approved: "1.0", Baseline: Digest{1}, StartedAt: 5, EndedAt: 6, Log: []string{"sanitize log: completed"},
	}
}

// Whole evidence frees the slot: of every byte, of a sample, and with what the
// host proves of itself beside it. A method that the slot's policy does not allow
// does not.
func TestWholeEvidenceFrees(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		policy WipePolicy
		change func(*WipeReport)
		reason string
	}{
		"all": {WipeAuto, func(*WipeReport) {}, ""},
		"sampled": {WipeSanitize, func(r *WipeReport) {
			r.Devices[1].Coverage, r.Devices[1].Sample, r.Devices[1].BytesRead = CoverageSampled, Digest{2}, 4096
		}, ""},
		"and the host": {WipeAuto, func(r *WipeReport) {
			r.Devices = append(r.Devices, DeviceWipe{Component: "host", Method: "remove", Result: WipeVerified})
		}, ""},
		"wrong method":  {WipeFormat, func(*WipeReport) {}, "wipe.wrong_method"},
		"right method":  {WipeFormat, func(r *WipeReport) { r.Devices[1].Method = "format-ses1" }, ""},
		"no overwrite":  {WipeOverwrite, func(r *WipeReport) { r.Devices[1].Method = "write-zeroes" }, "wipe.wrong_method"},
		"power is host": {WipeAuto, func(r *WipeReport) { r.Devices[0].Result, r.Devices[0].Scope = WipeFailed, "host" }, "wipe.failed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			h := s.host("h1", 1, "r")
			row := s.w.hosts.get(h.id).slots[0]
			s.must(s.admin, &QuarantineSlot{Slot: s.w.slots.row(row).ID, Reason: "test"})
			s.w.slots.row(row).Policy = c.policy
			s.must(s.admin, &RewipeSlot{Slot: s.w.slots.row(row).ID})
			w := h.placement().Desired.Wipes[0]
			events := h.report(wiped(h.evidence(w), func(r *WipeReport) {
				r.Devices[1] = driveEvidence(r.Devices[1].Serial)
				c.change(r)
			}))
			switch e := events[len(events)-1].(type) {
			case *SlotWiped:
				if c.reason != "" {
					t.Errorf("freed, want %s", c.reason)
				}
			case *SlotQuarantined:
				if e.Reason != c.reason || name == "power is host" && e.Scope != "host" {
					t.Errorf("quarantined: %s, scope %s; want %q", e.Reason, e.Scope, c.reason)
				}
			default:
				t.Errorf("%T", e)
			}
		})
	}
}

func wiped(r *WipeReport, change func(*WipeReport)) Report {
	if change != nil {
		change(r)
	}
	return Report{Kind: ReportWiped, Wipe: r}
}

func result(x WipeResult) func(*site, *fakeHost, *fakeHost, PlacedWipe) Report {
	return func(_ *site, h, _ *fakeHost, w PlacedWipe) Report {
		return wiped(h.evidence(w), func(r *WipeReport) { r.Devices[1].Result = x })
	}
}

func TestReportNumbers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h1", 1, "r")
	send := func(journal JournalID, n uint64, from HostID) ([]EventBody, *Error) {
		r := Report{Host: from, Journal: journal, Number: n, Epoch: 1, Kind: ReportFaulted, Fault: &FaultReport{Slot: SlotID{1}, Component: "gpu"}}
		return s.try(Actor{Kind: ActorHost, Host: h.id}, &RecordReport{Host: h.id, Report: EncodeReport(&r)})
	}
	if events, err := send(h.journal, h.n, h.id); err != nil || events != nil {
		t.Fatalf("a repeat changes nothing: %v %v", events, err)
	}
	if _, err := send(h.journal, h.n+2, h.id); err == nil || err.Code != "report.out_of_order" || !err.Retryable {
		t.Fatalf("a gap waits: %v", err)
	}
	if _, err := send(h.journal, h.n+1, HostID{3}); err == nil || err.Code != "report.foreign_host" {
		t.Fatalf("%v", err)
	}
	if _, err := send(JournalID{5}, 2, h.id); err == nil || err.Code != "report.out_of_order" {
		t.Fatalf("a new journal begins with 1: %v", err)
	}
	if _, err := send(JournalID{5}, 1, h.id); err != nil {
		t.Fatal(err)
	}
	if _, err := send(h.journal, 1, h.id); err == nil || err.Code != "report.old_journal" || err.Retryable {
		t.Fatalf("a report of the journal before, delivered late: %v", err)
	}
	if _, err := send(JournalID{5}, 2, h.id); err != nil {
		t.Fatalf("the new journal goes on: %v", err)
	}
	s.refused(Actor{Kind: ActorHost, Host: HostID{4}}, &RecordReport{Host: h.id}, "host.not_found")
	s.refused(Actor{Kind: ActorHost, Host: h.id}, &RecordReport{Host: h.id, Report: []byte("nonsense")}, "report.malformed")
	s.refused(Actor{Kind: ActorHost, Host: h.id}, &RecordReport{Host: h.id, Report: make([]byte, maxReportBytes+1)}, "report.too_large")
}

// An acknowledgement is in the host's placement, so a report of which nothing follows
// has it published, too: the host would send the report again and again.
func TestAnAcknowledgementIsPublished(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h1", 1, "r")
	s.w.TakeDirtyHosts()
	if e := h.report(Report{Kind: ReportInventory, Inventory: h.m}); len(e) != 1 {
		t.Fatalf("%+v", e)
	}
	if dirty := s.w.TakeDirtyHosts(); !slices.Equal(dirty, []HostID{h.id}) {
		t.Errorf("to be published: %v", dirty)
	}
	if p := h.placement(); p.Journal != h.journal || p.Acked != h.n {
		t.Errorf("report %d is acknowledged, want %d", p.Acked, h.n)
	}
	s.replays()
}

func TestMapsThatAreNotApproved(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*SlotMap)
		want   string
	}{
		"overcommitted memory": {func(m *SlotMap) { m.Slots[1].MemoryMiB = 1 << 21 }, "overcommitted"},
		"a core in two slots":  {func(m *SlotMap) { m.Slots[1].NUMANode = 0; m.Slots[1].Threads = m.Slots[0].Threads }, "in two slots"},
		"a core elsewhere":     {func(m *SlotMap) { m.Slots[0].Threads[0] = 70 }, "not on NUMA node"},
		"a shared device":      {func(m *SlotMap) { m.Slots[1].NVMe = m.Slots[0].NVMe }, "in two slots"},
		"no serial":            {func(m *SlotMap) { m.Slots[0].GPU.Serial = "" }, "without serial"},
		"no drive":             {func(m *SlotMap) { m.Slots[0].NVMe = Device{} }, "wants a GPU and an NVMe"},
		"no reserve": {func(m *SlotMap) {
			for i := range m.Nodes {
				m.Nodes[i].MemoryMiB = m.Slots[i].MemoryMiB
			}
		}, "left for the host"},
		"no slots": {func(m *SlotMap) { m.Slots = nil }, "0 slots"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			h := &fakeHost{s: s, m: testMap("h", 2), journal: JournalID{1}}
			h.id = s.must(s.admin, &EnrollHost{Name: "h", TokenID: Digest{1}})[0].(*HostEnrolled).ID
			s.must(System, &AdmitHost{TokenID: Digest{1}, NATSKey: "U" + strings.Repeat("0", 55), SignKey: make([]byte, 32)})
			c.change(h.m)
			h.report(Report{Kind: ReportInventory, Inventory: h.m})
			_, err := s.try(s.admin, &ApproveMap{Host: h.id, Digest: h.m.Digest(), Policy: WipeAuto})
			if err == nil || err.Code != "host.map_unsafe" || !strings.Contains(err.Message, c.want) {
				t.Fatalf("%v, want %q", err, c.want)
			}
		})
	}
	s := newSite(t)
	id := s.must(s.admin, &EnrollHost{Name: "h", TokenID: Digest{1}})[0].(*HostEnrolled).ID
	s.refused(s.admin, &ApproveMap{Host: id, Policy: WipeAuto}, "host.no_proposal")
	h := &fakeHost{s: s, m: testMap("h", 2), journal: JournalID{1}, id: id}
	h.report(Report{Kind: ReportInventory, Inventory: h.m})
	s.refused(s.admin, &ApproveMap{Host: id, Digest: Digest{9}, Policy: WipeAuto}, "host.wrong_digest")
	s.refused(s.admin, &ApproveMap{Host: id, Digest: h.m.Digest()}, "slot.no_wipe_policy")
	s.refused(s.admin, &ApproveMap{Host: id, Digest: h.m.Digest(), Slots: []SlotOverride{{0, WipeFormat}}}, "slot.no_wipe_policy")
	s.must(s.admin, &ApproveMap{Host: id, Digest: h.m.Digest(), Slots: []SlotOverride{{0, WipeFormat}, {1, WipeOverwrite}}})
}

func TestLateWipeIsQuarantined(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h1", 1, "r")
	s.sku("gpu-1x", 1, 1)
	f := s.tenant("acme", 1e9)
	id := s.launch(f, "", "gpu-1x", 1)
	h.boot()
	s.must(f.key, &ActOnAllocation{Allocation: id, Action: ActionRelease})
	w := h.placement().Desired.Wipes[0]
	s.after(2 * Day)
	if st := s.w.slots.get(w.Lease.Slot).State; st != SlotIsQuarantined {
		t.Fatal(st)
	}
	if s.w.allocations.len() != 0 {
		t.Fatal("a host that never answers keeps the allocation from ending")
	}
	if events := h.report(wiped(h.evidence(w), nil)); events[0].(*HostReported).Refused != "report.late" {
		t.Fatal("a late wipe was believed")
	}
}
