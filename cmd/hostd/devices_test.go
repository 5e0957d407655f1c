package main

import (
	"bytes"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/nvme/nvmefake"
	"github.com/gpuaas/gpuaas/hostd/wipe"
)

// What an operator does with a drive whose firmware was updated: look, accept, and the
// next wipe of it is verified.
func TestDevices(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		hostd := func(args ...string) (string, error) {
			var out bytes.Buffer
			err := run(t.Context(), append([]string{"devices", "--dir", dir}, args...), &out, io.Discard)
			return out.String(), err
		}
		if _, err := hostd("list"); err == nil || !strings.Contains(err.Error(), "no wipe was done") {
			t.Errorf("nothing is there: %v", err)
		}
		store, err := wipe.OpenStore(filepath.Join(dir, "linux", "wipe"))
		if err != nil {
			t.Fatal(err)
		}
		d := nvmefake.New("DRIVE1", 8<<20)
		w := domain.PlacedWipe{Policy: domain.WipeAuto}
		erase := func() domain.DeviceWipe {
			w.Attempt++
			ev, err := wipe.Drive(t.Context(), d.Open(), store, "DRIVE1", &w)
			if err != nil {
				t.Fatal(err)
			}
			return ev
		}
		if ev := erase(); ev.Result != domain.WipeVerified {
			t.Fatalf("%+v", ev)
		}
		d.Slots[1] = "NEW00001"
		if ev := erase(); ev.Reason != wipe.FirmwareChanged {
			t.Fatalf("%+v", ev)
		}
		if out, err := hostd("list"); err != nil || !strings.Contains(out, wipe.FirmwareChanged) || !strings.Contains(out, "DRIVE1") || !strings.Contains(out, "NEW00001") {
			t.Errorf("%s%v", out, err)
		}
		if _, err := hostd("accept", "DRIVE1"); err == nil || !strings.Contains(err.Error(), "a reason is a word") {
			t.Errorf("without a reason: %v", err)
		}
		if _, err := hostd("accept", "DRIVE2", "--reason", "update"); err == nil || !strings.Contains(err.Error(), "no wipe has refused") {
			t.Errorf("a drive that nobody refused: %v", err)
		}
		if out, err := hostd("accept", "DRIVE1", "--reason", "update"); err != nil || !strings.Contains(out, "accepted what was found of nvme DRIVE1") {
			t.Errorf("%s%v", out, err)
		}
		if ev := erase(); ev.Result != domain.WipeVerified {
			t.Errorf("%+v", ev)
		}
		if out, err := hostd("list"); err != nil || strings.Contains(out, wipe.FirmwareChanged) || !strings.Contains(out, "DRIVE1") {
			t.Errorf("%s%v", out, err)
		}
		if _, err := hostd("forget", "DRIVE1"); err != nil {
			t.Error(err)
		}
		w.Lease.Generation = 1
		if ev := erase(); ev.Reason != wipe.BaselineMissing {
			t.Errorf("%+v", ev)
		}
	})
}
