package wipe

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/pci"
)

// Reset is a way to reset a PCI function, named as the kernel's reset_method file
// names it (Documentation/ABI/testing/sysfs-bus-pci).
type Reset string

// The resets that are known here; pci.ClearingResets are those that a wipe takes.
const (
	ResetFunction Reset = "flr"
	ResetBus      Reset = "bus"
	ResetPower    Reset = "pm"
)

// Resetter resets PCI functions of the host.
type Resetter interface {
	// Methods are the resets that the function has now.
	Methods(ctx context.Context, address string) ([]Reset, error)

	// Private reports whether the bridge above the function leads to nothing but
	// this device, so that a bus reset reaches nobody else.
	Private(ctx context.Context, address string) (bool, error)

	// Fingerprint is what tells the function from another without its driver: ids,
	// subsystem ids, the PCIe device serial number where there is one. It reads the
	// device, so it fails for one that fell off the bus.
	Fingerprint(ctx context.Context, address string) (string, error)

	// Reset resets the function and returns when it answers again.
	Reset(ctx context.Context, address string, r Reset) error
}

// resetTimeout bounds one reset: a GPU needs seconds to come back.
const resetTimeout = 2 * time.Minute

// gpu resets the slot's GPU: by function level reset, else by a reset of a bus that
// is its own. After that only a power cycle of the host is known to clear it, which is
// an operator's to do and to say: see powercycle.go.
func (h *Host) gpu(ctx context.Context, spec *domain.SlotSpec, w *domain.PlacedWipe) (domain.DeviceWipe, error) {
	began := time.Now()
	ev := domain.DeviceWipe{Component: "gpu", Serial: spec.GPU.Serial, Method: "none"}
	return h.concludeReset(ctx, &ev, began, h.ladder(ctx, &ev, spec.GPU.Address, w))
}

func (h *Host) concludeReset(ctx context.Context, ev *domain.DeviceWipe, began time.Time, err error) (domain.DeviceWipe, error) {
	switch {
	case err != nil:
	case ev.Method == methodPowerCycle:
		ev.Detail = "no reset works; by an operator's word the host was without power, and the function answers"
	default:
		ev.Detail = "reset, and the same function answers"
	}
	return conclude(ctx, *ev, began, err)
}

// methodPowerCycle is in evidence where another names a reset.
const methodPowerCycle = "power-cycle"

// ladder goes down the resets to the first that works.
func (h *Host) ladder(ctx context.Context, ev *domain.DeviceWipe, address string, w *domain.PlacedWipe) error {
	if h.Functions == nil {
		return refuse(NotDone, "nothing on this host resets functions")
	}
	before, err := h.Functions.Fingerprint(ctx, address)
	if err != nil {
		return gone(err)
	}
	have, err := h.Functions.Methods(ctx, address)
	if err != nil {
		return finding(err, ResetFailed)
	}
	for _, name := range pci.ClearingResets {
		r := Reset(name)
		if !slices.Contains(have, r) {
			ev.Log = append(ev.Log, fmt.Sprintf("reset %s: the function has none", r))
			continue
		}
		if r == ResetBus {
			private, err := h.Functions.Private(ctx, address)
			if err != nil {
				return finding(err, ResetFailed)
			}
			if !private {
				ev.Log = append(ev.Log, "reset bus: the bus has other devices")
				continue
			}
		}
		ev.Method = string(r)
		err := h.reset(ctx, address, r, before)
		if err == nil {
			ev.Log = append(ev.Log, fmt.Sprintf("reset %s: done, %s", r, before))
			return nil
		}
		if ctx.Err() != nil {
			return err
		}
		ev.Log = append(ev.Log, clip(fmt.Sprintf("reset %s: %v", r, err), logLineMax))
	}
	return h.powerCycle(ctx, ev, address, w, have)
}

// powerCycle is the last rung: it counts if an operator did it, else it is asked for.
func (h *Host) powerCycle(ctx context.Context, ev *domain.DeviceWipe, address string, w *domain.PlacedWipe, have []Reset) error {
	word, err := h.Store.cycled(ev.Serial, h.Boot, w)
	if err != nil {
		return err
	}
	if word != "" {
		if _, err := h.Functions.Fingerprint(ctx, address); err != nil {
			return gone(err) // the resets that failed took it off the bus
		}
		ev.Method = methodPowerCycle
		ev.Log = append(ev.Log, clip(word, logLineMax))
		return nil
	}
	if err := h.Store.needCycle(ev.Serial, h.Boot, w); err != nil {
		return refuse(RecordDamaged, "that a power cycle is needed: %v", err)
	}
	return &failure{code: PowerCycle, scope: "host", detail: fmt.Sprintf("no reset of %s worked (it has %v): take the host's power away, say so with hostd devices power-cycled, then wipe the slot again", address, have)}
}

// reset does one reset and wants the same function to answer after it.
func (h *Host) reset(ctx context.Context, address string, r Reset, before string) error {
	ctx, cancel := context.WithTimeout(ctx, resetTimeout)
	defer cancel()
	if err := h.Functions.Reset(ctx, address, r); err != nil {
		return err
	}
	now, err := h.Functions.Fingerprint(ctx, address)
	if err != nil {
		return fmt.Errorf("the function does not answer after it: %w", err)
	}
	if now != before {
		return fmt.Errorf("%s answers after it, before it was %s", now, before)
	}
	return nil
}
