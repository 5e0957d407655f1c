package emuhost

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// TestPowerCutLeaves cuts the power of a disk at each moment: what was flushed, and what was
// written through, is there; of the rest each write is there, or not, or in part.
func TestPowerCutLeaves(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	record := bytes.Repeat([]byte{0}, sectorBytes)
	write := func(sector, sectors int, flags uint64, with byte) {
		head := make([]byte, sectorBytes)
		for i, v := range []uint64{uint64(sector), uint64(sectors), flags} {
			binary.LittleEndian.PutUint64(head[8*i:], v)
		}
		record = append(append(record, head...), bytes.Repeat([]byte{with}, sectors*sectorBytes)...)
	}
	write(0, 2, 0, 'a')
	write(0, 0, entryFlush, 0)
	write(2, 4, 0, 'b')
	write(6, 1, entryFUA, 'c')
	write(7, 1, 0, 'd')
	write(0, 0, entryFlush, 0)
	if err := os.WriteFile(disk+recordSuffix, record, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := OpenRecord(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	moments := r.Moments(0, int64(len(record)))
	if len(moments) != 6 || moments[4].Unflushed != 3 || moments[5] != (Moment{int64(len(record)), 0}) {
		t.Fatalf("moments %v", moments)
	}
	fresh := func() {
		if err := os.WriteFile(disk, bytes.Repeat([]byte{'.', 0}, 8*sectorBytes/2), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	now := func() (s string) { // a letter a sector
		b, err := os.ReadFile(disk)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(b); i += sectorBytes {
			s += string(b[i])
		}
		return s
	}
	fresh()
	if err := r.Replay(disk); err != nil || now() != "aabbbbcd" {
		t.Fatalf("all of it: %q, %v", now(), err)
	}
	seen := map[string]bool{}
	for seed := range uint64(300) {
		fresh()
		left, err := r.Cut(disk, moments[4].At, rand.New(rand.NewPCG(seed, 0)))
		if err != nil || left.Durable != 2 || left.Kept+left.Lost+left.Torn != 2 {
			t.Fatalf("%+v %v", left, err)
		}
		s := now()
		if s[:2] != "aa" || s[6] != 'c' {
			t.Fatalf("seed %d lost what was flushed: %q", seed, s)
		}
		seen[s[2:6]], seen[s[7:]] = true, true
	}
	if len(seen) != 16+2 {
		t.Errorf("of the writes that were not flushed only these were left: %v", seen)
	}
	fresh()
	if _, err := r.Cut(disk, moments[5].At, rand.New(rand.NewPCG(1, 0))); err != nil || now() != "aabbbbcd" {
		t.Errorf("after the last flush: %q, %v", now(), err)
	}
	if err := os.Truncate(disk+recordSuffix, int64(len(record)-sectorBytes-1)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenRecord(disk); err == nil {
		t.Error("half a write is taken for a whole one")
	}
}
