package gpuaas_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/gpuaas/gpuaas/"

// house says what each folder may import from inside the project, which of the
// confined modules it may use, and why. It is the table of docs/architecture.md.
var house = map[string]struct {
	inside  []string
	outside []string // of the confined modules
	strict  bool     // no module at all but the ones in outside
	why     string
}{
	"domain":           {strict: true, outside: []string{"google.golang.org/protobuf/encoding/protowire"}, why: "the heart is a pure function: what it imports could bring a clock, randomness or I/O into decisions"},
	"domain/sim":       {inside: []string{"domain", "commands", "hostd"}, why: "a whole site in one goroutine: it runs what decides, and nothing that does I/O"},
	"streams":          {inside: []string{"domain", "streams"}, outside: []string{"github.com/nats-io"}, why: "the only code that knows JetStream"},
	"commands":         {inside: []string{"domain", "commands"}, why: "the loop is simulated without a server: it declares the log it needs"},
	"projections":      {inside: []string{"domain", "migrations", "projections"}, outside: []string{"github.com/jackc/pgx"}, why: "the only SQL"},
	"migrations":       {why: "only embedded .sql"},
	"api":              {inside: []string{"domain", "commands", "projections", "api"}, outside: []string{"github.com/labstack/echo", "github.com/danielgtaylor/huma"}, why: "the only HTTP server; it declares what it needs of streams"},
	"billing":          {inside: []string{"domain"}, outside: []string{"github.com/stripe"}, why: "the payment provider moves money and computes none"},
	"client":           {strict: true, why: "a tenant's program takes the SDK without our dependencies"},
	"hostd":            {inside: []string{"domain", "hostd"}, outside: []string{"github.com/vishvananda/netlink", "github.com/digitalocean/go-libvirt"}, why: "hostd knows its machine; streams/hostlink brings it placements"},
	"streams/server":   {inside: []string{"domain", "streams"}, outside: []string{"github.com/nats-io"}, why: "the embedded server"},
	"cmd":              {inside: []string{""}, outside: []string{"github.com/nats-io"}, why: "cmd wires"},
	"streams/hostlink": {inside: []string{"domain", "streams"}, outside: []string{"github.com/nats-io"}, why: "a host's side of the streams; it must not link the server"},
}

// confined modules are used where the table allows them and nowhere else.
var confined = []string{
	"github.com/nats-io", "github.com/jackc/pgx", "github.com/labstack/echo", "github.com/danielgtaylor/huma",
	"github.com/digitalocean/go-libvirt", "github.com/vishvananda/netlink", "github.com/stripe",
}

// TestImportTable reads the imports of every file that is built into a program:
// in this process, so that a cached test result cannot hide a violation.
func TestImportTable(t *testing.T) {
	seen := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin" || name == "node_modules") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			seen++
			name, _ := strconv.Unquote(spec.Path.Value)
			if why := forbidden(filepath.ToSlash(filepath.Dir(path)), name); why != "" {
				t.Errorf("%s imports %s: %s", path, name, why)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 100 {
		t.Fatalf("only %d imports were looked at", seen)
	}
}

// forbidden says why a folder may not import something; "" if it may.
func forbidden(dir, name string) string {
	if strings.HasSuffix(dir, "test") { // domaintest, streamstest: helpers of tests
		return ""
	}
	row, ok := house[dir]
	for up := dir; !ok && up != "."; up = filepath.Dir(up) {
		row, ok = house[up]
	}
	if !ok {
		if dir == "." || strings.HasPrefix(dir, "deploy") {
			return ""
		}
		return "the folder is not in the table of docs/architecture.md"
	}
	if rest, in := strings.CutPrefix(name, module); in {
		top, _, _ := strings.Cut(rest, "/")
		if slices.Contains(row.inside, "") || slices.Contains(row.inside, top) || strings.HasPrefix(rest, strings.SplitN(dir, "/", 2)[0]+"/") && row.inside != nil {
			return ""
		}
		return row.why
	}
	if !strings.Contains(strings.SplitN(name, "/", 2)[0], ".") {
		return "" // standard library
	}
	allowed := func(list []string) bool {
		return slices.ContainsFunc(list, func(p string) bool { return name == p || strings.HasPrefix(name, p+"/") })
	}
	if allowed(row.outside) || !row.strict && !allowed(confined) {
		return ""
	}
	return row.why
}

func TestForbiddenImports(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		dir, name string
		bad       bool
	}{
		{"domain", module + "streams", true},
		{"domain", "github.com/google/uuid", true},
		{"domain", "crypto/sha256", false},
		{"api", module + "streams", true},
		{"commands", module + "domain", false},
		{"commands", "github.com/nats-io/nats.go", true},
		{"hostd/vm", "github.com/digitalocean/go-libvirt", false},
		{"hostd", "github.com/nats-io/nkeys", true},
		{"hostd", module + "streams/hostlink", true},
		{"projections/pglocal", "github.com/jackc/pgx/v5", false},
		{"client", "github.com/spf13/cobra", true},
		{"cmd/gpuaas", module + "api", false},
		{"domain/sim", module + "hostd/plan", false},
		{"domain/sim", module + "streams", true},
		{"util", "fmt", true},
	} {
		if got := forbidden(c.dir, c.name) != ""; got != c.bad {
			t.Errorf("%s importing %s: forbidden %v", c.dir, c.name, got)
		}
	}
}
