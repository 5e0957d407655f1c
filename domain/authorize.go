package domain

// Authorization is part of decide: who may do what follows from the world alone,
// so it is replayed with everything else. The rule for answers: what is not yours
// is not there (not_found); what is yours but above your role is forbidden.

// principal is an actor with what the world knows of it.
type principal struct {
	system   bool
	user     UserID
	tenant   TenantID
	role     TenantRole
	platform PlatformRoles
}

// principal re-checks the key: it may have been revoked, or have expired, or its user
// may have left the tenant, between the edge and here.
func (w *World) principal(x *Context) (principal, *Error) {
	switch x.Actor.Kind {
	case ActorSystem:
		return principal{system: true, platform: RoleOperator | RoleFinance}, nil
	case ActorKey:
		k := w.keys.get(x.Actor.Key)
		if k == nil || !k.Usable(x.At) {
			return principal{}, errUnauthenticated()
		}
		u := w.members.get(k.User)
		if u == nil || w.LogicLevel >= 2 && !k.Speaks(u) {
			return principal{}, errUnauthenticated()
		}
		return principal{user: u.ID, tenant: u.Tenant, role: u.Role, platform: u.Platform}, nil
	}
	return principal{}, errUnauthenticated()
}

func errUnauthenticated() *Error {
	return Errorf(Unauthenticated, "auth.invalid_key", "the API key is missing, unknown, expired or revoked")
}

// atLeast reports whether p has role or more in the tenant. The operator of the
// site stands above every tenant's owner, for administration; its keys see no
// tenant's data on disks or consoles.
func (p *principal) atLeast(t TenantID, role TenantRole) bool {
	if p.platform&RoleOperator != 0 {
		return true
	}
	if p.tenant != t || p.role == TenantNone {
		return false
	}
	if p.role == TenantBilling { // beside the line owner > admin > viewer
		return role == TenantBilling || role == TenantViewer
	}
	if role == TenantBilling {
		return p.role <= TenantAdmin
	}
	return p.role <= role
}

// hide turns a refusal about an outer object into one about the object asked for.
func (e *Error) hide(what string) *Error {
	if e.Kind == NotFound || e.Kind == Forbidden && e.Code == "auth.platform_only" {
		return notFound(what)
	}
	return e
}

// requirePlatform demands any of the platform roles.
func (w *World) requirePlatform(x *Context, roles PlatformRoles) *Error {
	p, err := w.principal(x)
	if err != nil {
		return err
	}
	if p.platform&roles == 0 {
		return Errorf(Forbidden, "auth.platform_only", "this needs one of the platform roles %v", roles.Names())
	}
	return nil
}

// requireTenant finds the tenant and demands a role in it.
func (w *World) requireTenant(x *Context, id TenantID, role TenantRole) (*Tenant, principal, *Error) {
	p, err := w.principal(x)
	if err != nil {
		return nil, p, err
	}
	t := w.tenants.get(id)
	if t == nil || !p.atLeast(id, TenantViewer) && p.platform == 0 {
		return nil, p, notFound("tenant")
	}
	if !p.atLeast(id, role) {
		return nil, p, Errorf(Forbidden, "auth.role_too_low", "this needs the role %s in the tenant", role)
	}
	return t, p, nil
}

// projectRole is p's effective role: owners and admins of the tenant are admins
// of its projects, its other members at least viewers.
func (w *World) projectRole(p *principal, prj *Project) ProjectRole {
	if p.atLeast(prj.Tenant, TenantAdmin) {
		return ProjectAdmin
	}
	if p.tenant != prj.Tenant {
		return ProjectNone
	}
	if r, ok := w.projectMembers[projectMember{prj.ID, p.user}]; ok {
		return r
	}
	return ProjectViewer
}

// requireProject finds the project and demands a role in it.
func (w *World) requireProject(x *Context, id ProjectID, role ProjectRole) (*Project, principal, *Error) {
	p, err := w.principal(x)
	if err != nil {
		return nil, p, err
	}
	prj := w.projects.get(id)
	if prj == nil || w.projectRole(&p, prj) == ProjectNone {
		return nil, p, notFound("project")
	}
	if w.projectRole(&p, prj) > role {
		return nil, p, Errorf(Forbidden, "auth.role_too_low", "this needs the role %s in the project", role)
	}
	return prj, p, nil
}

// requireAllocation finds the allocation and demands a role in its project.
func (w *World) requireAllocation(x *Context, id AllocationID, role ProjectRole) (*Allocation, *Error) {
	a := w.allocations.get(id)
	if a == nil {
		if _, err := w.principal(x); err != nil {
			return nil, err
		}
		return nil, notFound("allocation")
	}
	if _, _, err := w.requireProject(x, a.Project, role); err != nil {
		return nil, err.hide("allocation")
	}
	return a, nil
}
