package api

import (
	"bufio"
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

type document struct {
	OpenAPI    string                                `json:"openapi"`
	Paths      map[string]map[string]json.RawMessage `json:"paths"`
	Components struct {
		Schemas         map[string]json.RawMessage `json:"schemas"`
		SecuritySchemes map[string]json.RawMessage `json:"securitySchemes"`
	} `json:"components"`
}

func TestTheDocumentIsComplete(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a := s.want(200, "", "GET", "/openapi.json", "")
	var d document
	if err := json.Unmarshal(a.body, &d); err != nil {
		t.Fatal(err)
	}
	if d.OpenAPI != "3.1.0" || d.Components.SecuritySchemes["apiKey"] == nil {
		t.Errorf("openapi %q, security %v", d.OpenAPI, d.Components.SecuritySchemes)
	}
	if bytes.Contains(a.body, []byte("http://")) || bytes.Contains(a.body, []byte("https://")) {
		t.Error("the document points to the outside")
	}
	ids := map[string]bool{}
	for _, r := range s.server.routes {
		raw := d.Paths[r.path][strings.ToLower(r.method)]
		var op struct {
			OperationID string                     `json:"operationId"`
			Summary     string                     `json:"summary"`
			Tags        []string                   `json:"tags"`
			Security    []map[string][]string      `json:"security"`
			Responses   map[string]json.RawMessage `json:"responses"`
			Parameters  []struct{ Name, In string }
			RequestBody json.RawMessage `json:"requestBody"`
		}
		if err := json.Unmarshal(raw, &op); err != nil {
			t.Errorf("%s %s is not in the document: %v", r.method, r.path, err)
			continue
		}
		if op.Summary == "" || len(op.Tags) == 0 || ids[op.OperationID] || (len(op.Security) == 0) != r.open {
			t.Errorf("%s %s: %+v", r.method, r.path, op)
		}
		ids[op.OperationID] = true
		if op.Responses["422"] == nil || op.Responses["503"] == nil || !r.open && (op.Responses["401"] == nil || op.Responses["404"] == nil) {
			t.Errorf("%s %s: not every problem is documented", r.method, r.path)
		}
		ok := op.Responses[strconv.Itoa(cmpOr(r.status, 200))]
		if !bytes.Contains(ok, []byte(`"schema"`)) {
			t.Errorf("%s %s: the success has no schema: %s", r.method, r.path, ok)
		}
		if _, has := bodies[r.method+" "+r.path]; (has || r.raw) != (op.RequestBody != nil) {
			t.Errorf("%s %s: body documented: %v, wanted: %v", r.method, r.path, op.RequestBody != nil, has)
		}
		for _, part := range strings.Split(r.path, "/") {
			if !strings.HasPrefix(part, "{") {
				continue
			}
			found := false
			for _, p := range op.Parameters {
				found = found || p.In == "path" && "{"+p.Name+"}" == part
			}
			if !found {
				t.Errorf("%s %s: %s is not documented", r.method, r.path, part)
			}
		}
	}
	if d.Components.Schemas["Problem"] == nil {
		t.Error("no schema of problems")
	}
	for _, ref := range refs(a.body) {
		if d.Components.Schemas[strings.TrimPrefix(ref, "#/components/schemas/")] == nil {
			t.Errorf("%s leads nowhere", ref)
		}
	}
}

func refs(b []byte) (out []string) {
	for _, part := range strings.Split(string(b), `"$ref":"`)[1:] {
		ref, _, _ := strings.Cut(part, `"`)
		out = append(out, ref)
	}
	return out
}

func TestTheDocumentationPageNeedsNobodyElse(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	page := s.want(200, "", "GET", "/docs", "")
	if bytes.Contains(page.body, []byte("//")) && bytes.Contains(page.body, []byte("http")) {
		t.Errorf("%s", page.body)
	}
	if csp := page.header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
		t.Errorf("policy %q", csp)
	}
	for _, f := range docsFiles {
		if a := s.want(200, "", "GET", "/docs/"+f, ""); len(a.body) == 0 || a.header.Get("Content-Type") == "" {
			t.Errorf("%s is empty", f)
		}
	}
	manifest, err := docsAssets.ReadFile("docs_assets/MANIFEST.sha512")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for lines := bufio.NewScanner(bytes.NewReader(manifest)); lines.Scan(); {
		sum, name, ok := strings.Cut(lines.Text(), "  ")
		if !ok || strings.HasSuffix(name, ".tgz") || strings.HasPrefix(sum, "#") {
			continue
		}
		b, err := docsAssets.ReadFile("docs_assets/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if got := sha512.Sum512(b); hex.EncodeToString(got[:]) != sum {
			t.Errorf("%s is not what was vendored", name)
		}
		checked++
	}
	if checked != 6 {
		t.Errorf("%d files checked", checked)
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	reasons := []string{"the read model is 120 commits behind"}
	s := newSite(t, func(o *Options) { o.Ready = nil })
	s.want(200, "", "GET", "/healthz", "")
	s.want(200, "", "GET", "/readyz", "")
	s.server.o.Ready = readyWith(&reasons)
	if a := s.want(503, "", "GET", "/readyz", ""); a.get("reasons.0") != reasons[0] || a.get("ready") != "false" {
		t.Errorf("%s", a.body)
	}
	s.do("", "GET", "/v1/whoami", "")
	m := s.want(200, "", "GET", "/metrics", "")
	if !bytes.Contains(m.body, []byte(`gpuaas_http_requests_total{method="GET",route="/v1/whoami",status="401"} 1`)) {
		t.Errorf("%s", m.body)
	}
}

// TestTheHotRouteChecksWhatItsSchemaSays holds the hand-written check of a launch
// against the tags that document it.
func TestTheHotRouteChecksWhatItsSchemaSays(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	path := "/v1/projects/" + w.acme.project + "/allocations"
	try := func(field string, value any, ok bool) {
		t.Helper()
		body := map[string]any{"sku": "gpu-1x", "dry_run": true, field: value}
		b, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		a := w.do(w.acme.owner, "POST", path, string(b))
		if ok && a.status == 422 || !ok && a.status != 422 {
			t.Errorf("%s of %.40v: %d %s", field, value, a.status, a.body)
		}
	}
	typ := reflect.TypeFor[createAllocation]()
	for i := range typ.NumField() {
		f := typ.Field(i)
		name := jsonName(f)
		if name == "" {
			continue
		}
		if n, err := strconv.Atoi(f.Tag.Get("maxLength")); err == nil {
			if name != "sku" && name != "image" {
				try(name, strings.Repeat("a", n), true)
			}
			try(name, strings.Repeat("a", n+1), false)
		}
		if n, err := strconv.Atoi(f.Tag.Get("maximum")); err == nil {
			try(name, n, true)
			try(name, n+1, false)
		}
		if n, err := strconv.Atoi(f.Tag.Get("maxItems")); err == nil {
			try(name, strings.Fields(strings.Repeat("a ", n)), true)
			try(name, strings.Fields(strings.Repeat("a ", n+1)), false)
		}
		if f.Tag.Get("format") == "date-time" {
			try(name, "2999-01-01T00:00:00Z", true)
			try(name, "tomorrow", false)
		}
		for _, wrong := range []any{[]int{1}, map[string]any{"a": 1}, 1.5} {
			if f.Type.Kind() != reflect.Slice && f.Type.Kind() != reflect.Map {
				try(name, wrong, false)
			}
		}
	}
	try("sku", "", false)
	try("count", -1, false)
	try("tags", map[string]string{"a": strings.Repeat("x", 257)}, false)
	try("name", "-x", false)
	try("surprise", 1, false)
}
