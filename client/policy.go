package client

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

// PolicyScope is where a policy is set: globally (zero), on a tenant, on a project.
type PolicyScope struct {
	Tenant  string
	Project string
}

// Policy is a policy as it was set in one scope.
type Policy struct {
	ID      string          `json:"id"`
	CRN     string          `json:"crn"`
	Name    string          `json:"name"` // the key
	Key     string          `json:"key"`
	Value   json.RawMessage `json:"value"` // a whole number, a word or a list of words
	Scope   string          `json:"scope"` // global, tenant, project
	ScopeID string          `json:"scope_id,omitempty"`
	State   string          `json:"state"`
	SetAt   time.Time       `json:"set_at,omitzero"`
}

// EffectivePolicy is a value with the scope and the event that decided it.
type EffectivePolicy struct {
	Key       string          `json:"key"`
	Kind      string          `json:"kind"` // default, guardrail
	Value     json.RawMessage `json:"value"`
	Scope     string          `json:"scope"`
	ScopeID   string          `json:"scope_id,omitempty"`
	Event     string          `json:"event"`
	Overruled []string        `json:"overruled"`
}

// PolicyMeaning says what a key is for.
type PolicyMeaning struct {
	Key     string `json:"key"`
	Kind    string `json:"kind"`
	Meaning string `json:"meaning"`
}

// EffectivePolicies are all that are set for a project, and all there could be.
type EffectivePolicies struct {
	Items []EffectivePolicy `json:"items"`
	Keys  []PolicyMeaning   `json:"keys"`
}

func (s PolicyScope) path(key string) string {
	switch {
	case s.Project != "":
		return path("/v1/policies/projects/%s/%s", s.Project, key)
	case s.Tenant != "":
		return path("/v1/policies/tenants/%s/%s", s.Tenant, key)
	}
	return path("/v1/policies/global/%s", key)
}

// Policies lists what is set in one scope.
func (c *Client) Policies(ctx context.Context, scope PolicyScope) ([]Policy, error) {
	return items[Policy](ctx, c, strings.TrimSuffix(scope.path("-"), "/-"), nil)
}

// EffectivePolicies says what holds in a project, and why.
func (c *Client) EffectivePolicies(ctx context.Context, project string) (*EffectivePolicies, error) {
	return get[EffectivePolicies](ctx, c, path("/v1/projects/%s/policies/effective", project), nil)
}

// SetPolicy sets a policy; value is an int, a string or a []string.
func (c *Client) SetPolicy(ctx context.Context, scope PolicyScope, key string, value any) (*Policy, error) {
	return call[Policy](ctx, c, &request{method: http.MethodPut, path: scope.path(key), body: map[string]any{"value": value}})
}

// RemovePolicy takes a policy away, so that the scope above decides.
func (c *Client) RemovePolicy(ctx context.Context, scope PolicyScope, key string) (*Policy, error) {
	return del[Policy](ctx, c, scope.path(key))
}
