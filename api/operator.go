package api

import (
	"slices"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/projections"
)

// Operator is one of the people who run the site.
type Operator struct {
	ID     string   `json:"id" example:"usr_06g3n4k8w2v5r9t1y7m0q4x8zc"`
	CRN    string   `json:"crn"`
	Name   string   `json:"name" doc:"The user's id: people's names are not kept"`
	UserID string   `json:"user_id"`
	Roles  []string `json:"roles" nullable:"false"`
	State  string   `json:"state" enum:"active,removed"`
	SetAt  string   `json:"set_at,omitempty" format:"date-time"`
}

type setOperator struct {
	_     struct{} `json:"-" additionalProperties:"false"`
	Roles []string `json:"roles" enum:"operator,finance,auditor" maxItems:"3" nullable:"false" doc:"None takes all of them away"`
}

// WhoAmI is what a key stands for.
type WhoAmI struct {
	UserID       string   `json:"user_id"`
	KeyID        string   `json:"key_id"`
	TenantID     string   `json:"tenant_id,omitempty"`
	TenantRole   string   `json:"tenant_role,omitempty" enum:"owner,admin,billing,viewer"`
	Roles        []string `json:"roles" nullable:"false" doc:"Platform roles"`
	KeyExpiresAt string   `json:"key_expires_at,omitempty" format:"date-time"`
	Site         string   `json:"site"`
}

func (s *Server) operatorRoutes() {
	command(s, route{method: "POST", path: "/v1/operators", id: "create-operator", tag: "Site", summary: "Make a new operator", status: 201}, s.createOperator)
	command(s, route{method: "PUT", path: "/v1/operators/{u}", id: "set-operator", tag: "Site", summary: "Set a user's platform roles"}, s.setOperator)
	read(s, route{path: "/v1/whoami", id: "who-am-i", tag: "Site", summary: "What this key stands for"}, s.whoAmI)
	read(s, route{path: "/v1/operators", id: "list-operators", tag: "Site", summary: "List the site's own people", query: paging}, s.listOperators)
}

func (s *Server) createOperator(c *call, b *setOperator) (*Operator, *domain.Error) {
	if len(b.Roles) == 0 {
		return nil, invalid("roles", "role.required", "roles: want any of operator, finance, auditor")
	}
	id, err := c.commandID()
	if err != nil {
		return nil, err
	}
	// The id follows from the command, so that a repeat speaks of the same user.
	h := derive(s.o.Secret, "operator's user id", id)
	return s.operator(c, domain.UserID(h[:16]), b.Roles)
}

func (s *Server) setOperator(c *call, b *setOperator) (*Operator, *domain.Error) {
	var user domain.UserID
	if err := pathID(c, "u", "user", &user); err != nil {
		return nil, err
	}
	return s.operator(c, user, b.Roles)
}

func (s *Server) operator(c *call, user domain.UserID, names []string) (*Operator, *domain.Error) {
	m := &domain.SetOperator{User: user}
	for _, n := range names {
		m.Roles |= domain.PlatformRoleNames[n]
	}
	d, err := c.submit(m)
	if err != nil {
		return nil, err
	}
	if e, ok := eventOf[*domain.OperatorSet](&d); ok {
		m.User, m.Roles = e.User, e.Roles // a repeat by Idempotency-Key: the first one's
	}
	out := s.newOperator(m.User.String(), slices.Clone(m.Roles.Names()))
	if m.Roles == 0 {
		out.State = "removed"
	}
	return out, nil
}

func (s *Server) newOperator(user string, roles []string) *Operator {
	return &Operator{ID: user, CRN: s.crn("", "", "operator", user), Name: user, UserID: user, Roles: roles, State: "active"}
}

func (s *Server) whoAmI(c *call) (*WhoAmI, *domain.Error) {
	if err := c.now(); err != nil {
		return nil, err
	}
	k, m := c.caller.Key, c.caller.Member
	return &WhoAmI{
		UserID: m.ID.String(), KeyID: k.ID.String(), TenantID: m.Tenant.String(), TenantRole: m.Role.String(), Roles: m.Platform.Names(),
		KeyExpiresAt: k.Expires.String(), Site: s.o.Site,
	}, nil
}

func (s *Server) listOperators(c *call) (*List[Operator], *domain.Error) {
	if err := c.requirePlatform(); err != nil {
		return nil, err
	}
	return list(c, func(o projections.ListOptions) (projections.Page[projections.Operator], error) {
		return s.o.Reads.Operators(c.ctx(), c.scope(), o)
	}, func(r *projections.Operator) Operator {
		o := s.newOperator(r.UserID, r.Roles)
		o.SetAt = r.SetAt.String()
		return *o
	})
}
