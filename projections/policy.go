package projections

import (
	"encoding/json"

	"github.com/gpuaas/gpuaas/domain"
)

func (b *batch) policySet(x *at, e *domain.PolicySet) {
	tenant, project := e.Scope.Tenant.String(), e.Scope.Project.String()
	if e.Removed {
		b.exec(1, `DELETE FROM policies WHERE tenant_id = $1 AND project_id = $2 AND key = $3`, tenant, project, e.Key)
		return
	}
	b.exec(1, `INSERT INTO policies (tenant_id, project_id, key, value, number, set_at) VALUES ($1, $2, $3, $4::text::jsonb, $5, $6)
		ON CONFLICT (tenant_id, project_id, key) DO UPDATE SET value = excluded.value, number = excluded.number, set_at = excluded.set_at`,
		tenant, project, e.Key, encode(e.Value), int64(x.Number), timestamp(x.At))
}

// encode is v as JSON. What is encoded are event structs: that cannot fail.
func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}
