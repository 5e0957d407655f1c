package wipe

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/gpuaas/gpuaas/domain"
)

// says reports whether a line of the evidence has all the words.
func says(ev domain.DeviceWipe, words ...string) bool {
	return slices.ContainsFunc(ev.Log, func(line string) bool {
		return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) })
	})
}

// A drive that was changed on purpose: its wipe is refused, the operator accepts
// exactly what was found, the next wipe takes it and says so, once.
func TestAccept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDrive(t, domain.WipeAuto, nil)
		if _, err := d.store.Accept(serial, "firmware-update"); !errors.Is(err, ErrNothingRefused) {
			t.Errorf("nothing was refused: %v", err)
		}
		before := d.erase()
		if before.Result != domain.WipeVerified {
			t.Fatalf("%+v", before)
		}
		again := func() domain.DeviceWipe { d.wipe.Attempt++; return d.erase() }
		known := func() Known {
			t.Helper()
			all, err := d.store.Devices(t.Context())
			if err != nil || len(all) != 1 || all[0].Serial != serial {
				t.Fatalf("%+v, %v", all, err)
			}
			return all[0]
		}
		d.Slots[0] = "NEW00001"
		if ev := again(); ev.Reason != FirmwareChanged || known().Refused.Reason != FirmwareChanged {
			t.Fatalf("%+v", ev)
		}
		for _, why := range []string{"", "two words", "Ümlaut", strings.Repeat("x", 65)} {
			if _, err := d.store.Accept(serial, why); err == nil {
				t.Errorf("accepted because of %q", why)
			}
		}
		if r, err := d.store.Accept(serial, "firmware-update"); err != nil || r.Drive.Slots[0] != "NEW00001" || known().Accepted != "firmware-update" {
			t.Fatalf("%+v, %v", r, err)
		}
		d.Slots[0] = "EVIL0001" // it is not any more what was accepted
		if ev := again(); ev.Reason != FirmwareChanged || !says(ev, "accepted another state") {
			t.Fatalf("%+v", ev)
		}
		d.Slots[0] = "NEW00001"
		ev := again()
		if ev.Result != domain.WipeVerified || ev.Baseline == before.Baseline || !says(ev, "accepted by an operator (firmware-update") || !says(ev, "the baseline before", before.Baseline.String()) {
			t.Fatalf("%+v", ev)
		}
		if ev := d.erase(); ev.Result != domain.WipeVerified || !says(ev, "accepted by an operator") {
			t.Errorf("the same wipe again, because its evidence was lost: %+v", ev)
		}
		if k := known(); k.Refused != nil || k.Accepted != "" {
			t.Errorf("%+v", k)
		}
		if next := again(); next.Result != domain.WipeVerified || next.Baseline != ev.Baseline || says(next, "accepted") {
			t.Errorf("the next wipe: %+v", next)
		}
	})
}

// A host that lost its files, or whose files are damaged, takes the drive back when
// the operator accepts it.
func TestAcceptWithoutBaseline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDrive(t, domain.WipeAuto, nil)
		if err := d.store.Forget(serial); err != nil {
			t.Fatal(err)
		}
		if ev := d.erase(); ev.Reason != BaselineMissing {
			t.Fatalf("%+v", ev)
		}
		if _, err := d.store.Accept(serial, "t-77"); err != nil {
			t.Fatal(err)
		}
		if ev := d.erase(); ev.Result != domain.WipeVerified || !says(ev, "accepted by an operator (t-77") || !says(ev, "the baseline before: none") {
			t.Fatalf("%+v", ev)
		}
	})
}

// A virtual function is given back what was accepted, whatever it has by then.
func TestAcceptFunction(t *testing.T) {
	t.Parallel()
	store, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeHost{methods: []Reset{ResetFunction}, vf: VFState{MAC: "02:00:00:00:00:01", Link: "auto"}}
	h := &Host{Functions: f, VFs: f, Store: store}
	spec := &domain.SlotSpec{IBVF: domain.Device{Address: "0000:19:00.1", Serial: "V1"}}
	w := &domain.PlacedWipe{Lease: domain.Lease{Generation: 4}}
	run := func() domain.DeviceWipe {
		ev, err := h.function(t.Context(), spec, w)
		if err != nil {
			t.Fatal(err)
		}
		return ev
	}
	if ev := run(); ev.Reason != BaselineMissing {
		t.Fatalf("%+v", ev)
	}
	if _, err := store.Accept("V1", "t-78"); err != nil {
		t.Fatal(err)
	}
	f.vf.Link = "up"
	if ev := run(); ev.Result != domain.WipeVerified || !says(ev, "accepted by an operator (t-78") || f.vf.Link != "auto" {
		t.Fatalf("%+v, it has %+v", ev, f.vf)
	}
}
