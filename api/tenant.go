package api

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"strings"
	"time"
	_ "time/tzdata" // time zones do not depend on the machine

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/projections"
)

// Tenant is a tenant as the API shows it.
type Tenant struct {
	ID           string `json:"id" example:"ten_06g3n4k8w2v5r9t1y7m0q4x8zc"`
	CRN          string `json:"crn" example:"core42:aicloud:auh1:ten_06g3n4k8w2v5r9t1y7m0q4x8zc::tenant:ten_06g3n4k8w2v5r9t1y7m0q4x8zc"`
	Name         string `json:"name" example:"acme"`
	State        string `json:"state" enum:"active,past_due,suspended" doc:"Follows the tenant's money. past_due: no launches; suspended: compute stopped, disks kept"`
	Currency     string `json:"currency" example:"USD"`
	CreditLine   int64  `json:"credit_line_micros" doc:"How far below zero the tenant may go"`
	Zone         string `json:"billing_time_zone" example:"UTC" doc:"Its months are the billing periods"`
	GraceUntil   string `json:"grace_until,omitempty" format:"date-time" doc:"past_due: suspended then"`
	CreditEndsAt string `json:"credit_ends_at,omitempty" format:"date-time" doc:"When the credit ends at the present rate"`
	CreatedAt    string `json:"created_at" format:"date-time"`
}

type createTenant struct {
	_          struct{} `json:"-" additionalProperties:"false"`
	Name       string   `json:"name" minLength:"1" maxLength:"63" pattern:"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$" patternDescription:"lower-case letters, digits and inner hyphens" example:"acme"`
	Currency   string   `json:"currency,omitempty" minLength:"3" maxLength:"3" example:"USD" default:"USD" doc:"ISO 4217; never changes"`
	CreditLine int64    `json:"credit_line_micros,omitempty" minimum:"0"`
	Zone       string   `json:"billing_time_zone,omitempty" maxLength:"64" example:"America/New_York" default:"UTC" doc:"IANA name: its months are the billing periods; never changes"`
}

// Member is a user of a tenant, or of a project.
type Member struct {
	ID        string `json:"id" example:"usr_06g3n4k8w2v5r9t1y7m0q4x8zc" doc:"The user's id"`
	CRN       string `json:"crn"`
	Name      string `json:"name" doc:"The user's id: people's names are not kept"`
	UserID    string `json:"user_id"`
	TenantID  string `json:"tenant_id"`
	ProjectID string `json:"project_id,omitempty"`
	Role      string `json:"role" example:"admin"`
	State     string `json:"state" enum:"active,removed"`
	AddedAt   string `json:"added_at,omitempty" format:"date-time"`
}

type setTenantMember struct {
	_      struct{} `json:"-" additionalProperties:"false"`
	UserID string   `json:"user_id,omitempty" doc:"Left out: a new user" maxLength:"64"`
	Role   string   `json:"role" enum:"owner,admin,billing,viewer"`
	Email  string   `json:"email,omitempty" maxLength:"254" doc:"Kept only as a keyed commitment"`
}

func (s *Server) tenantRoutes() {
	command(s, route{method: "POST", path: "/v1/tenants", id: "create-tenant", tag: "Tenants", summary: "Create a tenant", status: 201}, s.createTenant)
	command(s, route{method: "POST", path: "/v1/tenants/{t}/members", id: "set-tenant-member", tag: "Tenants", summary: "Add a member, or change its role", status: 201}, s.setTenantMember)
	action(s, route{method: "DELETE", path: "/v1/tenants/{t}/members/{u}", id: "remove-tenant-member", tag: "Tenants", summary: "Remove a member"}, s.removeTenantMember)
	read(s, route{path: "/v1/tenants", id: "list-tenants", tag: "Tenants", summary: "List tenants: yours, or all for the site's people", query: naming}, s.listTenants)
	read(s, route{path: "/v1/tenants/{t}", id: "get-tenant", tag: "Tenants", summary: "Read a tenant"}, s.getTenant)
	read(s, route{path: "/v1/tenants/{t}/members", id: "list-tenant-members", tag: "Tenants", summary: "List members", query: paging}, s.listTenantMembers)
}

func (s *Server) createTenant(c *call, b *createTenant) (*Tenant, *domain.Error) {
	if b.Currency == "" {
		b.Currency = "USD"
	}
	m := &domain.CreateTenant{Name: b.Name, Currency: domain.Currency(b.Currency), CreditLine: domain.Micros(b.CreditLine)}
	var err *domain.Error
	if m.Zone, m.Months, err = billingMonths(b.Zone, s.o.Clock()); err != nil {
		return nil, err
	}
	d, err := c.submit(m)
	if err != nil {
		return nil, err
	}
	e, ok := eventOf[*domain.TenantCreated](&d)
	if !ok {
		return nil, errNoEvent("tenant.created")
	}
	id := e.ID.String()
	c.location("/v1/tenants/" + id)
	return &Tenant{
		ID: id, CRN: s.crn(id, "", "tenant", id), Name: e.Name, State: domain.TenantActive.String(), Currency: string(e.Currency),
		CreditLine: int64(e.CreditLine), Zone: cmp.Or(e.Zone, domain.UTCZone), CreatedAt: d.at.String(),
	}, nil
}

// The months that are fixed when a zone is first used: from the one before now on.
const billingYears = 30

// billingMonths are the months of a time zone as instants, by the zone rules that
// are part of this program. None for UTC.
func billingMonths(zone string, now time.Time) (string, []domain.Time, *domain.Error) {
	switch zone {
	case "", domain.UTCZone, "Etc/UTC":
		return "", nil, nil
	}
	at, err := time.LoadLocation(zone)
	if err != nil || zone == "Local" {
		return "", nil, invalid("billing_time_zone", "time_zone.unknown", "billing_time_zone: %q is no time zone: give an IANA name, like Asia/Dubai", clip(zone, 64))
	}
	year, month, _ := now.In(at).Date()
	months := make([]domain.Time, 12*billingYears)
	for i := range months {
		months[i] = domain.TimeOf(time.Date(year, month-1+time.Month(i), 1, 0, 0, 0, 0, at))
	}
	return zone, months, nil
}

func (s *Server) setTenantMember(c *call, b *setTenantMember) (*Member, *domain.Error) {
	m := &domain.SetTenantMember{}
	if err := pathID(c, "t", "tenant", &m.Tenant); err != nil {
		return nil, err
	}
	if err := idField("user_id", b.UserID, &m.User); err != nil {
		return nil, err
	}
	if err := wordField("role", b.Role, &m.Role); err != nil {
		return nil, err
	}
	if b.Email != "" {
		m.Email = s.commitment("email", strings.ToLower(b.Email))
	}
	d, err := c.submit(m)
	if err != nil {
		return nil, err
	}
	if e, ok := eventOf[*domain.TenantMemberSet](&d); ok {
		m.User = e.User
	}
	return s.nameMember(Member{ID: m.User.String(), TenantID: m.Tenant.String(), Role: m.Role.String(), State: "active"}), nil
}

func (s *Server) removeTenantMember(c *call) (*Member, *domain.Error) {
	m := &domain.SetTenantMember{}
	if err := pathID(c, "t", "tenant", &m.Tenant); err != nil {
		return nil, err
	}
	if err := pathID(c, "u", "user", &m.User); err != nil {
		return nil, err
	}
	if _, err := c.submit(m); err != nil {
		return nil, err
	}
	return s.nameMember(Member{ID: m.User.String(), TenantID: m.Tenant.String(), State: "removed"}), nil
}

// commitment says whether two values are equal, and nothing else, to whoever does
// not have the site secret.
func (s *Server) commitment(purpose, value string) domain.Digest {
	m := hmac.New(sha256.New, s.o.Secret[:])
	m.Write([]byte("commitment " + purpose))
	m.Write([]byte{0})
	m.Write([]byte(value))
	return domain.Digest(m.Sum(nil))
}

func (s *Server) listTenants(c *call) (*List[Tenant], *domain.Error) {
	return list(c, func(o projections.ListOptions) (projections.Page[projections.Tenant], error) {
		return s.o.Reads.Tenants(c.ctx(), c.scope(), o)
	}, s.showTenant)
}

func (s *Server) getTenant(c *call) (Tenant, *domain.Error) {
	var id domain.TenantID
	if err := pathID(c, "t", "tenant", &id); err != nil {
		return Tenant{}, err
	}
	return one(c, func() (projections.Tenant, uint64, error) { return s.o.Reads.Tenant(c.ctx(), c.scope(), id) }, s.showTenant)
}

func (s *Server) showTenant(r *projections.Tenant) Tenant {
	return Tenant{
		ID: r.ID, CRN: s.crn(r.ID, "", "tenant", r.ID), Name: r.Name, State: r.State, Currency: r.Currency, CreditLine: r.CreditLineMicros, Zone: r.BillingTimeZone,
		GraceUntil: r.GraceUntil.String(), CreditEndsAt: r.CreditEndsAt.String(), CreatedAt: r.CreatedAt.String(),
	}
}

func (s *Server) listTenantMembers(c *call) (*List[Member], *domain.Error) {
	var id domain.TenantID
	if err := pathID(c, "t", "tenant", &id); err != nil {
		return nil, err
	}
	return list(c, func(o projections.ListOptions) (projections.Page[projections.Member], error) {
		return s.o.Reads.Members(c.ctx(), c.scope(), id, o)
	}, func(r *projections.Member) Member {
		return *s.nameMember(Member{ID: r.UserID, TenantID: r.TenantID, Role: r.Role, State: "active", AddedAt: r.AddedAt.String()})
	})
}

// nameMember adds what every resource has.
func (s *Server) nameMember(m Member) *Member {
	m.UserID, m.Name, m.CRN = m.ID, m.ID, s.crn(m.TenantID, m.ProjectID, "member", m.ID)
	return &m
}
