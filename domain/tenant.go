package domain

import "strings"

// A tenant is who owns everything: projects, allocations, money. Users come and
// go; a user belongs to one tenant.

// TenantRole is what a user may do in its tenant.
type TenantRole uint8

// The tenant roles, from most to least.
const (
	TenantNone TenantRole = iota
	TenantOwner
	TenantAdmin
	TenantBilling
	TenantViewer
)

var tenantRoleNames = [...]string{"", "owner", "admin", "billing", "viewer"}

func (r TenantRole) String() string { return enumName(tenantRoleNames[:], r) }

// MarshalText implements encoding.TextMarshaler.
func (r TenantRole) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *TenantRole) UnmarshalText(b []byte) error {
	return enumParse(r, tenantRoleNames[:], string(b), "tenant role")
}

// TenantState follows the tenant's money.
type TenantState uint8

// The states. Past due: no launches. Suspended: compute stopped, disks kept.
const (
	TenantActive TenantState = iota + 1
	TenantPastDue
	TenantSuspended
)

var tenantStateNames = [...]string{"", "active", "past_due", "suspended"}

func (s TenantState) String() string { return enumName(tenantStateNames[:], s) }

// MarshalText implements encoding.TextMarshaler.
func (s TenantState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *TenantState) UnmarshalText(b []byte) error {
	return enumParse(s, tenantStateNames[:], string(b), "tenant state")
}

// Tenant is a tenant's state.
type Tenant struct {
	ID         TenantID
	Name       string
	State      TenantState
	Currency   Currency
	CreditLine Micros
	Created    Time

	GPUs        uint32 // held by live allocations, for the quota
	Allocations uint32 // live
	Owners      uint32 // members with the owner's role
	Keys        uint32 // that were ever made for its people

	grants     []uint32 // rows of grants, live ones, in burn order
	vms        []uint32 // rows of VMs with an open line; order has no meaning
	captured   uint32   // of those, past their first hour
	Rate       Micros   // per hour, of all open lines, at the last look
	ratedAt    Time     // when that was
	Held       Micros   // in holds
	Receivable Micros   // the account's balance: 0 or negative (owed)
	Credit     Micros   // customer_credit
	AccruedTo  Time     // hourly accrual is posted up to here
	AccrueAt   Time     // next hourly accrual, 0: nothing runs
	RunwayAt   Time     // when the credit ends at the present rate, 0: never
	GraceUntil Time     // past due: suspended then
	keys       idemKeys

	calendar   *calendar   // its billing periods; nil: the months of UTC
	lastUsage  TxID        // the newest transaction that posted usage
	repriced   uint32      // late prices up to this number are corrected
	ended      []endedLine // in billing periods that are still open
	endedSince Time        // start of the oldest of them
}

// Member is a user of the site.
type Member struct {
	ID       UserID
	Tenant   TenantID // zero: an operator, or removed from its tenant
	Role     TenantRole
	Platform PlatformRoles
}

// CreateTenant makes a tenant.
type CreateTenant struct {
	Name       string   `json:"name"`
	Currency   Currency `json:"currency"`
	CreditLine Micros   `json:"credit_line_micros"`

	Zone   string `json:"billing_time_zone,omitempty"` // "" or UTC: the months of UTC
	Months []Time `json:"months,omitempty"`            // of the zone, resolved at the edge
}

// CommandType implements CommandBody.
func (*CreateTenant) CommandType() string { return "tenant.create" }

func (m *CreateTenant) wire(c *coder) {
	c.str(1, &m.Name)
	stringField(c, 2, &m.Currency)
	intField(c, 3, &m.CreditLine)
	c.str(4, &m.Zone)
	instants(c, 5, &m.Months)
}

// TenantCreated is the fact.
type TenantCreated struct {
	ID         TenantID `json:"id"`
	Name       string   `json:"name"`
	Currency   Currency `json:"currency"`
	CreditLine Micros   `json:"credit_line_micros"`
	Zone       string   `json:"billing_time_zone,omitempty"` // "": UTC
}

// EventType implements EventBody.
func (*TenantCreated) EventType() string { return "tenant.created" }

// Owner implements EventBody.
func (e *TenantCreated) Owner() string { return e.ID.String() }

// Resource implements EventBody.
func (e *TenantCreated) Resource() string { return e.ID.String() }

func (e *TenantCreated) wire(c *coder) {
	idField(c, 1, &e.ID)
	c.str(2, &e.Name)
	stringField(c, 3, &e.Currency)
	intField(c, 4, &e.CreditLine)
	c.str(5, &e.Zone)
}

func (m *CreateTenant) decide(w *World, x *Context) ([]EventBody, *Error) {
	if err := w.requirePlatform(x, RoleOperator); err != nil {
		return nil, err
	}
	if err := checkSlug("name", m.Name); err != nil {
		return nil, err
	}
	if err := checkCurrency("currency", m.Currency); err != nil {
		return nil, err
	}
	if m.CreditLine < 0 || m.CreditLine > MaxMicros {
		return nil, invalidField("credit_line_micros", "amount.invalid", "credit_line_micros: want 0 to %d", MaxMicros)
	}
	if _, taken := w.tenantNames[m.Name]; taken {
		return nil, Errorf(Conflict, "tenant.name_taken", "a tenant named %q exists: choose another name", m.Name)
	}
	e := &TenantCreated{ID: deriveID[tenantKind](x.Entropy, 0), Name: m.Name, Currency: m.Currency, CreditLine: m.CreditLine}
	if m.Zone == "" || m.Zone == UTCZone {
		return []EventBody{e}, nil
	}
	if err := checkCalendar(x, m.Zone, m.Months); err != nil {
		return nil, err
	}
	e.Zone = m.Zone
	return append(w.publishCalendar(x, m.Zone, m.Months), e), nil
}

func (e *TenantCreated) apply(w *World, x *Applied) {
	_, t := w.tenants.add(e.ID)
	*t = Tenant{
		ID: e.ID, Name: strings.Clone(e.Name), State: TenantActive, Currency: Currency(w.word(string(e.Currency))), CreditLine: e.CreditLine, Created: x.At,
		calendar: w.calendars[e.Zone], repriced: uint32(len(w.late)),
	}
	w.tenantNames[t.Name] = e.ID
}

// SetTenantMember adds a user to a tenant or changes its role; the role none
// removes it. A zero user id makes a new user.
type SetTenantMember struct {
	Tenant TenantID   `json:"tenant_id"`
	User   UserID     `json:"user_id"`
	Role   TenantRole `json:"role"`
	Email  Digest     `json:"email_commitment"` // keyed commitment; the address itself is in the vault
}

// CommandType implements CommandBody.
func (*SetTenantMember) CommandType() string { return "tenant.set_member" }

func (m *SetTenantMember) wire(c *coder) {
	idField(c, 1, &m.Tenant)
	idField(c, 2, &m.User)
	uintField(c, 3, &m.Role)
	c.digest(4, &m.Email)
}

// TenantMemberSet is the fact; role "" means removed.
type TenantMemberSet struct {
	Tenant TenantID   `json:"tenant_id"`
	User   UserID     `json:"user_id"`
	Role   TenantRole `json:"role"`
	Email  Digest     `json:"email_commitment,omitzero"`
}

// EventType implements EventBody.
func (*TenantMemberSet) EventType() string { return "tenant.member_set" }

// Owner implements EventBody.
func (e *TenantMemberSet) Owner() string { return e.Tenant.String() }

// Resource implements EventBody.
func (e *TenantMemberSet) Resource() string { return e.User.String() }

func (e *TenantMemberSet) wire(c *coder) {
	idField(c, 1, &e.Tenant)
	idField(c, 2, &e.User)
	uintField(c, 3, &e.Role)
	c.digest(4, &e.Email)
}

func (m *SetTenantMember) decide(w *World, x *Context) ([]EventBody, *Error) {
	t, p, err := w.requireTenant(x, m.Tenant, TenantAdmin)
	if err != nil {
		return nil, err
	}
	if m.Role > TenantViewer {
		return nil, invalidField("role", "role.unknown", "role: want owner, admin, billing or viewer")
	}
	user := m.User
	if user.IsZero() {
		if m.Role == TenantNone {
			return nil, invalidField("user_id", "user.required", "user_id: say which member to remove")
		}
		user = deriveID[userKind](x.Entropy, 0)
	}
	had := TenantNone
	u := w.members.get(user)
	if u == nil && !m.User.IsZero() && w.LogicLevel >= 2 {
		return nil, notFound("user") // ids are the site's to give
	}
	if u != nil {
		if !u.Tenant.IsZero() && u.Tenant != m.Tenant || u.Platform != 0 {
			return nil, notFound("user") // a user belongs to one tenant; others must not find out that there is one
		}
		had = u.Role
		if u.Tenant == m.Tenant && u.Role == m.Role {
			return nil, nil
		}
	}
	if had == TenantNone && m.Role == TenantNone {
		return nil, notFound("user")
	}
	if (had == TenantOwner || m.Role == TenantOwner) && !p.atLeast(t.ID, TenantOwner) {
		return nil, Errorf(Forbidden, "tenant.owner_only", "only an owner can make or unmake an owner")
	}
	if had == TenantOwner && m.Role != TenantOwner && t.Owners == 1 {
		return nil, Errorf(Conflict, "tenant.last_owner", "a tenant keeps at least one owner: make another one first")
	}
	return []EventBody{&TenantMemberSet{Tenant: m.Tenant, User: user, Role: m.Role, Email: m.Email}}, nil
}

func (e *TenantMemberSet) apply(w *World, _ *Applied) {
	u := w.members.get(e.User)
	if u == nil {
		_, u = w.members.add(e.User)
		u.ID = e.User
	}
	t := w.tenants.get(e.Tenant)
	if u.Role == TenantOwner {
		t.Owners--
	}
	if e.Role == TenantOwner {
		t.Owners++
	}
	u.Role, u.Tenant = e.Role, e.Tenant
	if e.Role == TenantNone {
		u.Tenant = TenantID{}
		for key := range w.projectMembers {
			if key.User == e.User {
				delete(w.projectMembers, key)
			}
		}
	}
}
