package projections

import (
	"context"

	"github.com/gpuaas/gpuaas/domain"
)

func (b *batch) apiKeyCreated(x *at, e *domain.APIKeyCreated) {
	b.exec(1, `INSERT INTO api_keys (id, number, tenant_id, user_id, name, hash, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		e.ID.String(), int64(x.Number), e.Tenant.String(), e.User.String(), e.Name, e.Hash[:], timestamp(x.At), timestamp(e.Expires))
}

func (b *batch) apiKeyRevoked(x *at, e *domain.APIKeyRevoked) {
	b.exec(1, `UPDATE api_keys SET revoked_at = $2 WHERE id = $1`, e.ID.String(), timestamp(x.At))
}

// APIKey is a key without its hash: the reading role cannot even select that.
type APIKey struct {
	Number    int64       `json:"-" db:"number"`
	ID        string      `json:"id" db:"id"`
	TenantID  string      `json:"tenant_id,omitempty" db:"tenant_id"`
	UserID    string      `json:"user_id" db:"user_id"`
	Name      string      `json:"name" db:"name"`
	CreatedAt domain.Time `json:"created_at" db:"created_at"`
	ExpiresAt domain.Time `json:"expires_at,omitzero" db:"expires_at"`
	RevokedAt domain.Time `json:"revoked_at,omitzero" db:"revoked_at"`
}

func (k APIKey) place() cursor { return cursor{a: k.Number} }

// APIKeys lists a tenant's keys: all of them for its owners and admins, a user's
// own for the others. The zero tenant stands for the operators' keys.
func (r *Reader) APIKeys(ctx context.Context, scope Scope, tenant domain.TenantID, o ListOptions) (page Page[APIKey], err error) {
	page.N, err = r.view(ctx, scope, func(ctx context.Context, v *view) error {
		if tenant.IsZero() {
			err = v.requirePlatform()
		} else {
			err = v.requireTenant(ctx, tenant)
		}
		if err != nil {
			return err
		}
		var f filter
		f.add("tenant_id = ?", tenant.String())
		if !v.platform && v.role != "owner" && v.role != "admin" {
			f.add("user_id = ?", v.user)
		}
		f.named(o, "name")
		page, err = list[APIKey](ctx, v, listKeys, `SELECT number, id, tenant_id, user_id, name, created_at, expires_at, revoked_at FROM api_keys`, f, []string{"number"}, o)
		return err
	})
	return page, err
}
