package client

import "context"

// Epoch is the site's epoch, and what is left to reconcile in it.
type Epoch struct {
	Epoch        uint64      `json:"epoch"`
	AwaitedHosts []string    `json:"awaited_host_ids"` // they have not said yet what they hold
	AheadHosts   []string    `json:"ahead_host_ids"`   // they have seen more than the log
	UnknownVMs   []UnknownVM `json:"unknown_vms"`
}

// UnknownVM is a VM that a host has and the log does not know: it is kept, billed to
// nobody, and its slots are in quarantine.
type UnknownVM struct {
	VMID         string   `json:"vm_id"`
	HostID       string   `json:"host_id"`
	TenantID     string   `json:"tenant_id,omitempty"`
	AllocationID string   `json:"allocation_id,omitempty"`
	Slots        []uint32 `json:"slots"`
	Running      bool     `json:"running"`
}

// Epoch reads it.
func (c *Client) Epoch(ctx context.Context) (*Epoch, error) {
	return get[Epoch](ctx, c, "/v1/epoch", nil)
}

// DestroyUnknownVM has a host remove a VM that the log does not know, and its slots
// wiped. The reason is a slug.
func (c *Client) DestroyUnknownVM(ctx context.Context, host, vm, reason string) (*Changed, error) {
	return post[Changed](ctx, c, path("/v1/hosts/%s/unknown-vms/%s/destroy", host, vm), map[string]string{"reason": reason})
}
