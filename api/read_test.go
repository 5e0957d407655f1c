package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

// queries are what some routes need.
var queries = map[string]string{"GET /v1/explain/placement": "?sku=gpu-1x"}

// TestEveryReadSaysWhatItReflects: every route that reads knows at_least and answers
// with Log-Sequence, on an empty page too.
func TestEveryReadSaysWhatItReflects(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	p := newParties(w)
	for _, r := range w.server.routes {
		if changes(r) || r.open {
			continue
		}
		name := r.method + " " + r.path
		a := p.prepare(name)
		path := r.path
		for param, id := range a.ids {
			path = strings.ReplaceAll(path, "{"+param+"}", id)
		}
		key, query := p.keys["owner"], cmp.Or(queries[name], "?")
		if matrix[name][0] != '+' {
			key = p.keys["operator"]
		}
		last := w.log.last()
		at := func(least string) string {
			return w.mine(path) + strings.TrimSuffix(query, "?") + map[bool]string{true: "?", false: "&"}[query == "?"] + "at_least=" + least
		}
		got := w.do(key, r.method, at(fmt.Sprint(last)), "")
		if n, err := strconv.ParseUint(got.header.Get("Log-Sequence"), 10, 64); got.status != 200 || err != nil || n < last {
			t.Errorf("%s: %d, reflects %q, want %d: %s", name, got.status, got.header.Get("Log-Sequence"), last, got.body)
		}
		if got := w.do(key, r.method, w.mine(path)+strings.TrimSuffix(query, "?"), ""); got.header.Get("Log-Sequence") == "" {
			t.Errorf("%s: does not say what it reflects", name)
		}
		if got := w.do(key, r.method, at("x"), ""); got.status != 422 {
			t.Errorf("%s: at_least is not looked at: %d", name, got.status)
		}
		if strings.Contains(r.path, "/events") {
			s := w.do(key, "GET", w.mine(path)+"?after=latest", "")
			if s.get("items.0.id") != "" || s.header.Get("Log-Sequence") == "" {
				t.Errorf("%s, an empty page: %v %s", name, s.header, s.body)
			}
			if got := w.do(key, r.method, at("x"), "", header{"Accept", "text/event-stream"}); got.status != 422 {
				t.Errorf("%s, a stream: at_least is not looked at: %d", name, got.status)
			}
		}
	}
}

// TestEveryResourceHasItsFourFields: id, crn, name and state are on all of them,
// and none of two has the same crn.
func TestEveryResourceHasItsFourFields(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	p := newParties(w)
	for _, scope := range []string{"global", "tenants/" + w.acme.id, "projects/" + w.acme.project} {
		w.want(200, w.admin, "PUT", "/v1/policies/"+scope+"/quota.gpus", `{"value":40}`)
	}
	last := w.log.last()
	crns := map[string]string{}
	check := func(where string, v any) {
		m, _ := v.(map[string]any)
		for _, field := range []string{"id", "crn", "name", "state"} {
			if s, _ := m[field].(string); s == "" {
				t.Errorf("%s: no %s: %v", where, field, m)
			}
		}
		crn, _ := m["crn"].(string)
		if other, taken := crns[crn]; taken || strings.Count(crn, ":") != 6 {
			t.Errorf("%s and %s have the crn %q", where, other, crn)
		}
		crns[crn] = where
	}
	for path, inner := range map[string]string{
		"/v1/tenants": "", "/v1/tenants/{t}/members": "", "/v1/tenants/{t}/projects": "", "/v1/tenants/{t}/api-keys": "", "/v1/tenants/{t}/credits": "",
		"/v1/projects/{p}/members": "", "/v1/projects/{p}/allocations": "vms", "/v1/projects/{p}/images": "", "/v1/policies/global": "", "/v1/policies/tenants/{t}": "",
		"/v1/policies/projects/{p}": "", "/v1/skus": "prices", "/v1/images": "", "/v1/hosts": "", "/v1/slots": "", "/v1/wipe-duties": "", "/v1/operators": "", "/v1/operators/api-keys": "",
	} {
		a := w.want(200, p.keys["operator"], "GET", fmt.Sprintf("%s?at_least=%d", w.mine(path), last), "")
		var list struct{ Items []map[string]any }
		if err := json.Unmarshal(a.body, &list); err != nil || len(list.Items) == 0 {
			t.Errorf("%s: %v %s", path, err, a.body)
		}
		for _, item := range list.Items {
			check(path, item)
			if inner == "" {
				continue
			}
			parts, _ := item[inner].([]any)
			for _, part := range parts {
				check(path+" "+inner, part)
			}
			if len(parts) == 0 {
				t.Errorf("%s: no %s: %v", path, inner, item)
			}
		}
	}
}

// TestListsAreNarrowed: by name, by one state or several, by what is not gone.
func TestListsAreNarrowed(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	launch := func(name string) string {
		return w.want(201, w.acme.owner, "POST", "/v1/projects/"+w.acme.project+"/allocations", fmt.Sprintf(`{"name":%q,"sku":"gpu-1x","image":"tiny"}`, name)).get("id")
	}
	w.first.boot() // train
	again := launch("train-2")
	w.want(202, w.acme.owner, "DELETE", "/v1/allocations/"+again, "")
	for _, v := range w.first.gone(again) {
		w.first.report(domain.Report{Kind: domain.ReportRemoved, VM: v})
	}
	launch("train-2") // the name is free again
	last := w.want(202, w.acme.owner, "DELETE", "/v1/allocations/"+launch("going"), "").header.Get("Log-Sequence")
	allocations := "/v1/projects/" + w.acme.project + "/allocations"
	for query, want := range map[string]string{
		allocations:                                            "train running, train-2 released, train-2 provisioning, going releasing",
		allocations + "?name=train-2":                          "train-2 released, train-2 provisioning",
		allocations + "?name=train-2&live=true":                "train-2 provisioning",
		allocations + "?live=true":                             "train running, train-2 provisioning, going releasing",
		allocations + "?state=running":                         "train running",
		allocations + "?state=running,released":                "train running, train-2 released",
		allocations + "?state=unreachable,%20releasing":        "going releasing",
		allocations + "?state=running&name=nobody":             "",
		"/v1/tenants/" + w.acme.id + "/projects?name=main":     "main active",
		"/v1/tenants/" + w.acme.id + "/projects?name=mai":      "",
		"/v1/tenants/" + w.acme.id + "/api-keys?name=k-viewer": "k-viewer active",
		"/v1/tenants?name=other":                               "other active",
		"/v1/hosts?name=h1":                                    "h1 in_service",
		"/v1/slots?state=active,quarantined":                   "h1/0 active",
		"/v1/slots?state=quarantined,retired":                  "",
	} {
		sep := map[bool]string{true: "&", false: "?"}[strings.Contains(query, "?")]
		a := w.want(200, w.admin, "GET", query+sep+"at_least="+last, "")
		var list struct {
			Items []struct{ Name, State string }
		}
		if err := json.Unmarshal(a.body, &list); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, x := range list.Items {
			got = append(got, x.Name+" "+x.State)
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%s: %s, want %s", query, strings.Join(got, ", "), want)
		}
	}
	w.refused(422, "request.invalid", w.admin, "GET", allocations+"?live=maybe", "")
	w.refused(422, "request.invalid", w.admin, "GET", allocations+"?state="+strings.Repeat("a,", maxWords+1), "")
}

// gone are the allocation's VMs as the host says that it removed them.
func (h *fakeHost) gone(alloc string) (out []*domain.VMReport) {
	h.s.t.Helper()
	var id domain.AllocationID
	_ = id.UnmarshalText([]byte(alloc))
	if _, err := h.s.loop.Query(context.Background(), domain.System, func(w *domain.World, _ domain.Time) {
		if vm, ok := w.VMOf(id, 0); ok {
			out = append(out, &domain.VMReport{VM: vm, Boot: 1, At: domain.TimeOf(time.Now())})
		}
	}); err != nil {
		h.s.t.Fatal(err)
	}
	return out
}

// TestAReadOfTheFutureIsRefused: what is not decided yet does not become so by
// waiting.
func TestAReadOfTheFutureIsRefused(t *testing.T) {
	t.Parallel()
	s := newReadingSite(t)
	ten := s.tenant("acme", 0)
	s.server.o.Deadline = time.Second
	for _, path := range []string{"/v1/whoami", "/v1/events", "/v1/tenants/" + ten.id, "/v1/tenants/" + ten.id + "/balance", "/v1/offers"} {
		s.refused(503, "read_model.behind", ten.owner, "GET", fmt.Sprintf("%s?at_least=%d", path, s.log.last()+100), "")
	}
}

func TestWhatIsReadIsWhatWasAnswered(t *testing.T) {
	t.Parallel()
	s := newReadingSite(t)
	s.host("h1", 8)
	ten := s.tenant("acme", 100_000_000)
	sku := s.sku("gpu-1x", 1, 2_490_000)
	s.want(201, s.admin, "POST", "/v1/skus/"+sku+"/prices", `{"currency":"EUR","micros_per_unit_hour":5,"effective_at":"2999-01-01T00:00:00Z"}`)
	compare := func(made *answer, path string, but ...string) {
		t.Helper()
		got := s.want(200, s.admin, "GET", path+"?at_least="+made.header.Get("Log-Sequence"), "")
		var x, y map[string]any
		if json.Unmarshal(made.body, &x) != nil || json.Unmarshal(got.body, &y) != nil {
			t.Fatalf("%s\n%s", made.body, got.body)
		}
		for _, b := range but {
			delete(x, b)
			delete(y, b)
		}
		a, _ := json.Marshal(x)
		b, _ := json.Marshal(y)
		if !bytes.Equal(a, b) {
			t.Errorf("%s: answered\n%s\nread\n%s", path, a, b)
		}
	}
	made := s.want(201, s.admin, "POST", "/v1/tenants", `{"name":"other","currency":"EUR","credit_line_micros":5}`)
	compare(made, made.header.Get("Location"))
	made = s.want(201, s.admin, "POST", "/v1/tenants", `{"name":"west","billing_time_zone":"America/New_York"}`)
	compare(made, made.header.Get("Location"))
	if got := made.get("billing_time_zone"); got != "America/New_York" {
		t.Errorf("billed in %s", got)
	}
	for _, zone := range []string{"Mars/Base", "Local", "../../etc/passwd"} {
		if got := s.want(422, s.admin, "POST", "/v1/tenants", fmt.Sprintf(`{"name":"bad","billing_time_zone":%q}`, zone)).get("code"); got != "time_zone.unknown" {
			t.Errorf("%s: %s", zone, got)
		}
	}
	made = s.want(201, ten.owner, "POST", "/v1/tenants/"+ten.id+"/projects", `{"name":"second"}`)
	compare(made, made.header.Get("Location"))
	made = s.want(201, s.admin, "POST", "/v1/skus", `{"name":"gpu-8x","shape":8,"gpu_class":"sim-gpu"}`)
	compare(made, made.header.Get("Location"))
	made = s.want(201, s.admin, "POST", "/v1/hosts", `{"name":"h2","rack":"r","leaf":"l","spine":"s"}`)
	compare(made, made.header.Get("Location"), "enrolment_token", "health")
	for _, name := range []string{"gpu-1x", sku} {
		made = s.want(201, ten.owner, "POST", "/v1/projects/"+ten.project+"/allocations", fmt.Sprintf(`{"sku":%q,"count":2,"lock_price":true,"expires_at":"2999-01-01T00:00:00Z"}`, name))
		compare(made, made.header.Get("Location"))
	}
}

func TestListsHavePages(t *testing.T) {
	t.Parallel()
	s := newReadingSite(t)
	ten := s.tenant("acme", 0)
	var want []string
	for i := range 7 {
		want = append(want, s.want(201, ten.owner, "POST", "/v1/tenants/"+ten.id+"/projects", fmt.Sprintf(`{"name":"p%d"}`, i)).get("id"))
	}
	want = append([]string{ten.project}, want...)
	for _, order := range []string{"asc", "desc"} {
		var got []string
		cursor := ""
		for {
			a := s.want(200, ten.viewer, "GET", fmt.Sprintf("/v1/tenants/%s/projects?limit=3&order=%s&at_least=%d%s", ten.id, order, s.log.last(), cursor), "")
			var p List[Project]
			if err := json.Unmarshal(a.body, &p); err != nil {
				t.Fatal(err)
			}
			for _, x := range p.Items {
				got = append(got, x.ID)
			}
			if p.NextCursor == "" {
				break
			}
			cursor = "&cursor=" + p.NextCursor
		}
		if order == "desc" {
			slices.Reverse(got)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", order, got, want)
		}
	}
	path := "/v1/tenants/" + ten.id + "/projects"
	s.refused(422, "list.cursor", ten.viewer, "GET", path+"?cursor=x", "")
	for _, limit := range []string{"0", "501", "-1", "x", "1e3"} {
		s.refused(422, "request.invalid", ten.viewer, "GET", path+"?limit="+limit, "")
	}
	s.refused(422, "request.invalid", ten.viewer, "GET", path+"?order=up", "")
	s.refused(422, "request.invalid", ten.viewer, "GET", path+"?at_least=-1", "")
}

func TestAReadWaitsForYourWrite(t *testing.T) {
	t.Parallel()
	s := newReadingSite(t)
	ten := s.tenant("acme", 0)
	for i := range 20 {
		a := s.want(201, ten.owner, "POST", "/v1/tenants/"+ten.id+"/projects", fmt.Sprintf(`{"name":"p%d"}`, i))
		s.want(200, ten.owner, "GET", "/v1/projects/"+a.get("id")+"?at_least="+a.header.Get("Log-Sequence"), "")
	}
	s.server.o.Deadline = time.Second
	a := s.refused(503, "read_model.behind", ten.owner, "GET", fmt.Sprintf("/v1/tenants/%s?at_least=%d", ten.id, s.log.last()+100), "")
	if a.header.Get("Retry-After") == "" || a.get("retryable") != "true" {
		t.Errorf("%v %s", a.header, a.body)
	}
	s.refused(503, "read_model.behind", ten.owner, "GET", fmt.Sprintf("/v1/tenants/%s/balance?at_least=%d", ten.id, s.log.last()+100), "")
}

func TestTheProofOfErasure(t *testing.T) {
	t.Parallel()
	s := newReadingSite(t)
	h := s.host("h1", 4)
	s.sku("gpu-1x", 1, 2_490_000)
	ten := s.tenant("acme", 100_000_000)
	a := s.want(201, ten.owner, "POST", "/v1/projects/"+ten.project+"/allocations", `{"sku":"gpu-1x"}`)
	h.boot()
	path := "/v1/allocations/" + a.get("id")
	e := s.want(200, ten.viewer, "GET", fmt.Sprintf("%s/erasure?at_least=%d", path, s.log.last()), "")
	if e.get("erased") != "false" || e.get("items.0.slot_id") != a.get("vms.0.slot_ids.0") {
		t.Fatalf("%s", e.body)
	}
	s.want(202, ten.owner, "DELETE", path, "")
	h.wipe()
	e = s.want(200, ten.viewer, "GET", fmt.Sprintf("%s/erasure?at_least=%d", path, s.log.last()), "")
	if e.get("erased") != "true" || e.get("items.0.wipe_result") != "verified" || !bytes.Contains(e.body, []byte("NVME-h1-")) {
		t.Fatalf("%s", e.body)
	}
	ev := s.want(200, ten.viewer, "GET", path+"/events?limit=500", "")
	for _, typ := range []string{"allocation.placed", "allocation.vm_running", "allocation.releasing"} {
		if !bytes.Contains(ev.body, []byte(typ)) {
			t.Errorf("no %s in %s", typ, ev.body)
		}
	}
	x := s.want(200, s.admin, "GET", path+"/explain", "")
	if !strings.HasPrefix(x.get("items.0.reason"), "chosen") {
		t.Errorf("%s", x.body)
	}
	au := s.want(200, ten.viewer, "GET", "/v1/audit?order=desc", "")
	if au.get("items.0.type") == "" || bytes.Contains(au.body, []byte(`"host.enroll"`)) {
		t.Errorf("%s", au.body)
	}
}

func TestDenialsAreOnRecord(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	w.do("gpk_stolen", "GET", "/v1/tenants/"+w.acme.id+"?key=gpk_in_query", "")
	w.do(w.other.owner, "GET", "/v1/tenants/"+w.acme.id, "")
	w.do(w.acme.viewer, "POST", "/v1/skus", `{"name":"x","shape":1}`)
	a := w.want(200, w.auditor, "GET", "/v1/audit/denials?limit=2", "")
	if a.get("items.0.data.status") != "401" || a.get("items.1.data.code") != "tenant.not_found" || a.get("next_cursor") == "" {
		t.Fatalf("%s", a.body)
	}
	b := w.want(200, w.auditor, "GET", "/v1/audit/denials?cursor="+a.get("next_cursor"), "")
	if b.get("items.0.data.status") != "403" || b.get("items.0.data.tenant_id") != w.acme.id {
		t.Fatalf("%s", b.body)
	}
	for _, secret := range []string{"gpk_stolen", "gpk_in_query", w.other.owner} {
		if bytes.Contains(a.body, []byte(secret)) {
			t.Errorf("the record holds %s", secret)
		}
	}
	for range 100 {
		w.do(w.other.owner, "GET", "/v1/tenants/"+w.acme.id, "")
	}
	if n := len(w.audit.all()); n > 60 {
		t.Errorf("one caller made %d records", n)
	}
}
