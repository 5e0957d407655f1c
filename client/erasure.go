package client

import (
	"context"
	"encoding/json"
	"time"
)

// Lease is a tenant's time on one slot, and the proof that nothing was left there.
type Lease struct {
	SlotID     string          `json:"slot_id"`
	Generation uint64          `json:"generation"`
	HostID     string          `json:"host_id"`
	VMID       string          `json:"vm_id"`
	StartedAt  time.Time       `json:"started_at"`
	EndedAt    time.Time       `json:"ended_at,omitzero"`
	WipeResult string          `json:"wipe_result,omitempty"` // verified, quarantined; empty: not yet
	WipedAt    time.Time       `json:"wiped_at,omitzero"`
	Evidence   json.RawMessage `json:"evidence,omitempty"`
}

// Erasure is the proof for an allocation: all its leases with their wipes.
func (c *Client) Erasure(ctx context.Context, allocation string) ([]Lease, error) {
	page, err := get[Page[Lease]](ctx, c, path("/v1/allocations/%s/erasure", allocation), nil)
	if err != nil {
		return nil, err
	}
	return page.Items, nil
}

// HostReason says why a host was chosen, or not.
type HostReason struct {
	HostID string `json:"host_id"`
	Reason string `json:"reason"`
}

// Explain says for every host why the allocation is, or is not, there.
func (c *Client) Explain(ctx context.Context, allocation string) ([]HostReason, error) {
	page, err := get[Page[HostReason]](ctx, c, path("/v1/allocations/%s/explain", allocation), nil)
	if err != nil {
		return nil, err
	}
	return page.Items, nil
}
