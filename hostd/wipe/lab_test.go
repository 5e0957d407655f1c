//go:build lab

package wipe

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/nvme"
)

// TestBrokenDrives erases drives of which it is known that they cannot be
// (GPUAAS_WIPE_BROKEN).
func TestBrokenDrives(t *testing.T) {
	names := os.Getenv("GPUAAS_WIPE_BROKEN")
	if names == "" {
		t.Skip("SKIPPED: set GPUAAS_WIPE_BROKEN to the PCI addresses of drives that cannot be erased")
	}
	for _, name := range strings.Split(names, ",") {
		r := openReal(t, name)
		for i, policy := range policies {
			if ev := r.wipe(t, policy, uint32(i)); ev.Result == domain.WipeVerified || ev.Reason == "" {
				t.Errorf("%s: %+v", policy, ev)
			}
		}
	}
}

// TestRealDrives erases the drives that GPUAAS_WIPE_DRIVES names, separated by
// commas: PCI addresses or controllers (/dev/nvme0). Everything on them is lost.
// Compiled with go test -c -tags lab, it runs where the drives are, without a Go
// tree. It refuses drives of more than 64 GiB.
func TestRealDrives(t *testing.T) {
	names := os.Getenv("GPUAAS_WIPE_DRIVES")
	if names == "" {
		t.Skip("SKIPPED: set GPUAAS_WIPE_DRIVES to the PCI addresses of drives that may be erased")
	}
	for _, name := range strings.Split(names, ",") {
		t.Run(filepath.Base(name), func(t *testing.T) {
			r := openReal(t, name)
			t.Run("policies", r.policies)
			t.Run("LBA format restored", r.formatRestored)
			t.Run("held", r.held)
			t.Run("wrong serial", r.wrongSerial)
			t.Run("write zeroes", r.zeroes)
		})
	}
}

type real struct {
	address string
	serial  string
	store   *Store
	ctl     *nvme.Device
	id      *nvme.Identity
	survey  *Survey
}

func openReal(t *testing.T, name string) *real {
	r := &real{address: name}
	if base, ok := strings.CutPrefix(name, "/dev/"); ok {
		b, err := os.ReadFile(filepath.Join("/sys/class/nvme", base, "address"))
		if err != nil {
			t.Fatal(err)
		}
		r.address = strings.TrimSpace(string(b))
	}
	var err error
	if r.ctl, err = nvme.System.Open(t.Context(), r.address); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.ctl.Close() })
	if r.id, err = nvme.Identify(t.Context(), r.ctl); err != nil {
		t.Fatal(err)
	}
	r.serial = r.id.Serial
	if r.survey, _, err = look(t.Context(), r.ctl, r.serial); err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v\n%+v", r.id, r.survey)
	for _, n := range r.survey.Namespaces {
		if n.Bytes() > 64<<30 {
			t.Fatalf("namespace %d has %d bytes: this test is for small drives", n.ID, n.Bytes())
		}
	}
	if r.store, err = OpenStore(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.store.save(kindBaseline, r.survey.Serial, r.survey); err != nil {
		t.Fatal(err)
	}
	return r
}

// fill writes the secret all over every namespace, as a tenant would.
func (r *real) fill(t *testing.T) {
	t.Helper()
	b := nvme.Buffer(1 << 20)
	copy(b, bytes.Repeat([]byte(secret), len(b)/len(secret)+1))
	r.each(t, func(blocks nvme.Blocks) {
		for off := int64(0); off < blocks.Size(); off += 8 << 20 {
			if err := blocks.WriteAt(t.Context(), b[:min(int64(len(b)), blocks.Size()-off)], off); err != nil {
				t.Fatal(err)
			}
		}
		if err := blocks.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// secrets counts the mebibytes in which the secret is.
func (r *real) secrets(t *testing.T) (found int) {
	t.Helper()
	b := nvme.Buffer(1 << 20)
	r.each(t, func(blocks nvme.Blocks) {
		for off := int64(0); off < blocks.Size(); off += int64(len(b)) {
			p := b[:min(int64(len(b)), blocks.Size()-off)]
			if err := blocks.ReadAt(t.Context(), p, off); err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(p, []byte(secret)) {
				found++
			}
		}
	})
	return found
}

func (r *real) each(t *testing.T, do func(nvme.Blocks)) {
	t.Helper()
	for _, n := range r.survey.Namespaces {
		b, err := r.ctl.Namespace(t.Context(), n.ID)
		if err != nil {
			t.Fatal(err)
		}
		do(b)
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func (r *real) wipe(t *testing.T, policy domain.WipePolicy, attempt uint32) domain.DeviceWipe {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	w := &domain.PlacedWipe{Lease: domain.Lease{Generation: 2, Nonce: domain.DigestOf([]byte("a real lease"))}, Policy: policy, Attempt: attempt}
	ev, err := Drive(ctx, r.ctl, r.store, r.serial, w)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %+v", policy, ev)
	return ev
}

// policies erases under each policy what the drive can do, and is refused what it
// cannot.
func (r *real) policies(t *testing.T) {
	can := map[domain.WipePolicy]bool{domain.WipeAuto: true, domain.WipeOverwrite: true, domain.WipeSanitize: r.id.Sanitizes(), domain.WipeFormat: r.id.Format()}
	for i, policy := range policies {
		r.fill(t)
		if r.secrets(t) == 0 {
			t.Fatal("the secret was not written")
		}
		ev := r.wipe(t, policy, uint32(i))
		switch left := r.secrets(t); {
		case can[policy] && (ev.Result != domain.WipeVerified || left > 0):
			t.Errorf("%s: %+v, %d MiB with the secret", policy, ev, left)
		case !can[policy] && ev.Reason != Unsupported:
			t.Errorf("%s: %+v, want %s", policy, ev, Unsupported)
		}
	}
}

// formatRestored gives the drive another LBA format, as a tenant can.
func (r *real) formatRestored(t *testing.T) {
	n := r.survey.Namespaces[0].Namespace
	other := n
	if other.Format = 4; n.Format == other.Format { // QEMU: 0 is 512 bytes, 4 is 4096
		other.Format = 0
	}
	if err := nvme.FormatNamespace(t.Context(), r.ctl, &other, nvme.EraseNothing); err != nil {
		t.Skipf("SKIPPED: the drive has no other LBA format: %v", err)
	}
	if err := r.ctl.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now, err := nvme.IdentifyNamespace(t.Context(), r.ctl, n.ID); err != nil || now.Format == n.Format {
		t.Fatalf("%+v, %v", now, err)
	}
	ev := r.wipe(t, domain.WipeAuto, 9)
	now, err := nvme.IdentifyNamespace(t.Context(), r.ctl, n.ID)
	if ev.Result != domain.WipeVerified || err != nil || now.Format != n.Format {
		t.Errorf("%+v, %+v, %v", ev, now, err)
	}
}

// held is a drive that something on the host has open for itself.
func (r *real) held(t *testing.T) {
	names, err := filepath.Glob(filepath.Join("/sys/class/nvme", r.ctl.Name(), "nvme*n*"))
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	// Behind the kernel's multipath nvme0c0n1 is a path to the disk nvme0n1.
	disk := regexp.MustCompile(`c\d+`).ReplaceAllString(filepath.Base(names[0]), "")
	f, err := os.OpenFile(filepath.Join("/dev", disk), os.O_RDONLY|unix.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if ev := r.wipe(t, domain.WipeAuto, 10); ev.Reason != InUse {
		t.Errorf("%+v, want %s", ev, InUse)
	}
}

// zeroes tries the Write Zeroes command by itself: the ladder comes to it only on
// drives that can do nothing better.
func (r *real) zeroes(t *testing.T) {
	if !r.id.ZeroesBlocks() {
		t.Skip("SKIPPED: the drive has no Write Zeroes")
	}
	r.fill(t)
	r.each(t, func(b nvme.Blocks) {
		if err := b.WriteZeroes(t.Context(), 0, b.Size()); err != nil {
			t.Fatal(err)
		}
		if err := b.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	if left := r.secrets(t); left > 0 {
		t.Errorf("%d MiB with the secret", left)
	}
}

func (r *real) wrongSerial(t *testing.T) {
	w := &domain.PlacedWipe{Policy: domain.WipeAuto}
	if ev, err := Drive(t.Context(), r.ctl, r.store, "NOT-"+r.serial, w); err != nil || ev.Reason != WrongSerial {
		t.Errorf("%+v, %v", ev, err)
	}
}
