package api

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
)

// notCommands are routes that change something and write nothing to the log, with
// why a repeat does no harm.
var notCommands = map[string]string{
	"POST /v1/enroll":                      "by the host's keys: TestEnrolment",
	"POST /v1/images/uploads":              "the same upload, until bytes came",
	"POST /v1/projects/{p}/images/uploads": "the same upload, until bytes came",
	"PATCH /v1/uploads/{b}":                "by its offset",
	"DELETE /v1/uploads/{b}":               "it is gone already",
}

// TestARepeatGetsTheFirstAnswer goes through every route that is a command: each
// request writes to the log once, and its repeat, by Idempotency-Key or Command-Id,
// gets the bytes of the first answer. Another request under the same name is a
// conflict.
func TestARepeatGetsTheFirstAnswer(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	p := newParties(w)
	n := 0
	for _, r := range w.server.routes {
		name := r.method + " " + r.path
		if !changes(r) || notCommands[name] != "" {
			continue
		}
		for i, by := range []string{"Idempotency-Key", "Command-Id"} {
			n++
			a := p.prepare(name)
			p.changed(name, n, &a)
			key := p.keys["owner"]
			if matrix[name][0] != '+' {
				key = []string{p.keys["operator"], w.admin}[i] // two have to say that a device is destroyed
			}
			path := r.path
			for param, id := range a.ids {
				path = strings.ReplaceAll(path, "{"+param+"}", id)
			}
			body := strings.Replace(cmp.Or(a.body, bodies[name]), `"name":"`, fmt.Sprintf(`"name":"n%d-`, n), 1)
			h := header{by, fmt.Sprintf("key %d", n)}
			if by == "Command-Id" {
				h.value = commands.NewCommandID(time.Now(), domain.Entropy{30: byte(n >> 8), 31: byte(n)}).String()
			}
			p.repeat(name, key, r.method, w.mine(path), body, h)
		}
	}
	for name := range notCommands {
		if !slices.ContainsFunc(w.server.routes, func(r route) bool { return r.method+" "+r.path == name && (r.plain || r.raw || r.open) }) {
			t.Errorf("no such route, or it is a command: %s", name)
		}
	}
}

// changed makes the request one that changes something, each time.
func (p *parties) changed(name string, n int, a *attempt) {
	act := func(path string) { p.want(202, p.admin, "POST", path, "") }
	host, slot := "/v1/hosts/"+p.h2.id.String(), "/v1/slots/"+p.slots2[0]
	switch {
	case strings.HasPrefix(name, "PUT /v1/policies/"):
		a.body = fmt.Sprintf(`{"value":%d}`, 100+n)
	case strings.HasPrefix(name, "DELETE /v1/policies/"):
		path := strings.TrimPrefix(name, "DELETE ")
		p.want(200, p.admin, "PUT", p.mine(path), fmt.Sprintf(`{"value":%d}`, 100+n))
	case name == "PUT /v1/operators/{u}":
		a.body = []string{`{"roles":["auditor"]}`, `{"roles":["finance"]}`}[n%2]
	case name == "POST /v1/projects/{p}/members":
		a.body = fmt.Sprintf(`{"user_id":%q,"role":"viewer"}`, p.newMember())
	case name == "POST /v1/hosts/{h}/slot-map/approve":
		h := p.host(fmt.Sprintf("approved-%d", n), 1)
		h.wipe()
		h.m.Slots[0].MemoryMiB++
		h.propose(h.m)
		*a = attempt{ids: map[string]string{"h": h.id.String()}, body: fmt.Sprintf(`{"digest":%q,"wipe_policy":"auto"}`, h.m.Digest())}
	case name == "POST /v1/hosts/{h}/cordon", name == "POST /v1/hosts/{h}/drain":
		act(host + "/uncordon")
	case name == "POST /v1/hosts/{h}/uncordon":
		act(host + "/cordon")
	case name == "POST /v1/hosts/{h}/confirm-power-off": // once a host: a repeat changes nothing
		h := p.host(fmt.Sprintf("dead-%d", n), 1)
		p.system(&domain.ActOnHost{Host: h.id, Action: domain.HostSilent, Since: domain.TimeOf(time.Now())})
		a.ids = map[string]string{"h": h.id.String()}
	case name == "DELETE /v1/hosts/{h}":
		a.ids = map[string]string{"h": p.want(201, p.admin, "POST", "/v1/hosts", fmt.Sprintf(`{"name":"gone-%d"}`, n)).get("id")}
	case name == "POST /v1/slots/{s}/quarantine":
		p.do(p.admin, "POST", slot+"/rewipe", "")
		p.h2.wipe()
	case name == "POST /v1/slots/{s}/rewipe":
		p.do(p.admin, "POST", slot+"/quarantine", bodies["POST /v1/slots/{s}/quarantine"])
		a.ids = map[string]string{"s": p.slots2[0]}
	case name == "POST /v1/slots/{s}/retire":
		a.ids = map[string]string{"s": p.slots2[1+n%2]}
	}
}

// repeat sends the request twice, and another one under the same name.
func (p *parties) repeat(name, key, method, path, body string, h header) {
	p.t.Helper()
	start := p.log.last()
	first := p.do(key, method, path, body, h)
	if first.status >= 300 || p.log.last() == start {
		p.t.Errorf("%s by %s: %d %s, and the log grew by %d", name, h.name, first.status, first.body, p.log.last()-start)
		return
	}
	before, docs := p.log.last(), p.vault.len()
	again := p.do(key, method, path, body, h)
	if again.status != first.status || !bytes.Equal(again.body, first.body) || again.header.Get("Log-Sequence") != first.header.Get("Log-Sequence") {
		p.t.Errorf("%s by %s: first %d %s, then %d %s", name, h.name, first.status, first.body, again.status, again.body)
	}
	if p.log.last() != before || p.vault.len() != docs {
		p.t.Errorf("%s by %s: the repeat wrote", name, h.name)
	}
	other := p.do(key, method, path+"?x=1", body, h)
	code := map[string]string{"Idempotency-Key": "idempotency.conflict", "Command-Id": "command.id_reused"}[h.name]
	if other.status != 409 || other.get("code") != code || p.log.last() != before {
		p.t.Errorf("%s by %s, another request: %d %s", name, h.name, other.status, other.body)
	}
}

func TestAForeignCommandIdShowsNothing(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	id := header{"Command-Id", commands.NewCommandID(time.Now(), domain.Entropy{31: 1}).String()}
	body := `{"name":"secret-name"}`
	w.want(201, w.acme.owner, "POST", "/v1/tenants/"+w.acme.id+"/api-keys", body, id)
	for _, key := range []string{w.other.owner, w.acme.viewer, w.admin} {
		a := w.refused(409, "command.id_reused", key, "POST", "/v1/tenants/"+w.acme.id+"/api-keys", body, id)
		if bytes.Contains(a.body, []byte("secret-name")) {
			t.Fatalf("%s", a.body)
		}
	}
	// The same Idempotency-Key of two users is two keys.
	key := header{"Idempotency-Key", "same"}
	w.want(201, w.acme.owner, "POST", "/v1/tenants/"+w.acme.id+"/projects", `{"name":"p1"}`, key)
	w.want(201, w.acme.admin, "POST", "/v1/tenants/"+w.acme.id+"/projects", `{"name":"p2"}`, key)
}

func TestFiftyAtOnceWithOneKeyAreOne(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	var wg sync.WaitGroup
	answers := make([]*answer, 50)
	for i := range answers {
		wg.Go(func() {
			answers[i], _ = w.try(w.acme.owner, "POST", "/v1/projects/"+w.acme.project+"/allocations", `{"sku":"gpu-1x","image":"tiny"}`, header{"Idempotency-Key", "one"})
		})
	}
	wg.Wait()
	for _, a := range answers {
		if a == nil || a.status != 201 || !bytes.Equal(a.body, answers[0].body) {
			t.Fatalf("%+v, but the first %s", a, answers[0].body)
		}
	}
	n := 0
	for _, e := range w.log.events {
		if e.Type == "allocation.placed" {
			n++
		}
	}
	if n != 2 { // and the one of the test's world
		t.Fatalf("%d allocations", n)
	}
}

func TestKeysThatCannotBe(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	path, body := "/v1/tenants/"+w.acme.id+"/projects", `{"name":"x"}`
	for _, key := range []string{"", strings.Repeat("k", 256), "ümlaut"} {
		w.refused(422, "idempotency.key_invalid", w.acme.owner, "POST", path, body, header{"Idempotency-Key", key})
	}
	for _, id := range []string{"x", "cmd_", domain.CommandID{9}.String()} {
		w.refused(422, "command.id_invalid", w.acme.owner, "POST", path, body, header{"Command-Id", id})
	}
	old := commands.NewCommandID(time.Now().Add(-time.Hour), domain.Entropy{}).String()
	w.refused(422, "command.expired", w.acme.owner, "POST", path, body, header{"Command-Id", old})
}

func TestADryRunWritesNothing(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	path := "/v1/projects/" + w.acme.project + "/allocations"
	before, docs := w.log.last(), w.vault.len()
	a := w.want(200, w.acme.owner, "POST", path, `{"sku":"gpu-1x","count":2,"dry_run":true,"user_data":"#cloud-config","lock_price":true}`)
	if a.get("state") != "planned" || a.get("dry_run") != "true" || a.get("id") != "" || a.get("hold_micros") != "4980000" || a.get("vms.1.host_id") != w.hostID || a.get("vms.1.id")+a.get("vms.1.crn")+a.get("vms.1.name") != "" || a.get("image") != "tiny" {
		t.Errorf("%s", a.body)
	}
	w.refused(409, "capacity.exhausted", w.acme.owner, "POST", path, `{"sku":"gpu-1x","count":8,"dry_run":true}`)
	w.refused(403, "auth.role_too_low", w.acme.viewer, "POST", path, `{"sku":"gpu-1x","dry_run":true}`)
	w.refused(404, "project.not_found", w.other.owner, "POST", path, `{"sku":"gpu-1x","dry_run":true}`)
	if w.log.last() != before || w.vault.len() != docs {
		t.Error("a dry run wrote")
	}
}

func TestARefusedLaunchLeavesNothingInTheVault(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	path := "/v1/projects/" + w.acme.project + "/allocations"
	docs := w.vault.len()
	w.refused(403, "auth.role_too_low", w.acme.viewer, "POST", path, `{"sku":"gpu-1x","user_data":"x"}`)
	w.refused(404, "project.not_found", w.other.owner, "POST", path, `{"sku":"gpu-1x","user_data":"x"}`)
	w.refused(422, "sku.not_found", w.acme.owner, "POST", path, `{"sku":"none","user_data":"x"}`)
	if w.vault.len() != docs {
		t.Error("the vault holds what nobody may launch")
	}
	w.refused(422, "image.not_found", w.acme.owner, "POST", path, `{"sku":"gpu-1x","image":"none"}`)
	w.refused(422, "user_data.too_large", w.acme.owner, "POST", path, `{"sku":"gpu-1x","user_data":"`+strings.Repeat("x", 65<<10)+`"}`)
	w.refused(422, "ssh_key.control_character", w.acme.owner, "POST", path, `{"sku":"gpu-1x","ssh_keys":["a\nb"]}`)
	a := w.refused(422, "request.invalid", w.acme.owner, "POST", path, `{"sku":"gpu-1x","user_data":["gpk_secret"]}`)
	if bytes.Contains(a.body, []byte("gpk_secret")) {
		t.Errorf("%s", a.body)
	}
	w.want(201, w.acme.owner, "POST", path, `{"sku":"gpu-1x","ssh_keys":["ssh-ed25519 AAAA me"],"user_data":"hello","tags":{"team":"x"}}`)
	for _, doc := range w.vault.docs {
		if want := `{"ssh_keys":["ssh-ed25519 AAAA me"],"user_data":"aGVsbG8=","tags":{"team":"x"}}`; string(doc) != want {
			t.Errorf("the vault has %s", doc)
		}
	}
}
