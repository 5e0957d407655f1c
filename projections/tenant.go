package projections

import (
	"context"

	"github.com/gpuaas/gpuaas/domain"
)

func (b *batch) tenantCreated(x *at, e *domain.TenantCreated) {
	zone := e.Zone
	if zone == "" {
		zone = domain.UTCZone
	}
	b.exec(1, `INSERT INTO organizations (id, number, name, state, currency, credit_line_micros, billing_time_zone, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		e.ID.String(), int64(x.Number), e.Name, domain.TenantActive.String(), string(e.Currency), int64(e.CreditLine), zone, timestamp(x.At))
}

func (b *batch) tenantStateChanged(e *domain.TenantStateChanged) {
	b.exec(1, `UPDATE organizations SET state = $2, grace_until = $3 WHERE id = $1`, e.Tenant.String(), e.State.String(), timestamp(e.GraceUntil))
}

func (b *batch) runwayPlanned(e *domain.RunwayPlanned) {
	b.exec(1, `UPDATE organizations SET credit_ends_at = $2 WHERE id = $1`, e.Tenant.String(), timestamp(e.At))
}

// tenantMemberSet: a user belongs to one tenant; leaving it ends its roles in all
// projects.
func (b *batch) tenantMemberSet(x *at, e *domain.TenantMemberSet) {
	user := e.User.String()
	if e.Role == domain.TenantNone {
		b.exec(1, `DELETE FROM tenant_memberships WHERE user_id = $1`, user)
		b.exec(-1, `DELETE FROM project_memberships WHERE user_id = $1`, user)
		return
	}
	b.exec(1, `INSERT INTO tenant_memberships (tenant_id, user_id, number, role, added_at) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (tenant_id, user_id) DO UPDATE SET role = excluded.role`,
		e.Tenant.String(), user, int64(x.Number), e.Role.String(), timestamp(x.At))
}

// Tenant is a tenant as it is shown.
type Tenant struct {
	Number           int64       `json:"-" db:"number"`
	ID               string      `json:"id" db:"id"`
	CRN              string      `json:"crn" db:"-"`
	Name             string      `json:"name" db:"name"`
	State            string      `json:"state" db:"state"`
	Currency         string      `json:"currency" db:"currency"`
	CreditLineMicros int64       `json:"credit_line_micros" db:"credit_line_micros"`
	BillingTimeZone  string      `json:"billing_time_zone" db:"billing_time_zone"`
	StripeCustomerID string      `json:"stripe_customer_id,omitempty" db:"stripe_customer_id"`
	GraceUntil       domain.Time `json:"grace_until,omitzero" db:"grace_until"`
	CreditEndsAt     domain.Time `json:"credit_ends_at,omitzero" db:"credit_ends_at"`
	CreatedAt        domain.Time `json:"created_at" db:"created_at"`
}

func (t Tenant) place() cursor { return cursor{a: t.Number} }

const selectTenants = `SELECT number, id, name, state, currency, credit_line_micros, billing_time_zone, stripe_customer_id, grace_until, credit_ends_at, created_at FROM organizations`

// Tenants lists the tenants the scope may see: all of them, or its own.
func (r *Reader) Tenants(ctx context.Context, scope Scope, o ListOptions) (page Page[Tenant], err error) {
	page.N, err = r.view(ctx, scope, func(ctx context.Context, v *view) error {
		var f filter
		f.own(v, "id")
		f.named(o, "name")
		page, err = list[Tenant](ctx, v, listTenants, selectTenants, f, []string{"number"}, o)
		for i := range page.Items {
			r.nameTenant(&page.Items[i])
		}
		return err
	})
	return page, err
}

// Tenant reads one tenant.
func (r *Reader) Tenant(ctx context.Context, scope Scope, id domain.TenantID) (t Tenant, n uint64, err error) {
	n, err = r.view(ctx, scope, func(ctx context.Context, v *view) error {
		if !v.sees(id.String()) {
			return notFound("tenant")
		}
		t, err = get[Tenant](ctx, v, "tenant", selectTenants+` WHERE id = $1`, id.String())
		r.nameTenant(&t)
		return err
	})
	return t, n, err
}

func (r *Reader) nameTenant(t *Tenant) { t.CRN = r.crn(t.ID, "", "tenant", t.ID) }

// Member is a user of a tenant.
type Member struct {
	Number   int64       `json:"-" db:"number"`
	TenantID string      `json:"tenant_id" db:"tenant_id"`
	UserID   string      `json:"user_id" db:"user_id"`
	Role     string      `json:"role" db:"role"`
	AddedAt  domain.Time `json:"added_at" db:"added_at"`
}

func (m Member) place() cursor { return cursor{a: m.Number} }

// Members lists a tenant's users.
func (r *Reader) Members(ctx context.Context, scope Scope, tenant domain.TenantID, o ListOptions) (page Page[Member], err error) {
	page.N, err = r.view(ctx, scope, func(ctx context.Context, v *view) error {
		if err := v.requireTenant(ctx, tenant); err != nil {
			return err
		}
		var f filter
		f.add("tenant_id = ?", tenant.String())
		page, err = list[Member](ctx, v, listMembers, `SELECT number, tenant_id, user_id, role, added_at FROM tenant_memberships`, f, []string{"number"}, o)
		return err
	})
	return page, err
}
