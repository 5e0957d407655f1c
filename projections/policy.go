package projections

import (
	"context"
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
	return storableJSON(string(b))
}

// Policy is one set policy.
type Policy struct {
	Scope     string          `json:"scope" db:"scope"` // "global", "tenant" or "project"
	TenantID  string          `json:"tenant_id,omitempty" db:"tenant_id"`
	ProjectID string          `json:"project_id,omitempty" db:"project_id"`
	Key       string          `json:"key" db:"key"`
	Value     json.RawMessage `json:"value" db:"value"`
	Event     uint64          `json:"event" db:"number"` // number of the event that set it
	SetAt     domain.Time     `json:"set_at" db:"set_at"`
}

// Policies lists what is set on the chain global, tenant, project, the broadest
// first; zero ids end the chain early. There are at most a few dozen: no pages.
func (r *Reader) Policies(ctx context.Context, scope Scope, tenant domain.TenantID, project domain.ProjectID) (out []Policy, n uint64, err error) {
	n, err = r.view(ctx, scope, func(ctx context.Context, v *view) error {
		of := tenant.String()
		if !project.IsZero() {
			p, err := get[Project](ctx, v, "project", selectProjects+` WHERE id = $1 AND ($2 OR tenant_id = $3)`, project.String(), v.platform, v.tenant)
			if err != nil {
				return err
			}
			of = p.TenantID
		} else if !tenant.IsZero() {
			if err := v.requireTenant(ctx, tenant); err != nil {
				return err
			}
		}
		out, err = collect[Policy](ctx, v, `SELECT CASE WHEN project_id <> '' THEN 'project' WHEN tenant_id <> '' THEN 'tenant' ELSE 'global' END AS scope,
			tenant_id, project_id, key, value, number, set_at FROM policies
			WHERE tenant_id IN ('', $1) AND project_id IN ('', $2) ORDER BY key, tenant_id, project_id`, of, project.String())
		return err
	})
	return out, n, err
}
