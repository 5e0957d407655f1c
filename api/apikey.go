package api

import (
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/projections"
)

// APIKey is an API key. The secret is in the answer that creates it, and in the
// answer to a repeat of that command, and nowhere else.
type APIKey struct {
	ID        string `json:"id" example:"key_06g3n4k8w2v5r9t1y7m0q4x8zc"`
	CRN       string `json:"crn"`
	Name      string `json:"name" example:"ci"`
	State     string `json:"state" enum:"active,expired,revoked"`
	TenantID  string `json:"tenant_id,omitempty"`
	UserID    string `json:"user_id"`
	CreatedAt string `json:"created_at" format:"date-time"`
	ExpiresAt string `json:"expires_at,omitempty" format:"date-time"`
	RevokedAt string `json:"revoked_at,omitempty" format:"date-time"`
	Secret    string `json:"secret,omitempty" doc:"Shown once: send it as Authorization: Bearer" example:"gpk_..."`
}

type createAPIKey struct {
	_         struct{} `json:"-" additionalProperties:"false"`
	Name      string   `json:"name" minLength:"1" maxLength:"63" example:"ci"`
	UserID    string   `json:"user_id,omitempty" maxLength:"64" doc:"Left out: a service user of its own, with the role"`
	Role      string   `json:"role,omitempty" enum:"owner,admin,billing,viewer" doc:"Of the service user; admin if left out"`
	ExpiresAt string   `json:"expires_at,omitempty" format:"date-time"`
	Reason    string   `json:"reason,omitempty" maxLength:"128" example:"ticket-4711" doc:"Why an operator needs another key in a tenant: the tenant reads it in its audit"`
}

type createOperatorKey struct {
	_         struct{} `json:"-" additionalProperties:"false"`
	Name      string   `json:"name" minLength:"1" maxLength:"63" example:"laptop"`
	ExpiresAt string   `json:"expires_at,omitempty" format:"date-time"`
}

func (s *Server) apiKeyRoutes() {
	command(s, route{method: "POST", path: "/v1/tenants/{t}/api-keys", id: "create-api-key", tag: "Tenants", summary: "Create an API key", about: "The secret is shown once. A repeat of the same command shows it again.", status: 201}, s.createAPIKey)
	action(s, route{method: "DELETE", path: "/v1/api-keys/{k}", id: "revoke-api-key", tag: "Tenants", summary: "Revoke an API key"}, s.revokeAPIKey)
	command(s, route{method: "POST", path: "/v1/operators/{u}/api-keys", id: "create-operator-api-key", tag: "Site", summary: "Create an API key of an operator", status: 201}, s.createOperatorKey)
	read(s, route{path: "/v1/tenants/{t}/api-keys", id: "list-api-keys", tag: "Tenants", summary: "List API keys", about: "All of the tenant's for its owners and admins, your own for others. Secrets are never shown again.", query: naming}, s.listAPIKeys)
	read(s, route{path: "/v1/operators/api-keys", id: "list-operator-api-keys", tag: "Site", summary: "List the operators' API keys", query: naming}, s.listOperatorKeys)
}

func (s *Server) createAPIKey(c *call, b *createAPIKey) (*APIKey, *domain.Error) {
	m := &domain.CreateAPIKey{Name: b.Name, Reason: b.Reason}
	if err := pathID(c, "t", "tenant", &m.Tenant); err != nil {
		return nil, err
	}
	if err := idField("user_id", b.UserID, &m.User); err != nil {
		return nil, err
	}
	if err := wordField("role", b.Role, &m.Role); err != nil {
		return nil, err
	}
	return s.makeKey(c, m, b.ExpiresAt)
}

func (s *Server) createOperatorKey(c *call, b *createOperatorKey) (*APIKey, *domain.Error) {
	m := &domain.CreateAPIKey{Name: b.Name}
	if err := pathID(c, "u", "user", &m.User); err != nil {
		return nil, err
	}
	return s.makeKey(c, m, b.ExpiresAt)
}

func (s *Server) makeKey(c *call, m *domain.CreateAPIKey, expires string) (*APIKey, *domain.Error) {
	var err *domain.Error
	if m.Expires, err = timeField("expires_at", expires); err != nil {
		return nil, err
	}
	id, err := c.commandID()
	if err != nil {
		return nil, err
	}
	m.Hash = SecretHash(KeySecret(s.o.Secret, id))
	d, err := c.submit(m)
	if err != nil {
		return nil, err
	}
	e, ok := eventOf[*domain.APIKeyCreated](&d)
	if !ok {
		return nil, errNoEvent("tenant.api_key_created")
	}
	return &APIKey{
		ID: e.ID.String(), CRN: s.crn(e.Tenant.String(), "", "api_key", e.ID.String()), Name: e.Name, State: "active", TenantID: e.Tenant.String(),
		UserID: e.User.String(), CreatedAt: d.at.String(), ExpiresAt: e.Expires.String(),
		Secret: KeySecret(s.o.Secret, d.command), // the first command's, also for a repeat by Idempotency-Key
	}, nil
}

func (s *Server) revokeAPIKey(c *call) (*Changed, *domain.Error) {
	m := &domain.RevokeAPIKey{}
	if err := pathID(c, "k", "api_key", &m.Key); err != nil {
		return nil, err
	}
	if _, err := c.submit(m); err != nil {
		return nil, err
	}
	return &Changed{ID: m.Key.String(), State: "revoked"}, nil
}

func (s *Server) listAPIKeys(c *call) (*List[APIKey], *domain.Error) {
	var id domain.TenantID
	if err := pathID(c, "t", "tenant", &id); err != nil {
		return nil, err
	}
	return s.keysOf(c, id)
}

func (s *Server) listOperatorKeys(c *call) (*List[APIKey], *domain.Error) {
	if err := c.requirePlatform(); err != nil {
		return nil, err
	}
	return s.keysOf(c, domain.TenantID{})
}

func (s *Server) keysOf(c *call, tenant domain.TenantID) (*List[APIKey], *domain.Error) {
	return list(c, func(o projections.ListOptions) (projections.Page[projections.APIKey], error) {
		return s.o.Reads.APIKeys(c.ctx(), c.scope(), tenant, o)
	}, func(r *projections.APIKey) APIKey {
		state := "active"
		switch {
		case r.RevokedAt != 0:
			state = "revoked"
		case r.ExpiresAt != 0 && r.ExpiresAt <= c.at:
			state = "expired"
		}
		return APIKey{
			ID: r.ID, CRN: s.crn(r.TenantID, "", "api_key", r.ID), Name: r.Name, State: state, TenantID: r.TenantID, UserID: r.UserID,
			CreatedAt: r.CreatedAt.String(), ExpiresAt: r.ExpiresAt.String(), RevokedAt: r.RevokedAt.String(),
		}
	})
}
