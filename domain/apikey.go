package domain

// An API key is how a user acts. The log holds only its SHA-256: the secret has
// 256 bits of entropy, so a fast hash is enough.

// APIKey is a key's state.
type APIKey struct {
	ID      APIKeyID
	Hash    Digest
	Tenant  TenantID // zero: a platform user's
	User    UserID
	Expires Time
	Revoked Time
}

// Usable reports whether the key is good at t.
func (k *APIKey) Usable(t Time) bool { return k.Revoked == 0 && (k.Expires == 0 || t < k.Expires) }

// Speaks reports whether the key still speaks for its user: a key ends with the
// membership it was made for, and does not follow its user into another tenant or
// into the platform's roles.
func (k *APIKey) Speaks(m *Member) bool { return k.Tenant == m.Tenant }

// CreateAPIKey makes a key for a user. With a tenant and no user, it makes a
// service user of that tenant with Role. Without a tenant it is a key of an
// operator. The secret itself is made at the edge; the log gets its hash.
//
// An operator makes a tenant's first key. Another one it makes for support: it has
// to say why, and the tenant reads it in its events and its audit.
type CreateAPIKey struct {
	Tenant  TenantID   `json:"tenant_id"`
	User    UserID     `json:"user_id"`
	Role    TenantRole `json:"role"`
	Name    string     `json:"name"`
	Hash    Digest     `json:"hash"`
	Expires Time       `json:"expires_at"`
	Reason  string     `json:"reason,omitempty"`
}

// CommandType implements CommandBody.
func (*CreateAPIKey) CommandType() string { return "api_key.create" }

func (m *CreateAPIKey) wire(c *coder) {
	idField(c, 1, &m.Tenant)
	idField(c, 2, &m.User)
	uintField(c, 3, &m.Role)
	c.str(4, &m.Name)
	c.digest(5, &m.Hash)
	c.time(6, &m.Expires)
	c.str(7, &m.Reason)
}

// APIKeyCreated is the fact. Tenant is zero for an operator's key.
type APIKeyCreated struct {
	ID      APIKeyID `json:"id"`
	Tenant  TenantID `json:"tenant_id,omitzero"`
	User    UserID   `json:"user_id"`
	Name    string   `json:"name"`
	Hash    Digest   `json:"hash"`
	Expires Time     `json:"expires_at,omitzero"`
	Reason  string   `json:"reason,omitempty"`
}

// EventType implements EventBody.
func (e *APIKeyCreated) EventType() string { return "tenant.api_key_created" }

// Owner implements EventBody.
func (e *APIKeyCreated) Owner() string { return orPlatform(e.Tenant) }

// Resource implements EventBody.
func (e *APIKeyCreated) Resource() string { return e.ID.String() }

// orPlatform is the owner token of what belongs to no tenant.
func orPlatform(t TenantID) string {
	if t.IsZero() {
		return "platform"
	}
	return t.String()
}

func (e *APIKeyCreated) wire(c *coder) {
	idField(c, 1, &e.ID)
	idField(c, 2, &e.Tenant)
	idField(c, 3, &e.User)
	c.str(4, &e.Name)
	c.digest(5, &e.Hash)
	c.time(6, &e.Expires)
	c.str(7, &e.Reason)
}

func (m *CreateAPIKey) decide(w *World, x *Context) ([]EventBody, *Error) {
	if m.Hash.IsZero() {
		return nil, Errorf(Internal, "api_key.no_hash", "internal error")
	}
	if err := checkSlug("name", m.Name); err != nil {
		return nil, err
	}
	if m.Expires != 0 && m.Expires <= x.At {
		return nil, invalidField("expires_at", "time.past", "expires_at: lies in the past")
	}
	key := &APIKeyCreated{ID: deriveID[apiKeyKind](x.Entropy, 0), Tenant: m.Tenant, User: m.User, Name: m.Name, Hash: m.Hash, Expires: m.Expires, Reason: m.Reason}
	if err := checkWord("reason", m.Reason, 128, true); err != nil {
		return nil, err
	}
	if m.Tenant.IsZero() {
		if err := w.requirePlatform(x, RoleOperator); err != nil {
			return nil, err
		}
		if u := w.members.get(m.User); u == nil || u.Platform == 0 {
			return nil, invalidField("user_id", "user.not_operator", "user_id: not an operator; set its roles with PUT /v1/operators/{user} first")
		}
		return []EventBody{key}, nil
	}
	t, p, err := w.requireTenant(x, m.Tenant, TenantViewer)
	if err != nil {
		return nil, err
	}
	if w.LogicLevel >= 2 && p.platform != 0 && !p.system && t.Keys > 0 && m.Reason == "" {
		return nil, invalidField("reason", "support.reason_required", "reason: the tenant has keys of its own: say why you need one there (a ticket's number); the tenant can read it")
	}
	if !m.User.IsZero() {
		u := w.members.get(m.User)
		if u == nil || u.Tenant != m.Tenant {
			return nil, invalidField("user_id", "user.not_member", "user_id: not a member of this tenant")
		}
		if m.User != p.user && !p.atLeast(t.ID, TenantAdmin) {
			return nil, Errorf(Forbidden, "api_key.not_yours", "only an admin makes keys for other users")
		}
		if u.Role == TenantOwner && m.User != p.user && !p.atLeast(t.ID, TenantOwner) {
			return nil, Errorf(Forbidden, "tenant.owner_only", "only an owner makes keys for an owner")
		}
		return []EventBody{key}, nil
	}
	role := m.Role
	if role == TenantNone {
		role = TenantAdmin
	}
	if role > TenantViewer {
		return nil, invalidField("role", "role.unknown", "role: want owner, admin, billing or viewer")
	}
	if !p.atLeast(t.ID, TenantAdmin) || role == TenantOwner && !p.atLeast(t.ID, TenantOwner) {
		return nil, Errorf(Forbidden, "api_key.role_too_high", "you cannot make a key with the role %s", role)
	}
	key.User = deriveID[userKind](x.Entropy, 0)
	return []EventBody{&TenantMemberSet{Tenant: m.Tenant, User: key.User, Role: role}, key}, nil
}

func (e *APIKeyCreated) apply(w *World, _ *Applied) {
	_, k := w.keys.add(e.ID)
	*k = APIKey{ID: e.ID, Hash: e.Hash, Tenant: e.Tenant, User: e.User, Expires: e.Expires}
	w.keyByHash[e.Hash] = e.ID
	if t := w.tenants.get(e.Tenant); t != nil {
		t.Keys++
	}
}

// RevokeAPIKey ends a key.
type RevokeAPIKey struct {
	Key APIKeyID `json:"key_id"`
}

// CommandType implements CommandBody.
func (*RevokeAPIKey) CommandType() string { return "api_key.revoke" }

func (m *RevokeAPIKey) wire(c *coder) { idField(c, 1, &m.Key) }

// APIKeyRevoked is the fact.
type APIKeyRevoked struct {
	ID     APIKeyID `json:"id"`
	Tenant TenantID `json:"tenant_id,omitzero"`
}

// EventType implements EventBody.
func (*APIKeyRevoked) EventType() string { return "tenant.api_key_revoked" }

// Owner implements EventBody.
func (e *APIKeyRevoked) Owner() string { return orPlatform(e.Tenant) }

// Resource implements EventBody.
func (e *APIKeyRevoked) Resource() string { return e.ID.String() }

func (e *APIKeyRevoked) wire(c *coder) {
	idField(c, 1, &e.ID)
	idField(c, 2, &e.Tenant)
}

func (m *RevokeAPIKey) decide(w *World, x *Context) ([]EventBody, *Error) {
	k := w.keys.get(m.Key)
	if k == nil {
		if _, err := w.principal(x); err != nil {
			return nil, err
		}
		return nil, notFound("api_key")
	}
	if k.Tenant.IsZero() {
		if err := w.requirePlatform(x, RoleOperator); err != nil {
			return nil, err.hide("api_key")
		}
	} else {
		_, p, err := w.requireTenant(x, k.Tenant, TenantViewer)
		if err != nil {
			return nil, err.hide("api_key")
		}
		if k.User != p.user && !p.atLeast(k.Tenant, TenantAdmin) {
			return nil, Errorf(Forbidden, "api_key.not_yours", "only an admin revokes other users' keys")
		}
	}
	if k.Revoked != 0 {
		return nil, nil
	}
	return []EventBody{&APIKeyRevoked{ID: k.ID, Tenant: k.Tenant}}, nil
}

func (e *APIKeyRevoked) apply(w *World, x *Applied) { w.keys.get(e.ID).Revoked = x.At }
