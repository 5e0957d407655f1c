package wipe

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/nvme"
	"github.com/gpuaas/gpuaas/hostd/nvme/nvmefake"
)

// fakeHost implements what a machine gives: one field is one way to fail.
type fakeHost struct {
	drive      *drive
	openErr    error
	methods    []Reset
	shared     bool
	failing    []Reset // resets that fail
	becomes    string  // fingerprint after a reset
	mu         sync.Mutex
	done       []Reset // with mu: devices are reset side by side
	vf         VFState
	vfStuck    bool
	remnants   []Remnant
	remnantErr error
	probeErr   error
	probed     int
}

func (f *fakeHost) Open(context.Context, string) (nvme.Controller, error) {
	return f.drive.Open(), f.openErr
}

func (f *fakeHost) Methods(context.Context, string) ([]Reset, error) { return f.methods, nil }
func (f *fakeHost) Private(context.Context, string) (bool, error)    { return !f.shared, nil }
func (f *fakeHost) State(context.Context, string) (VFState, error)   { return f.vf, nil }
func (f *fakeHost) Clear(context.Context, domain.Lease) ([]Remnant, error) {
	return f.remnants, f.remnantErr
}

func (f *fakeHost) Fingerprint(_ context.Context, address string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.becomes != "" && len(f.done) > 0 {
		return f.becomes, nil
	}
	if address == "" {
		return "", unix.ENODEV
	}
	return "10de:2330 at " + address, nil
}

func (f *fakeHost) Reset(_ context.Context, _ string, r Reset) error {
	if slices.Contains(f.failing, r) {
		return unix.ETIMEDOUT
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done = append(f.done, r)
	return nil
}

func (f *fakeHost) Restore(_ context.Context, _ string, s VFState) error {
	if !f.vfStuck {
		f.vf = s
	}
	return nil
}

func (f *fakeHost) Run(context.Context, *domain.SlotSpec) (string, error) {
	f.probed++
	return "every byte of 80 GiB scrubbed", f.probeErr
}

var clean = func() (out []Remnant) {
	for _, k := range RemnantKinds {
		out = append(out, Remnant{Kind: k, Removed: 1})
	}
	return out
}()

// TestSlot wipes a slot whose devices fail in all ways that are not the drive's.
func TestSlot(t *testing.T) {
	t.Parallel()
	baseline := VFState{MAC: "02:00:00:00:00:01", PKeys: "7fff ffff"}
	for name, c := range map[string]struct {
		script    func(f *fakeHost, h *Host)
		component string // that is not verified; "" if all are
		reason    string
		scope     string
		method    string // of the GPU
	}{
		"all is well":              {func(*fakeHost, *Host) {}, "", "", "", "flr"},
		"bus reset":                {func(f *fakeHost, _ *Host) { f.methods = []Reset{ResetPower, ResetBus} }, "", "", "", "bus"},
		"older FLR":                {func(f *fakeHost, _ *Host) { f.methods = []Reset{ResetPower, "af_flr"} }, "", "", "", "af_flr"},
		"secrets of the board":     {func(f *fakeHost, _ *Host) { f.methods = []Reset{"acpi", "device_specific"} }, "gpu", PowerCycle, "host", "none"},
		"FLR fails":                {func(f *fakeHost, _ *Host) { f.failing = []Reset{ResetFunction} }, "", "", "", "bus"},
		"FLR fails, shared bus":    {func(f *fakeHost, _ *Host) { f.failing, f.shared = []Reset{ResetFunction}, true }, "gpu", PowerCycle, "host", "flr"},
		"only power management":    {func(f *fakeHost, _ *Host) { f.methods = []Reset{ResetPower} }, "gpu", PowerCycle, "host", "none"},
		"no reset works":           {func(f *fakeHost, _ *Host) { f.failing = []Reset{ResetFunction, ResetBus} }, "gpu", PowerCycle, "host", "bus"},
		"another function answers": {func(f *fakeHost, _ *Host) { f.becomes = "ffff:ffff" }, "gpu", PowerCycle, "host", "bus"},
		"nothing resets":           {func(_ *fakeHost, h *Host) { h.Functions = nil }, "gpu", NotDone, "device", "none"},
		"drive cannot be opened":   {func(f *fakeHost, _ *Host) { f.openErr = errors.New("not bound to nvme") }, "nvme", DeviceGone, "device", "flr"},
		"drive is held":            {func(f *fakeHost, _ *Host) { f.openErr = unix.EBUSY }, "nvme", InUse, "device", "flr"},
		"drive keeps all":          {func(f *fakeHost, _ *Host) { f.drive.KeepsData = func(uint32, int64, []byte) bool { return true } }, "nvme", CanarySurvived, "device", "flr"},
		"VF changed":               {func(f *fakeHost, _ *Host) { f.vf.MAC = "02:66:66:66:66:66" }, "", "", "", "flr"},
		"VF cannot be restored":    {func(f *fakeHost, _ *Host) { f.vf.VLAN, f.vfStuck = 7, true }, "ib_vf", VFNotReset, "device", "flr"},
		"VF with another GUID":     {func(f *fakeHost, _ *Host) { f.vf.NodeGUID, f.vf.PortGUID = "0", "1" }, "", "", "", "flr"},
		"VFs not looked at":        {func(_ *fakeHost, h *Host) { h.VFs = nil }, "ib_vf", NotDone, "device", "flr"},
		"remnant left": {func(f *fakeHost, _ *Host) {
			f.remnants = append(slices.Clone(clean), Remnant{Kind: "nvram", Left: []string{"vm-1"}})
		}, "host", HostRemnants, "host", "flr"},
		"remnant not looked for": {func(f *fakeHost, _ *Host) { f.remnants = clean[1:] }, "host", HostRemnants, "host", "flr"},
		"remnants unknown":       {func(f *fakeHost, _ *Host) { f.remnantErr = unix.EIO }, "host", HostRemnants, "host", "flr"},
		"no remnants":            {func(_ *fakeHost, h *Host) { h.Remnants = nil }, "", "", "", "flr"},
		"probe fails":            {func(f *fakeHost, _ *Host) { f.probeErr = errors.New("ECC errors") }, "gpu", ProbeFailed, "device", "flr"},
		"probe blames the board": {func(f *fakeHost, _ *Host) {
			f.probeErr = &Finding{Reason: "wipe.probe_nvlink", Scope: "baseboard", Err: errors.New("link 3 is down")}
		}, "gpu", "wipe.probe_nvlink", "baseboard", "flr"},
		"no probe": {func(_ *fakeHost, h *Host) { h.Probe = nil }, "", "", "", "flr"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDrive(t, domain.WipeAuto, nil)
				f := &fakeHost{drive: d, methods: []Reset{ResetFunction, ResetBus}, vf: baseline, remnants: clean}
				h := &Host{Drives: f, Functions: f, VFs: f, Remnants: f, Probe: f, Store: d.store}
				spec := &domain.SlotSpec{GPU: domain.Device{Address: "0000:17:00.0", Serial: "G1"}, NVMe: domain.Device{Address: "0000:18:00.0", Serial: serial}, IBVF: domain.Device{Address: "0000:19:00.1", Serial: "V1"}}
				if _, err := d.store.save(kindFunction, "V1", &functionBaseline{"V1", baseline}); err != nil {
					t.Fatal(err)
				}
				if name == "another function answers" {
					spec.IBVF = domain.Device{}
				}
				c.script(f, h)
				out, err := Slot(t.Context(), h, spec, &d.wipe)
				if err != nil {
					t.Fatal(err)
				}
				seen := map[string]bool{}
				for _, ev := range out {
					seen[ev.Component] = true
					if ev.Component == "gpu" && ev.Method != c.method {
						t.Errorf("GPU reset by %s, want %s", ev.Method, c.method)
					}
					if ev.StartedAt == 0 || ev.EndedAt < ev.StartedAt || ev.Serial == "" {
						t.Errorf("%+v", ev)
					}
					blamed := ev.Component == c.component || c.reason == PowerCycle && ev.Component == "ib_vf" || c.reason == NotDone && ev.Component == "ib_vf"
					if !blamed {
						if ev.Result != domain.WipeVerified || ev.Reason != "" {
							t.Errorf("%+v", ev)
						}
						continue
					}
					if ev.Result != domain.WipeFailed || ev.Reason != c.reason || ev.Scope != c.scope || ev.Detail == "" {
						t.Errorf("%+v, want %s", ev, c.reason)
					}
				}
				if !seen["gpu"] || !seen["nvme"] || c.component != "" && !seen[c.component] {
					t.Errorf("evidence of %v", seen)
				}
				if c.component != "" && c.component != "gpu" && f.probed > 0 {
					t.Error("a VM was started on a slot in doubt")
				}
				if says := strings.Contains(out[0].Detail, "memory not probed"); says != (h.Probe == nil) {
					t.Errorf("GPU: %q", out[0].Detail)
				}
				if c.component == "" && f.vf != baseline && h.VFs != nil {
					t.Errorf("VF left with %+v", f.vf)
				}
			})
		})
	}
}

// The GUID that an operator approved is what an InfiniBand function gets back,
// whatever it had when the host first saw it, and whatever was approved before.
func TestApprovedGUID(t *testing.T) {
	t.Parallel()
	store, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeHost{methods: []Reset{ResetFunction}, vf: VFState{NodeGUID: "tenant's", PortGUID: "p", Link: "auto"}}
	h := &Host{Functions: f, VFs: f, Store: store}
	spec := &domain.SlotSpec{IBVF: domain.Device{Address: "0000:19:00.1", Serial: "V1"}}
	for _, c := range []struct{ approved, has, want string }{
		{"a", "tenant's", "a"}, {"a", "other", "a"}, {"", "", "a"}, {"b", "a", "b"}, {"b", "b", "b"},
	} {
		spec.IBVF.GUID, f.vf.NodeGUID = c.approved, c.has
		ev, err := h.function(t.Context(), spec, &domain.PlacedWipe{})
		if err != nil || ev.Result != domain.WipeVerified || ev.Baseline.IsZero() || f.vf.NodeGUID != c.want {
			t.Errorf("%+v: it has %q, %+v, %v", c, f.vf.NodeGUID, ev, err)
		}
	}
	f.vf.PortGUID, f.vfStuck = "other", true
	if ev, err := h.function(t.Context(), spec, &domain.PlacedWipe{}); err != nil || ev.Reason != VFNotReset {
		t.Errorf("a port GUID that stays: %+v, %v", ev, err)
	}
}

// A slot whose wipe is called off has no evidence.
func TestSlotCalledOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDrive(t, domain.WipeAuto, nil)
		ctx, cancel := context.WithCancel(t.Context())
		d.Hook = func(op *nvmefake.Op, do func() error) error {
			if op.Erases() {
				cancel()
			}
			return do()
		}
		f := &fakeHost{drive: d, methods: []Reset{ResetFunction}}
		spec := &domain.SlotSpec{GPU: domain.Device{Address: "a", Serial: "G1"}, NVMe: domain.Device{Address: "b", Serial: serial}}
		if out, err := Slot(ctx, &Host{Drives: f, Functions: f, Store: d.store}, spec, &d.wipe); err == nil || out != nil {
			t.Fatalf("%+v, %v", out, err)
		}
	})
}
