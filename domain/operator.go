package domain

// Platform roles belong to the people who run the site, not to a tenant.

// PlatformRoles is a set of platform roles.
type PlatformRoles uint8

// The platform roles.
const (
	RoleOperator PlatformRoles = 1 << iota // fleet, tenants, catalog, policies
	RoleFinance                            // money of every tenant
	RoleAuditor                            // reads everything, changes nothing
)

// PlatformRoleNames maps the names in requests to roles.
var PlatformRoleNames = map[string]PlatformRoles{"operator": RoleOperator, "finance": RoleFinance, "auditor": RoleAuditor}

// Names lists the set's roles in a fixed order.
func (r PlatformRoles) Names() []string {
	names := []string{}
	for _, n := range []string{"operator", "finance", "auditor"} {
		if r&PlatformRoleNames[n] != 0 {
			names = append(names, n)
		}
	}
	return names
}

// SetOperator gives a user platform roles; none takes them away.
type SetOperator struct {
	User  UserID        `json:"user_id"`
	Roles PlatformRoles `json:"roles"`
}

// CommandType implements CommandBody.
func (*SetOperator) CommandType() string { return "operator.set" }

func (m *SetOperator) wire(c *coder) {
	idField(c, 1, &m.User)
	uintField(c, 2, &m.Roles)
}

// OperatorSet is the fact.
type OperatorSet struct {
	User  UserID        `json:"user_id"`
	Roles PlatformRoles `json:"roles"`
}

// EventType implements EventBody.
func (*OperatorSet) EventType() string { return "site.operator_set" }

// Owner implements EventBody.
func (*OperatorSet) Owner() string { return "" }

// Resource implements EventBody.
func (e *OperatorSet) Resource() string { return e.User.String() }

func (e *OperatorSet) wire(c *coder) {
	idField(c, 1, &e.User)
	uintField(c, 2, &e.Roles)
}

func (m *SetOperator) decide(w *World, x *Context) ([]EventBody, *Error) {
	if err := w.requirePlatform(x, RoleOperator); err != nil {
		return nil, err
	}
	if m.User.IsZero() {
		return nil, invalidField("user", "user.required", "say which user")
	}
	if m.Roles > RoleOperator|RoleFinance|RoleAuditor {
		return nil, invalidField("roles", "role.unknown", "roles: want any of operator, finance, auditor")
	}
	u := w.members.get(m.User)
	switch {
	case u == nil && m.Roles == 0:
		return nil, notFound("user")
	case u != nil && !u.Tenant.IsZero():
		return nil, Errorf(Conflict, "user.elsewhere", "this user belongs to a tenant: operators have users of their own")
	case u != nil && u.Platform == m.Roles:
		return nil, nil
	case u != nil && u.Platform&RoleOperator != 0 && m.Roles&RoleOperator == 0 && w.operators == 1:
		return nil, Errorf(Conflict, "operator.last", "a site keeps at least one operator: make another one first")
	}
	return []EventBody{&OperatorSet{User: m.User, Roles: m.Roles}}, nil
}

func (e *OperatorSet) apply(w *World, _ *Applied) {
	u := w.members.get(e.User)
	if u == nil {
		_, u = w.members.add(e.User)
		u.ID = e.User
	}
	w.operators += uint32(e.Roles&RoleOperator) - uint32(u.Platform&RoleOperator)
	u.Platform = e.Roles
}
