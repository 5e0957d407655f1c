package discovery

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// zeroes is a drive that was never written, and counts what is read.
type zeroes struct{ read int64 }

func (z *zeroes) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	z.read += int64(len(p))
	return len(p), nil
}

func TestDrivesAreReadInPart(t *testing.T) {
	t.Parallel()
	z := &zeroes{}
	if what, err := identify(t.Context(), z, 4<<40); err != nil || !strings.Contains(what, "not read further") || z.read > readMax {
		t.Errorf("a large empty drive: %q %v, %d bytes read", what, err, z.read)
	}
	if what, err := identify(t.Context(), &zeroes{}, 1<<20); err != nil || what != "empty" {
		t.Errorf("a small empty drive: %q %v", what, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if what, err := identify(ctx, &zeroes{}, 1<<20); !errors.Is(err, context.Canceled) {
		t.Errorf("no time: %q %v", what, err)
	}
}

// What is no block device, or another one than was meant, is not read.
func TestOtherDevicesAreNotRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "nvme0n1"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, b := range []struct{ dir, name, dev string }{{dir, "nvme0n1", "259:0"}, {"/dev", "null", "259:0"}, {dir, "nvme9n1", "259:0"}} {
		d := blockDevices{b.dir}
		if what, err := d.Identify(t.Context(), b.name, b.dev); err == nil {
			t.Errorf("%s: %q", b.name, what)
		}
		if busy, err := d.Busy(b.name, b.dev); err == nil {
			t.Errorf("%s: busy %v", b.name, busy)
		}
	}
}

func TestNamesOfNamespaces(t *testing.T) {
	t.Parallel()
	for name, head := range map[string]string{"nvme0n1": "nvme0n1", "nvme0c3n1": "nvme0n1", "nvme10c1n12": "nvme10n12", "ng0n1": "", "nvme0": "", "nvme0n1p1": "", "nvme0c0": "", "nvmecn": "", "nvme0cn1": "", "nvme99999999n1": "", "hwmon1": ""} {
		if got, ok := headOf(name); got != head || ok != (head != "") {
			t.Errorf("%s: %q %v", name, got, ok)
		}
	}
}

func FuzzLists(f *testing.F) {
	f.Add("0-55,112-167")
	f.Add("0")
	f.Fuzz(func(t *testing.T, s string) {
		out, err := parseList(s)
		for i := range out {
			if err != nil || out[i] >= threadsMax || i > 0 && out[i] <= out[i-1] {
				t.Errorf("%q is %v, %v", s, out, err)
			}
		}
	})
}

func FuzzSMI(f *testing.F) {
	f.Add("GPU 00000000:13:00.0\n  Serial Number : 1\n")
	f.Fuzz(func(_ *testing.T, s string) { parseSMI(s) })
}
