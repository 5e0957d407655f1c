package journal

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// FuzzJournal: a file of any bytes is refused, or read up to where it is whole; and
// what it was read as, it is read as again.
func FuzzJournal(f *testing.F) {
	head := record{header: true, id: [16]byte{1}, last: 3, acked: 3}
	next := record{acked: 3, entry: Entry{Number: 4, Kind: "wiped", Signed: []byte("s")}, change: Change{Drop: []string{"a"}, Set: map[string]string{"b": "c"}}}
	file := append(frame(head.encode()), frame(next.encode())...)
	f.Add(head.encode(), next.encode(), byte(0))
	f.Add(file, []byte{}, byte(1))
	f.Add([]byte{}, []byte{}, byte(1))
	f.Fuzz(func(t *testing.T, one, two []byte, raw byte) {
		b := append(frame(one), frame(two)...)
		if raw%2 == 1 {
			b = append(bytes.Clone(one), two...)
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, journalFile), b, fileMode); err != nil {
			t.Fatal(err)
		}
		first, ok := reopened(t, dir)
		if !ok {
			return // said so
		}
		if again, ok := reopened(t, dir); !ok || again != first {
			t.Fatalf("read as %s, then %v as %s", first, ok, again)
		}
	})
}

// reopened is what a start makes of the directory.
func reopened(t *testing.T, dir string) (string, bool) {
	j, err := Open(Options{Dir: dir, NoSync: true})
	if err != nil {
		return "", false
	}
	defer func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	}()
	if j.id.IsZero() {
		t.Fatal("a journal without an id")
	}
	return fmt.Sprint(j.id, j.last, j.acked, j.queue, j.facts), true
}
