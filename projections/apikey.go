package projections

import "github.com/gpuaas/gpuaas/domain"

func (b *batch) apiKeyCreated(x *at, e *domain.APIKeyCreated) {
	b.exec(1, `INSERT INTO api_keys (id, number, tenant_id, user_id, name, hash, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		e.ID.String(), int64(x.Number), e.Tenant.String(), e.User.String(), e.Name, e.Hash[:], timestamp(x.At), timestamp(e.Expires))
}

func (b *batch) apiKeyRevoked(x *at, e *domain.APIKeyRevoked) {
	b.exec(1, `UPDATE api_keys SET revoked_at = $2 WHERE id = $1`, e.ID.String(), timestamp(x.At))
}
