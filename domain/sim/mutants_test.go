package sim_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
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
		if _, err := m.source(); err != nil {
			t.Error(err)
		}
	}
	if len(mutants) < 40 {
		t.Errorf("%d planted bugs, want 40", len(mutants))
	}
}

// root is the module's folder, as seen from here.
const root = "../.."

// source is the mutant's file with the bug in it.
func (m *mutant) source() (string, error) {
	b, err := os.ReadFile(filepath.Join(root, m.file))
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(b), m.old); n != 1 {
		return "", fmt.Errorf("%s: %s has %d times, want once: %q", m.name, m.file, n, m.old)
	}
	return strings.Replace(string(b), m.old, m.new, 1), nil
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
	text, err := m.source()
	if err != nil {
		return false, "", err
	}
	file, overlay, program := filepath.Join(dir, "mutant.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "sim.test")
	original, err := filepath.Abs(filepath.Join(root, m.file))
	if err != nil {
		return false, "", err
	}
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {original: file}})
	if err := errors.Join(err, os.WriteFile(file, []byte(text), 0o600), os.WriteFile(overlay, replace, 0o600)); err != nil {
		return false, "", err
	}
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
