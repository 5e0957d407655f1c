//go:build lab

package emuhost_test

import (
	"errors"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/hostd/emuhost"
)

// drive0 finds the first drive by its serial: nvmeN changes from boot to boot.
const drive0 = "d=$(readlink -e /dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_NVMESLOT0); "

// TestLabLongPower: what is flushed survives every way of going down, on the drives and on
// the root disk, and what is not flushed does not survive a power cut.
func TestLabLongPower(t *testing.T) {
	dir := t.TempDir()
	h, ctx := boot(t, emuhost.Options{Dir: dir})
	id := sh(t, ctx, h, "cat /proc/sys/kernel/random/boot_id")
	sh(t, ctx, h, drive0+`printf kept | dd of=$d bs=512 seek=2048 conv=sync oflag=direct 2>/dev/null
		echo kept > /root/kept; sync -f /root/kept; echo lost > /root/lost`)

	steps := []struct {
		name string
		act  func() error
	}{
		{"power cut", func() error { h.PowerCut(); return h.PowerOn(ctx) }},
		{"reboot", func() error { return h.Reboot(ctx) }},
		{"reset", func() error { return h.Reset(ctx) }},
		{"shutdown", func() error { return errors.Join(h.Shutdown(ctx), h.PowerOn(ctx)) }},
	}
	for _, s := range steps {
		running, err := h.Start(emuhost.Command{Args: []string{"sleep", "600"}})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := s.act(); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		t.Logf("%s and up again in %.1f s", s.name, time.Since(began).Seconds())
		var exit *emuhost.ExitError
		if err := running.Wait(ctx); !errors.Is(err, emuhost.ErrOff) && !errors.Is(err, emuhost.ErrRestarted) && !errors.As(err, &exit) {
			t.Errorf("%s: a command that ran ended with %v", s.name, err)
		}
		now := sh(t, ctx, h, "cat /proc/sys/kernel/random/boot_id")
		if now == id {
			t.Errorf("%s: the same boot as before", s.name)
		}
		id = now
		if got := sh(t, ctx, h, drive0+"dd if=$d bs=4 skip=262144 count=1 iflag=skip_bytes,direct 2>/dev/null || true; dd if=$d bs=512 skip=2048 count=1 2>/dev/null | tr -d '\\0'; cat /root/kept"); got != "keptkept" {
			t.Errorf("%s: kept %q", s.name, got)
		}
		if _, err := h.Run(ctx, "test", "-s", "/root/lost"); err == nil && s.name == "power cut" {
			t.Error("the power cut lost nothing: the file was never flushed")
		}
	}
}
