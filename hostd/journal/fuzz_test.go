package journal

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzJournal: a file of any bytes is read up to where it is whole, and gives a
// journal that goes on: what is written into it is there after the next start.
func FuzzJournal(f *testing.F) {
	head := record{header: true, id: [16]byte{1}, last: 3}
	next := record{acked: 2, entry: Entry{Number: 4, Kind: "wiped", Signed: []byte("s")}, change: Change{Drop: []string{"a"}, Set: map[string]string{"b": "c"}}}
	file := append(frame(head.encode(nil)), frame(next.encode(nil))...)
	f.Add(head.encode(nil), next.encode(nil), byte(0))
	f.Add(file, []byte{}, byte(1))
	f.Add([]byte{}, []byte{}, byte(1))
	f.Fuzz(func(t *testing.T, first, second []byte, raw byte) {
		b := append(frame(first), frame(second)...)
		if raw%2 == 1 {
			b = append(first, second...)
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, journalFile), b, fileMode); err != nil {
			t.Fatal(err)
		}
		j, err := Open(Options{Dir: dir, NoSync: true})
		if err != nil {
			return // said so
		}
		defer func() { _ = j.Close() }()
		if j.id.IsZero() || j.acked > j.last {
			t.Fatalf("journal %s, last %d, acknowledged %d", j.id, j.last, j.acked)
		}
		if uint64(len(j.queue)) != j.last-j.acked {
			t.Fatalf("%d reports wait, of %d to %d", len(j.queue), j.acked+1, j.last)
		}
	})
}
