package wipe

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/nvme"
)

// Host is what a machine gives the wipe of its slots. Drives, Functions, Store, and
// for slots with a virtual function VFs, are needed; what a nil Remnants or Probe would
// have shown is not claimed.
type Host struct {
	Drives    Drives
	Functions Resetter
	VFs       VFs
	Remnants  Remnants
	Probe     Probe
	Store     *Store
	Boot      string // id of this boot of the host; "": not known, and no power cycle counts
}

// Drives opens the controller of a PCI function, which is bound to the kernel's
// nvme driver by then.
type Drives interface {
	Open(ctx context.Context, address string) (nvme.Controller, error)
}

// System opens this host's controllers.
type System struct{ nvme.Finder }

// Open implements [Drives].
func (s System) Open(ctx context.Context, address string) (nvme.Controller, error) {
	return s.Finder.Open(ctx, address)
}

// Probe is a trusted VM on the slot's devices after their resets: it looks at what
// only a driver can reach, and scrubs it.
type Probe interface {
	// Run returns what was found in a few words. An error is a failed erasure of
	// the GPU; a *Finding names its reason.
	Run(ctx context.Context, slot *domain.SlotSpec) (found string, err error)
}

// Slot erases every device of a slot, side by side, and what the host kept of its
// tenant. The caller sees to it that nothing holds the devices any more. An error
// means that ctx ended: nothing is known. Otherwise there is evidence for every
// device, good or bad.
func Slot(ctx context.Context, h *Host, spec *domain.SlotSpec, w *domain.PlacedWipe) ([]domain.DeviceWipe, error) {
	jobs := []func(context.Context) (domain.DeviceWipe, error){
		func(ctx context.Context) (domain.DeviceWipe, error) { return h.gpu(ctx, spec, w) },
		func(ctx context.Context) (domain.DeviceWipe, error) { return h.drive(ctx, spec, w) },
	}
	if spec.IBVF.Serial != "" {
		jobs = append(jobs, func(ctx context.Context) (domain.DeviceWipe, error) { return h.function(ctx, spec, w) })
	}
	if h.Remnants != nil {
		jobs = append(jobs, func(ctx context.Context) (domain.DeviceWipe, error) { return h.remnants(ctx, w) })
	}
	out, errs := make([]domain.DeviceWipe, len(jobs)), make([]error, len(jobs))
	var wg sync.WaitGroup
	for i, job := range jobs {
		wg.Go(func() { out[i], errs[i] = job(ctx) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if err := h.probe(ctx, spec, out); err != nil {
		return nil, err
	}
	return out, nil
}

func (h *Host) drive(ctx context.Context, spec *domain.SlotSpec, w *domain.PlacedWipe) (domain.DeviceWipe, error) {
	ctl, err := h.Drives.Open(ctx, spec.NVMe.Address)
	if err != nil {
		return conclude(ctx, domain.DeviceWipe{Component: "nvme", Serial: spec.NVMe.Serial, Method: "none"}, time.Now(), gone(err))
	}
	ev, err := Drive(ctx, ctl, h.Store, spec.NVMe.Serial, w)
	if cerr := ctl.Close(); err == nil && cerr != nil && ev.Result == domain.WipeVerified {
		blame(&ev, cerr)
	}
	return ev, err
}

// gone is what it means that a device cannot be opened, where the error itself does
// not say more.
func gone(err error) error {
	if f := explain(err); f.code != IOError {
		return f
	}
	return &failure{code: DeviceGone, detail: err.Error(), cause: err}
}

// probe has the trusted VM look at the slot when everything else is verified; its
// word is part of the GPU's evidence, and so is that nobody looked.
func (h *Host) probe(ctx context.Context, spec *domain.SlotSpec, out []domain.DeviceWipe) error {
	gpu := &out[0]
	for i := range out {
		if out[i].Result != domain.WipeVerified {
			return nil // no VM starts on a slot in doubt
		}
	}
	if h.Probe == nil {
		gpu.Detail += "; memory not probed"
		return nil
	}
	found, err := h.Probe.Run(ctx, spec)
	gpu.EndedAt = domain.TimeOf(time.Now())
	switch {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("wipe: probe: %w", err)
	case err != nil:
		blame(gpu, finding(err, ProbeFailed))
	default:
		gpu.Log = append(gpu.Log, clip("probe: "+found, logLineMax))
		gpu.Detail += "; probed by a trusted VM"
	}
	return nil
}

// Finding is an error of a machine's part that names its own reason and what has to
// be repaired.
type Finding struct {
	Reason string // a stable code
	Scope  string // "device", "baseboard" or "host"
	Err    error
}

func (f *Finding) Error() string { return f.Reason + ": " + f.Err.Error() }

// Unwrap gives the cause.
func (f *Finding) Unwrap() error { return f.Err }

// finding is the failure that err means, with code where it names none.
func finding(err error, code string) error {
	var f *Finding
	if errors.As(err, &f) {
		return &failure{code: f.Reason, scope: f.Scope, detail: f.Err.Error(), cause: err}
	}
	var known *failure
	if errors.As(err, &known) {
		return err
	}
	return &failure{code: code, detail: err.Error(), cause: err}
}

// conclude ends the evidence of a device that is verified if err is nil.
func conclude(ctx context.Context, ev domain.DeviceWipe, began time.Time, err error) (domain.DeviceWipe, error) {
	ev.StartedAt, ev.EndedAt, ev.Result = domain.TimeOf(began), domain.TimeOf(time.Now()), domain.WipeVerified
	if err != nil && ctx.Err() != nil {
		return ev, fmt.Errorf("wipe: %s %s: %w", ev.Component, ev.Serial, errors.Join(ctx.Err(), err))
	}
	if err != nil {
		blame(&ev, err)
	}
	return ev, nil
}
