package projections

import "github.com/gpuaas/gpuaas/domain"

func (b *batch) creditGranted(x *at, e *domain.CreditGranted) {
	b.exec(1, `INSERT INTO grants (id, number, tenant_id, currency, amount_micros, kind, priority, granted_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		e.ID.String(), int64(x.Number), e.Tenant.String(), string(e.Currency), int64(e.Amount), e.Kind.String(), int64(e.Priority), timestamp(x.At), timestamp(e.Expires))
}

func (b *batch) grantLapsed(e *domain.LedgerPosted) {
	if a := e.Legs[0].Account; a.Kind == domain.AccountLot {
		b.exec(1, `UPDATE grants SET lapsed_at = $2 WHERE id = $1`, domain.GrantID(a.Ref).String(), timestamp(e.Effective))
	}
}
