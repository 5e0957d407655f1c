package api

import (
	"errors"
	"strings"
	"testing"
)

// Tags are the tenant's own: its people read them, the site's do not, and what is
// erased is said to be.
func TestTags(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	made := w.want(201, w.acme.owner, "POST", "/v1/projects/"+w.acme.project+"/allocations", `{"name":"tagged","sku":"gpu-1x","tags":{"team":"x","cost-centre":"7"}}`)
	path := "/v1/allocations/" + made.get("id") + "?at_least=" + made.header.Get("Log-Sequence")
	for _, key := range []string{w.acme.owner, w.acme.viewer} {
		if a := w.want(200, key, "GET", path, ""); a.get("tags.team") != "x" || a.get("tags.cost-centre") != "7" || made.get("tags.team") != "x" {
			t.Errorf("%s", a.body)
		}
	}
	for _, key := range []string{w.operator, w.finance, w.auditor} {
		if a := w.want(200, key, "GET", path, ""); strings.Contains(string(a.body), "team") || strings.Contains(string(a.body), "tags") {
			t.Errorf("the site's people read %s", a.body)
		}
	}
	w.refused(404, "allocation.not_found", w.other.owner, "GET", path, "")
	plain := w.want(200, w.acme.owner, "GET", "/v1/allocations/"+w.alloc, "")
	if strings.Contains(string(plain.body), "tags") {
		t.Errorf("an allocation without tags: %s", plain.body)
	}
	if list := w.want(200, w.acme.owner, "GET", "/v1/projects/"+w.acme.project+"/allocations", ""); strings.Contains(string(list.body), "team") {
		t.Errorf("a list shows tags: %s", list.body)
	}
	w.vault.fail(errors.New("away"))
	w.refused(503, "vault.unavailable", w.acme.owner, "GET", path, "")
	w.vault.fail(nil)
	w.vault.erase()
	if a := w.want(200, w.acme.owner, "GET", path, ""); a.get("tags_erased") != "true" || strings.Contains(string(a.body), "team") {
		t.Errorf("erased: %s", a.body)
	}
}
