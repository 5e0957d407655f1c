package linux

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/wipe"
)

// What is left of VMs that are gone goes, by name and by UUID; what a VM has, or a
// domain that is not ours, stays; and a kind that nobody looks for is not claimed.
func TestClear(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	v := w.vm(1)
	if err := w.up(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	gone := domain.VMID{0xee}
	foreign := uuid.UUID{1, 2, 3}
	if err := w.lv.Define(t.Context(), "<domain><name>somebody</name><uuid>"+foreign.String()+"</uuid></domain>"); err != nil {
		t.Fatal(err)
	}
	const swtpm = "/var/lib/libvirt/swtpm/"
	dead := []string{
		filepath.Join(w.root, swtpm, uuid.UUID(gone).String(), "tpm2/tpm2-00.permall"), filepath.Join(w.root, "/var/log/swtpm/libvirt/qemu", gone.String()+"-swtpm.log"),
		filepath.Join(w.dir, "vms", gone.String(), "seed.iso"), filepath.Join(w.root, "/var/lib/systemd/coredump/core.qemu-system-x86.1.zst"),
	}
	alive := []string{
		filepath.Join(w.root, swtpm, uuid.UUID(v.VM).String(), "tpm2/tpm2-00.permall"), filepath.Join(w.root, swtpm, foreign.String(), "tpm2/tpm2-00.permall"),
		filepath.Join(w.root, swtpm, "not-a-uuid"), filepath.Join(w.root, "/var/log/libvirt/qemu", v.VM.String()+".log"),
	}
	for _, p := range append(slices.Clone(dead), alive...) {
		w.write(p, secret)
	}
	clear := func() map[string]wipe.Remnant {
		t.Helper()
		found, err := w.m.Clear(t.Context(), domain.Lease{})
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]wipe.Remnant{}
		for _, r := range found {
			out[r.Kind] = r
		}
		return out
	}
	got := clear()
	if got["vtpm"].Removed != 2 || got["seed"].Removed != 1 || got["dumps"].Removed != 1 || got["console-log-key"].Removed != 0 {
		t.Errorf("%+v", got)
	}
	for _, p := range dead {
		if _, err := os.Stat(p); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("left: %s", p)
		}
	}
	for _, p := range alive {
		if _, err := os.Stat(p); err != nil {
			t.Errorf("gone: %s", p)
		}
	}
	if _, claimed := got["image-cache"]; claimed || len(got) != len(wipe.RemnantKinds)-1 {
		t.Errorf("nobody looks into the cache of images: %+v", got)
	}
	w.m.o.ClearImages = func(context.Context) (int, []string, error) { return 2, []string{"abc"}, nil }
	if got := clear()["image-cache"]; got.Removed != 2 || strings.Join(got.Left, "") != "abc" {
		t.Errorf("%+v", got)
	}
	w.m.o.ClearImages = func(context.Context) (int, []string, error) { return 0, nil, errInjected }
	if _, err := w.m.Clear(t.Context(), domain.Lease{}); !errors.Is(err, errInjected) {
		t.Errorf("the cache cannot be read: %v", err)
	}
}
