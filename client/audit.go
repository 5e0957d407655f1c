package client

import (
	"context"
	"encoding/json"
	"iter"
	"time"
)

// AuditEntry is one accepted command.
type AuditEntry struct {
	Sequence  uint64    `json:"sequence"`
	At        time.Time `json:"at"`
	CommandID string    `json:"command_id"`
	Type      string    `json:"type"`
	Actor     string    `json:"actor"` // system, api_key, host
	KeyID     string    `json:"key_id,omitempty"`
	UserID    string    `json:"user_id,omitempty"`
	HostID    string    `json:"host_id,omitempty"`
	TenantID  string    `json:"tenant_id,omitempty"`
	Resource  string    `json:"resource,omitempty"`
	Events    int       `json:"events"`
	Reason    string    `json:"reason,omitempty"` // an operator's, for a key in the tenant
}

// Audit lists accepted commands: of one tenant, or (for the site's people) of all.
func (c *Client) Audit(ctx context.Context, tenant string, options ...ListOption) iter.Seq2[AuditEntry, error] {
	return list[AuditEntry](ctx, c, "/v1/audit", queryOf("tenant_id", tenant), options)
}

// Denial is one request, or report, that was not accepted.
type Denial struct {
	At   time.Time       `json:"at"`
	Kind string          `json:"kind"`
	Data json.RawMessage `json:"data"` // who, what, and the problem's code
}

// Denials lists what was refused; it is for the site's people.
func (c *Client) Denials(ctx context.Context) iter.Seq2[Denial, error] {
	return list[Denial](ctx, c, "/v1/audit/denials", nil, nil)
}
