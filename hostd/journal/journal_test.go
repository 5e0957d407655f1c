package journal_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/journal"
)

func sign(b []byte) ([]byte, error) { return []byte("signed"), nil }

func open(t testing.TB, dir string) *journal.Journal {
	t.Helper()
	j, err := journal.Open(journal.Options{Dir: dir, Sign: sign})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func report(detail string) *domain.Report {
	return &domain.Report{Kind: domain.ReportReady, VM: &domain.VMReport{VM: domain.VMID{1}, Detail: detail}}
}

func appendReport(t testing.TB, j *journal.Journal, detail string, c journal.Change) {
	t.Helper()
	if err := j.Append(report(detail), c); err != nil {
		t.Fatal(err)
	}
}

// details decodes what is pending: the number and the detail of each report.
func details(t testing.TB, j *journal.Journal) string {
	t.Helper()
	var out []string
	for _, e := range j.Pending(0, 1000) {
		s, err := domain.DecodeSignedReport(e.Signed)
		if err != nil {
			t.Fatal(err)
		}
		r, err := domain.DecodeReport(s.Report)
		if err != nil {
			t.Fatal(err)
		}
		if r.Number != e.Number || r.Journal != j.ID() || r.Kind != e.Kind {
			t.Fatalf("entry %d %s holds report %d %s of %s", e.Number, e.Kind, r.Number, r.Kind, r.Journal)
		}
		out = append(out, fmt.Sprintf("%d:%s", r.Number, r.VM.Detail))
	}
	return strings.Join(out, " ")
}

func TestReopen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, dir)
	id := j.ID()
	appendReport(t, j, "a", journal.Change{Set: map[string]string{"vm/1": "x", "vm/2": "y", "other": "z"}})
	appendReport(t, j, "b", journal.Change{Drop: []string{"vm/"}, Set: map[string]string{"vm/3": ""}})
	appendReport(t, j, "c", journal.Change{})
	if _, err := j.Acknowledge(id, 1); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}

	j = open(t, dir)
	if got := details(t, j); j.ID() != id || got != "2:b 3:c" || j.Backlog() != 2 {
		t.Errorf("after reopening: id kept %v, pending %q", j.ID() == id, got)
	}
	if got := j.Facts(""); !maps.Equal(got, map[string]string{"vm/3": "", "other": "z"}) {
		t.Errorf("facts %v", got)
	}
	appendReport(t, j, "d", journal.Change{})
	if got := details(t, j); got != "2:b 3:c 4:d" {
		t.Errorf("pending %q", got)
	}
	if got := j.Pending(3, 10); len(got) != 1 || got[0].Number != 4 {
		t.Errorf("pending after 3: %v", got)
	}
}

func TestOneDaemonPerDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open(t, dir)
	if _, err := journal.Open(journal.Options{Dir: dir, Sign: sign}); err == nil {
		t.Fatal("a second daemon opened the journal")
	}
}

// A torn tail is cut; since a number might have been given for it, the journal
// begins anew and numbers what is pending again.
func TestTornTail(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, dir)
	id := j.ID()
	for _, d := range []string{"a", "b", "c"} {
		appendReport(t, j, d, journal.Change{Set: map[string]string{d: d}})
	}
	if _, err := j.Acknowledge(id, 1); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	for cut := range whole {
		torn := t.TempDir()
		if err := os.WriteFile(filepath.Join(torn, "journal"), whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := journal.Open(journal.Options{Dir: torn, Sign: sign, NoSync: true})
		if err != nil {
			t.Fatalf("cut at byte %d: %v", cut, err)
		}
		got := details(t, j)
		want := map[string]bool{"": true, "1:a": true, "1:a 2:b": true, "1:a 2:b 3:c": true}
		if !want[got] {
			t.Errorf("cut at byte %d: pending %q", cut, got)
		}
		for _, e := range strings.Fields(got) {
			if _, ok := j.Fact(e[2:]); !ok {
				t.Errorf("cut at byte %d: report %s without its fact", cut, e)
			}
		}
		_ = j.Close()
	}
}

func TestFlippedBitBeginsAnew(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, dir)
	id := j.ID()
	appendReport(t, j, "a", journal.Change{})
	appendReport(t, j, "b", journal.Change{})
	_ = j.Close()
	path := filepath.Join(dir, "journal")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-3] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	j = open(t, dir)
	if got := details(t, j); got != "1:a" || j.ID() == id {
		t.Errorf("pending %q, same id %v", got, j.ID() == id)
	}
}

// Facts that hold only as long as nothing after them is lost go with what is lost, and not
// with a write that was interrupted.
func TestDoubt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(b []byte) []byte
		stays  bool
	}{
		"whole":       {func(b []byte) []byte { return b }, true},
		"interrupted": {func(b []byte) []byte { return b[:len(b)-1] }, true},
		"its header":  {func(b []byte) []byte { return append(b, 9, 0, 0) }, true},
		"zeros":       {func(b []byte) []byte { return append(b, make([]byte, 100)...) }, true},
		"the last":    {func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, false},
		"before it":   {func(b []byte) []byte { b[bytes.Index(b, []byte("second"))] ^= 1; return b }, false},
		"garbage":     {func(b []byte) []byte { return append(b, bytes.Repeat([]byte{0xff}, 100)...) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			begin := func() *journal.Journal {
				j, err := journal.Open(journal.Options{Dir: dir, Sign: sign, Doubt: []string{"clean/"}})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = j.Close() })
				return j
			}
			j := begin()
			for _, key := range []string{"clean/1", "first", "second", "third"} {
				if err := j.Note(journal.Change{Set: map[string]string{key: "it holds"}}); err != nil {
					t.Fatal(err)
				}
			}
			_ = j.Close()
			path := filepath.Join(dir, "journal")
			b, err := os.ReadFile(path)
			if err == nil {
				err = os.WriteFile(path, c.change(b), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			j = begin()
			_, clean := j.Fact("clean/1")
			_, first := j.Fact("first")
			if clean != c.stays || !first {
				t.Errorf("doubtful fact kept: %v, want %v; another: %v", clean, c.stays, first)
			}
			if _, err := j.Acknowledge(j.ID(), 7); err != nil {
				t.Fatal(err)
			}
			if _, clean := j.Fact("clean/1"); clean {
				t.Error("the log knows of reports that the journal does not have, and it is believed")
			}
		})
	}
}

// The log knows a number that the file lost: it must never be given again.
func TestAcknowledgedBeyondTheEnd(t *testing.T) {
	t.Parallel()
	j := open(t, t.TempDir())
	id := j.ID()
	appendReport(t, j, "a", journal.Change{Set: map[string]string{"k": "v"}})
	renewed, err := j.Acknowledge(id, 7)
	if err != nil || !renewed || j.ID() == id {
		t.Fatalf("renewed %v, err %v", renewed, err)
	}
	if got := details(t, j); got != "1:a" {
		t.Errorf("pending %q", got)
	}
	if _, ok := j.Fact("k"); !ok {
		t.Error("fact lost")
	}
	if renewed, err := j.Acknowledge(id, 9); renewed || err != nil {
		t.Errorf("an acknowledgement of the former journal moved this one: %v %v", renewed, err)
	}
}

// A journal that cannot begin anew is the one that it was, and can be read again.
func TestRenewThatFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, dir)
	id := j.ID()
	appendReport(t, j, "a", journal.Change{})
	inTheWay := filepath.Join(dir, "journal.tmp")
	if err := os.Mkdir(inTheWay, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := j.Renew(); err == nil {
		t.Fatal("it began anew")
	}
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	appendReport(t, j, "e", journal.Change{})
	if waits := j.Pending(0, 9); j.ID() != id || len(waits) != 2 || waits[1].Number != 2 {
		t.Errorf("%s, want %s: %+v", j.ID(), id, waits)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if j := open(t, dir); j.ID() != id || j.Backlog() != 2 {
		t.Errorf("%s, want %s: %d reports", j.ID(), id, j.Backlog())
	}
}

func TestBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, err := journal.Open(journal.Options{Dir: dir, Sign: sign, MaxBytes: 8 << 10, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	n := 0
	for err == nil && n < 1000 {
		n++
		err = j.Append(report(strings.Repeat("x", 100)), journal.Change{})
	}
	if !errors.Is(err, journal.ErrFull) {
		t.Fatalf("after %d reports: %v", n, err)
	}
	if _, err := j.Acknowledge(j.ID(), uint64(n-1)); err != nil {
		t.Fatal(err)
	}
	appendReport(t, j, "again", journal.Change{})
	if got := details(t, j); got != fmt.Sprintf("%d:again", n) {
		t.Errorf("pending %q", got)
	}
}

// The file stays small however many reports go through it.
func TestTrimmed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, err := journal.Open(journal.Options{Dir: dir, Sign: sign, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	for i := range 5000 {
		appendReport(t, j, strings.Repeat("x", 100), journal.Change{Set: map[string]string{"last": fmt.Sprint(i)}})
		if _, err := j.Acknowledge(j.ID(), uint64(i+1)); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > 256<<10 {
		t.Errorf("journal has %d bytes after everything was acknowledged", info.Size())
	}
	id := j.ID()
	_ = j.Close()
	j = open(t, dir)
	appendReport(t, j, "next", journal.Change{})
	if got := details(t, j); j.ID() != id || got != "5001:next" {
		t.Errorf("after trimming and reopening: %q", got)
	}
	if v, _ := j.Fact("last"); v != "4999" {
		t.Errorf("fact %q", v)
	}
}

// Whatever is done, a reopened journal is the journal that was closed.
func TestReopenedIsTheSame(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		o := journal.Options{Dir: dir, Sign: sign, NoSync: true}
		j, err := journal.Open(o)
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { _ = j.Close() }()
		keys := rapid.SampledFrom([]string{"a/1", "a/2", "b/1", "b"})
		given := uint64(0)
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				c := journal.Change{Set: map[string]string{keys.Draw(rt, "key"): rapid.String().Draw(rt, "value")}}
				if err := j.Append(report(strings.Repeat("x", rapid.IntRange(0, 4000).Draw(rt, "size"))), c); err != nil {
					rt.Fatal(err)
				}
				given++
			},
			"drop": func(rt *rapid.T) {
				if err := j.Note(journal.Change{Drop: []string{rapid.SampledFrom([]string{"a/", "b", ""}).Draw(rt, "prefix")}}); err != nil {
					rt.Fatal(err)
				}
			},
			"acknowledge": func(rt *rapid.T) {
				if _, err := j.Acknowledge(j.ID(), rapid.Uint64Range(0, given).Draw(rt, "n")); err != nil {
					rt.Fatal(err)
				}
			},
			"reopen": func(rt *rapid.T) {
				id, pending, facts := j.ID(), details(t, j), j.Facts("")
				if err := j.Close(); err != nil {
					rt.Fatal(err)
				}
				if j, err = journal.Open(o); err != nil {
					rt.Fatal(err)
				}
				if j.ID() != id || details(t, j) != pending || !maps.Equal(j.Facts(""), facts) {
					rt.Fatalf("reopened: %q %v, was %q %v", details(t, j), j.Facts(""), pending, facts)
				}
			},
		})
	})
}
