package linux

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/machine"
)

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
