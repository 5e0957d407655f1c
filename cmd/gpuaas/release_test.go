package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/gpuaas/gpuaas/domain/domaintest"
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

var (
	higher     = domaintest.SourceChange{File: "domain/writer.go", Old: "\nconst LogicLevel = ", New: "\nconst LogicLevel = 1 + "}
	hasty      = domaintest.SourceChange{File: "cmd/gpuaas/peers.go", Old: "\nconst levelWait = 15 *", New: "\nconst levelWait = 2 *"}
	buildNext  = sync.OnceValues(func() (string, error) { return buildOther("gpuaas-next", higher) })
	buildHasty = sync.OnceValues(func() (string, error) { return buildOther("gpuaas-hasty", higher, hasty) })
)

// buildOther builds gpuaas with other lines than the tree has.
func buildOther(name string, changes ...domaintest.SourceChange) (string, error) {
	dir, err := os.MkdirTemp("", name+"-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	overlay, err := domaintest.Overlay("../..", dir, changes...)
	if err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-overlay", overlay, "-o", filepath.Join(bin, name), "github.com/gpuaas/gpuaas/cmd/gpuaas")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return name, nil
}
