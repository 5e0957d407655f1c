package client

import (
	"context"
	"iter"
	"time"
)

// Tenant owns everything; users come and go.
type Tenant struct {
	ID               string    `json:"id"` // ten_...
	CRN              string    `json:"crn"`
	Name             string    `json:"name"`
	State            string    `json:"state"` // active, past_due, suspended
	Currency         string    `json:"currency"`
	CreditLineMicros int64     `json:"credit_line_micros"`
	BillingTimeZone  string    `json:"billing_time_zone"` // its months are the billing periods
	GraceUntil       time.Time `json:"grace_until,omitzero"`
	CreditEndsAt     time.Time `json:"credit_ends_at,omitzero"` // at the present rate
	CreatedAt        time.Time `json:"created_at"`
}

// NewTenant is a tenant to be.
type NewTenant struct {
	Name             string `json:"name"`
	Currency         string `json:"currency"` // ISO 4217; never changes
	CreditLineMicros int64  `json:"credit_line_micros,omitempty"`
	BillingTimeZone  string `json:"billing_time_zone,omitempty"` // America/New_York; UTC if empty; never changes
}

// Member is a user of a tenant, or of a project.
type Member struct {
	ID        string    `json:"id"` // the user's
	CRN       string    `json:"crn"`
	Name      string    `json:"name"` // the id: people's names are not kept
	UserID    string    `json:"user_id"`
	TenantID  string    `json:"tenant_id"`
	ProjectID string    `json:"project_id,omitempty"`
	Role      string    `json:"role"`
	State     string    `json:"state"`
	AddedAt   time.Time `json:"added_at,omitzero"`
}

// NewMember gives a user a role.
type NewMember struct {
	UserID string `json:"user_id,omitempty"` // of a tenant, left out: a new user
	Role   string `json:"role"`
	Email  string `json:"email,omitempty"` // only for a tenant; kept as a keyed commitment
}

// Changed is where what was changed is now, or on its way to.
type Changed struct {
	ID    string `json:"id"`
	State string `json:"state"`
}

// Tenants lists the tenants the caller may see.
func (c *Client) Tenants(ctx context.Context, options ...ListOption) iter.Seq2[Tenant, error] {
	return list[Tenant](ctx, c, "/v1/tenants", nil, options)
}

// Tenant reads one.
func (c *Client) Tenant(ctx context.Context, id string) (*Tenant, error) {
	return get[Tenant](ctx, c, path("/v1/tenants/%s", id), nil)
}

// CreateTenant needs the platform role operator.
func (c *Client) CreateTenant(ctx context.Context, t NewTenant) (*Tenant, error) {
	return post[Tenant](ctx, c, "/v1/tenants", t)
}

// Members lists a tenant's users.
func (c *Client) Members(ctx context.Context, tenant string, options ...ListOption) iter.Seq2[Member, error] {
	return list[Member](ctx, c, path("/v1/tenants/%s/members", tenant), nil, options)
}

// SetMember adds a user to a tenant, or changes its role: owner, admin, billing,
// viewer.
func (c *Client) SetMember(ctx context.Context, tenant string, m NewMember) (*Member, error) {
	return post[Member](ctx, c, path("/v1/tenants/%s/members", tenant), m)
}

// RemoveMember takes a user out of a tenant and all its projects.
func (c *Client) RemoveMember(ctx context.Context, tenant, user string) (*Member, error) {
	return del[Member](ctx, c, path("/v1/tenants/%s/members/%s", tenant, user))
}
