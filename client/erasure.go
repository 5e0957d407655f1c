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
	StartedAt  time.Time       `json:"started_at,omitzero"`
	EndedAt    time.Time       `json:"ended_at,omitzero"`
	WipeResult string          `json:"wipe_result,omitempty"` // verified, quarantined; empty: not yet
	WipedAt    time.Time       `json:"wiped_at,omitzero"`
	Evidence   json.RawMessage `json:"evidence,omitempty"`
}

// Erasure is the proof for an allocation: all its leases with their wipes.
type Erasure struct {
	AllocationID string  `json:"allocation_id"`
	Erased       bool    `json:"erased"` // every lease has ended and every device was verified as wiped
	Items        []Lease `json:"items"`
}

// Erasure reads the proof that nothing of an allocation is left.
func (c *Client) Erasure(ctx context.Context, allocation string) (*Erasure, error) {
	return get[Erasure](ctx, c, path("/v1/allocations/%s/erasure", allocation), nil)
}
