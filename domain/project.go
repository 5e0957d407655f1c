package domain

import "strings"

// A project groups a tenant's resources; names are unique within it.

// ProjectRole is what a user may do in one project.
type ProjectRole uint8

// The project roles, from most to least.
const (
	ProjectNone ProjectRole = iota
	ProjectAdmin
	ProjectMember
	ProjectViewer
)

var projectRoleNames = [...]string{"", "admin", "member", "viewer"}

func (r ProjectRole) String() string { return enumName(projectRoleNames[:], r) }

// MarshalText implements encoding.TextMarshaler.
func (r ProjectRole) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *ProjectRole) UnmarshalText(b []byte) error {
	return enumParse(r, projectRoleNames[:], string(b), "project role")
}

// Project is a project's state.
type Project struct {
	ID          ProjectID
	Tenant      TenantID
	Name        string
	GPUs        uint32 // held by live allocations
	Allocations uint32
}

type projectMember struct {
	Project ProjectID
	User    UserID
}

// CreateProject makes a project in a tenant.
type CreateProject struct {
	Tenant TenantID `json:"tenant_id"`
	Name   string   `json:"name"`
}

// CommandType implements CommandBody.
func (*CreateProject) CommandType() string { return "project.create" }

func (m *CreateProject) wire(c *coder) {
	idField(c, 1, &m.Tenant)
	c.str(2, &m.Name)
}

// ProjectCreated is the fact.
type ProjectCreated struct {
	ID     ProjectID `json:"id"`
	Tenant TenantID  `json:"tenant_id"`
	Name   string    `json:"name"`
}

// EventType implements EventBody.
func (*ProjectCreated) EventType() string { return "project.created" }

// Owner implements EventBody.
func (e *ProjectCreated) Owner() string { return e.Tenant.String() }

// Resource implements EventBody.
func (e *ProjectCreated) Resource() string { return e.ID.String() }

func (e *ProjectCreated) wire(c *coder) {
	idField(c, 1, &e.ID)
	idField(c, 2, &e.Tenant)
	c.str(3, &e.Name)
}

func (m *CreateProject) decide(w *World, x *Context) ([]EventBody, *Error) {
	if _, _, err := w.requireTenant(x, m.Tenant, TenantAdmin); err != nil {
		return nil, err
	}
	if err := checkSlug("name", m.Name); err != nil {
		return nil, err
	}
	if _, taken := w.projectNames[projectName{m.Tenant, m.Name}]; taken {
		return nil, Errorf(Conflict, "project.name_taken", "a project named %q exists in this tenant: choose another name", m.Name)
	}
	return []EventBody{&ProjectCreated{ID: deriveID[projectKind](x.Entropy, 0), Tenant: m.Tenant, Name: m.Name}}, nil
}

func (e *ProjectCreated) apply(w *World, _ *Applied) {
	_, p := w.projects.add(e.ID)
	*p = Project{ID: e.ID, Tenant: e.Tenant, Name: strings.Clone(e.Name)}
	w.projectNames[projectName{e.Tenant, p.Name}] = e.ID
}

type projectName struct {
	Tenant TenantID
	Name   string
}

// SetProjectMember gives a tenant's user a role in a project; none takes it away.
type SetProjectMember struct {
	Project ProjectID   `json:"project_id"`
	User    UserID      `json:"user_id"`
	Role    ProjectRole `json:"role"`
}

// CommandType implements CommandBody.
func (*SetProjectMember) CommandType() string { return "project.set_member" }

func (m *SetProjectMember) wire(c *coder) {
	idField(c, 1, &m.Project)
	idField(c, 2, &m.User)
	uintField(c, 3, &m.Role)
}

// ProjectMemberSet is the fact; role "" means removed.
type ProjectMemberSet struct {
	Tenant  TenantID    `json:"tenant_id"`
	Project ProjectID   `json:"project_id"`
	User    UserID      `json:"user_id"`
	Role    ProjectRole `json:"role"`
}

// EventType implements EventBody.
func (*ProjectMemberSet) EventType() string { return "project.member_set" }

// Owner implements EventBody.
func (e *ProjectMemberSet) Owner() string { return e.Tenant.String() }

// Resource implements EventBody.
func (e *ProjectMemberSet) Resource() string { return e.Project.String() }

func (e *ProjectMemberSet) wire(c *coder) {
	idField(c, 1, &e.Tenant)
	idField(c, 2, &e.Project)
	idField(c, 3, &e.User)
	uintField(c, 4, &e.Role)
}

func (m *SetProjectMember) decide(w *World, x *Context) ([]EventBody, *Error) {
	p, _, err := w.requireProject(x, m.Project, ProjectAdmin)
	if err != nil {
		return nil, err
	}
	if m.Role > ProjectViewer {
		return nil, invalidField("role", "role.unknown", "role: want admin, member or viewer")
	}
	u := w.members.get(m.User)
	if u == nil || u.Tenant != p.Tenant {
		return nil, invalidField("user_id", "user.not_member", "user_id: not a member of this tenant; add it with POST /v1/tenants/{t}/members first")
	}
	if w.projectMembers[projectMember{m.Project, m.User}] == m.Role {
		return nil, nil
	}
	return []EventBody{&ProjectMemberSet{Tenant: p.Tenant, Project: m.Project, User: m.User, Role: m.Role}}, nil
}

func (e *ProjectMemberSet) apply(w *World, _ *Applied) {
	key := projectMember{e.Project, e.User}
	if e.Role == ProjectNone {
		delete(w.projectMembers, key)
		return
	}
	w.projectMembers[key] = e.Role
}
