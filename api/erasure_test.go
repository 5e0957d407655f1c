package api

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

// The evidence of a wipe, all of it, as the host signed it; and of one that failed,
// without what the host says of its inside to a tenant.
func TestErasureShowsItsEvidence(t *testing.T) {
	t.Parallel()
	s := newReadingSite(t)
	h := s.host("h1", 2)
	s.sku("gpu-1x", 1, 1000)
	acme := s.tenant("acme", 100_000_000)
	now := domain.TimeOf(time.Now())
	erased := func(name string, change func(*domain.DeviceWipe)) (alloc, slot, at string) {
		a := s.want(201, acme.owner, "POST", "/v1/projects/"+acme.project+"/allocations", `{"name":"`+name+`","sku":"gpu-1x","image":"tiny"}`)
		s.want(202, acme.owner, "DELETE", "/v1/allocations/"+a.get("id"), "")
		for _, w := range h.placement().Desired.Wipes {
			sp := h.m.Slots[w.Lease.Index]
			nvme := domain.DeviceWipe{
				Component: "nvme", Serial: sp.NVMe.Serial, Method: "sanitize-crypto", Result: domain.WipeVerified, BytesRead: 1 << 40, SizeBytes: 1 << 40, Coverage: domain.CoverageAll,
				Planted: 18, Gone: 18, Firmware: "1.0", Approved: "1.0", Baseline: domain.Digest{7}, Log: []string{"sanitize: completed"}, StartedAt: now, EndedAt: now, Detail: "/dev/nvme3 of bay 4",
			}
			change(&nvme)
			h.report(domain.Report{Kind: domain.ReportWiped, Wipe: &domain.WipeReport{
				Slot: w.Lease.Slot, Generation: w.Lease.Generation, Nonce: w.Lease.Nonce, Attempt: w.Attempt, StartedAt: now, EndedAt: now,
				Devices: []domain.DeviceWipe{
					{Component: "gpu", Serial: sp.GPU.Serial, Method: "flr", Result: domain.WipeVerified},
					nvme,
					{Component: "ib_vf", Serial: sp.IBVF.Serial, Method: "reset", Result: domain.WipeVerified},
				},
			}})
		}
		return a.get("id"), a.get("vms.0.slot_ids.0"), jsonOf(s.log.last())
	}

	good, slot, at := erased("good", func(*domain.DeviceWipe) {})
	e := s.want(200, acme.owner, "GET", "/v1/allocations/"+good+"/erasure?reports=true&at_least="+at, "")
	var device domain.DeviceWipe
	if err := json.Unmarshal([]byte(e.get("items.0.evidence.devices.1")), &device); err != nil || e.get("erased") != "true" {
		t.Fatalf("%v: %s", err, e.body)
	}
	if device.Planted != 18 || device.Gone != 18 || device.Firmware != "1.0" || device.Baseline.IsZero() || device.Coverage != "all" || device.EndedAt != now || len(device.Log) != 1 || device.Detail == "" {
		t.Errorf("%s", e.body)
	}
	var signed SignedReport
	if err := json.Unmarshal([]byte(e.get("items.0.report")), &signed); err != nil {
		t.Fatalf("%v: %s", err, e.body)
	}
	r, err := domain.DecodeReport(signed.Bytes)
	if err != nil || r.Wipe == nil || r.Wipe.Nonce.String() != e.get("items.0.evidence.nonce") || r.Wipe.Slot.String() != slot {
		t.Errorf("the report %+v (%v) is not of %s", r, err, e.body)
	}
	if a := s.want(200, acme.owner, "GET", "/v1/allocations/"+good+"/erasure", ""); a.get("items.0.report") != "" {
		t.Errorf("%s", a.body)
	}
	s.refused(422, "request.invalid", acme.owner, "GET", "/v1/allocations/"+good+"/erasure?reports=maybe", "")

	bad, slot, at := erased("bad", func(d *domain.DeviceWipe) {
		d.Result, d.Reason, d.Scope = domain.WipeFailed, "wipe.media_error", "device"
	})
	path := "/v1/allocations/" + bad + "/erasure?reports=true&at_least=" + at
	mine := s.want(200, acme.owner, "GET", path, "")
	if mine.get("erased") != "false" || mine.get("items.0.evidence.devices.1.reason") != "wipe.media_error" || strings.Contains(string(mine.body), "bay 4") || mine.get("items.0.report") != "" {
		t.Errorf("a tenant sees %s", mine.body)
	}
	for _, p := range []string{path, "/v1/slots/" + slot + "/leases?reports=true"} {
		if a := s.want(200, s.admin, "GET", p, ""); !strings.Contains(string(a.body), "bay 4") || a.get("items.0.report.bytes") == "" {
			t.Errorf("an operator sees %s", a.body)
		}
	}
}

func jsonOf(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

// What was proposed beside the slots is still there when it was approved.
func TestApprovedMapsAreWhole(t *testing.T) {
	t.Parallel()
	s := newReadingSite(t)
	h := s.host("h1", 1)
	m := *h.m
	m.ACSProfile, m.Spares = "strict", []domain.SpareDevice{{Kind: "nvme", Device: domain.Device{Address: "0000:2c:00.0", Serial: "SPARE"}}}
	h.propose(&m)
	a := s.want(202, s.admin, "POST", "/v1/hosts/"+h.id.String()+"/slot-map/approve", `{"digest":"`+m.Digest().String()+`","wipe_policy":"auto"}`)
	got := s.want(200, s.admin, "GET", "/v1/hosts/"+h.id.String()+"/slot-map?at_least="+a.header.Get("Log-Sequence"), "")
	if got.get("approved.acs_profile") != "strict" || got.get("approved.spares.0.device.serial") != "SPARE" || got.get("approved.numa_nodes.0.memory_mib") != "1048576" || got.get("approved.slots.0.gpu.serial") != "GPU-h1-0" {
		t.Errorf("%s", got.body)
	}
}
