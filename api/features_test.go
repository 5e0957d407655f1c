package api

import (
	"strings"
	"testing"

	"github.com/gpuaas/gpuaas/domain"
)

// What a SKU promises and an image needs is said wherever they are shown, and comes
// together in the allocation.
func TestFeaturesOverTheAPI(t *testing.T) {
	t.Parallel()
	s := newReadingSite(t)
	s.host("h1", 4)
	acme := s.tenant("acme", 100_000_000)
	s.system(&domain.RegisterImage{Image: domain.ImageSpec{
		Name: "sealed", Digest: domain.Digest{1}, SizeBytes: 1, Format: domain.ImageRaw, DiskBytes: 1, SecureBoot: true, Needs: domain.VTPM,
	}})
	s.refused(422, "request.invalid", s.admin, "POST", "/v1/skus", `{"name":"odd","shape":1,"features":["magic"]}`)
	s.refused(422, "features.exclusive", s.admin, "POST", "/v1/skus", `{"name":"odd","shape":1,"features":["sev-snp","tdx"]}`)
	sku := s.want(201, s.admin, "POST", "/v1/skus", `{"name":"trusted-1x","shape":1,"features":["secure_boot"]}`)
	s.want(201, s.admin, "POST", "/v1/skus/"+sku.get("id")+"/prices", `{"currency":"USD","micros_per_unit_hour":1000}`)

	made := s.want(201, acme.owner, "POST", "/v1/projects/"+acme.project+"/allocations", `{"sku":"trusted-1x","image":"sealed"}`)
	at := "?at_least=" + jsonOf(s.log.last())
	read := s.want(200, acme.owner, "GET", "/v1/allocations/"+made.get("id")+at, "")
	for what, a := range map[string]*answer{"the launch": made, "the allocation": read} {
		if a.get("features.0") != "secure_boot" || a.get("features.1") != "vtpm" {
			t.Errorf("%s says %s", what, a.body)
		}
	}
	if a := s.want(200, acme.owner, "GET", "/v1/skus/"+sku.get("id")+at, ""); a.get("features.0") != "secure_boot" || sku.get("features.0") != "secure_boot" {
		t.Errorf("%s\n%s", sku.body, a.body)
	}
	if a := s.want(200, acme.owner, "GET", "/v1/images"+at, ""); a.get("items.0.needs.0") != "vtpm" || a.get("items.0.secure_boot") != "true" {
		t.Errorf("%s", a.body)
	}
	if a := s.want(200, acme.owner, "GET", "/v1/offers?project_id="+acme.project, ""); !strings.Contains(string(a.body), `"features":["secure_boot"]`) {
		t.Errorf("%s", a.body)
	}
}
