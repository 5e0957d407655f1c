package api

import (
	"fmt"
	"strings"
	"testing"

	"github.com/gpuaas/gpuaas/domain"
)

// A drive that fails its wipe, from the spare in its place to the end of its host.
func TestHardwareComesAndGoes(t *testing.T) {
	t.Parallel()
	s := newReadingSite(t)
	h := s.host("h1", 2)
	last := s.want(201, s.admin, "POST", "/v1/skus", `{"name":"gpu-1x","shape":1}`).header.Get("Log-Sequence")
	slots := s.want(200, s.admin, "GET", "/v1/slots?at_least="+last, "")
	first, second := slots.get("items.0.id"), slots.get("items.1.id")
	s.want(202, s.admin, "POST", "/v1/slots/"+first+"/quarantine", `{"reason":"noise"}`)
	s.want(202, s.admin, "POST", "/v1/slots/"+first+"/rewipe", "")
	s.refused(409, "slot.in_use", s.admin, "POST", "/v1/slots/"+first+"/retire", `{"reason":"old"}`)
	s.refused(409, "host.has_slots", s.admin, "DELETE", "/v1/hosts/"+h.id.String(), "")

	// Another drive in the second slot: the map is amended, and the slot wiped.
	m := h.m
	m.Slots[1].NVMe.Serial = "SPARE-1"
	h.propose(m)
	a := s.want(202, s.admin, "POST", "/v1/hosts/"+h.id.String()+"/slot-map/approve", fmt.Sprintf(`{"digest":%q,"wipe_policy":"auto"}`, m.Digest()))
	if a.get("slots.0.id") != second || a.get("slots.1.id") != "" {
		t.Errorf("%s", a.body)
	}
	got := s.want(200, s.admin, "GET", "/v1/slots/"+second+"?at_least="+a.header.Get("Log-Sequence"), "")
	if got.get("state") != "wiping" || got.get("nvme.serial") != "SPARE-1" || got.get("generation") != "1" {
		t.Errorf("%s", got.body)
	}
	m.Slots[0].MemoryMiB++
	h.propose(m)
	s.refused(409, "host.map_in_use", s.admin, "POST", "/v1/hosts/"+h.id.String()+"/slot-map/approve", fmt.Sprintf(`{"digest":%q,"wipe_policy":"auto"}`, m.Digest()))

	// Neither wipe is ever heard of: the slots are retired, and their devices owed.
	for _, id := range []string{first, second} {
		h.failWipe(id)
		s.want(202, s.admin, "POST", "/v1/slots/"+id+"/retire", `{"reason":"old"}`)
	}
	for name, want := range map[string]string{
		"last_heartbeat_at": "2023-11-14T22:13:20Z", "version": "v1.2.3", "generation": "8", "executed_generation": "7", "backlog_reports": "2", "vms": "3", "problem": "the journal is full",
	} {
		if got := s.want(200, s.admin, "GET", "/v1/hosts/"+h.id.String(), "").get("health." + name); !strings.HasPrefix(got, strings.TrimSuffix(want, "Z")) {
			t.Errorf("health: %s is %q, want %q", name, got, want)
		}
	}
	gone := s.want(200, s.admin, "DELETE", "/v1/hosts/"+h.id.String(), "")
	at := "?at_least=" + gone.header.Get("Log-Sequence")
	s.want(200, s.admin, "DELETE", "/v1/hosts/"+h.id.String(), "")
	if a := s.want(200, s.admin, "GET", "/v1/hosts/"+h.id.String()+at, ""); a.get("state") != "removed" || a.get("slots") != "0" {
		t.Errorf("%s", a.body)
	}
	if a := s.want(200, s.admin, "GET", "/v1/hosts", ""); strings.Contains(string(a.body), h.id.String()) {
		t.Errorf("%s", a.body)
	}
	duties := s.want(200, s.admin, "GET", "/v1/wipe-duties?state=owed", "")
	duty := ""
	for i := 0; duties.get(fmt.Sprintf("items.%d.id", i)) != ""; i++ {
		if duties.get(fmt.Sprintf("items.%d.serial", i)) == "SPARE-1" {
			duty = duties.get(fmt.Sprintf("items.%d.id", i))
		}
	}
	if duty == "" {
		t.Fatalf("%s", duties.body)
	}
	other := domain.UserID{7}
	s.system(&domain.SetOperator{User: other, Roles: domain.RoleOperator})
	key := s.key(domain.TenantID{}, other, 0, 0)
	for who, want := range map[string]string{s.admin: "destruction_reported"} {
		for range 2 {
			if a := s.want(202, who, "POST", "/v1/wipe-duties/"+duty+"/destroyed", `{"evidence":"certificate-1"}`); a.get("state") != want {
				t.Errorf("%s", a.body)
			}
		}
	}
	a = s.want(202, key, "POST", "/v1/wipe-duties/"+duty+"/destroyed", `{"evidence":"certificate-1"}`)
	if a.get("state") != "destroyed" {
		t.Errorf("%s", a.body)
	}
	ended := s.want(200, s.admin, "GET", "/v1/wipe-duties?state=destroyed&at_least="+a.header.Get("Log-Sequence"), "")
	if ended.get("items.0.id") != duty || ended.get("items.0.confirmed_by_user_id") != other.String() || ended.get("items.1.id") != "" {
		t.Errorf("%s", ended.body)
	}
	if a := s.want(200, s.admin, "GET", "/v1/devices/SPARE-1", ""); a.get("devices.0.state") != "destroyed" || a.get("devices.0.wipe_owed") != "false" || a.get("places.0.cause") != "retired" || a.get("wipe_duties.0.evidence") != "certificate-1" {
		t.Errorf("%s", a.body)
	}
}

// propose reports a changed map.
func (h *fakeHost) propose(m *domain.SlotMap) {
	h.s.t.Helper()
	h.report(domain.Report{Kind: domain.ReportInventory, Inventory: m})
}

// failWipe reports a wipe that was asked for as evidence of nothing.
func (h *fakeHost) failWipe(slot string) {
	h.s.t.Helper()
	for _, w := range h.placement().Desired.Wipes {
		if w.Lease.Slot.String() == slot {
			h.report(domain.Report{Kind: domain.ReportWiped, Wipe: &domain.WipeReport{Slot: w.Lease.Slot, Generation: w.Lease.Generation, Nonce: w.Lease.Nonce, Attempt: w.Attempt}})
		}
	}
}

// A credential that cannot be revoked is said to be good still; the repeat tries
// again.
func TestRemovedHostsAreRevoked(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, c := range []struct {
		key    int
		status int
	}{{1, 200}, {2, 503}} {
		host := s.want(201, s.admin, "POST", "/v1/hosts", fmt.Sprintf(`{"name":"h%d"}`, c.key))
		s.want(200, "", "POST", "/v1/enroll", fmt.Sprintf(`{"token":%q,"signing_public_key":%q,"nats_public_key":"U%055d"}`, host.get("enrolment_token"), "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", c.key))
		for range 2 {
			a := s.want(c.status, s.admin, "DELETE", "/v1/hosts/"+host.get("id"), "")
			if want := map[int]string{200: "", 503: "host.not_revoked"}[c.status]; a.get("code") != want {
				t.Errorf("%s", a.body)
			}
		}
		s.refused(401, "host.token_invalid", "", "POST", "/v1/enroll", fmt.Sprintf(`{"token":%q,"signing_public_key":%q,"nats_public_key":"U%055d"}`, host.get("enrolment_token"), "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", c.key))
	}
}

// Who condemns a slot in use again is told what it is: not yet in quarantine.
func TestCondemnedTwice(t *testing.T) {
	t.Parallel()
	s := newReadingSite(t)
	acme := s.tenant("acme", 100_000_000)
	s.sku("gpu-1x", 1, 2_490_000)
	h := s.host("h1", 1)
	a := s.want(201, acme.owner, "POST", "/v1/projects/"+acme.project+"/allocations", `{"sku":"gpu-1x","image":"tiny"}`)
	slot := "/v1/slots/" + a.get("vms.0.slot_ids.0")
	quarantined := func(want string) {
		t.Helper()
		if got := s.want(202, s.admin, "POST", slot+"/quarantine", `{"reason":"noise"}`); got.get("state") != want {
			t.Errorf("it is %s, want %s", got.get("state"), want)
		}
	}
	h.boot()
	quarantined("condemned")
	quarantined("condemned")
	s.want(202, acme.owner, "DELETE", "/v1/allocations/"+a.get("id"), "")
	h.wipe()
	quarantined("quarantined")
}
