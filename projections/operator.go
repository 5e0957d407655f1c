package projections

import (
	"context"

	"github.com/gpuaas/gpuaas/domain"
)

func (b *batch) operatorSet(x *at, e *domain.OperatorSet) {
	if e.Roles == 0 {
		b.exec(1, `DELETE FROM operators WHERE user_id = $1`, e.User.String())
		return
	}
	b.exec(1, `INSERT INTO operators (user_id, number, roles, set_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (user_id) DO UPDATE SET roles = excluded.roles, set_at = excluded.set_at`,
		e.User.String(), int64(x.Number), e.Roles.Names(), timestamp(x.At))
}

// Operator is a user with platform roles.
type Operator struct {
	Number int64       `json:"-" db:"number"`
	UserID string      `json:"user_id" db:"user_id"`
	Roles  []string    `json:"roles" db:"roles"`
	SetAt  domain.Time `json:"set_at" db:"set_at"`
}

func (o Operator) place() cursor { return cursor{a: o.Number} }

// Operators lists the people who run the site.
func (r *Reader) Operators(ctx context.Context, scope Scope, o ListOptions) (page Page[Operator], err error) {
	page.N, err = r.view(ctx, scope, func(ctx context.Context, v *view) error {
		if err := v.requirePlatform(); err != nil {
			return err
		}
		page, err = list[Operator](ctx, v, listOperators, `SELECT number, user_id, roles, set_at FROM operators`, filter{}, []string{"number"}, o)
		return err
	})
	return page, err
}
