package client

import (
	"context"
	"iter"
	"time"
)

// Project groups a tenant's resources; names are unique within it.
type Project struct {
	ID        string    `json:"id"` // prj_...
	CRN       string    `json:"crn"`
	Name      string    `json:"name"`
	State     string    `json:"state"`
	TenantID  string    `json:"tenant_id"`
	CreatedAt time.Time `json:"created_at"`
}

// NewProject is a project to be.
type NewProject struct {
	Name string `json:"name"`
}

// Projects lists a tenant's projects.
func (c *Client) Projects(ctx context.Context, tenant string, options ...ListOption) iter.Seq2[Project, error] {
	return list[Project](ctx, c, path("/v1/tenants/%s/projects", tenant), nil, options)
}

// Project reads one.
func (c *Client) Project(ctx context.Context, id string) (*Project, error) {
	return get[Project](ctx, c, path("/v1/projects/%s", id), nil)
}

// CreateProject makes a project.
func (c *Client) CreateProject(ctx context.Context, tenant string, p NewProject) (*Project, error) {
	return post[Project](ctx, c, path("/v1/tenants/%s/projects", tenant), p)
}

// ProjectMembers lists who has a role in a project.
func (c *Client) ProjectMembers(ctx context.Context, project string, options ...ListOption) iter.Seq2[Member, error] {
	return list[Member](ctx, c, path("/v1/projects/%s/members", project), nil, options)
}

// SetProjectMember gives a member of the tenant a role: admin, member, viewer.
func (c *Client) SetProjectMember(ctx context.Context, project string, m NewMember) (*Member, error) {
	return post[Member](ctx, c, path("/v1/projects/%s/members", project), m)
}

// RemoveProjectMember takes a member's role in a project away.
func (c *Client) RemoveProjectMember(ctx context.Context, project, user string) (*Member, error) {
	return del[Member](ctx, c, path("/v1/projects/%s/members/%s", project, user))
}
