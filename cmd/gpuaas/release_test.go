package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// nextRelease is gpuaas as it will be when its logic level has risen.
func nextRelease(t *testing.T) (name string) { return built(t, buildNext) }

// hastyRelease is the same, and raises the log soon after the last process is replaced:
// for a test that does it hundreds of times.
func hastyRelease(t *testing.T) (name string) { return built(t, buildHasty) }

func built(t *testing.T, build func() (string, error)) string {
	t.Helper()
	name, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// A lineChange is what another release has in place of a line's beginning.
type lineChange struct{ file, from, to string }

var (
	higher     = lineChange{"domain/writer.go", "const LogicLevel = ", "const LogicLevel = 1 + "}
	buildNext  = sync.OnceValues(func() (string, error) { return buildOther("gpuaas-next", higher) })
	buildHasty = sync.OnceValues(func() (string, error) {
		return buildOther("gpuaas-hasty", higher, lineChange{"cmd/gpuaas/peers.go", "const levelWait = 15 *", "const levelWait = 2 *"})
	})
)

// buildOther builds gpuaas with other lines than the tree has.
func buildOther(name string, changes ...lineChange) (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", name+"-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	replace := map[string]string{}
	for i, c := range changes {
		source := filepath.Join(strings.TrimSpace(string(out)), c.file)
		text, err := os.ReadFile(source)
		if err != nil {
			return "", err
		}
		if bytes.Count(text, []byte("\n"+c.from)) != 1 {
			return "", fmt.Errorf("%s has no line to change: %q", c.file, c.from)
		}
		replace[source] = filepath.Join(dir, fmt.Sprint(i, ".go"))
		text = bytes.Replace(text, []byte("\n"+c.from), []byte("\n"+c.to), 1)
		if err := os.WriteFile(replace[source], text, 0o600); err != nil {
			return "", err
		}
	}
	overlay := filepath.Join(dir, "overlay.json")
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(overlay, text, 0o600); err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-overlay", overlay, "-o", filepath.Join(bin, name), "github.com/gpuaas/gpuaas/cmd/gpuaas")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return name, nil
}
