package projections

import "github.com/gpuaas/gpuaas/domain"

func (b *batch) tenantCreated(x *at, e *domain.TenantCreated) {
	b.exec(1, `INSERT INTO organizations (id, number, name, state, currency, credit_line_micros, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		e.ID.String(), int64(x.Number), e.Name, domain.TenantActive.String(), string(e.Currency), int64(e.CreditLine), timestamp(x.At))
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
