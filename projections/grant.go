package projections

import (
	"context"

	"github.com/gpuaas/gpuaas/domain"
)

func (b *batch) creditGranted(x *at, e *domain.CreditGranted) {
	b.exec(1, `INSERT INTO grants (id, number, tenant_id, currency, amount_micros, kind, priority, granted_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		e.ID.String(), int64(x.Number), e.Tenant.String(), string(e.Currency), int64(e.Amount), e.Kind.String(), int64(e.Priority), timestamp(x.At), timestamp(e.Expires))
}

func (b *batch) grantLapsed(e *domain.LedgerPosted) {
	if a := e.Legs[0].Account; a.Kind == domain.AccountLot {
		b.exec(1, `UPDATE grants SET lapsed_at = $2 WHERE id = $1`, domain.GrantID(a.Ref).String(), timestamp(e.Effective))
	}
}

// Grant is a lot of credit with what is left of it, less what holds took.
type Grant struct {
	Number        int64       `json:"-" db:"number"`
	ID            string      `json:"id" db:"id"`
	TenantID      string      `json:"tenant_id" db:"tenant_id"`
	Currency      string      `json:"currency" db:"currency"`
	AmountMicros  int64       `json:"amount_micros" db:"amount_micros"`
	BalanceMicros int64       `json:"balance_micros" db:"balance_micros"`
	Kind          string      `json:"kind" db:"kind"`
	Priority      uint32      `json:"priority" db:"priority"`
	GrantedAt     domain.Time `json:"granted_at" db:"granted_at"`
	ExpiresAt     domain.Time `json:"expires_at,omitzero" db:"expires_at"`
	LapsedAt      domain.Time `json:"lapsed_at,omitzero" db:"lapsed_at"`
}

func (g Grant) place() cursor { return cursor{a: g.Number} }

// Grants lists a tenant's credits.
func (r *Reader) Grants(ctx context.Context, scope Scope, tenant domain.TenantID, o ListOptions) (page Page[Grant], err error) {
	page.N, err = r.view(ctx, scope, func(ctx context.Context, v *view) error {
		if err := v.requireTenant(ctx, tenant); err != nil {
			return err
		}
		var f filter
		f.add("g.tenant_id = ?", tenant.String())
		page, err = list[Grant](ctx, v, listGrants, `SELECT g.number, g.id, g.tenant_id, g.currency, g.amount_micros, coalesce(b.amount_micros, 0) AS balance_micros,
			g.kind, g.priority, g.granted_at, g.expires_at, g.lapsed_at FROM grants g
			LEFT JOIN balances b ON b.tenant_id = g.tenant_id AND b.account = 'lot:' || g.id AND b.currency = g.currency`, f, []string{"g.number"}, o)
		return err
	})
	return page, err
}
