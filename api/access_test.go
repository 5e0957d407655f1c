package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

// world is a site with two tenants and something of everything.
type world struct {
	*site
	acme, other                                  *tenant
	sku, alloc, slot, user, key, image           string
	hostID                                       string
	first                                        *fakeHost
	revoked, expired, operator, finance, auditor string
	ids                                          map[string]string // of acme and the site, by path parameter
	strangers                                    map[string]string // ids that are not there
}

func newTestWorld(t testing.TB) *world {
	w := &world{site: newReadingSite(t)}
	h := w.host("h1", 8)
	w.hostID, w.first = h.id.String(), h
	w.sku = w.site.sku("gpu-1x", 1, 2_490_000)
	w.acme, w.other = w.tenant("acme", 100_000_000), w.tenant("other", 100_000_000)
	a := w.want(201, w.acme.owner, "POST", "/v1/projects/"+w.acme.project+"/allocations", `{"name":"train","sku":"gpu-1x","image":"tiny"}`)
	w.alloc, w.slot = a.get("id"), a.get("vms.0.slot_ids.0")
	k := w.want(201, w.acme.owner, "POST", "/v1/tenants/"+w.acme.id+"/api-keys", `{"name":"gone","role":"admin"}`)
	w.revoked, w.user, w.key = k.get("secret"), k.get("user_id"), k.get("id")
	w.want(200, w.acme.owner, "DELETE", "/v1/api-keys/"+k.get("id"), "")
	var project domain.ProjectID
	_ = project.UnmarshalText([]byte(w.acme.project))
	for _, owner := range []domain.ProjectID{{}, project} {
		e := w.system(&domain.RegisterImage{Image: domain.ImageSpec{Project: owner, Name: "tiny", Digest: domain.Digest{1}, SizeBytes: 1, Format: domain.ImageRaw, DiskBytes: 1}})
		w.image = e[0].(*domain.ImageRegistered).ID.String()
	}
	var ten domain.TenantID
	_ = ten.UnmarshalText([]byte(w.acme.id))
	expires := time.Now().Add(time.Second) // it has to be made before
	w.expired = w.site.key(ten, domain.UserID{}, domain.TenantOwner, domain.TimeOf(expires))
	w.operator = w.admin
	for i, role := range []domain.PlatformRoles{domain.RoleFinance, domain.RoleAuditor} {
		u := domain.UserID{2, byte(i)}
		w.system(&domain.SetOperator{User: u, Roles: role})
		*[]*string{&w.finance, &w.auditor}[i] = w.site.key(domain.TenantID{}, u, 0, 0)
	}
	w.ids = map[string]string{
		"t": w.acme.id, "p": w.acme.project, "a": w.alloc, "h": w.hostID, "u": w.user, "k": w.key, "key": "quota.gpus", "d": domain.WipeDutyID{1}.String(), "v": domain.VMID{1}.String(), "c": domain.CorrectionID{1}.String(),
		"i": w.image, "b": "upl_1", "serial": "GPU-h1-0",
	}
	w.strangers = map[string]string{
		"t": domain.TenantID{9}.String(), "p": domain.ProjectID{9}.String(), "a": domain.AllocationID{9}.String(), "h": domain.HostID{9}.String(),
		"u": domain.UserID{9}.String(), "k": domain.APIKeyID{9}.String(), "key": "quota.gpus", "d": domain.WipeDutyID{9}.String(), "v": domain.VMID{9}.String(), "c": domain.CorrectionID{9}.String(),
		"i": domain.ImageID{9}.String(), "b": "upl_9", "serial": "GPU-h1-9",
	}
	time.Sleep(time.Until(expires) + 10*time.Millisecond) // the expired key expires
	return w
}

// path fills a route's parameters. {s} is a slot or a SKU, by the route.
func fill(path string, ids map[string]string, slot, sku string) string {
	for name, id := range ids {
		path = strings.ReplaceAll(path, "{"+name+"}", id)
	}
	if strings.Contains(path, "/skus/") {
		return strings.ReplaceAll(path, "{s}", sku)
	}
	return strings.ReplaceAll(path, "{s}", slot)
}

func (w *world) mine(path string) string { return fill(path, w.ids, w.slot, w.sku) }
func (w *world) nowhere(path string) string {
	return fill(path, w.strangers, domain.SlotID{9}.String(), domain.SKUID{9}.String())
}

// bodies are good bodies of every route that has one.
var bodies = map[string]string{
	"POST /v1/tenants":                           `{"name":"third","currency":"USD"}`,
	"POST /v1/tenants/{t}/members":               `{"role":"viewer"}`,
	"POST /v1/tenants/{t}/api-keys":              `{"name":"k2","role":"viewer","reason":"test"}`,
	"POST /v1/tenants/{t}/projects":              `{"name":"second"}`,
	"POST /v1/tenants/{t}/credits":               `{"currency":"USD","amount_micros":5,"kind":"promotional"}`,
	"POST /v1/projects/{p}/members":              `{"user_id":"usr_24000000000000000000000000","role":"viewer"}`,
	"POST /v1/projects/{p}/allocations":          `{"sku":"gpu-1x","image":"tiny"}`,
	"POST /v1/operators":                         `{"roles":["auditor"]}`,
	"PUT /v1/operators/{u}":                      `{"roles":["auditor"]}`,
	"POST /v1/operators/{u}/api-keys":            `{"name":"laptop"}`,
	"PUT /v1/policies/global/{key}":              `{"value":8}`,
	"PUT /v1/policies/tenants/{t}/{key}":         `{"value":7}`,
	"PUT /v1/policies/projects/{p}/{key}":        `{"value":6}`,
	"POST /v1/skus":                              `{"name":"gpu-2x","shape":2}`,
	"POST /v1/skus/{s}/prices":                   `{"currency":"USD","micros_per_unit_hour":3}`,
	"POST /v1/hosts":                             `{"name":"h2"}`,
	"POST /v1/hosts/{h}/slot-map/approve":        `{"digest":"sha256:` + strings.Repeat("0", 64) + `","wipe_policy":"auto"}`,
	"POST /v1/slots/{s}/quarantine":              `{"reason":"noise"}`,
	"POST /v1/slots/{s}/retire":                  `{"reason":"old"}`,
	"POST /v1/hosts/{h}/unknown-vms/{v}/destroy": `{"reason":"test"}`,
	"POST /v1/corrections":                       `{"field":"host.ahead","resource_id":"host_x","before":"true","after":"false","reason":"test"}`,
	"POST /v1/wipe-duties/{d}/destroyed":         `{"evidence":"certificate-1"}`,
	"POST /v1/images":                            `{"name":"other","digest":"sha256:` + strings.Repeat("1", 64) + `"}`,
	"POST /v1/images/uploads":                    `{"digest":"sha256:` + strings.Repeat("1", 64) + `","size_bytes":1}`,
	"POST /v1/projects/{p}/images":               `{"name":"other","digest":"sha256:` + strings.Repeat("1", 64) + `"}`,
	"POST /v1/projects/{p}/images/uploads":       `{"digest":"sha256:` + strings.Repeat("1", 64) + `","size_bytes":1}`,
	"POST /v1/enroll":                            `{"token":"enr_0000000000000","signing_public_key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","nats_public_key":"U` + strings.Repeat("0", 55) + `"}`,
}

func changes(r route) bool { return r.method != "GET" && r.method != "HEAD" }

func TestNobodyGetsInWithoutAKey(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	for _, r := range w.server.routes {
		if r.open {
			continue
		}
		for name, key := range map[string]string{
			"none": "", "garbage": "gpk_garbage", "revoked": w.revoked, "expired": w.expired, "huge": strings.Repeat("x", 4000),
		} {
			if r.method == "HEAD" { // the refusal has no body
				w.want(401, key, r.method, w.mine(r.path), "")
				continue
			}
			a := w.refused(401, "auth.invalid_key", key, r.method, w.mine(r.path), bodies[r.method+" "+r.path])
			if a.header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s %s %s: no challenge", name, r.method, r.path)
			}
			if key != "" && bytes.Contains(a.body, []byte(key)) {
				t.Errorf("%s %s: the answer repeats the key", r.method, r.path)
			}
		}
	}
	for _, rec := range w.audit.all() {
		for _, key := range []string{"gpk_garbage", w.revoked, w.expired} {
			if bytes.Contains(rec.Data, []byte(key)) {
				t.Fatalf("the audit stream holds a key: %s", rec.Data)
			}
		}
	}
	if len(w.audit.all()) == 0 {
		t.Fatal("no denial was recorded")
	}
}

// withoutID is a problem without the one field that is the request's own.
func withoutID(a *answer) []byte {
	var p map[string]any
	if json.Unmarshal(a.body, &p) != nil {
		return a.body
	}
	delete(p, "request_id")
	b, _ := json.Marshal(p)
	return b
}

func TestBadBodiesAreRefusedAndWriteNothing(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	deep := strings.Repeat(`{"a":`, 40_000) + "1" + strings.Repeat("}", 40_000)
	for _, r := range w.server.routes {
		if !changes(r) || r.raw {
			continue
		}
		good, hasBody := bodies[r.method+" "+r.path]
		path := w.mine(r.path)
		try := func(status int, code, body string, h ...header) {
			t.Helper()
			a := w.do(w.admin, r.method, path, body, h...)
			if a.status != status || code != "" && a.get("code") != code {
				t.Errorf("%s %s with %.60s: %d %s, want %d %s", r.method, r.path, body, a.status, a.body, status, code)
			}
			if len(a.body) > 4096 {
				t.Errorf("%s %s: an answer of %d bytes", r.method, r.path, len(a.body))
			}
		}
		before := w.log.last()
		try(400, "request.malformed", `{"name":`)
		try(400, "request.malformed", "\x00\xff")
		try(400, "request.malformed", deep)
		try(400, "request.malformed", strings.Repeat(`{"a":`, 20)+"1"+strings.Repeat("}", 20))
		try(413, "request.too_large", `{"name":"`+strings.Repeat("x", 300<<10)+`"}`)
		if !hasBody {
			try(422, "request.unexpected_body", `{"surprise":1}`)
			try(422, "request.unexpected_body", `[]`)
		} else {
			try(415, "request.media_type", good, header{"Content-Type", "text/plain"})
			try(422, "", `[]`)
			try(422, "", `"x"`)
			try(422, "", `null`)
			try(422, "", `{}`+" ")
			unknown := good[:len(good)-1] + `,"surprise_field":"gpk_secret_value"}`
			a := w.do(w.admin, r.method, path, unknown)
			if a.status != 422 || !bytes.Contains(a.body, []byte("surprise_field")) || bytes.Contains(a.body, []byte("gpk_secret_value")) {
				t.Errorf("%s %s with an unknown field: %d %s", r.method, r.path, a.status, a.body)
			}
			try(400, "request.malformed", "")
		}
		if w.log.last() != before {
			t.Errorf("%s %s: bad bodies wrote to the log", r.method, r.path)
		}
		if hasBody { // duplicate keys must not crash; what they mean is the last one
			dup := good[:len(good)-1] + "," + good[1:]
			if a := w.do(w.admin, r.method, path, dup); a.status >= 500 {
				t.Errorf("%s %s with duplicate keys: %d", r.method, r.path, a.status)
			}
		}
	}
}

func TestEveryRouteWithABodyHasOneInThisTest(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for name := range bodies {
		found := false
		for _, r := range s.server.routes {
			found = found || r.method+" "+r.path == name
		}
		if !found {
			t.Errorf("no route %s", name)
		}
	}
}

func TestProblemsOutsideTheRoutes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.refused(404, "route.not_found", s.admin, "GET", "/v1/nothing", "")
	s.refused(405, "request.method", s.admin, "PATCH", "/v1/tenants", `{}`)
	a := s.refused(404, "tenant.not_found", s.admin, "POST", "/v1/tenants/not-an-id/projects", `{"name":"x"}`)
	if a.header.Get("X-Request-Id") == "" || a.get("request_id") != a.header.Get("X-Request-Id") {
		t.Errorf("request id %q, in the body %q", a.header.Get("X-Request-Id"), a.get("request_id"))
	}
	a = s.want(200, s.admin, "GET", "/v1/whoami", "", header{"X-Request-Id", "mine-1"})
	if a.header.Get("X-Request-Id") != "mine-1" {
		t.Error("a request id was not accepted")
	}
	a = s.want(200, s.admin, "GET", "/v1/whoami", "", header{"X-Request-Id", "bad id\tx"})
	if !strings.HasPrefix(a.header.Get("X-Request-Id"), "req_") {
		t.Error("a bad request id was accepted")
	}
	s.refused(422, "name.invalid", s.admin, "POST", "/v1/tenants/"+fmt.Sprint(s.tenant("a", 0).id)+"/api-keys", `{"name":"NOT a slug"}`)
}
