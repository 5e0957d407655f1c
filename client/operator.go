package client

import (
	"context"
	"iter"
	"time"
)

// Operator is one of the people who run the site.
type Operator struct {
	ID     string    `json:"id"` // usr_...
	CRN    string    `json:"crn"`
	Name   string    `json:"name"` // the id
	UserID string    `json:"user_id"`
	Roles  []string  `json:"roles"` // operator, finance, auditor
	State  string    `json:"state"`
	SetAt  time.Time `json:"set_at,omitzero"`
}

// WhoAmI is what a key stands for.
type WhoAmI struct {
	UserID       string    `json:"user_id"`
	KeyID        string    `json:"key_id"`
	TenantID     string    `json:"tenant_id,omitempty"`
	TenantRole   string    `json:"tenant_role,omitempty"`
	Roles        []string  `json:"roles"` // platform roles
	KeyExpiresAt time.Time `json:"key_expires_at,omitzero"`
	Site         string    `json:"site"`
}

// WhoAmI says what this client's key stands for.
func (c *Client) WhoAmI(ctx context.Context) (*WhoAmI, error) {
	return get[WhoAmI](ctx, c, "/v1/whoami", nil)
}

// Operators lists the people who run the site.
func (c *Client) Operators(ctx context.Context, options ...ListOption) iter.Seq2[Operator, error] {
	return list[Operator](ctx, c, "/v1/operators", nil, options)
}

// CreateOperator makes a new user with platform roles.
func (c *Client) CreateOperator(ctx context.Context, roles ...string) (*Operator, error) {
	return post[Operator](ctx, c, "/v1/operators", map[string][]string{"roles": append([]string{}, roles...)})
}

// SetOperator sets a user's platform roles; none takes all of them away.
func (c *Client) SetOperator(ctx context.Context, user string, roles ...string) (*Operator, error) {
	return put[Operator](ctx, c, path("/v1/operators/%s", user), map[string][]string{"roles": append([]string{}, roles...)})
}
