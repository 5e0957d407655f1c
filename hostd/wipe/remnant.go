package wipe

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

// RemnantKinds is what a host keeps of a tenant beside the devices.
var RemnantKinds = []string{"seed", "user-data", "nvram", "vtpm", "console-log-key", "image-cache", "dumps"}

// Remnant is what a machine found of one kind.
type Remnant struct {
	Kind    string   // one of RemnantKinds
	Removed int      // how many were there
	Left    []string // names of those that could not be removed; they do not name the tenant's content
}

// Remnants removes what the host itself kept of the tenant of a lease.
type Remnants interface {
	// Clear removes all kinds, looks again, and says what it found: one entry for
	// every kind, also where there was nothing.
	Clear(ctx context.Context, lease domain.Lease) ([]Remnant, error)
}

// remnants is evidence of the component "host". A kind that nobody looked for is as
// bad as one that is left.
func (h *Host) remnants(ctx context.Context, w *domain.PlacedWipe) (domain.DeviceWipe, error) {
	began := time.Now()
	ev := domain.DeviceWipe{Component: "host", Serial: fmt.Sprintf("slot %d", w.Lease.Index), Method: "remove"}
	found, err := h.Remnants.Clear(ctx, w.Lease)
	if err != nil {
		err = finding(err, HostRemnants)
	} else {
		err = judge(&ev, found)
	}
	var f *failure
	if errors.As(err, &f) && f.scope == "" {
		f.scope = "host"
	}
	return conclude(ctx, ev, began, err)
}

func judge(ev *domain.DeviceWipe, found []Remnant) error {
	seen := map[string]bool{}
	var left []string
	for _, r := range found {
		seen[r.Kind] = true
		ev.Log = append(ev.Log, clip(fmt.Sprintf("%s: %d removed, %d left", r.Kind, r.Removed, len(r.Left)), logLineMax))
		for _, name := range r.Left {
			left = append(left, r.Kind+" "+name)
		}
	}
	if len(left) > 0 {
		return refuse(HostRemnants, "left on the host: %s", strings.Join(left, ", "))
	}
	for _, kind := range RemnantKinds {
		if !seen[kind] {
			return refuse(HostRemnants, "nobody looked for %s", kind)
		}
	}
	ev.Detail = "removed, and looked for again"
	return nil
}
