package journal_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/journal"
)

func TestFence(t *testing.T) {
	t.Parallel()
	type ask struct {
		epoch      uint32
		generation uint64
		host       byte // another host: another digest
		want       journal.Verdict
	}
	tests := map[string][]ask{
		"rises":                         {{1, 1, 0, journal.Execute}, {1, 2, 0, journal.Execute}, {1, 9, 0, journal.Execute}},
		"repeat":                        {{1, 1, 0, journal.Execute}, {1, 1, 0, journal.Execute}},
		"older generation":              {{1, 5, 0, journal.Execute}, {1, 4, 0, journal.Stale}, {1, 5, 0, journal.Execute}},
		"older epoch":                   {{2, 1, 0, journal.Execute}, {1, 9, 0, journal.Stale}},
		"newer epoch, lower":            {{1, 9, 0, journal.Execute}, {2, 1, 0, journal.Execute}, {1, 10, 0, journal.Stale}},
		"two digests for one":           {{1, 5, 0, journal.Execute}, {1, 5, 1, journal.Conflict}, {1, 5, 0, journal.Conflict}, {1, 6, 0, journal.Conflict}},
		"an operator opens a epoch":     {{1, 5, 0, journal.Execute}, {1, 5, 1, journal.Conflict}, {2, 1, 0, journal.Execute}},
		"zero generation is remembered": {{0, 0, 0, journal.Execute}, {0, 0, 1, journal.Conflict}},
	}
	for name, asks := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for i, a := range asks {
				f, err := journal.OpenFence(dir, true) // every step in another life
				if err != nil {
					t.Fatal(err)
				}
				got, err := f.Admit(&domain.Desired{Epoch: a.epoch, Generation: a.generation, Host: domain.HostID{a.host + 1}})
				if err != nil || got != a.want {
					t.Fatalf("step %d: verdict %d, err %v, want %d", i, got, err, a.want)
				}
			}
		})
	}
}

func TestFenceThatCannotBeReadIsAnError(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "fence.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := journal.OpenFence(dir, true); err == nil {
		t.Fatal("a broken fence passed as none")
	}
}
