package client

import (
	"context"
	"iter"
	"time"
)

// APIKey is an API key. Secret is in the answer that creates it and nowhere else.
type APIKey struct {
	ID        string    `json:"id"` // key_...
	CRN       string    `json:"crn"`
	Name      string    `json:"name"`
	State     string    `json:"state"` // active, expired, revoked
	TenantID  string    `json:"tenant_id,omitempty"`
	UserID    string    `json:"user_id"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	RevokedAt time.Time `json:"revoked_at,omitzero"`
	Secret    string    `json:"secret,omitempty"`
}

// NewAPIKey is a key to be. Without UserID it gets a service user of its own, with
// the role Role.
type NewAPIKey struct {
	Name      string    `json:"name"`
	UserID    string    `json:"user_id,omitempty"`
	Role      string    `json:"role,omitempty"` // owner, admin, billing, viewer
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	Reason    string    `json:"reason,omitempty"` // why an operator needs another key in a tenant: a ticket's number
}

// APIKeys lists a tenant's keys, without their secrets.
func (c *Client) APIKeys(ctx context.Context, tenant string, options ...ListOption) iter.Seq2[APIKey, error] {
	return list[APIKey](ctx, c, path("/v1/tenants/%s/api-keys", tenant), nil, options)
}

// OperatorAPIKeys lists the keys of the site's people.
func (c *Client) OperatorAPIKeys(ctx context.Context, options ...ListOption) iter.Seq2[APIKey, error] {
	return list[APIKey](ctx, c, "/v1/operators/api-keys", nil, options)
}

// CreateAPIKey makes a key.
func (c *Client) CreateAPIKey(ctx context.Context, tenant string, k NewAPIKey) (*APIKey, error) {
	return post[APIKey](ctx, c, path("/v1/tenants/%s/api-keys", tenant), k)
}

// CreateOperatorAPIKey makes a key of an operator; only Name and ExpiresAt count.
func (c *Client) CreateOperatorAPIKey(ctx context.Context, user string, k NewAPIKey) (*APIKey, error) {
	k.UserID, k.Role, k.Reason = "", "", ""
	return post[APIKey](ctx, c, path("/v1/operators/%s/api-keys", user), k)
}

// RevokeAPIKey ends a key at once.
func (c *Client) RevokeAPIKey(ctx context.Context, key string) (*Changed, error) {
	return del[Changed](ctx, c, path("/v1/api-keys/%s", key))
}
