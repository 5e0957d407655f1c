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

// What was kept is what was admitted last, also when it asks what the host holds.
func TestKept(t *testing.T) {
	t.Parallel()
	for _, account := range []bool{false, true} {
		f, err := journal.OpenFence(t.TempDir(), true)
		if err != nil {
			t.Fatal(err)
		}
		p := &domain.Placement{Desired: domain.Desired{Epoch: 2, Generation: 7, Account: account}}
		if v, err := f.Admit(&p.Desired); v != journal.Execute || err != nil {
			t.Fatal(v, err)
		}
		if err := f.Keep(p); err != nil {
			t.Fatal(err)
		}
		if kept, err := f.Kept(); err != nil || kept == nil || kept.Desired.Account != account {
			t.Errorf("account %v: %+v, %v", account, kept, err)
		}
		if _, err := f.Admit(&domain.Desired{Epoch: 2, Generation: 8}); err != nil {
			t.Fatal(err)
		}
		if kept, err := f.Kept(); err == nil {
			t.Errorf("not what was admitted last: %+v", kept)
		}
	}
}

// A log that lost its end and went on places more and acknowledges less.
func TestOutruns(t *testing.T) {
	t.Parallel()
	mine, other := domain.JournalID{1}, domain.JournalID{2}
	s := journal.Seen{Epoch: 2, Generation: 7}
	for _, c := range []struct {
		epoch      uint32
		generation uint64
		journal    domain.JournalID
		acked      uint64
		had        uint64
		want       bool
	}{
		{2, 8, mine, 5, 5, false},
		{2, 8, mine, 6, 5, false},
		{2, 8, mine, 4, 5, true},
		{2, 8, other, 9, 5, false}, // a late report of a journal before: this one begins anew
		{2, 8, other, 9, 0, false}, // it has not heard of it yet
		{2, 8, domain.JournalID{}, 0, 1, true},
		{2, 8, domain.JournalID{}, 0, 0, false}, // nothing of it was ever acknowledged
		{2, 7, mine, 4, 5, false},               // an earlier commit
		{2, 6, mine, 4, 5, false},
		{3, 1, mine, 4, 5, false}, // operators have opened another epoch
		{1, 9, mine, 4, 5, false},
	} {
		p := &domain.Placement{Desired: domain.Desired{Epoch: c.epoch, Generation: c.generation}, From: domain.Head{N: 8}, Journal: c.journal, Acked: c.acked}
		if got := s.Outruns(p, domain.Head{N: 9}, mine, c.had); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
	same := &domain.Placement{Desired: domain.Desired{Epoch: 2, Generation: 7}, From: domain.Head{N: 10}, Journal: mine, Acked: 4}
	if !s.Outruns(same, domain.Head{N: 9}, mine, 5) {
		t.Error("a later commit that acknowledges less")
	}
	nothing := *same
	if nothing.Journal, nothing.Acked = (domain.JournalID{}), 0; !s.Outruns(&nothing, domain.Head{N: 9}, mine, 5) {
		t.Error("a later commit that acknowledges nothing")
	}
	// A new epoch acknowledges what was left of the log, until the host has said what it holds.
	asks := *same
	asks.Desired.Account = true
	asked, _ := journal.Seen{Epoch: 1, Generation: 30}.Admit(&asks.Desired)
	if asked.Outruns(&asks, domain.Head{N: 9}, mine, 5) {
		t.Error("a host that has yet to say what it holds waits for another epoch")
	}
	if !asked.Outruns(same, domain.Head{N: 9}, mine, 5) {
		t.Error("it was told, by a log without its account")
	}
	told := domain.Desired{Epoch: 2, Generation: 8}
	followed, _ := asked.Admit(&told)
	asks.Desired.Generation = 9
	if !followed.Outruns(&asks, domain.Head{N: 9}, mine, 5) {
		t.Error("it is asked again, by a log without its account")
	}
}
