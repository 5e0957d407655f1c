package domain

import (
	"encoding/json"
	"slices"
	"strings"
)

// Policies form a chain global -> tenant -> project. A default is a preference:
// the most specific scope wins. A guardrail is a limit: a lower scope can only
// tighten it. Every effective value can say which scope and which event decided
// it.

// PolicyScope is where a policy is set: both ids zero for global, Project zero
// for a tenant's.
type PolicyScope struct {
	Tenant  TenantID  `json:"tenant_id,omitzero"`
	Project ProjectID `json:"project_id,omitzero"`
}

// Name is "global", "tenant" or "project".
func (s PolicyScope) Name() string {
	switch {
	case !s.Project.IsZero():
		return "project"
	case !s.Tenant.IsZero():
		return "tenant"
	}
	return "global"
}

// PolicyValue is a number, a word or a list of words, as the key demands.
type PolicyValue struct {
	Int  int64
	Str  string
	List []string
	kind policyType
}

type policyType uint8

const (
	policyInt policyType = iota + 1
	policyStr
	policyList
)

// MarshalJSON writes the bare value.
func (v PolicyValue) MarshalJSON() ([]byte, error) {
	switch v.kind {
	case policyStr:
		return json.Marshal(v.Str)
	case policyList:
		return json.Marshal(append([]string{}, v.List...))
	}
	return json.Marshal(v.Int)
}

// UnmarshalJSON takes whatever form is there; the key's type is checked in decide.
func (v *PolicyValue) UnmarshalJSON(b []byte) error {
	*v = PolicyValue{}
	if len(b) > 0 && b[0] == '[' {
		v.kind = policyList
		return json.Unmarshal(b, &v.List)
	}
	if len(b) > 0 && b[0] == '"' {
		v.kind = policyStr
		return json.Unmarshal(b, &v.Str)
	}
	v.kind = policyInt
	return json.Unmarshal(b, &v.Int)
}

func (v *PolicyValue) wire(c *coder) {
	uintField(c, 1, &v.kind)
	intField(c, 2, &v.Int)
	c.str(3, &v.Str)
	strs(c, 4, &v.List)
}

// PolicyKey describes one policy.
type PolicyKey struct {
	Key       string
	Guardrail bool // else a default
	Meaning   string
	typ       policyType
	words     []string // allowed values of a word
}

// PolicyKeys lists every policy there is.
var PolicyKeys = []PolicyKey{
	{Key: "quota.gpus", Guardrail: true, typ: policyInt, Meaning: "GPUs that live allocations of a tenant (set globally or on the tenant) or of a project may hold at once"},
	{Key: "quota.allocations", Guardrail: true, typ: policyInt, Meaning: "live allocations of a tenant or a project"},
	{Key: "allocation.max_count", Guardrail: true, typ: policyInt, Meaning: "VMs in one allocation"},
	{Key: "allocation.max_lifetime_seconds", Guardrail: true, typ: policyInt, Meaning: "longest time to an allocation's expires_at; without expires_at it becomes the expiry"},
	{Key: "allocation.images", Guardrail: true, typ: policyList, Meaning: "image names that may be launched"},
	{Key: "allocation.default_image", typ: policyStr, Meaning: "image of a request that names none"},
	{Key: "placement.strategy", typ: policyStr, words: []string{"pack", "spread"}, Meaning: "pack keeps whole hosts whole, spread takes the emptiest host"},
	{Key: "placement.anti_affinity", typ: policyStr, words: []string{"none", "host", "rack"}, Meaning: "VMs of one allocation share no host, or no rack"},
	{Key: "billing.grace_seconds", typ: policyInt, Meaning: "time between the end of the credit and the stop of compute"},
}

func policyKey(key string) *PolicyKey {
	for i := range PolicyKeys {
		if PolicyKeys[i].Key == key {
			return &PolicyKeys[i]
		}
	}
	return nil
}

type policyAt struct {
	Scope PolicyScope
	Key   string
}

// policyRow is one set policy.
type policyRow struct {
	Scope PolicyScope
	Key   string
	Value PolicyValue
	Event uint64
}

// EffectivePolicy is a value with the scope and the event that decided it.
type EffectivePolicy struct {
	Key       string      `json:"key"`
	Kind      string      `json:"kind"` // "default" or "guardrail"
	Value     PolicyValue `json:"value"`
	Scope     string      `json:"scope"`     // "global", "tenant", "project"
	Event     uint64      `json:"event"`     // number of the policy.set event
	ScopeID   string      `json:"scope_id"`  // id of the tenant or project, "" for global
	Overruled []string    `json:"overruled"` // scopes whose value did not decide
}

// EffectivePolicy follows the chain for one key; ok is false if nobody set it.
func (w *World) EffectivePolicy(key string, tenant TenantID, project ProjectID) (eff EffectivePolicy, ok bool) {
	k := policyKey(key)
	if k == nil {
		return eff, false
	}
	eff = EffectivePolicy{Key: key, Kind: "default", Overruled: []string{}}
	if k.Guardrail {
		eff.Kind = "guardrail"
	}
	chain := [3]PolicyScope{{}, {Tenant: tenant}, {Tenant: tenant, Project: project}}
	for i, scope := range chain {
		if i == 1 && tenant.IsZero() || i == 2 && project.IsZero() {
			break
		}
		row := w.policies[policyAt{scope, key}]
		if row == nil {
			continue
		}
		value, decides := row.Value, true
		if ok && k.Guardrail {
			value, decides = w.tighten(eff.Value, row.Value)
		}
		if !decides {
			eff.Overruled = append(eff.Overruled, scope.Name())
			continue
		}
		if ok {
			eff.Overruled = append(eff.Overruled, eff.Scope)
		}
		eff.Value, eff.Scope, eff.Event, ok = value, scope.Name(), row.Event, true
		eff.ScopeID = tenant.String()
		if i == 0 {
			eff.ScopeID = ""
		} else if i == 2 {
			eff.ScopeID = project.String()
		}
	}
	return eff, ok
}

// tighten is the stricter of two guardrails, and whether the lower one changed it. Of
// two lists it is what both allow: "tiny" above and "tiny:1" below are "tiny:1".
func (w *World) tighten(upper, lower PolicyValue) (PolicyValue, bool) {
	if upper.kind != policyList {
		if lower.Int < upper.Int {
			return lower, true
		}
		return upper, false
	}
	out := PolicyValue{kind: policyList, List: []string{}}
	for _, s := range lower.List {
		if slices.Contains(upper.List, s) || w.LogicLevel >= 2 && allowsImage(upper.List, s) {
			out.List = append(out.List, s)
		}
	}
	if w.LogicLevel < 2 {
		return out, len(out.List) < len(upper.List)
	}
	changed := false
	for _, s := range upper.List {
		switch {
		case slices.Contains(out.List, s):
		case allowsImage(lower.List, s):
			out.List = append(out.List, s)
		default:
			changed = true
		}
	}
	if !changed {
		return upper, false
	}
	return out, true
}

// allowsImage reports whether a list of allocation.images allows an image: by its name
// with any version, or by name and version.
func allowsImage(list []string, image string) bool {
	return slices.ContainsFunc(list, func(s string) bool { return s == image || strings.HasPrefix(image, s+":") })
}

func (w *World) policyLimit(key string, tenant TenantID, project ProjectID) (int64, bool) {
	eff, ok := w.EffectivePolicy(key, tenant, project)
	return eff.Value.Int, ok
}

func (w *World) policyWord(key, otherwise string, tenant TenantID, project ProjectID) string {
	if len(w.policies) == 0 {
		return otherwise
	}
	if eff, ok := w.EffectivePolicy(key, tenant, project); ok {
		return eff.Value.Str
	}
	return otherwise
}

// SetPolicy sets a policy at a scope; Remove takes it away.
type SetPolicy struct {
	Scope  PolicyScope `json:"scope"`
	Key    string      `json:"key"`
	Value  PolicyValue `json:"value"`
	Remove bool        `json:"remove"`
}

// CommandType implements CommandBody.
func (*SetPolicy) CommandType() string { return "policy.set" }

func (m *SetPolicy) wire(c *coder) {
	idField(c, 1, &m.Scope.Tenant)
	idField(c, 2, &m.Scope.Project)
	c.str(3, &m.Key)
	c.sub(4, &m.Value)
	c.bool(5, &m.Remove)
}

// PolicySet is the fact.
type PolicySet struct {
	Scope   PolicyScope `json:"scope"`
	Key     string      `json:"key"`
	Value   PolicyValue `json:"value"`
	Removed bool        `json:"removed"`
}

// EventType implements EventBody.
func (*PolicySet) EventType() string { return "policy.set" }

// Owner implements EventBody.
func (*PolicySet) Owner() string { return "" }

// Resource implements EventBody.
func (e *PolicySet) Resource() string { return e.Key }

func (e *PolicySet) wire(c *coder) {
	idField(c, 1, &e.Scope.Tenant)
	idField(c, 2, &e.Scope.Project)
	c.str(3, &e.Key)
	c.sub(4, &e.Value)
	c.bool(5, &e.Removed)
}

func (m *SetPolicy) decide(w *World, x *Context) ([]EventBody, *Error) {
	scope := m.Scope
	switch scope.Name() {
	case "global":
		if err := w.requirePlatform(x, RoleOperator); err != nil {
			return nil, err
		}
	case "tenant":
		if _, _, err := w.requireTenant(x, scope.Tenant, TenantAdmin); err != nil {
			return nil, err
		}
	default:
		p, _, err := w.requireProject(x, scope.Project, ProjectAdmin)
		if err != nil {
			return nil, err
		}
		scope.Tenant = p.Tenant
	}
	k := policyKey(m.Key)
	if k == nil {
		return nil, invalidField("key", "policy.unknown", "no policy %q: see GET /v1/projects/{p}/policies/effective for the list", clip(m.Key, 64))
	}
	had := w.policies[policyAt{scope, m.Key}]
	if m.Remove {
		if had == nil {
			return nil, nil
		}
		return []EventBody{&PolicySet{Scope: scope, Key: m.Key, Value: had.Value, Removed: true}}, nil
	}
	if err := k.check(&m.Value); err != nil {
		return nil, err
	}
	if had != nil && samePolicy(had.Value, m.Value) {
		return nil, nil
	}
	return []EventBody{&PolicySet{Scope: scope, Key: m.Key, Value: m.Value}}, nil
}

func samePolicy(a, b PolicyValue) bool {
	return a.kind == b.kind && a.Int == b.Int && a.Str == b.Str && slices.Equal(a.List, b.List)
}

func (k *PolicyKey) check(v *PolicyValue) *Error {
	switch {
	case v.kind != k.typ:
		want := [...]string{policyInt: "a whole number", policyStr: "a string", policyList: "a list of strings"}[k.typ]
		return invalidField("value", "policy.wrong_type", "%s wants %s", k.Key, want)
	case v.kind == policyInt && v.Int < 0:
		return invalidField("value", "policy.negative", "%s: want 0 or more", k.Key)
	case v.kind == policyStr && k.words != nil && !slices.Contains(k.words, v.Str):
		return invalidField("value", "policy.unknown_value", "%s: want one of %v", k.Key, k.words)
	case v.kind == policyStr:
		return checkWord("value", v.Str, maxImageName, false)
	case v.kind == policyList:
		if len(v.List) > 100 {
			return invalidField("value", "policy.too_long", "%s: at most 100 entries", k.Key)
		}
		for _, s := range v.List {
			if err := checkWord("value", s, maxImageName, false); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *PolicySet) apply(w *World, x *Applied) {
	at := policyAt{e.Scope, w.word(e.Key)}
	if e.Removed {
		delete(w.policies, at)
		return
	}
	v := PolicyValue{kind: e.Value.kind, Int: e.Value.Int, Str: w.word(e.Value.Str)}
	for _, s := range e.Value.List {
		v.List = append(v.List, w.word(s))
	}
	w.policies[at] = &policyRow{Scope: e.Scope, Key: at.Key, Value: v, Event: x.Number}
}
