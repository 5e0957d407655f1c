package api

import (
	"encoding/json"

	"github.com/danielgtaylor/huma/v2"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/projections"
)

// PolicyValue is a whole number, a word or a list of words, as the key demands.
type PolicyValue struct{ domain.PolicyValue }

// Schema implements huma.SchemaProvider.
func (PolicyValue) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{
		Description: "A whole number, a word or a list of words, as the key demands",
		OneOf: []*huma.Schema{
			{Type: "integer"},
			{Type: "string", MaxLength: intOf(128)},
			{Type: "array", MaxItems: intOf(100), Items: &huma.Schema{Type: "string", MaxLength: intOf(128)}},
		},
		Examples: []any{64},
	}
}

// Policy is a policy as it was set in one scope.
type Policy struct {
	ID      string          `json:"id" example:"tenant:ten_06g3n4k8w2v5r9t1y7m0q4x8zc:quota.gpus"`
	CRN     string          `json:"crn"`
	Name    string          `json:"name" doc:"The key" example:"quota.gpus"`
	Key     string          `json:"key" example:"quota.gpus"`
	Value   json.RawMessage `json:"value" doc:"A whole number, a word or a list of words"`
	Scope   string          `json:"scope" enum:"global,tenant,project"`
	ScopeID string          `json:"scope_id,omitempty" doc:"The tenant's or project's id"`
	State   string          `json:"state" enum:"set,removed"`
	SetAt   string          `json:"set_at,omitempty" format:"date-time"`
}

// EffectivePolicy is a value with the scope and the event that decided it.
type EffectivePolicy struct {
	Key       string          `json:"key" example:"quota.gpus"`
	Kind      string          `json:"kind" enum:"default,guardrail" doc:"default: the most specific scope wins; guardrail: a lower scope can only tighten it"`
	Value     json.RawMessage `json:"value"`
	Scope     string          `json:"scope" enum:"global,tenant,project" doc:"Which scope decided"`
	ScopeID   string          `json:"scope_id,omitempty"`
	Event     string          `json:"event" doc:"The event that set it: a cursor of GET /v1/events for operators"`
	Overruled []string        `json:"overruled" nullable:"false" doc:"Scopes whose value did not decide"`
}

// PolicyMeaning says what a key is for.
type PolicyMeaning struct {
	Key     string `json:"key"`
	Kind    string `json:"kind" enum:"default,guardrail"`
	Meaning string `json:"meaning"`
}

// EffectivePolicies are all that are set for a project, and all there could be.
type EffectivePolicies struct {
	Items []EffectivePolicy `json:"items" nullable:"false"`
	Keys  []PolicyMeaning   `json:"keys" nullable:"false" doc:"Every key there is"`
}

type setPolicy struct {
	_     struct{}    `json:"-" additionalProperties:"false"`
	Value PolicyValue `json:"value"`
}

// scopes are the three places of a policy: the routes' middle and the ids in it.
var scopes = []struct{ name, path string }{{"global", "global"}, {"tenant", "tenants/{t}"}, {"project", "projects/{p}"}}

func (s *Server) policyRoutes() {
	for _, sc := range scopes {
		command(s, route{method: "PUT", path: "/v1/policies/" + sc.path + "/{key}", id: "set-" + sc.name + "-policy", tag: "Policies", summary: "Set a policy: " + sc.name}, s.setPolicy)
		read(s, route{path: "/v1/policies/" + sc.path, id: "list-" + sc.name + "-policies", tag: "Policies", summary: "List policies: " + sc.name}, s.listPolicies)
		action(s, route{method: "DELETE", path: "/v1/policies/" + sc.path + "/{key}", id: "remove-" + sc.name + "-policy", tag: "Policies", summary: "Remove a policy: " + sc.name}, s.removePolicy)
	}
	read(s, route{path: "/v1/projects/{p}/policies/effective", id: "effective-policies", tag: "Policies", summary: "Each value with the scope and the event that decided it"}, s.effectivePolicies)
}

// policyScope reads the scope of a path: that of its one id.
func policyScope(c *call) (domain.PolicyScope, *domain.Error) {
	var scope domain.PolicyScope
	if c.echo.Param("t") != "" {
		return scope, pathID(c, "t", "tenant", &scope.Tenant)
	}
	if c.echo.Param("p") != "" {
		return scope, pathID(c, "p", "project", &scope.Project)
	}
	return scope, nil
}

func (s *Server) setPolicy(c *call, b *setPolicy) (*Policy, *domain.Error) {
	scope, err := policyScope(c)
	if err != nil {
		return nil, err
	}
	return s.policy(c, &domain.SetPolicy{Scope: scope, Key: c.echo.Param("key"), Value: b.Value.PolicyValue}, "set")
}

func (s *Server) removePolicy(c *call) (*Policy, *domain.Error) {
	scope, err := policyScope(c)
	if err != nil {
		return nil, err
	}
	return s.policy(c, &domain.SetPolicy{Scope: scope, Key: c.echo.Param("key"), Remove: true}, "removed")
}

func (s *Server) policy(c *call, m *domain.SetPolicy, state string) (*Policy, *domain.Error) {
	d, err := c.submit(m)
	if err != nil {
		return nil, err
	}
	value := m.Value
	if e, ok := eventOf[*domain.PolicySet](&d); ok {
		value = e.Value
	}
	out := newPolicy(m.Scope, m.Key, value)
	tenant, err := c.policyTenant(m.Scope)
	if err != nil {
		return nil, err
	}
	s.namePolicy(out, tenant, m.Scope)
	out.State = state
	return out, nil
}

func newPolicy(scope domain.PolicyScope, key string, value domain.PolicyValue) *Policy {
	raw, _ := json.Marshal(value) // of numbers and strings: never fails
	p := &Policy{Key: key, Value: raw, Scope: scope.Name(), State: "set"}
	switch p.Scope {
	case "tenant":
		p.ScopeID = scope.Tenant.String()
	case "project":
		p.ScopeID = scope.Project.String()
	}
	p.ID = p.Scope + ":" + p.ScopeID + ":" + key
	return p
}

// namePolicy adds what every resource has.
func (s *Server) namePolicy(p *Policy, tenant domain.TenantID, scope domain.PolicyScope) {
	p.CRN, p.Name = s.crn(tenant.String(), scope.Project.String(), "policy", p.Key), p.Key
}

// policyTenant is whose the scope is: a project's path does not say it.
func (c *call) policyTenant(scope domain.PolicyScope) (tenant domain.TenantID, _ *domain.Error) {
	if scope.Project.IsZero() {
		return scope.Tenant, nil
	}
	_, err := c.ask(c.actor(), func(w *domain.World, _ domain.Time) *domain.Error {
		tenant, _ = w.TenantOfProject(scope.Project)
		return nil
	})
	return tenant, err
}

func (s *Server) effectivePolicies(c *call) (*EffectivePolicies, *domain.Error) {
	var project domain.ProjectID
	if err := pathID(c, "p", "project", &project); err != nil {
		return nil, err
	}
	var list []domain.EffectivePolicy
	err := c.query(func(w *domain.World, at domain.Time) *domain.Error {
		if err := w.MayRead(c.actor(), at, domain.TenantID{}, project); err != nil {
			return err
		}
		list = w.EffectivePolicies(project)
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := &EffectivePolicies{Items: []EffectivePolicy{}, Keys: policyMeanings()}
	for _, p := range list {
		raw, _ := json.Marshal(p.Value)
		out.Items = append(out.Items, EffectivePolicy{
			Key: p.Key, Kind: p.Kind, Value: raw, Scope: p.Scope, ScopeID: p.ScopeID, Event: s.cursors.seal(c.scopeName(), p.Event), Overruled: p.Overruled,
		})
	}
	return out, nil
}

func policyMeanings() []PolicyMeaning {
	out := make([]PolicyMeaning, 0, len(domain.PolicyKeys))
	for _, k := range domain.PolicyKeys {
		kind := "default"
		if k.Guardrail {
			kind = "guardrail"
		}
		out = append(out, PolicyMeaning{Key: k.Key, Kind: kind, Meaning: k.Meaning})
	}
	return out
}

func (s *Server) listPolicies(c *call) (*List[Policy], *domain.Error) {
	scope, err := policyScope(c)
	if err != nil {
		return nil, err
	}
	tenant, err := c.policyTenant(scope)
	if err != nil {
		return nil, err
	}
	return all(c, func() ([]projections.Policy, uint64, error) {
		chain, n, err := s.o.Reads.Policies(c.ctx(), c.scope(), scope.Tenant, scope.Project)
		own := chain[:0]
		for _, p := range chain {
			if p.Scope == scope.Name() {
				own = append(own, p)
			}
		}
		return own, n, err
	}, func(r *projections.Policy) Policy {
		p := Policy{Key: r.Key, Value: r.Value, Scope: r.Scope, State: "set", SetAt: r.SetAt.String()}
		switch r.Scope {
		case "tenant":
			p.ScopeID = r.TenantID
		case "project":
			p.ScopeID = r.ProjectID
		}
		p.ID = p.Scope + ":" + p.ScopeID + ":" + p.Key
		s.namePolicy(&p, tenant, scope)
		return p
	})
}
