package linux

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/guest"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/network"
	"github.com/gpuaas/gpuaas/hostd/pci"
	"github.com/gpuaas/gpuaas/hostd/program"
	"github.com/gpuaas/gpuaas/hostd/vm"
)

func code(err error) string {
	if f := fault(err); f != nil {
		return f.Code
	}
	return ""
}

func fault(err error) (f *machine.Fault) {
	errors.As(err, &f)
	return f
}

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

// TestEveryStep fails before, fails after, repeats and crashes at every act on the
// host of one VM's provisioning and release, and checks a clean end each time.
func TestEveryStep(t *testing.T) {
	t.Parallel()
	dry := newWorldWith(t, 2, true)
	v := dry.vm(2)
	if err := errors.Join(dry.up(t.Context(), v), dry.down(t.Context(), v)); err != nil {
		t.Fatal(err)
	}
	acts := dry.acts
	if len(acts) < 40 || !slices.Contains(acts, "vf set") {
		t.Fatalf("only %d acts: %q", len(acts), acts)
	}
	t.Logf("%d acts", len(acts))
	for at, what := range acts {
		for _, how := range []string{"fails before", "fails after", "crash before", "crash after"} {
			t.Run(fmt.Sprintf("%s %d %s", how, at, what), func(t *testing.T) {
				t.Parallel()
				stepFault(t, at, how)
			})
		}
	}
}

var errInjected = errors.New("injected")

func stepFault(t *testing.T, at int, how string) {
	w := newWorldWith(t, 2, true)
	v := w.vm(2)
	n, crashed, hit := 0, false, false
	after, crash := strings.HasSuffix(how, "after"), strings.HasPrefix(how, "crash")
	w.step = func(_ string, isAfter bool) error {
		if crashed {
			return errInjected // a dead process does nothing more
		}
		if !isAfter {
			n++
		}
		if n-1 != at || isAfter != after || hit {
			return nil
		}
		hit, crashed = true, crash
		return errInjected
	}
	// The daemon tries a chain again, from its beginning, a bounded number of times.
	attempt := func(what string, do func() error) {
		t.Helper()
		var err error
		for range 4 {
			if err = do(); err == nil && !crashed {
				return
			}
			if crashed { // what it returned nobody heard
				if err := w.m.Close(); err != nil {
					t.Fatal(err)
				}
				crashed = false
				w.open()
			}
		}
		t.Fatalf("%s: %v", what, err)
	}
	attempt("up", func() error { return w.up(t.Context(), v) })
	w.isUp(v)
	appendSecret(t, w.k.Medium(v.Slots[0].NVMe.Serial))
	attempt("down", func() error { return w.down(t.Context(), v) })
	w.isGone(v)
	if !hit {
		t.Fatalf("act %d was never done: %d were", at, n)
	}
	// The next tenant's VM comes up on the same slots.
	next := w.vm(2)
	next.VM = domain.VMID{0xcd}
	if err := w.up(t.Context(), next); err != nil {
		t.Fatalf("the next tenant: %v", err)
	}
	w.isUp(next)
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

// TestNamespaceDeleted: a tenant deleted its drive's namespace. Its VM starts again as it
// left it, and the wipe gets as far as the Wiper, which has the controller.
func TestNamespaceDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	v := w.vm(1)
	if err := w.up(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if err := w.m.Stop(t.Context(), v.VM, domain.Second); err != nil {
		t.Fatal(err)
	}
	w.k.Hide(v.Slots[0].NVMe.Serial)
	w.k.Reboot()
	if err := w.m.Close(); err != nil {
		t.Fatal(err)
	}
	w.boot("2")
	w.open()
	v.Boot = 2
	if err := w.up(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if err := w.down(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	w.isGone(v)
}

func TestDeviceGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	v := w.vm(2)
	if err := w.up(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	w.k.Unplug(v.Slots[1].GPU.Address)
	for e := range w.m.Events() {
		if e.Kind != machine.DeviceFault {
			continue
		}
		if e.Slot != 1 || e.Component != "gpu" || e.Scope != "device" || e.Code != "device.gone" || !strings.Contains(e.Detail, "GPU1") {
			t.Errorf("fault %+v", e)
		}
		break
	}
	if err := w.m.Stop(t.Context(), v.VM, 0); err != nil {
		t.Fatal(err)
	}
	v.Boot = 2
	if f := fault(w.up(t.Context(), v)); f == nil || f.Code != "device.gone" || f.Slot != 1 || f.Component != "gpu" {
		t.Errorf("started without a GPU: %v", f)
	}
}

// TestFaultsAreForgotten: what was said of a VM that ended is not kept.
func TestFaultsAreForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	m := &Machine{sys: w.m.sys}
	states := func(n int) (out []guest.State) {
		for i := range n {
			out = append(out, guest.State{VM: domain.VMID{byte(i)}, Running: true, Devices: w.slots})
		}
		return out
	}
	if n := len(m.faults(states(8))); n != 16 || len(m.faulted) != 16 {
		t.Errorf("%d faults of 8 VMs with two unbound devices, %d kept", n, len(m.faulted))
	}
	if again := m.faults(states(8)); len(again) != 0 {
		t.Errorf("said twice: %+v", again)
	}
	if again := m.faults(states(1)); len(again) != 0 || len(m.faulted) != 2 {
		t.Errorf("of one VM: %+v, %d kept", again, len(m.faulted))
	}
	m.faults(nil)
	if len(m.faulted) != 0 {
		t.Errorf("%d kept of nothing", len(m.faulted))
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

func TestStartRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	v := w.vm(1)
	if err := w.m.Start(t.Context(), v); code(err) != "domain.not_prepared" {
		t.Errorf("nothing is prepared: %v", err)
	}
	if err := w.up(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	other := w.vm(2)
	other.VM = domain.VMID{9}
	if err := w.m.PrepareDisk(t.Context(), other); code(err) != "slot.in_use" {
		t.Errorf("a slot given twice: %v", err)
	}
	if err := w.m.Stop(t.Context(), v.VM, domain.Second); err != nil {
		t.Fatal(err)
	}
	// A neighbour's function appears in the GPU's group: the re-proof stops it.
	w.tree.SetGroup(w.slots[1].GPU.Address, 0)
	v.Boot = 2
	if f := fault(w.m.Start(t.Context(), v)); f == nil || f.Code != "device.unproved" || f.Component != "gpu" || f.Slot != 0 || !strings.Contains(f.Error(), w.slots[1].GPU.Address) {
		t.Errorf("a foreign member of the group: %v", f)
	}
	if on, _ := w.lv.Running(t.Context(), v.VM.String()); on {
		t.Error("started")
	}
}

// TestZeroIsKnown: what is zero in the image is left out only on a drive that was read
// back as zero, and never on the repeat of a write.
func TestZeroIsKnown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	v := w.vm(1)
	var converts []string
	inner := w.run
	w.m.o.Run = func(ctx context.Context, name string, args ...string) ([]byte, error) {
		if args[0] == "convert" {
			converts = append(converts, fmt.Sprint(strings.Contains(strings.Join(args, " "), "--target-is-zero")))
		}
		return inner(ctx, name, args...)
	}
	wipe := func() {
		t.Helper()
		if _, err := w.m.Wipe(t.Context(), v.Slots[0], domain.PlacedWipe{}); err != nil {
			t.Fatal(err)
		}
	}
	round := func() {
		t.Helper()
		if err := w.m.PrepareDisk(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		if err := w.m.Remove(t.Context(), v.VM); err != nil {
			t.Fatal(err)
		}
	}
	round() // never wiped here
	wipe()
	round()
	round() // written since
	full := w.wipe
	w.wipe = func(s domain.SlotSpec, p domain.PlacedWipe) ([]domain.DeviceWipe, error) {
		ev, err := full(s, p)
		ev[1].Coverage, ev[1].BytesRead = domain.CoverageSampled, 4096
		return ev, err
	}
	wipe()
	round() // only samples were read
	if got := strings.Join(converts, ","); got != "false,true,false,false" {
		t.Errorf("target is zero: %s", got)
	}
}

func TestWipeFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	s := w.slots[0]
	w.wipe = func(domain.SlotSpec, domain.PlacedWipe) ([]domain.DeviceWipe, error) { return nil, errInjected }
	if ev, err := w.m.Wipe(t.Context(), s, domain.PlacedWipe{}); !errors.Is(err, errInjected) || ev != nil {
		t.Errorf("%+v, %v", ev, err)
	}
	if out := w.notGiven(w.slots); len(out) != 0 {
		t.Errorf("after a wipe that failed: %v", out)
	}
	s.NVMe.Serial = "OTHER"
	if _, err := w.m.Wipe(t.Context(), s, domain.PlacedWipe{}); code(err) != "drive.other" {
		t.Errorf("another drive: %v", err)
	}
}

func TestProve(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	v := w.vm(1)
	a, gpu := mustParse(t, w.slots[0].NVMe.Address), mustParse(t, w.slots[0].GPU.Address)
	if _, err := w.m.prove(t.Context(), a); err == nil || w.k.Driver(a.String()) != "nvme" {
		t.Errorf("a drive that was never a slot's: %v", err)
	}
	if err := w.m.PrepareDisk(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	f, err := w.m.prove(t.Context(), a)
	if err != nil || f.Serial != "DRIVE0" || f.SizeBytes != driveBytes || f.Firmware != "1.0" {
		t.Errorf("%+v, %v", f, err)
	}
	if out := w.notGiven(v.Slots); len(out) != 0 {
		t.Errorf("after the proof: %v", out)
	}
	if _, err := w.m.prove(t.Context(), gpu); err == nil {
		t.Error("a GPU was proved")
	}
	if err := w.up(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if _, err := w.m.prove(t.Context(), a); err == nil || w.k.Driver(a.String()) != "vfio-pci" {
		t.Errorf("a running VM's drive: %v", err)
	}
}

func mustParse(t *testing.T, s string) pci.Address {
	t.Helper()
	a, err := pci.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
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

// await looks until ok; the test's own deadline ends it.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// TestSeize: after a boot of the host the functions of approved slots leave its
// drivers by themselves, also those of a VM that is off; those of others do not.
func TestSeize(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	v := w.vm(1)
	if err := w.m.PrepareDisk(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if err := w.m.Close(); err != nil {
		t.Fatal(err)
	}
	w.k.Reboot()
	w.boot("2")
	w.open()
	approved := &domain.SlotMap{Slots: w.slots[:2]}
	w.m.o.Discovery.Approved = func() *domain.SlotMap { return approved }
	got := w.m.approvedOf(&domain.SlotMap{Slots: w.slots})
	if len(got) != 2 {
		t.Fatalf("approved: %+v", got)
	}
	w.acts = nil
	w.m.seize(t.Context(), got)
	if out := w.notGiven(w.slots[:2]); len(out) != 0 {
		t.Errorf("not with vfio-pci: %v", out)
	}
	if d := w.k.Driver(w.slots[2].GPU.Address); d != "nouveau" {
		t.Errorf("a GPU that is not approved is with %q", d)
	}
	w.acts = nil
	w.m.seize(t.Context(), got)
	if len(w.acts) != 0 {
		t.Errorf("again: %q", w.acts)
	}
}

// TestSeizeEarly: before anything is looked at, what is where it was approved leaves the
// host's drivers, and only that.
func TestSeizeEarly(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, 5, true)
	w.k.Swap(w.slots[1].NVMe.Address, "OTHER")
	w.k.Reboot()
	approved := &domain.SlotMap{Slots: slices.Clone(w.slots[:4])}
	approved.Slots[2].GPU.PCIID = "8086:1533"
	approved.Slots[3].GPU.SerialFrom = domain.SerialOfDevice // nobody could ask it any more
	w.m.o.Discovery.Approved = func() *domain.SlotMap { return approved }
	w.m.seizeEarly(t.Context())
	if out := w.notGiven(w.slots[:1]); len(out) != 0 {
		t.Errorf("not with vfio-pci: %v", out)
	}
	for slot, want := range map[int]string{1: "nouveau", 2: "nouveau", 3: "nouveau", 4: "nouveau"} {
		if d := w.k.Driver(w.slots[slot].GPU.Address); d != want {
			t.Errorf("the GPU of slot %d is with %q", slot, d)
		}
	}
}

// TestWithoutAMapNothingOfASlotIsRead: while nobody says which map is in force, a drive
// that ever was a slot's is not read.
func TestWithoutAMapNothingOfASlotIsRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	if err := w.m.PrepareDisk(t.Context(), w.vm(1)); err != nil {
		t.Fatal(err)
	}
	w.tree.Write("class/block/nvme8n1/device/serial", "DRIVE0\n")
	w.tree.Write("class/block/nvme9n1/device/serial", "DRIVE1\n")
	if !w.m.once("nvme8n1") || w.m.once("nvme9n1") {
		t.Error("without a map")
	}
	w.m.o.Discovery.Approved = func() *domain.SlotMap { return &domain.SlotMap{} }
	if w.m.once("nvme8n1") {
		t.Error("with a map that says that it is none")
	}
}

func TestBlind(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	if out := w.m.Blind(t.Context()); len(out) != 0 {
		t.Errorf("a host without udev, LVM and so on: %q", out)
	}
	files := map[string][2]string{
		udevRules:               {"", "rules"},
		"/etc/lvm/lvm.conf":     {"# global_filter = [ \"r|/dev/nvme.*|\" ]\n", "global_filter = [ \"r|/dev/nvme.*|\" ]\n"},
		"/etc/mdadm/mdadm.conf": {"ARRAY /dev/md0\n", "AUTO -all\n"},
		"/etc/multipath.conf":   {"", "devnode \"^nvme\"\n"},
		"/etc/default/grub":     {"#GRUB_DISABLE_OS_PROBER=true\n", "GRUB_DISABLE_OS_PROBER=true\n"},
	}
	for _, there := range []string{"/run/udev/control", "/sbin/mdadm", "/sbin/multipathd", "/usr/bin/os-prober"} {
		w.write(filepath.Join(w.root, there), "")
	}
	for path, content := range files {
		if content[0] != "" {
			w.write(filepath.Join(w.root, path), content[0])
		}
	}
	if out := w.m.Blind(t.Context()); len(out) != 5 {
		t.Errorf("nothing is blinded: %q", out)
	}
	for path, content := range files {
		w.write(filepath.Join(w.root, path), content[1])
	}
	if out := w.m.Blind(t.Context()); len(out) != 0 {
		t.Errorf("all is blinded: %q", out)
	}
	// The proof of the pudding: udev knows what is on a slot's drive.
	w.tree.Write("class/block/nvme0n1/device/serial", "DRIVE0\n")
	w.write(filepath.Join(w.root, "/run/udev/data/b259:1"), "E:ID_FS_TYPE=LVM2_member\n")
	if out := w.m.Blind(t.Context()); len(out) != 1 || !strings.Contains(out[0], "DRIVE0") {
		t.Errorf("udev read a drive: %q", out)
	}
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

// Accounts of their own are of no use to VMs that cannot reach their files.
func TestPassable(t *testing.T) {
	t.Parallel()
	m := &Machine{o: Options{Users: vm.Users{First: 70000, Count: 1}}}
	dir := t.TempDir()
	closed := filepath.Join(dir, "closed")
	if err := os.MkdirAll(filepath.Join(closed, "below"), 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(closed, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := m.passable(filepath.Join(closed, "below")); err == nil || !strings.Contains(err.Error(), "chmod 711 "+closed) {
		t.Errorf("through a closed folder: %v", err)
	}
	if err := m.passable(filepath.Join(dir, "none")); err != nil {
		t.Errorf("a folder that is not there: %v", err)
	}
	m.o.Users = vm.Users{}
	if err := m.passable(closed); err != nil {
		t.Errorf("with libvirt's own account: %v", err)
	}
}

// A device that the last look did not find is named: nothing is touched, and nothing
// is said to be wiped.
func TestWipeOfWhatIsGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	gone := w.slots[0]
	gone.NVMe.Address = ""
	var f *machine.Fault
	ev, err := w.m.Wipe(t.Context(), gone, domain.PlacedWipe{})
	if !errors.As(err, &f) || f.Code != "wipe.device_gone" || f.Component != "nvme" || !strings.Contains(err.Error(), gone.NVMe.Serial) || ev != nil {
		t.Errorf("%v, %v", ev, err)
	}
}
