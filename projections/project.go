package projections

import (
	"context"

	"github.com/gpuaas/gpuaas/domain"
)

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

// Project is a project as it is shown.
type Project struct {
	Number    int64       `json:"-" db:"number"`
	ID        string      `json:"id" db:"id"`
	CRN       string      `json:"crn" db:"-"`
	TenantID  string      `json:"tenant_id" db:"tenant_id"`
	Name      string      `json:"name" db:"name"`
	CreatedAt domain.Time `json:"created_at" db:"created_at"`
}

func (p Project) place() cursor { return cursor{a: p.Number} }

const selectProjects = `SELECT number, id, tenant_id, name, created_at FROM projects`

// Projects lists a tenant's projects.
func (r *Reader) Projects(ctx context.Context, scope Scope, tenant domain.TenantID, o ListOptions) (page Page[Project], err error) {
	page.N, err = r.view(ctx, scope, func(ctx context.Context, v *view) error {
		if err := v.requireTenant(ctx, tenant); err != nil {
			return err
		}
		var f filter
		f.add("tenant_id = ?", tenant.String())
		f.named(o, "name")
		page, err = list[Project](ctx, v, listProjects, selectProjects, f, []string{"number"}, o)
		for i := range page.Items {
			r.nameProject(&page.Items[i])
		}
		return err
	})
	return page, err
}

// Project reads one project.
func (r *Reader) Project(ctx context.Context, scope Scope, id domain.ProjectID) (p Project, n uint64, err error) {
	n, err = r.view(ctx, scope, func(ctx context.Context, v *view) error {
		p, err = get[Project](ctx, v, "project", selectProjects+` WHERE id = $1 AND ($2 OR tenant_id = $3)`, id.String(), v.platform, v.tenant)
		r.nameProject(&p)
		return err
	})
	return p, n, err
}

func (r *Reader) nameProject(p *Project) { p.CRN = r.crn(p.TenantID, p.ID, "project", p.ID) }

// ProjectMember is a user's own role in a project.
type ProjectMember struct {
	Number    int64       `json:"-" db:"number"`
	ProjectID string      `json:"project_id" db:"project_id"`
	UserID    string      `json:"user_id" db:"user_id"`
	Role      string      `json:"role" db:"role"`
	AddedAt   domain.Time `json:"added_at" db:"added_at"`
}

func (m ProjectMember) place() cursor { return cursor{a: m.Number} }

// ProjectMembers lists who has a role of its own in the project. Owners and admins
// of the tenant are its admins besides, other members at least viewers.
func (r *Reader) ProjectMembers(ctx context.Context, scope Scope, project domain.ProjectID, o ListOptions) (page Page[ProjectMember], err error) {
	page.N, err = r.view(ctx, scope, func(ctx context.Context, v *view) error {
		if err := v.requireProject(ctx, project); err != nil {
			return err
		}
		var f filter
		f.add("project_id = ?", project.String())
		page, err = list[ProjectMember](ctx, v, listProjectMembers, `SELECT number, project_id, user_id, role, added_at FROM project_memberships`, f, []string{"number"}, o)
		return err
	})
	return page, err
}
