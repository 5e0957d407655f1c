package api

import (
	"testing"
)

func TestOneAllocationFromLaunchToRelease(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h1", 8)
	s.sku("gpu-1x", 1, 2_490_000)
	ten := s.tenant("acme", 100_000_000)
	a := s.want(201, ten.owner, "POST", "/v1/projects/"+ten.project+"/allocations", `{"name":"train-1","sku":"gpu-1x","image":"tiny"}`)
	if a.get("state") != "provisioning" || a.get("vms.0.host_id") != h.id.String() || a.get("hold_micros") != "2490000" {
		t.Fatalf("%s", a.body)
	}
	if a.header.Get("Log-Sequence") == "" || a.header.Get("Location") != "/v1/allocations/"+a.get("id") {
		t.Fatalf("%v", a.header)
	}
	h.boot()
	path := "/v1/allocations/" + a.get("id")
	if got := s.want(202, ten.owner, "POST", path+"/stop", "").get("state"); got != "stopping" {
		t.Fatal(got)
	}
	if got := s.want(202, ten.owner, "POST", path+"/stop", "").get("state"); got != "stopping" { // already so
		t.Fatal(got)
	}
	if got := s.want(202, ten.owner, "DELETE", path, "").get("state"); got != "releasing" {
		t.Fatal(got)
	}
	b := s.want(200, ten.viewer, "GET", "/v1/tenants/"+ten.id+"/balance", "")
	if b.get("held_micros") != "0" {
		t.Fatalf("%s", b.body)
	}
}
