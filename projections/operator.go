package projections

import "github.com/gpuaas/gpuaas/domain"

func (b *batch) operatorSet(x *at, e *domain.OperatorSet) {
	if e.Roles == 0 {
		b.exec(1, `DELETE FROM operators WHERE user_id = $1`, e.User.String())
		return
	}
	b.exec(1, `INSERT INTO operators (user_id, number, roles, set_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (user_id) DO UPDATE SET roles = excluded.roles, set_at = excluded.set_at`,
		e.User.String(), int64(x.Number), e.Roles.Names(), timestamp(x.At))
}
