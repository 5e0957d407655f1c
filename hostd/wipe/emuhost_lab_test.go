//go:build lab

package wipe_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/hostd/emuhost"
)

// TestLabDrives runs this very test program inside an emulated host, where it
// erases QEMU's drives: one alone, one with virtual functions, one with blocks of
// 4 KiB, and one whose media fail.
func TestLabDrives(t *testing.T) {
	if why := emuhost.Missing(); why != "" {
		t.Skip("SKIPPED, no host was booted: " + why)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	share := t.TempDir()
	b, err := os.ReadFile(self)
	if err == nil {
		err = os.WriteFile(filepath.Join(share, "wipe.test"), b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	// As on every GPU host: udev, which would read a drive that was written, beside the
	// format that comes next, lets it be.
	const rules = "10-hostd-drives.rules"
	files := map[string]string{"/etc/udev/rules.d/" + rules: "../../deploy/hostd/" + rules}
	h, err := emuhost.Boot(ctx, emuhost.Options{Dir: t.TempDir(), Share: share, Files: files, Topology: emuhost.Topology{Ports: []emuhost.Port{
		{Name: "nvme0", Devices: []emuhost.Device{emuhost.NVMe{Serial: "NVMEPLAIN", MiB: 128}}},
		{Name: "nvme1", Devices: []emuhost.Device{emuhost.NVMe{Serial: "NVMEVFS", MiB: 64, VFs: 2}}},
		{Name: "nvme2", Devices: []emuhost.Device{emuhost.NVMe{Serial: "NVMEBIG", MiB: 64, BlockBytes: 4096}}},
		{Name: "nvme3", Devices: []emuhost.Device{emuhost.NVMe{Serial: "NVMEBAD", MiB: 64, Fails: true}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}()
	out, err := h.Run(ctx, "sh", "-ec", `
		modprobe nvme; udevadm settle 2>/dev/null || sleep 1
		for d in /sys/class/nvme/nvme*; do
			if grep -q NVMEBAD $d/serial; then bad=$(cat $d/address); else good=${good:+$good,}$(cat $d/address); fi
		done
		cd /tmp && GPUAAS_WIPE_DRIVES=$good GPUAAS_WIPE_BROKEN=$bad `+emuhost.SharePoint+`/wipe.test -test.v -test.run '^(TestRealDrives|TestBrokenDrives)$'`)
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}
