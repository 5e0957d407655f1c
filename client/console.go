package client

import (
	"context"
	"strconv"
)

// Console is a part of what a VM wrote to its serial console.
type Console struct {
	VMID   string `json:"vm_id"`
	Offset int64  `json:"offset"` // of the next byte
	Data   []byte `json:"data"`
}

// ConsoleQuery says which part.
type ConsoleQuery struct {
	VM     int    // which VM of the allocation, from 0 on
	Offset *int64 // nil: the last 64 KiB; negative: so many bytes before the end
	Limit  int    // bytes; 0: 64 KiB
}

// Console reads a VM's console. It is the tenant's alone.
func (c *Client) Console(ctx context.Context, allocation string, q ConsoleQuery) (*Console, error) {
	query := queryOf("vm", strconv.Itoa(q.VM))
	if q.Offset != nil {
		query.Set("offset", strconv.FormatInt(*q.Offset, 10))
	}
	if q.Limit > 0 {
		query.Set("limit", strconv.Itoa(q.Limit))
	}
	return get[Console](ctx, c, path("/v1/allocations/%s/console", allocation), query)
}
