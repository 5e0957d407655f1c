package wipe

import (
	"context"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

// VFState is what of a virtual function outlives its reset, because its physical
// function keeps it. Fields that the fabric does not have are empty.
type VFState struct {
	MAC      string `json:"mac,omitempty"`
	VLAN     uint16 `json:"vlan,omitempty"`
	NodeGUID string `json:"node_guid,omitempty"`
	PortGUID string `json:"port_guid,omitempty"`
	PKeys    string `json:"pkeys,omitempty"` // in rising order, separated by spaces
	Trust    bool   `json:"trust,omitempty"`
	Spoofchk bool   `json:"spoofchk,omitempty"`
	Link     string `json:"link,omitempty"`
	RateMbps uint32 `json:"rate_mbps,omitempty"`
}

// VFs reads and writes the state of virtual functions through their physical ones.
type VFs interface {
	State(ctx context.Context, address string) (VFState, error)
	Restore(ctx context.Context, address string, s VFState) error
}

// functionBaseline is a virtual function's baseline, by its serial.
type functionBaseline struct {
	Serial string  `json:"serial"`
	State  VFState `json:"state"`
}

// function resets the slot's virtual function and gives it its baseline's state,
// which the first wipe takes; the GUID that the map says of it was approved, and wins.
func (h *Host) function(ctx context.Context, spec *domain.SlotSpec, w *domain.PlacedWipe) (domain.DeviceWipe, error) {
	began := time.Now()
	ev := domain.DeviceWipe{Component: "ib_vf", Serial: spec.IBVF.Serial, Method: "none"}
	err := h.ladder(ctx, &ev, spec.IBVF.Address, w)
	switch {
	case err != nil:
	case h.VFs == nil:
		err = refuse(NotDone, "nothing on this host looks at what the physical function keeps of it")
	default:
		err = h.restoreFunction(ctx, &ev, spec.IBVF, w)
	}
	return h.concludeReset(ctx, &ev, began, err)
}

func (h *Host) restoreFunction(ctx context.Context, ev *domain.DeviceWipe, d domain.Device, w *domain.PlacedWipe) error {
	now, err := h.VFs.State(ctx, d.Address)
	if err != nil {
		return finding(err, VFNotReset)
	}
	if err := h.takeAcceptedFunction(ev, d.Serial, now, w); err != nil {
		return err
	}
	base := new(functionBaseline)
	digest, found, err := h.Store.load(kindFunction, d.Serial, base)
	if err != nil || found && base.Serial != d.Serial {
		return refuse(BaselineDamaged, "virtual function %q: %v", d.Serial, err)
	}
	if !found {
		fresh, err := h.Store.fresh(w, "ib_vf", d.Serial)
		if err != nil {
			return err
		}
		if !fresh {
			err := refuse(BaselineMissing, "this host knows no baseline of the virtual function, and a tenant has had it: look at it, then have it accepted")
			if serr := h.Store.refused(&Refused{Serial: d.Serial, Component: "ib_vf", Function: &now}, err); serr != nil {
				ev.Log = append(ev.Log, clip("what it is now is not kept for an operator: "+serr.Error(), logLineMax))
			}
			return err
		}
		if err := h.Store.take(d.Serial, w); err != nil {
			return err
		}
		base = &functionBaseline{Serial: d.Serial, State: now}
	}
	if ev.Fresh, err = h.Store.taken(d.Serial, w); err != nil {
		return err
	}
	if approved := d.GUID; !found || approved != "" && base.State.NodeGUID != approved {
		if approved != "" {
			base.State.NodeGUID = approved
		}
		if digest, err = h.Store.save(kindFunction, d.Serial, base); err != nil {
			return err
		}
	}
	ev.Baseline = digest
	if err := h.Store.hold(w, "ib_vf", d.Serial); err != nil {
		return err
	}
	if now == base.State {
		ev.Log = append(ev.Log, "state kept by the physical function: as it was")
		return h.Store.settled(d.Serial, w)
	}
	if err := h.VFs.Restore(ctx, d.Address, base.State); err != nil {
		return finding(err, VFNotReset)
	}
	if now, err = h.VFs.State(ctx, d.Address); err != nil {
		return finding(err, VFNotReset)
	}
	if now != base.State {
		return refuse(VFNotReset, "the virtual function has %+v, baseline %+v", now, base.State)
	}
	ev.Log = append(ev.Log, "state kept by the physical function: restored")
	return h.Store.settled(d.Serial, w)
}

// takeAcceptedFunction makes what an operator accepted the virtual function's baseline:
// it is given that back, so it need not be it still.
func (h *Host) takeAcceptedFunction(ev *domain.DeviceWipe, serial string, now VFState, w *domain.PlacedWipe) error {
	a, err := h.Store.accepted(serial, w)
	if err != nil || a == nil || a.Function == nil {
		return err
	}
	if _, err := h.Store.save(kindFunction, serial, &functionBaseline{Serial: serial, State: *a.Function}); err != nil {
		return err
	}
	for _, line := range a.lines(now.brief()) {
		ev.Log = append(ev.Log, clip(line, logLineMax))
	}
	return nil
}
