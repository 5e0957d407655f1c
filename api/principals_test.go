package api

import (
	"bytes"
	"cmp"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

// principals are those of the table below, in its columns' order. Those of the
// project are viewers of the tenant beside that.
var principals = [...]string{"owner", "admin", "billing", "viewer", "project admin", "project member", "project viewer", "stranger", "operator", "finance", "auditor"}

// matrix says what every route answers to every principal, about acme's things and
// the site's. Without a key, or with one that has ended, it is 401 on every route.
//
//	owner, admin, billing, viewer of the tenant; admin, member, viewer of the
//	project; stranger (the other tenant's owner); operator, finance, auditor
var matrix = map[string]string{
	"POST /v1/tenants":                           "pppp ppp p +pp",
	"POST /v1/tenants/{t}/members":               "++rr rrr 4 +rr",
	"DELETE /v1/tenants/{t}/members/{u}":         "++rr rrr 4 +rr",
	"GET /v1/tenants":                            "++++ +++ + +++",
	"GET /v1/tenants/{t}":                        "++++ +++ 4 +++",
	"GET /v1/tenants/{t}/members":                "++++ +++ 4 +++",
	"POST /v1/tenants/{t}/api-keys":              "++kk kkk 4 +rr",
	"DELETE /v1/api-keys/{k}":                    "++kk kkk 4 +rr",
	"POST /v1/operators/{u}/api-keys":            "pppp ppp p +pp",
	"GET /v1/tenants/{t}/api-keys":               "++++ +++ 4 +++",
	"GET /v1/operators/api-keys":                 "pppp ppp p +++",
	"POST /v1/tenants/{t}/projects":              "++rr rrr 4 +rr",
	"POST /v1/projects/{p}/members":              "++rr +rr 4 +44",
	"DELETE /v1/projects/{p}/members/{u}":        "++rr +rr 4 +44",
	"GET /v1/tenants/{t}/projects":               "++++ +++ 4 +++",
	"GET /v1/projects/{p}":                       "++++ +++ 4 +++",
	"GET /v1/projects/{p}/members":               "++++ +++ 4 +++",
	"POST /v1/operators":                         "pppp ppp p +pp",
	"PUT /v1/operators/{u}":                      "pppp ppp p +pp",
	"GET /v1/whoami":                             "++++ +++ + +++",
	"GET /v1/operators":                          "pppp ppp p +++",
	"PUT /v1/policies/global/{key}":              "pppp ppp p +pp",
	"GET /v1/policies/global":                    "++++ +++ + +++",
	"DELETE /v1/policies/global/{key}":           "pppp ppp p +pp",
	"PUT /v1/policies/tenants/{t}/{key}":         "++rr rrr 4 +rr",
	"GET /v1/policies/tenants/{t}":               "++++ +++ 4 +++",
	"DELETE /v1/policies/tenants/{t}/{key}":      "++rr rrr 4 +rr",
	"PUT /v1/policies/projects/{p}/{key}":        "++rr +rr 4 +44",
	"GET /v1/policies/projects/{p}":              "++++ +++ 4 +++",
	"DELETE /v1/policies/projects/{p}/{key}":     "++rr +rr 4 +44",
	"GET /v1/projects/{p}/policies/effective":    "++++ +++ 4 +++",
	"POST /v1/skus":                              "pppp ppp p +pp",
	"POST /v1/skus/{s}/prices":                   "pppp ppp p ++p",
	"GET /v1/offers":                             "++++ +++ + +++",
	"GET /v1/skus":                               "++++ +++ + +++",
	"GET /v1/skus/{s}":                           "++++ +++ + +++",
	"POST /v1/hosts":                             "pppp ppp p +pp",
	"POST /v1/hosts/{h}/slot-map/approve":        "pppp ppp p +pp",
	"POST /v1/hosts/{h}/cordon":                  "pppp ppp p +pp",
	"POST /v1/hosts/{h}/uncordon":                "pppp ppp p +pp",
	"POST /v1/hosts/{h}/drain":                   "pppp ppp p +pp",
	"POST /v1/hosts/{h}/confirm-power-off":       "pppp ppp p +pp",
	"DELETE /v1/hosts/{h}":                       "pppp ppp p +pp",
	"GET /v1/hosts":                              "pppp ppp p +++",
	"GET /v1/hosts/{h}":                          "pppp ppp p +++",
	"GET /v1/hosts/{h}/slot-map":                 "pppp ppp p +++",
	"POST /v1/slots/{s}/quarantine":              "pppp ppp p +pp",
	"POST /v1/slots/{s}/retire":                  "pppp ppp p +pp",
	"POST /v1/slots/{s}/rewipe":                  "pppp ppp p +pp",
	"GET /v1/slots":                              "pppp ppp p +++",
	"GET /v1/slots/{s}":                          "pppp ppp p +++",
	"GET /v1/slots/{s}/leases":                   "pppp ppp p +++",
	"POST /v1/wipe-duties/{d}/destroyed":         "pppp ppp p +pp",
	"GET /v1/wipe-duties":                        "pppp ppp p +++",
	"POST /v1/corrections":                       "pppp ppp p +pp",
	"POST /v1/corrections/{c}/approve":           "pppp ppp p +pp",
	"POST /v1/corrections/{c}/withdraw":          "pppp ppp p +pp",
	"GET /v1/corrections":                        "pppp ppp p +++",
	"GET /v1/epoch":                              "pppp ppp p +++",
	"POST /v1/hosts/{h}/unknown-vms/{v}/destroy": "pppp ppp p +pp",
	"GET /v1/devices/{serial}":                   "pppp ppp p +++",
	"POST /v1/projects/{p}/allocations":          "++rr ++r 4 +44",
	"POST /v1/allocations/{a}/stop":              "++rr ++r 4 +44",
	"POST /v1/allocations/{a}/start":             "++rr ++r 4 +44",
	"POST /v1/allocations/{a}/reboot":            "++rr ++r 4 +44",
	"DELETE /v1/allocations/{a}":                 "++rr ++r 4 +44",
	"GET /v1/projects/{p}/allocations":           "++++ +++ 4 +++",
	"GET /v1/allocations/{a}":                    "++++ +++ 4 +++",
	"GET /v1/allocations/{a}/erasure":            "++++ +++ 4 +++",
	"POST /v1/images":                            "pppp ppp p +pp",
	"POST /v1/projects/{p}/images":               "++rr +rr 4 +44",
	"GET /v1/images":                             "++++ +++ + +++",
	"GET /v1/projects/{p}/images":                "++++ +++ 4 +++",
	"GET /v1/images/{i}":                         "++++ +++ 4 +++",
	"DELETE /v1/images/{i}":                      "++rr +rr 4 +44",
	"POST /v1/images/uploads":                    "pppp ppp p +pp",
	"POST /v1/projects/{p}/images/uploads":       "++rr +rr 4 +44",
	"GET /v1/uploads/{b}":                        "+444 444 4 444",
	"HEAD /v1/uploads/{b}":                       "+444 444 4 444",
	"DELETE /v1/uploads/{b}":                     "+444 444 4 444",
	"PATCH /v1/uploads/{b}":                      "+444 444 4 444",
	"GET /v1/allocations/{a}/console":            "++r+ +++ 4 ccc",
	"POST /v1/tenants/{t}/credits":               "pppp ppp p ++p",
	"GET /v1/tenants/{t}/balance":                "++++ +++ 4 +++",
	"GET /v1/tenants/{t}/credits":                "++++ +++ 4 +++",
	"GET /v1/tenants/{t}/ledger":                 "++++ +++ 4 +++",
	"GET /v1/tenants/{t}/usage":                  "++++ +++ 4 +++",
	"GET /v1/events":                             "++++ +++ + +++",
	"GET /v1/allocations/{a}/events":             "++++ +++ 4 +++",
	"GET /v1/allocations/{a}/explain":            "pppp ppp p +++",
	"GET /v1/explain/placement":                  "pppp ppp p +++",
	"GET /v1/audit":                              "++++ +++ + +++",
	"GET /v1/audit/denials":                      "pppp ppp p +++",
}

// refusals are the letters of the table beside + (done, 2xx) and 4 (404: exactly as
// if it was not there at all).
var refusals = map[string]byte{
	"auth.role_too_low": 'r', "auth.platform_only": 'p', "api_key.not_yours": 'k', "api_key.role_too_high": 'k', "console.tenant_only": 'c', "auth.invalid_key": '1',
}

// attempt is one request of the table: what a route needs to succeed.
type attempt struct {
	ids  map[string]string // beside, or instead of, the world's
	body string            // "": the route's in bodies
	h    []header
}

// TestWhoMayDoWhat goes through every route as everybody.
func TestWhoMayDoWhat(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	p := newParties(w)
	w.server.denials.mu.Lock()
	w.server.denials.each = 1 << 20
	w.server.denials.mu.Unlock()
	n := 0
	for _, r := range w.server.routes {
		if r.open {
			continue
		}
		name := r.method + " " + r.path
		var got []byte
		for _, who := range principals {
			n++
			got = append(got, p.attempt(r, n, p.keys[who]))
		}
		if want := strings.ReplaceAll(matrix[name], " ", ""); string(got) != want {
			t.Errorf("{%q: %q}, want %q", name, group(string(got)), want)
		}
		for _, key := range []string{"", w.revoked, w.expired} {
			n++
			if got := p.attempt(r, n, key); got != '1' {
				t.Errorf("%s with no key, or one that has ended: %c", name, got)
			}
		}
		if r.method == "GET" && strings.Contains(r.path, "{") {
			w.want(404, w.operator, "GET", w.nowhere(r.path), "")
		}
	}
	for name := range matrix {
		found := false
		for _, r := range w.server.routes {
			found = found || r.method+" "+r.path == name
		}
		if !found {
			t.Errorf("no route %s", name)
		}
	}
}

func group(s string) string {
	if len(s) != len(principals) {
		return s
	}
	return s[:4] + " " + s[4:7] + " " + s[7:8] + " " + s[8:]
}

// parties are everybody who asks, and what they ask about.
type parties struct {
	*world
	keys       map[string]string
	member     string // a member of acme
	spare      string // an operator
	h1, h2, h4 *fakeHost
	host3      string
	slots2     []string
	duty       string
	launched   string
	proposer   string // the key of a third operator
	grant      string // of acme, whose balance is corrected up and down
	unknown    byte   // VMs that h2 has and the log does not know: so many were asked about
}

func newParties(w *world) *parties {
	p := &parties{world: w, keys: map[string]string{
		"owner": w.acme.owner, "admin": w.acme.admin, "billing": w.acme.billing, "viewer": w.acme.viewer, "stranger": w.other.owner, "finance": w.finance, "auditor": w.auditor,
	}}
	operator := domain.UserID{3, 1}
	w.system(&domain.SetOperator{User: operator, Roles: domain.RoleOperator})
	p.keys["operator"] = w.site.key(domain.TenantID{}, operator, 0, 0)
	for _, role := range []string{"admin", "member", "viewer"} {
		u := p.newMember()
		w.want(201, w.acme.owner, "POST", "/v1/projects/"+w.acme.project+"/members", fmt.Sprintf(`{"user_id":%q,"role":%q}`, u, role))
		p.keys["project "+role] = w.want(201, w.acme.owner, "POST", "/v1/tenants/"+w.acme.id+"/api-keys", fmt.Sprintf(`{"name":"p-%s","user_id":%q}`, role, u)).get("secret")
	}
	p.member = p.newMember()
	spare := domain.UserID{3, 2}
	w.system(&domain.SetOperator{User: spare, Roles: domain.RoleAuditor})
	p.spare = spare.String()
	p.h1 = w.first
	p.h2, p.h4 = w.host("h2", 4), w.host("h4", 1)
	p.host3 = w.want(201, w.admin, "POST", "/v1/hosts", `{"name":"h3"}`).get("id")
	slots := w.want(200, w.admin, "GET", fmt.Sprintf("/v1/slots?host_id=%s&at_least=%d", p.h2.id, w.log.last()), "")
	for i := range 4 {
		p.slots2 = append(p.slots2, slots.get(fmt.Sprintf("items.%d.id", i)))
	}
	w.want(202, w.admin, "POST", "/v1/slots/"+p.slots2[1]+"/quarantine", `{"reason":"noise"}`)
	p.h2.m.Slots[3].NVMe.Serial = "SPARE-1" // whose wipe never succeeds
	p.h2.propose(p.h2.m)
	w.want(202, w.admin, "POST", "/v1/hosts/"+p.h2.id.String()+"/slot-map/approve", fmt.Sprintf(`{"digest":%q,"wipe_policy":"auto"}`, p.h2.m.Digest()))
	p.h2.failWipe(p.slots2[3])
	last := w.want(202, w.admin, "POST", "/v1/slots/"+p.slots2[3]+"/retire", `{"reason":"old"}`).header.Get("Log-Sequence")
	p.duty = w.want(200, w.admin, "GET", "/v1/wipe-duties?at_least="+last, "").get("items.0.id")
	p.openEpoch()
	w.system(&domain.SetOperator{User: domain.UserID{3, 3}, Roles: domain.RoleOperator})
	p.proposer = w.site.key(domain.TenantID{}, domain.UserID{3, 3}, 0, 0)
	p.grant = w.want(201, w.admin, "POST", "/v1/tenants/"+w.other.id+"/credits", `{"currency":"USD","amount_micros":1000000000,"kind":"promotional"}`).get("id")
	w.system(&domain.ActOnHost{Host: p.h4.id, Action: domain.HostSilent, Since: domain.TimeOf(time.Now())})
	w.images.mu.Lock()
	w.images.uploads["upl_0"] = &Upload{NewUpload: NewUpload{Digest: domain.Digest{1}, SizeBytes: 1}, ID: "upl_0", Complete: true, Content: ImageContent{SizeBytes: 1, DiskBytes: 1, Format: domain.ImageRaw}}
	w.images.mu.Unlock()
	return p
}

// correction is a proposal that fits what is there.
func (p *parties) correction() string {
	var id domain.GrantID
	_ = id.UnmarshalText([]byte(p.grant))
	var now domain.Micros
	if _, err := p.loop.Query(p.t.Context(), domain.System, func(w *domain.World, _ domain.Time) {
		w.Balances(func(_ domain.TenantID, a domain.Account, _ domain.Currency, n domain.Micros) {
			if a == (domain.Account{Kind: domain.AccountLot, Ref: id}) {
				now = n
			}
		})
	}); err != nil {
		p.t.Fatal(err)
	}
	return fmt.Sprintf(`{"field":"grant.balance_micros","resource_id":%q,"before":"%d","after":"%d","reason":"test"}`, p.grant, now, now-1)
}

// openEpoch goes on with the log as if it had lost its end: what the hosts have, the log
// has too, but for VMs of h2.
func (p *parties) openEpoch() {
	m := &domain.OpenEpoch{Reason: "test", Lost: []domain.LostSign{{Source: "feed"}}}
	if _, err := p.loop.Query(p.t.Context(), domain.System, func(w *domain.World, _ domain.Time) {
		m.Epoch, m.Survived, m.SurvivedAt = w.Epoch+1, w.Head, w.At
		for _, secret := range []string{p.admin, p.keys["operator"]} {
			k, _ := w.KeyByHash(domain.DigestOf([]byte(secret)))
			m.Approved = append(m.Approved, k.ID)
		}
	}); err != nil {
		p.t.Fatal(err)
	}
	hosts := []*fakeHost{p.h1, p.h2, p.h4}
	var says []*domain.HoldingsReport
	for _, h := range hosts {
		d := h.placement().Desired
		r := &domain.HoldingsReport{Epoch: d.Epoch, Generation: d.Generation, SlotMap: d.SlotMap}
		for _, v := range d.VMs {
			r.VMs = append(r.VMs, domain.HeldVM{VM: v.VM})
		}
		says = append(says, r)
	}
	for i := range byte(60) {
		says[1].VMs = append(says[1].VMs, domain.HeldVM{VM: domain.VMID{i + 1}})
	}
	p.system(m)
	for i, h := range hosts {
		h.report(domain.Report{Kind: domain.ReportInventory, Holdings: says[i]})
		h.wipe() // the free slots, of which it remembers nothing
	}
	if a := p.want(200, p.admin, "GET", "/v1/epoch", ""); a.get("epoch") != "2" || a.get("unknown_vms.59.host_id") != p.h2.id.String() || a.get("awaited_host_ids.0") != "" {
		p.t.Fatalf("%s", a.body)
	}
}

func (p *parties) newMember() string {
	return p.want(201, p.acme.owner, "POST", "/v1/tenants/"+p.acme.id+"/members", `{"role":"viewer"}`).get("id")
}

// prepare makes what the route's request is about, anew if the request uses it up.
func (p *parties) prepare(name string) attempt {
	one := func(param, id string) attempt { return attempt{ids: map[string]string{param: id}} }
	alloc := "/v1/allocations/" + p.alloc
	switch name {
	case "DELETE /v1/tenants/{t}/members/{u}":
		return one("u", p.newMember())
	case "POST /v1/projects/{p}/members", "DELETE /v1/projects/{p}/members/{u}":
		a := one("u", p.member)
		a.body = fmt.Sprintf(`{"user_id":%q,"role":"viewer"}`, p.member)
		if strings.HasPrefix(name, "DELETE") {
			p.want(201, p.acme.owner, "POST", "/v1/projects/"+p.acme.project+"/members", a.body)
			a.body = ""
		}
		return a
	case "DELETE /v1/api-keys/{k}":
		return one("k", p.want(201, p.acme.owner, "POST", "/v1/tenants/"+p.acme.id+"/api-keys", `{"name":"spare"}`).get("id"))
	case "POST /v1/operators/{u}/api-keys", "PUT /v1/operators/{u}":
		return one("u", p.spare)
	case "POST /v1/hosts/{h}/slot-map/approve":
		return attempt{body: fmt.Sprintf(`{"digest":%q,"wipe_policy":"auto"}`, p.h1.m.Digest())}
	case "POST /v1/hosts/{h}/cordon", "POST /v1/hosts/{h}/uncordon", "POST /v1/hosts/{h}/drain":
		return one("h", p.h2.id.String())
	case "POST /v1/hosts/{h}/confirm-power-off":
		return one("h", p.h4.id.String())
	case "DELETE /v1/hosts/{h}":
		return one("h", p.host3)
	case "POST /v1/slots/{s}/quarantine":
		return one("s", p.slots2[0])
	case "POST /v1/slots/{s}/rewipe":
		return one("s", p.slots2[1])
	case "POST /v1/slots/{s}/retire":
		return one("s", p.slots2[2])
	case "POST /v1/wipe-duties/{d}/destroyed":
		return one("d", p.duty)
	case "POST /v1/corrections":
		return attempt{body: p.correction()}
	case "POST /v1/corrections/{c}/approve", "POST /v1/corrections/{c}/withdraw":
		return one("c", p.want(201, p.proposer, "POST", "/v1/corrections", p.correction()).get("id"))
	case "POST /v1/hosts/{h}/unknown-vms/{v}/destroy":
		p.unknown++
		return attempt{ids: map[string]string{"h": p.h2.id.String(), "v": domain.VMID{p.unknown}.String()}}
	case "POST /v1/allocations/{a}/stop", "POST /v1/allocations/{a}/reboot", "GET /v1/allocations/{a}/console":
		p.h1.halt()
		p.do(p.acme.owner, "POST", alloc+"/start", "")
		for at := domain.TimeOf(time.Now()); domain.TimeOf(time.Now()) == at; { // no two boots in one millisecond
		}
		p.h1.boot()
	case "POST /v1/allocations/{a}/start":
		p.h1.boot()
		p.want(202, p.acme.owner, "POST", alloc+"/stop", "")
		p.h1.halt()
	case "DELETE /v1/allocations/{a}", "POST /v1/projects/{p}/allocations":
		for _, id := range []string{p.launched, p.lastLaunched()} {
			if id != "" && id != p.alloc {
				p.do(p.acme.owner, "DELETE", "/v1/allocations/"+id, "")
			}
		}
		p.h1.wipe()
		if strings.HasPrefix(name, "DELETE") {
			p.launched = p.want(201, p.acme.owner, "POST", "/v1/projects/"+p.acme.project+"/allocations", `{"sku":"gpu-1x","image":"tiny"}`).get("id")
			return one("a", p.launched)
		}
	case "POST /v1/images", "POST /v1/projects/{p}/images":
		return attempt{body: `{"name":"other","digest":"` + domain.Digest{1}.String() + `"}`}
	case "DELETE /v1/images/{i}":
		var project domain.ProjectID
		_ = project.UnmarshalText([]byte(p.acme.project))
		e := p.system(&domain.RegisterImage{Image: domain.ImageSpec{Project: project, Name: fmt.Sprintf("spare-%d", p.log.last()), Digest: domain.Digest{1}, SizeBytes: 1, Format: domain.ImageRaw, DiskBytes: 1}})
		return one("i", e[0].(*domain.ImageRegistered).ID.String())
	case "GET /v1/uploads/{b}", "HEAD /v1/uploads/{b}", "PATCH /v1/uploads/{b}", "DELETE /v1/uploads/{b}":
		u := p.want(201, p.acme.owner, "POST", "/v1/projects/"+p.acme.project+"/images/uploads", `{"digest":"sha256:`+strings.Repeat("1", 64)+`","size_bytes":9}`)
		a := one("b", u.get("id"))
		if strings.HasPrefix(name, "PATCH") {
			a.body, a.h = "x", []header{bytesOfImage, {"Upload-Offset", "0"}}
		}
		return a
	}
	return attempt{}
}

// lastLaunched is the newest allocation.
func (p *parties) lastLaunched() string {
	p.log.mu.Lock()
	defer p.log.mu.Unlock()
	for i := len(p.log.events) - 1; i >= 0; i-- {
		if e := p.log.events[i]; e.Type == "allocation.placed" {
			return e.Resource
		}
	}
	return ""
}

// attempt sends the route's request as whoever has the key and returns the letter
// of how it went. A refusal writes nothing, and is on record.
func (p *parties) attempt(r route, n int, key string) byte {
	p.t.Helper()
	name := r.method + " " + r.path
	a := p.prepare(name)
	path := r.path
	for param, id := range a.ids {
		path = strings.ReplaceAll(path, "{"+param+"}", id)
	}
	query := queries[name]
	if name == "GET /v1/offers" && key != p.other.owner {
		query = "?tenant_id=" + p.acme.id
	}
	body := strings.Replace(cmp.Or(a.body, bodies[name]), `"name":"`, fmt.Sprintf(`"name":"n%d-`, n), 1)
	before := p.log.last()
	got := p.do(key, r.method, p.mine(path)+query, body, a.h...)
	if got.status >= 200 && got.status < 300 {
		p.succeeded(r, key, got)
		return '+'
	}
	if p.log.last() != before {
		p.t.Errorf("%s: refused with %d, and the log grew", name, got.status)
	}
	if !p.onRecord(got) {
		p.t.Errorf("%s: refused with %d %s, and not on record", name, got.status, got.body)
	}
	if got.status == 404 {
		other := p.do(key, r.method, p.nowhere(r.path)+query, body, a.h...)
		if x, y := withoutID(got), withoutID(other); !bytes.Equal(x, y) || other.status != 404 || r.method != "HEAD" && !strings.HasSuffix(got.get("code"), ".not_found") {
			p.t.Errorf("%s: %s, but for what is not there %d %s", name, x, other.status, y)
		}
		return '4'
	}
	if r.method == "HEAD" { // the refusal has no body
		return byte('0' + got.status - 400)
	}
	letter, ok := refusals[got.get("code")]
	if !ok {
		p.t.Errorf("%s: %d %s", name, got.status, got.body)
		return '?'
	}
	return letter
}

// succeeded checks that a command was one, and that strangers read nothing of
// acme's.
func (p *parties) succeeded(r route, key string, got *answer) {
	p.t.Helper()
	if changes(r) && !strings.Contains(r.path, "upload") && (got.header.Get("Command-Id") == "" || got.header.Get("Log-Sequence") == "") {
		p.t.Errorf("%s %s: done without a command: %v", r.method, r.path, got.header)
	}
	if key != p.other.owner {
		return
	}
	for _, secret := range []string{p.acme.id, p.acme.project, p.alloc} {
		if bytes.Contains(got.body, []byte(secret)) {
			p.t.Errorf("%s %s: the other tenant reads %s: %s", r.method, r.path, secret, got.body)
		}
	}
}

// onRecord reports whether the audit stream has the refusal.
func (p *parties) onRecord(got *answer) bool {
	id := []byte(`"request_id":"` + got.header.Get("X-Request-Id") + `"`)
	for _, rec := range p.audit.all() {
		if rec.Kind == "denial" && bytes.Contains(rec.Data, id) {
			return true
		}
	}
	return false
}

// halt reports that every VM that should be off is.
func (h *fakeHost) halt() {
	h.s.t.Helper()
	for _, v := range h.placement().Desired.VMs {
		if v.Power == domain.PowerOff {
			h.report(domain.Report{Kind: domain.ReportStopped, VM: &domain.VMReport{VM: v.VM, Boot: v.Boot, At: domain.TimeOf(time.Now())}})
		}
	}
}
