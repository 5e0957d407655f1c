package api

import (
	"github.com/gpuaas/gpuaas/domain"
)

// Credit is a lot of credit. Usage burns lots by priority, then expiry, then age.
type Credit struct {
	ID        string `json:"id" example:"grant_06g3n4k8w2v5r9t1y7m0q4x8zc"`
	CRN       string `json:"crn"`
	TenantID  string `json:"tenant_id"`
	State     string `json:"state" enum:"active,used,expired"`
	Currency  string `json:"currency"`
	Amount    int64  `json:"amount_micros"`
	Balance   *int64 `json:"balance_micros,omitempty" doc:"What is left of it"`
	Kind      string `json:"kind" enum:"paid,promotional"`
	Priority  uint32 `json:"priority" doc:"Lower is used first"`
	ExpiresAt string `json:"expires_at,omitempty" format:"date-time"`
	CreatedAt string `json:"created_at" format:"date-time"`
}

type grantCredit struct {
	_         struct{} `json:"-" additionalProperties:"false"`
	Currency  string   `json:"currency" minLength:"3" maxLength:"3" example:"USD" doc:"The tenant's"`
	Amount    int64    `json:"amount_micros" minimum:"1" maximum:"1000000000000000000" example:"100000000"`
	Kind      string   `json:"kind" enum:"paid,promotional"`
	Priority  uint32   `json:"priority,omitempty" doc:"Lower is used first"`
	ExpiresAt string   `json:"expires_at,omitempty" format:"date-time"`
}

// Balance is a tenant's money now, with usage that is not posted yet.
type Balance struct {
	Currency   string `json:"currency" example:"USD"`
	Available  int64  `json:"available_micros"`
	Held       int64  `json:"held_micros" doc:"Put aside for first hours"`
	Unbilled   int64  `json:"unbilled_micros" doc:"Used, not posted yet; already taken from held and available"`
	Receivable int64  `json:"receivable_micros" doc:"Owed by the tenant"`
	AsOf       string `json:"as_of" format:"date-time"`
}

func (s *Server) ledgerRoutes() {
	command(s, route{method: "POST", path: "/v1/tenants/{t}/credits", id: "grant-credit", tag: "Billing", summary: "Give a tenant credit", status: 201}, s.grantCredit)
	read(s, route{path: "/v1/tenants/{t}/balance", id: "get-balance", tag: "Billing", summary: "A tenant's money now, open usage included"}, s.balance)
}

func (s *Server) grantCredit(c *call, b *grantCredit) (*Credit, *domain.Error) {
	m := &domain.GrantCredit{Currency: domain.Currency(b.Currency), Amount: domain.Micros(b.Amount), Priority: b.Priority}
	err := pathID(c, "t", "tenant", &m.Tenant)
	if err != nil {
		return nil, err
	}
	if err := wordField("kind", b.Kind, &m.Kind); err != nil {
		return nil, err
	}
	if m.Expires, err = timeField("expires_at", b.ExpiresAt); err != nil {
		return nil, err
	}
	d, err := c.submit(m)
	if err != nil {
		return nil, err
	}
	e, ok := eventOf[*domain.CreditGranted](&d)
	if !ok {
		return nil, errNoEvent("ledger.credit_granted")
	}
	return &Credit{
		ID: e.ID.String(), CRN: s.crn(e.Tenant.String(), "", "credit", e.ID.String()), TenantID: e.Tenant.String(), State: "active",
		Currency: string(e.Currency), Amount: int64(e.Amount), Kind: e.Kind.String(), Priority: e.Priority, ExpiresAt: e.Expires.String(),
		CreatedAt: d.at.String(),
	}, nil
}

func (s *Server) balance(c *call) (*Balance, *domain.Error) {
	var tenant domain.TenantID
	if err := pathID(c, "t", "tenant", &tenant); err != nil {
		return nil, err
	}
	var b domain.Balance
	err := c.query(func(w *domain.World, at domain.Time) (err *domain.Error) {
		if err := w.MayRead(c.actor(), at, tenant, domain.ProjectID{}); err != nil {
			return err
		}
		b, err = w.TenantBalance(tenant, at)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &Balance{
		Currency: string(b.Currency), Available: int64(b.Available), Held: int64(b.Held), Unbilled: int64(b.Unbilled),
		Receivable: int64(b.Receivable), AsOf: b.AsOf.String(),
	}, nil
}
