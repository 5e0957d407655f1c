package sim_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/domain/domaintest"
)

var (
	long   = flag.Bool("sim.long", false, "run the campaign and the planted bugs")
	seeds  = flag.Uint64("sim.seeds", 10_000, "schedules until a planted bug has to be found")
	shrink = flag.Bool("sim.shrink", true, "make a schedule that fails smaller")
)

// TestMutantTable: every line that is changed is there, once.
func TestMutantTable(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for _, m := range mutants {
		if names[m.name] {
			t.Errorf("%s is there twice", m.name)
		}
		names[m.name] = true
		if _, err := m.change().Text(root); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
	}
	if len(mutants) < 40 {
		t.Errorf("%d planted bugs, want 40", len(mutants))
	}
}

// root is the module's folder, as seen from here.
const root = "../.."

func (m *mutant) change() domaintest.SourceChange {
	return domaintest.SourceChange{File: m.file, Old: m.old, New: m.new}
}

// TestMutants plants each bug of the table, alone, and counts the schedules until one
// fails. The real code stays as it is: the compiler gets the changed file in its place.
func TestMutants(t *testing.T) {
	if !*long {
		t.Skip("make test-long")
	}
	for i := range mutants {
		m := &mutants[i]
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			found, how, err := m.hunt(t.TempDir())
			switch {
			case err != nil:
				t.Fatal(err)
			case !found:
				t.Errorf("not found within %d schedules (%v)", *seeds, time.Since(began).Round(time.Second))
			default:
				t.Logf("%s (%v)", how, time.Since(began).Round(time.Second))
			}
		})
	}
}

// hangs is how long a batch may take: a bug can also make it never end.
const hangs = 30 * time.Minute

var failedAt = regexp.MustCompile(`seed (\d+), step \d+: .*|never seen: .*|panic: .*`)

// hunt builds the simulation with the bug in it, and runs it.
func (m *mutant) hunt(dir string) (found bool, how string, err error) {
	overlay, err := domaintest.Overlay(root, dir, m.change())
	if err != nil {
		return false, "", fmt.Errorf("%s: %w", m.name, err)
	}
	program := filepath.Join(dir, "sim.test")
	build := exec.Command("go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay", overlay, "-o", program, ".")
	if out, err := build.CombinedOutput(); err != nil {
		return false, "", fmt.Errorf("%w\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(context.Background(), hangs)
	defer cancel()
	run := exec.CommandContext(ctx, program, "-test.run=^TestSchedules$", "-test.timeout=0", fmt.Sprintf("-sim.count=%d", *seeds), "-sim.shrink=false")
	run.Env = append(os.Environ(), "GOMAXPROCS=1") // one of many side by side
	out, err := run.CombinedOutput()
	var failed *exec.ExitError
	switch {
	case err == nil:
		return false, "", nil
	case ctx.Err() != nil:
		return true, "never ends", nil
	case !errors.As(err, &failed):
		return false, "", err
	}
	how = failedAt.FindString(string(out))
	return how != "", how[:min(len(how), 160)], nil
}
