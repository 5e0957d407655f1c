package linux

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/guest"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/network"
	"github.com/gpuaas/gpuaas/hostd/program"
	"github.com/gpuaas/gpuaas/hostd/vm"
)

func TestLife(t *testing.T) {
	t.Parallel()
	for _, slots := range []int{1, 2, 4} {
		w := newWorld(t, slots+1)
		v := w.vm(slots)
		for range 2 { // the repeat does nothing
			if err := w.up(t.Context(), v); err != nil {
				t.Fatal(err)
			}
			w.isUp(v)
		}
		xml := w.lv.Domains()[v.VM.String()]
		if n := strings.Count(xml, "<hostdev "); n != 2*slots {
			t.Errorf("%d slots: %d functions passed through:\n%s", slots, n, xml)
		}
		if n := strings.Count(xml, `<boot order="1">`); n != 1 || strings.Contains(xml, `managed="yes"`) {
			t.Errorf("%d slots: %d boot drives:\n%s", slots, n, xml)
		}
		for _, d := range []string{w.k.Driver(w.slots[slots].GPU.Address), w.k.Driver(w.slots[slots].NVMe.Address)} {
			if d == "vfio-pci" {
				t.Error("a neighbour's function was bound")
			}
		}
		// Stop and start keep the data and the layout.
		medium := w.k.Medium(v.Slots[0].NVMe.Serial)
		appendSecret(t, medium)
		if err := w.m.Stop(t.Context(), v.VM, domain.Second); err != nil {
			t.Fatal(err)
		}
		v.Boot = 2
		if err := w.up(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		w.isUp(v)
		if b, err := os.ReadFile(medium); err != nil || !strings.Contains(string(b), secret) {
			t.Errorf("the tenant's data is gone after stop and start: %v", err)
		}
		if _, err := w.m.Wipe(t.Context(), v.Slots[0], domain.PlacedWipe{}); code(err) != "slot.in_use" {
			t.Errorf("a wipe under a running VM: %v", err)
		}
		if err := w.down(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		w.isGone(v)
		if err := w.m.Remove(t.Context(), v.VM); err != nil {
			t.Errorf("removed again: %v", err)
		}
	}
}

// appendSecret is what the tenant's VM writes.
func appendSecret(t *testing.T, medium string) {
	t.Helper()
	f, err := os.OpenFile(medium, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(secret), 3<<20); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestHostReboot: nothing is bound as it was, drives have other names, and one was
// swapped.
func TestHostReboot(t *testing.T) {
	t.Parallel()
	for _, swapped := range []bool{false, true} {
		w := newWorld(t, 2)
		v := w.vm(2)
		if err := w.up(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		xml := w.lv.Domains()[v.VM.String()]
		if err := w.m.Close(); err != nil {
			t.Fatal(err)
		}
		w.lv.Die()
		if swapped {
			w.k.Swap(v.Slots[1].NVMe.Address, "OTHER")
		}
		w.k.Reboot()
		w.boot("2")
		w.open()
		if seen, err := w.m.Observe(t.Context()); err != nil || len(seen) != 1 || seen[0].Running || !seen[0].Lost || seen[0].Cause != guest.CauseRebooted || seen[0].Boot != 1 || !seen[0].Prepared || !seen[0].Seeded {
			t.Fatalf("observed %+v, %v", seen, err)
		}
		appendSecret(t, w.k.Medium(v.Slots[0].NVMe.Serial))
		w.acts, v.ImagePath = nil, "" // evicted meanwhile
		err := w.up(t.Context(), v)
		if swapped {
			if f := fault(err); f == nil || f.Code != "drive.other" || f.Slot != 1 || f.Component != "nvme" || len(w.lv.Domains()) != 1 {
				t.Errorf("with a drive that was swapped: %v", err)
			}
			if on, _ := w.lv.Running(t.Context(), v.VM.String()); on {
				t.Error("the VM runs with another's drive")
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		w.isUp(v)
		if acts := strings.Join(w.acts, ","); strings.Contains(acts, "qemu-img") {
			t.Errorf("the image was written again: %s", acts)
		}
		if again := w.lv.Domains()[v.VM.String()]; again != xml {
			t.Errorf("the guest finds another machine:\n%s\nwas:\n%s", again, xml)
		}
	}
}

// TestQEMUKilled: a VM whose QEMU was killed while the host runs on comes back into the
// same boot; one whose guest powers off does not ask for it.
func TestQEMUKilled(t *testing.T) {
	t.Parallel()
	for end, lost := range map[vm.End]bool{vm.EndCrashed: true, vm.EndDestroyed: true, vm.EndShutdown: false} {
		w := newWorld(t, 1)
		v := w.vm(1)
		if err := w.up(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		w.lv.End(v.VM.String(), end)
		w.opens("destroy")
		seen, err := w.m.Observe(t.Context())
		if err != nil || len(seen) != 1 || seen[0].Running || seen[0].Boot != 1 || seen[0].Lost != lost {
			t.Errorf("%s: observed %+v, %v", end, seen, err)
		}
		if err := w.up(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		w.isUp(v)
	}
}

func TestReadyIsDoubted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	v := w.vm(2)
	if err := w.up(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	s, _ := w.m.guests.State(v.VM)
	for said, want := range map[string]bool{
		"": true, "10de:2330=2 144d:a80a=2": true, "10de:2330=3": true, "10de:2330=1": false, "144d:a80a=0 10de:2330=2": false,
		"8086:1533=0": true, "nonsense =1 x=": true, "10de:2330=-1": false,
	} {
		if err := w.m.doubt(s, said); (err == nil) != want {
			t.Errorf("ready %q: %v", said, err)
		}
	}
	if got := code(w.m.doubt(s, "devices=3")); got != "guest.devices_missing" {
		t.Errorf("3 of 4 devices: %q", got)
	}
	w.tree.Bind(v.Slots[0].GPU.Address, "nouveau")
	if err := w.m.doubt(s, ""); code(err) != "device.unbound" {
		t.Error("ready with a GPU at the host's driver")
	}
}

func TestAliveByLease(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	v := w.vm(1)
	if err := w.up(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	seen, err := w.m.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.net.mu.Lock()
	w.net.leases = map[string]network.Lease{v.MAC: {Address: "10.77.0.10", At: time.UnixMilli(int64(seen[0].Since))}}
	w.net.down = true // and a daemon of the network dies
	w.net.mu.Unlock()
	for e := range w.m.Events() {
		if e.Kind == machine.GuestAlive {
			break
		}
	}
	await(t, "the network's daemon", w.net.Running)
}

// TestRealQEMUImg writes an image with the real qemu-img onto the file that is a
// drive here.
func TestRealQEMUImg(t *testing.T) {
	t.Parallel()
	if missing := program.Missing("qemu-img"); len(missing) > 0 {
		t.Skip("SKIPPED: qemu-img is not installed")
	}
	w := newWorld(t, 1)
	w.m.o.Run = program.Execute
	v := w.vm(1)
	if err := w.up(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	w.isUp(v)
}

func TestRefusedBeforeAnyDevice(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(w *world, v *machine.VM)
		code   string
	}{
		"user data of 1 MB":  {func(_ *world, v *machine.VM) { v.UserData = make([]byte, 1<<20) }, "seed.user_data_too_large"},
		"a key of two lines": {func(_ *world, v *machine.VM) { v.SSHKeys = []string{"ssh-rsa AAAA\nssh-rsa BBBB"} }, "seed.line_break"},
		"no image":           {func(_ *world, v *machine.VM) { v.ImagePath = "" }, "image.missing"},
		"too large an image": {func(_ *world, v *machine.VM) { v.Slots[0].NVMe.SizeBytes = 512 }, "disk.too_small"},
		"an archive":         {func(w *world, v *machine.VM) { w.write(v.ImagePath, strings.Repeat("PK", 4096)) }, "image.format"},
		"a backing file": {func(w *world, v *machine.VM) {
			w.write(v.ImagePath, "QFI\xfb\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x08"+strings.Repeat("\x00", 200))
		}, "image.backing_file"},
		"no slots":          {func(_ *world, v *machine.VM) { v.Slots = nil }, ""},
		"a foreign address": {func(_ *world, v *machine.VM) { v.Slots[0].GPU.Address = "0000:f0:00.0" }, ""},
		"one slot twice":    {func(_ *world, v *machine.VM) { v.Slots[1] = v.Slots[0] }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2)
			v := w.vm(2)
			v.Slots = append([]domain.SlotSpec(nil), v.Slots...)
			c.change(w, v)
			w.acts = nil
			err := w.m.PrepareDisk(t.Context(), v)
			if err == nil || code(err) != c.code {
				t.Errorf("%v, want %s", err, c.code)
			}
			if name != "a foreign address" && len(w.acts) != 0 {
				t.Errorf("acts on the host: %q", w.acts)
			}
			if d := w.k.Driver("0000:f0:00.0"); d != "igb" {
				t.Errorf("the host's own network card is with %q", d)
			}
		})
	}
}
