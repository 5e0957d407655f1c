package wipe

import (
	"errors"
	"strings"
	"testing"

	"github.com/gpuaas/gpuaas/domain"
)

// A GPU that no reset clears is clean by an operator's word that the host was without
// power: for the wipe that asked for it alone, and in another boot.
func TestPowerCycle(t *testing.T) {
	t.Parallel()
	store, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeHost{methods: []Reset{ResetFunction, ResetBus}, failing: []Reset{ResetFunction, ResetBus}}
	h := &Host{Functions: f, Store: store, Boot: "a"}
	spec := &domain.SlotSpec{GPU: domain.Device{Address: "0000:17:00.0", Serial: "G1"}}
	w := &domain.PlacedWipe{Lease: domain.Lease{Generation: 4}}
	run := func(what, reason string) domain.DeviceWipe {
		t.Helper()
		w.Attempt++
		ev, err := h.gpu(t.Context(), spec, w)
		if err != nil || ev.Reason != reason || (ev.Result == domain.WipeVerified) != (reason == "") {
			t.Errorf("%s: %+v, %v; want %q", what, ev, err, reason)
		}
		return ev
	}
	if err := store.ConfirmPowerCycle("G1", "b", "t-1"); !errors.Is(err, ErrNoCycleNeeded) {
		t.Errorf("nobody asked for it: %v", err)
	}
	run("no reset works", PowerCycle)
	if err := store.ConfirmPowerCycle("G1", "a", "t-1"); !errors.Is(err, ErrSameBoot) {
		t.Errorf("the host runs on: %v", err)
	}
	h.Boot = "b"
	run("a reboot", PowerCycle)
	h.Boot = "c"
	if err := store.ConfirmPowerCycle("G1", "c", "Two Words"); err == nil {
		t.Error("without a word")
	}
	if err := store.ConfirmPowerCycle("G1", "c", "t-1"); err != nil {
		t.Fatal(err)
	}
	if all, err := store.Devices(t.Context()); err != nil || len(all) != 1 || all[0].Cycle != "confirmed" {
		t.Errorf("%+v, %v", all, err)
	}
	ev := run("confirmed", "")
	if ev.Method != "power-cycle" || !says(ev, "operator's word (t-1", "boot a", "boot c") || !strings.Contains(ev.Detail, "no reset works") {
		t.Errorf("%+v", ev)
	}
	run("the same wipe again", "")
	h.Boot = ""
	run("the boot is not known", PowerCycle)
	h.Boot = "c"
	run("and known again", "")
	w.Lease.Generation++
	run("another tenant since", PowerCycle)
	if err := store.ConfirmPowerCycle("G1", "c", "t-2"); !errors.Is(err, ErrSameBoot) {
		t.Errorf("the word for the wipe before: %v", err)
	}
	f.failing = nil
	if ev := run("its reset works again", ""); ev.Method != "flr" {
		t.Errorf("%+v", ev)
	}
}
