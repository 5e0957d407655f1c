package api

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/gpuaas/gpuaas/domain"
)

// An auditor follows one drive: leased, not wiped, swapped out for a spare, found and
// wiped in another host. Its serial is as bad as serials can be.
func TestOneSerial(t *testing.T) {
	t.Parallel()
	const serial = `S6 Z/AN+%2F?a=b&c#d..é`
	s := newReadingSite(t)
	auditor := domain.UserID{8}
	s.system(&domain.SetOperator{User: auditor, Roles: domain.RoleAuditor})
	key := s.key(domain.TenantID{}, auditor, 0, 0)
	acme := s.tenant("acme", 100_000_000)
	s.sku("gpu-1x", 1, 2_490_000)
	h1, h2 := s.host("h1", 1), s.host("h2", 1)
	approve := func(h *fakeHost) string {
		t.Helper()
		h.propose(h.m)
		return s.want(202, s.admin, "POST", "/v1/hosts/"+h.id.String()+"/slot-map/approve", fmt.Sprintf(`{"digest":%q,"wipe_policy":"auto"}`, h.m.Digest())).header.Get("Log-Sequence")
	}
	h1.m.Slots[0].NVMe.Serial, h1.m.Slots[0].NVMe.Model = serial, "P5800"
	approve(h1)
	h1.wipe()
	s.want(202, s.admin, "POST", "/v1/hosts/"+h2.id.String()+"/cordon", "")
	alloc := s.want(201, acme.owner, "POST", "/v1/projects/"+acme.project+"/allocations", `{"name":"train","sku":"gpu-1x","image":"tiny"}`)
	slot := alloc.get("vms.0.slot_ids.0")
	h1.boot()
	s.want(202, acme.owner, "DELETE", "/v1/allocations/"+alloc.get("id"), "")
	h1.failWipe(slot)
	s.want(202, s.admin, "POST", "/v1/slots/"+slot+"/rewipe", "")
	h1.failWipe(slot)
	h1.m.Slots[0].NVMe.Serial = "spare/2"
	last := approve(h1)

	get := func(status int, who, path, query string) *answer {
		t.Helper()
		return s.want(status, who, "GET", "/v1/devices/"+path+"?at_least="+last+query, "")
	}
	expect := func(a *answer, want map[string]string) {
		t.Helper()
		for path, w := range want {
			if got := a.get(path); got != w {
				t.Errorf("%s is %q, want %q", path, got, w)
			}
		}
		if t.Failed() {
			t.Fatalf("%s", a.body)
		}
	}
	escaped := url.PathEscape(serial)
	expect(get(200, key, escaped, ""), map[string]string{
		"serial": serial, "devices.0.id": serial, "devices.0.name": "nvme/" + serial, "devices.0.crn": "core42:aicloud:auh1:::nvme:" + serial, "devices.1": "",
		"devices.0.state": "out", "devices.0.wipe_owed": "true", "devices.0.model": "P5800",
		"places.0.slot": "h1/0", "places.0.slot_id": slot, "places.0.host": "h1", "places.0.host_id": h1.id.String(), "places.0.generation": "1", "places.0.last_generation": "2", "places.1": "",
		"places.0.cause": "replaced", "places.0.replaced_serial": "NVME-h1-0", "places.0.replaced_by_serial": "spare/2",
		"wipe_duties.0.state": "owed", "wipe_duties.0.generation": "2", "wipe_duties.1": "",
		"items.0.generation": "1", "items.0.tenant_id": "", "items.0.wipe_result": "verified", "items.0.wipes.0.device.serial": serial, "items.0.wipes.0.device.method": "sanitize-crypto", "items.0.wipes.1": "",
		"items.1.generation": "2", "items.1.tenant_id": acme.id, "items.1.allocation_id": alloc.get("id"), "items.1.wipe_result": "quarantined", "items.1.wiped_at": "", "items.1.wipes.0.report": "",
		"items.1.wipes.0.result": "quarantined", "items.1.wipes.0.reason": "wipe.missing_device", "items.1.wipes.1.reason": "wipe.missing_device", "items.1.wipes.1.device": "", "items.1.wipes.2": "",
		"items.2": "", "next_cursor": "",
	})

	// Pages, and what hosts signed: of both wipes.
	page := get(200, key, escaped, "&limit=1&order=desc&reports=true")
	expect(page, map[string]string{"items.0.generation": "2", "items.1": "", "places.0.slot": "h1/0", "wipe_duties.0.state": "owed"})
	for i := range 2 {
		if page.get(fmt.Sprintf("items.0.wipes.%d.report.bytes", i)) == "" || page.get(fmt.Sprintf("items.0.wipes.%d.recorded_at", i)) == "" {
			t.Errorf("wipe %d: %s", i, page.body)
		}
	}
	expect(get(200, key, escaped, "&limit=1&order=desc&cursor="+page.get("next_cursor")), map[string]string{"items.0.generation": "1", "items.1": "", "next_cursor": ""})
	s.refused(422, "list.cursor", key, "GET", "/v1/devices/"+escaped+"?cursor="+page.get("next_cursor"), "")

	// It turns up in another host; a GPU there that has the same serial is shown beside.
	h2.m.Slots[0].NVMe.Serial = serial
	approve(h2)
	h2.wipe()
	h3 := s.host("h3", 1)
	s.want(202, s.admin, "POST", "/v1/slots/"+h3.placementSlot()+"/retire", `{"reason":"old"}`)
	h3.m.Slots[0].GPU.Serial = serial
	last = approve(h3)
	expect(get(200, key, escaped, ""), map[string]string{
		"devices.0.name": "nvme/" + serial, "devices.0.state": "in_slot", "devices.0.wipe_owed": "false", "devices.1.name": "gpu/" + serial, "devices.1.state": "in_slot",
		"places.1.slot": "h2/0", "places.1.host_id": h2.id.String(), "places.1.until": "", "places.2.slot": "h3/0", "places.2.component": "gpu",
		"wipe_duties.0.state": "discharged", "wipe_duties.0.found_host_id": h2.id.String(), "wipe_duties.0.baseline_fresh": "true",
		"items.2.slot": "h2/0", "items.2.wipe_result": "verified", "items.2.wipes.0.device.serial": serial, "items.3.slot": "h3/0", "items.3.component": "gpu", "items.3.wipes": "[]",
	})

	// How a serial has to be written, and who may ask.
	for path, status := range map[string]int{
		"spare%2F2": 200, "spare/2": 200, "sp%61re/2": 200, "spare/": 404, "GPU-h1-0": 200, "GPU-h1-0%20": 404, "%00": 404, "%FF": 404, "%2F": 404, ".": 404, strings.Repeat("x", 300): 404,
	} {
		if got := s.do(key, "GET", "/v1/devices/"+path, ""); got.status != status {
			t.Errorf("%s: %d %s", path, got.status, got.body)
		}
	}
	s.refused(404, "device.not_found", key, "GET", "/v1/devices/"+url.PathEscape("S6 Z"), "")
	for _, path := range []string{escaped, "nothing", "%FF"} {
		s.refused(403, "auth.platform_only", acme.owner, "GET", "/v1/devices/"+path, "")
	}
}

// placementSlot is the host's only slot.
func (h *fakeHost) placementSlot() string {
	a := h.s.want(200, h.s.admin, "GET", fmt.Sprintf("/v1/slots?host_id=%s&at_least=%d", h.id, h.s.log.last()), "")
	return a.get("items.0.id")
}
