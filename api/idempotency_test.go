package api

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
)

func TestARepeatGetsTheFirstAnswer(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	var id domain.Entropy
	for i, c := range []struct{ key, method, path, body string }{
		{w.admin, "POST", "/v1/tenants", `{"name":"again","currency":"EUR"}`},
		{w.acme.owner, "POST", "/v1/tenants/" + w.acme.id + "/api-keys", `{"name":"again"}`},
		{w.acme.owner, "POST", "/v1/tenants/" + w.acme.id + "/members", `{"role":"viewer"}`},
		{w.acme.owner, "POST", "/v1/tenants/" + w.acme.id + "/projects", `{"name":"again"}`},
		{w.admin, "POST", "/v1/tenants/" + w.acme.id + "/credits", `{"currency":"USD","amount_micros":7,"kind":"paid"}`},
		{w.admin, "POST", "/v1/hosts", `{"name":"again"}`},
		{w.admin, "POST", "/v1/operators", `{"roles":["auditor"]}`},
		{w.admin, "PUT", "/v1/policies/global/quota.gpus", `{"value":64}`},
		{w.acme.owner, "POST", "/v1/projects/" + w.acme.project + "/allocations", `{"name":"again","sku":"gpu-1x","ssh_keys":["ssh-ed25519 AAAA me"],"user_data":"#cloud-config","tags":{"team":"x"}}`},
		{w.acme.owner, "DELETE", "/v1/allocations/" + w.alloc, ""},
	} {
		id[31] = byte(i)
		for _, h := range []header{
			{"Idempotency-Key", fmt.Sprintf("key %d", i)},
			{"Command-Id", commands.NewCommandID(time.Now(), id).String()},
		} {
			name := h.name
			if name == "Command-Id" { // names are taken by now
				c.body = strings.ReplaceAll(c.body, `"again"`, `"again-2"`)
				c.body = strings.ReplaceAll(c.body, `{"value":64}`, `{"value":63}`)
			}
			if name == "Command-Id" && c.method == "DELETE" {
				continue // released already: it would write nothing to remember
			}
			first := w.do(c.key, c.method, c.path, c.body, h)
			if first.status >= 300 {
				t.Fatalf("%s %s: %d %s", c.method, c.path, first.status, first.body)
			}
			before, docs := w.log.last(), w.vault.len()
			again := w.do(c.key, c.method, c.path, c.body, h)
			if again.status != first.status || !bytes.Equal(again.body, first.body) || again.header.Get("Log-Sequence") != first.header.Get("Log-Sequence") {
				t.Errorf("%s %s by %s: first %d %s, then %d %s", c.method, c.path, name, first.status, first.body, again.status, again.body)
			}
			if w.log.last() != before || w.vault.len() != docs {
				t.Errorf("%s %s by %s: the repeat wrote", c.method, c.path, name)
			}
			if c.body == "" {
				continue
			}
			code := map[string]string{"Idempotency-Key": "idempotency.conflict", "Command-Id": "command.id_reused"}[name]
			w.refused(409, code, c.key, c.method, c.path, c.body+" ", h)
		}
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
	if a.get("state") != "planned" || a.get("dry_run") != "true" || a.get("id") != "" || a.get("hold_micros") != "4980000" || a.get("vms.1.host_id") != w.hostID || a.get("image") != "tiny" {
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
