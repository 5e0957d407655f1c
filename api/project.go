package api

import (
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/projections"
)

// Project groups a tenant's resources; names are unique within it.
type Project struct {
	ID        string `json:"id" example:"prj_06g3n4k8w2v5r9t1y7m0q4x8zc"`
	CRN       string `json:"crn"`
	Name      string `json:"name" example:"research"`
	State     string `json:"state" enum:"active"`
	TenantID  string `json:"tenant_id"`
	CreatedAt string `json:"created_at" format:"date-time"`
}

type createProject struct {
	_    struct{} `json:"-" additionalProperties:"false"`
	Name string   `json:"name" minLength:"1" maxLength:"63" pattern:"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$" patternDescription:"lower-case letters, digits and inner hyphens" example:"research"`
}

type setProjectMember struct {
	_      struct{} `json:"-" additionalProperties:"false"`
	UserID string   `json:"user_id" minLength:"1" maxLength:"64" doc:"A member of the tenant"`
	Role   string   `json:"role" enum:"admin,member,viewer"`
}

func (s *Server) projectRoutes() {
	command(s, route{method: "POST", path: "/v1/tenants/{t}/projects", id: "create-project", tag: "Projects", summary: "Create a project", status: 201}, s.createProject)
	command(s, route{method: "POST", path: "/v1/projects/{p}/members", id: "set-project-member", tag: "Projects", summary: "Give a member of the tenant a role in the project", status: 201}, s.setProjectMember)
	action(s, route{method: "DELETE", path: "/v1/projects/{p}/members/{u}", id: "remove-project-member", tag: "Projects", summary: "Take a member's role in the project away"}, s.removeProjectMember)
	read(s, route{path: "/v1/tenants/{t}/projects", id: "list-projects", tag: "Projects", summary: "List projects", query: naming}, s.listProjects)
	read(s, route{path: "/v1/projects/{p}", id: "get-project", tag: "Projects", summary: "Read a project"}, s.getProject)
	read(s, route{path: "/v1/projects/{p}/members", id: "list-project-members", tag: "Projects", summary: "List who has a role of its own in the project", query: paging}, s.listProjectMembers)
}

func (s *Server) createProject(c *call, b *createProject) (*Project, *domain.Error) {
	m := &domain.CreateProject{Name: b.Name}
	if err := pathID(c, "t", "tenant", &m.Tenant); err != nil {
		return nil, err
	}
	d, err := c.submit(m)
	if err != nil {
		return nil, err
	}
	e, ok := eventOf[*domain.ProjectCreated](&d)
	if !ok {
		return nil, errNoEvent("project.created")
	}
	c.location("/v1/projects/" + e.ID.String())
	return &Project{
		ID: e.ID.String(), CRN: s.crn(e.Tenant.String(), e.ID.String(), "project", e.ID.String()), Name: e.Name, State: "active",
		TenantID: e.Tenant.String(), CreatedAt: d.at.String(),
	}, nil
}

func (s *Server) setProjectMember(c *call, b *setProjectMember) (*Member, *domain.Error) {
	m := &domain.SetProjectMember{}
	if err := pathID(c, "p", "project", &m.Project); err != nil {
		return nil, err
	}
	if err := idField("user_id", b.UserID, &m.User); err != nil {
		return nil, err
	}
	if err := wordField("role", b.Role, &m.Role); err != nil {
		return nil, err
	}
	return s.projectMember(c, m, "active")
}

func (s *Server) removeProjectMember(c *call) (*Member, *domain.Error) {
	m := &domain.SetProjectMember{}
	if err := pathID(c, "p", "project", &m.Project); err != nil {
		return nil, err
	}
	if err := pathID(c, "u", "user", &m.User); err != nil {
		return nil, err
	}
	return s.projectMember(c, m, "removed")
}

func (s *Server) projectMember(c *call, m *domain.SetProjectMember, state string) (*Member, *domain.Error) {
	d, err := c.submit(m)
	if err != nil {
		return nil, err
	}
	out := Member{ID: m.User.String(), ProjectID: m.Project.String(), Role: m.Role.String(), State: state}
	if e, ok := eventOf[*domain.ProjectMemberSet](&d); ok {
		out.TenantID = e.Tenant.String()
		return s.nameMember(out), nil
	}
	// It was already so: only the world still knows whose project it is.
	_, err = s.o.Decider.Query(c.ctx(), c.actor(), func(w *domain.World, _ domain.Time) {
		t, _ := w.TenantOfProject(m.Project)
		out.TenantID = t.String()
	})
	return s.nameMember(out), err
}

func (s *Server) listProjects(c *call) (*List[Project], *domain.Error) {
	var id domain.TenantID
	if err := pathID(c, "t", "tenant", &id); err != nil {
		return nil, err
	}
	return list(c, func(o projections.ListOptions) (projections.Page[projections.Project], error) {
		return s.o.Reads.Projects(c.ctx(), c.scope(), id, o)
	}, s.showProject)
}

func (s *Server) getProject(c *call) (Project, *domain.Error) {
	var id domain.ProjectID
	if err := pathID(c, "p", "project", &id); err != nil {
		return Project{}, err
	}
	return one(c, func() (projections.Project, uint64, error) { return s.o.Reads.Project(c.ctx(), c.scope(), id) }, s.showProject)
}

func (s *Server) showProject(r *projections.Project) Project {
	return Project{ID: r.ID, CRN: s.crn(r.TenantID, r.ID, "project", r.ID), Name: r.Name, State: "active", TenantID: r.TenantID, CreatedAt: r.CreatedAt.String()}
}

func (s *Server) listProjectMembers(c *call) (*List[Member], *domain.Error) {
	var id domain.ProjectID
	if err := pathID(c, "p", "project", &id); err != nil {
		return nil, err
	}
	p, _, err := found(c, func() (projections.Project, uint64, error) { return s.o.Reads.Project(c.ctx(), c.scope(), id) })
	if err != nil {
		return nil, err
	}
	return list(c, func(o projections.ListOptions) (projections.Page[projections.ProjectMember], error) {
		return s.o.Reads.ProjectMembers(c.ctx(), c.scope(), id, o)
	}, func(r *projections.ProjectMember) Member {
		return *s.nameMember(Member{ID: r.UserID, TenantID: p.TenantID, ProjectID: r.ProjectID, Role: r.Role, State: "active", AddedAt: r.AddedAt.String()})
	})
}
