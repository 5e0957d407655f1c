package projections

import "github.com/gpuaas/gpuaas/domain"

func (b *batch) projectCreated(x *at, e *domain.ProjectCreated) {
	b.exec(1, `INSERT INTO projects (id, number, tenant_id, name, created_at) VALUES ($1, $2, $3, $4, $5)`,
		e.ID.String(), int64(x.Number), e.Tenant.String(), e.Name, timestamp(x.At))
}

func (b *batch) projectMemberSet(x *at, e *domain.ProjectMemberSet) {
	if e.Role == domain.ProjectNone {
		b.exec(1, `DELETE FROM project_memberships WHERE project_id = $1 AND user_id = $2`, e.Project.String(), e.User.String())
		return
	}
	b.exec(1, `INSERT INTO project_memberships (project_id, user_id, tenant_id, number, role, added_at) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (project_id, user_id) DO UPDATE SET role = excluded.role`,
		e.Project.String(), e.User.String(), e.Tenant.String(), int64(x.Number), e.Role.String(), timestamp(x.At))
}
