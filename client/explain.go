package client

import "context"

// HostReason says why a host was chosen, or not.
type HostReason struct {
	HostID string `json:"host_id"`
	VMs    int    `json:"vms,omitempty"` // of those asked for, how many would go there
	Reason string `json:"reason"`
}

// ExplainAllocation says host by host why an allocation is where it is. It is for
// the site's people.
func (c *Client) ExplainAllocation(ctx context.Context, id string) ([]HostReason, error) {
	return items[HostReason](ctx, c, path("/v1/allocations/%s/explain", id), nil)
}

// ExplainPlacement says where a VM of a SKU (by name or id) would go now, and why
// not elsewhere. It is for the site's people.
func (c *Client) ExplainPlacement(ctx context.Context, sku string) ([]HostReason, error) {
	return items[HostReason](ctx, c, "/v1/explain/placement", queryOf("sku", sku))
}
