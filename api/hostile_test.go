package api

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/domain/domaintest"
)

// The campaigns of hostile requests (foreign_test.go, malformed_test.go): their routes,
// parameters and bodies come from the OpenAPI document, so that a new route is in
// them without being named.

var (
	hostileLong  = flag.Bool("hostile.long", false, "run the campaigns of hostile requests")
	hostileFor   = flag.Duration("hostile.for", 10*time.Minute, "how long a part of each campaign takes")
	hostileCache = flag.String("hostile.cache", os.TempDir(), "where the campaigns' counts are kept")
)

// campaign is how far a long run is: it outlasts any sitting, and does nothing twice.
type campaign struct {
	Date   string            `json:"date"`
	Commit string            `json:"commit"`
	Parts  uint64            `json:"parts"` // the next part's seed
	Counts map[string]uint64 `json:"counts"`
	file   string
}

func openCampaign(t *testing.T, name string) *campaign {
	t.Helper()
	c := &campaign{Counts: map[string]uint64{}, file: filepath.Join(*hostileCache, name+".json")}
	if err := domaintest.ReadCount(c.file, c); err != nil {
		t.Fatal(err)
	}
	return c
}

// keep writes down how far it is.
func (c *campaign) keep(t *testing.T) {
	t.Helper()
	c.Date, c.Commit = time.Now().UTC().Format(time.DateOnly), domaintest.Commit()
	if err := domaintest.WriteCount(c.file, c); err != nil {
		t.Fatal(err)
	}
}

// schemaNode is what the generator knows of a JSON schema.
type schemaNode struct {
	Ref        string                 `json:"$ref"`
	Type       any                    `json:"type"` // a word, or several
	Properties map[string]*schemaNode `json:"properties"`
	Required   []string               `json:"required"`
	Items      *schemaNode            `json:"items"`
	Enum       []any                  `json:"enum"`
	Examples   []any                  `json:"examples"`
	Minimum    *float64               `json:"minimum"`
	Maximum    *float64               `json:"maximum"`
	Format     string                 `json:"format"`
}

// documented is one route as the document shows it.
type documented struct {
	method, path string
	open, bytes  bool
	params       []struct {
		Name, In string
		Required bool
		Schema   *schemaNode
	}
	body *schemaNode
}

func (d *documented) name() string  { return d.method + " " + d.path }
func (d *documented) changes() bool { return d.method != "GET" && d.method != "HEAD" }

// holes are the names of the path's parameters.
func (d *documented) holes() (out []string) {
	for _, p := range d.params {
		if p.In == "path" {
			out = append(out, p.Name)
		}
	}
	return out
}

// openAPI reads the site's own document.
type openAPI struct {
	routes  []documented
	schemas map[string]*schemaNode
}

func (s *site) openAPI() *openAPI {
	s.t.Helper()
	var doc struct {
		Paths map[string]map[string]struct {
			Security   []map[string][]string
			Parameters json.RawMessage
			Body       struct {
				Content map[string]struct{ Schema *schemaNode }
			} `json:"requestBody"`
		}
		Components struct{ Schemas map[string]*schemaNode }
	}
	if err := json.Unmarshal(s.want(200, "", "GET", "/openapi.json", "").body, &doc); err != nil {
		s.t.Fatal(err)
	}
	api := &openAPI{schemas: doc.Components.Schemas}
	for _, path := range slices.Sorted(maps.Keys(doc.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(doc.Paths[path])) {
			op := doc.Paths[path][method]
			d := documented{method: strings.ToUpper(method), path: path, open: len(op.Security) == 0}
			if len(op.Parameters) > 0 {
				if err := json.Unmarshal(op.Parameters, &d.params); err != nil {
					s.t.Fatal(err)
				}
			}
			for media, c := range op.Body.Content {
				d.body, d.bytes = c.Schema, media != "application/json"
			}
			api.routes = append(api.routes, d)
		}
	}
	if len(api.routes) < 50 {
		s.t.Fatalf("the document has %d routes", len(api.routes))
	}
	return api
}

// value makes a value that fits the schema; id gives those that name something.
func (a *openAPI) value(r *rand.Rand, name string, n *schemaNode, id func(name string) (string, bool)) any {
	for n != nil && n.Ref != "" {
		n = a.schemas[strings.TrimPrefix(n.Ref, "#/components/schemas/")]
	}
	if n == nil {
		return nil
	}
	if v, ok := id(name); ok {
		return v
	}
	if len(n.Enum) > 0 {
		return n.Enum[r.IntN(len(n.Enum))]
	}
	typ, _ := n.Type.(string)
	if many, ok := n.Type.([]any); ok && len(many) > 0 {
		typ, _ = many[0].(string)
	}
	if len(n.Examples) > 0 && typ != "array" && name != "name" {
		return n.Examples[r.IntN(len(n.Examples))]
	}
	switch typ {
	case "object":
		out := map[string]any{}
		for _, key := range slices.Sorted(maps.Keys(n.Properties)) {
			if key != "$schema" && (slices.Contains(n.Required, key) || r.IntN(3) == 0) {
				out[key] = a.value(r, key, n.Properties[key], id)
			}
		}
		return out
	case "array":
		out := []any{}
		for range r.IntN(3) {
			out = append(out, a.value(r, "", n.Items, id))
		}
		return out
	case "integer", "number":
		least, most := 1.0, 9.0
		if n.Minimum != nil {
			least, most = *n.Minimum, *n.Minimum+9
		}
		if n.Maximum != nil {
			most = min(most, *n.Maximum)
		}
		return int64(least) + r.Int64N(int64(most-least)+1)
	case "boolean":
		return r.IntN(2) == 0
	case "string":
		switch {
		case n.Format == "date-time":
			return "2999-01-01T00:00:00Z"
		case strings.Contains(name, "digest"):
			return "sha256:" + strings.Repeat(string("0123456789abcdef"[r.IntN(16)]), 64)
		case name == "currency":
			return "USD"
		}
		return fmt.Sprintf("n%d", r.IntN(1000))
	}
	return r.IntN(9)
}
