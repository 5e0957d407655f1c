package api

import (
	"github.com/danielgtaylor/huma/v2"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/projections"
)

// Credit is a lot of credit. Usage burns lots by priority, then expiry, then age.
type Credit struct {
	ID        string `json:"id" example:"grant_06g3n4k8w2v5r9t1y7m0q4x8zc"`
	CRN       string `json:"crn"`
	Name      string `json:"name" doc:"Its kind: credit has no name of its own"`
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

// LedgerEntry is one leg of a transaction.
type LedgerEntry struct {
	Sequence     uint64 `json:"sequence" doc:"The commit it stands in"`
	TxID         string `json:"tx_id" example:"tx_06g3n4k8w2v5r9t1y7m0q4x8zc"`
	TenantID     string `json:"tenant_id"`
	Kind         string `json:"kind" example:"accrual"`
	Account      string `json:"account" example:"lot:grant_06g3n4k8w2v5r9t1y7m0q4x8zc"`
	Amount       int64  `json:"amount_micros"`
	Currency     string `json:"currency"`
	AllocationID string `json:"allocation_id,omitempty"`
	VMID         string `json:"vm_id,omitempty"`
	EffectiveAt  string `json:"effective_at" format:"date-time" doc:"When it counts"`
	RecordedAt   string `json:"recorded_at" format:"date-time" doc:"When it was written"`
	Corrects     string `json:"corrects_tx_id,omitempty" doc:"Of a correction: the last of the transactions that posted this usage. They stay as they are"`
	PriceID      string `json:"price_id,omitempty" doc:"Of a correction: the price that was published late; left out: a stop that was known late"`
	UsageFrom    string `json:"usage_from,omitempty" format:"date-time" doc:"Of a correction: the usage it is about"`
	UsageTo      string `json:"usage_to,omitempty" format:"date-time"`
}

// UsageLine is one VM's billable time.
type UsageLine struct {
	VMID         string `json:"vm_id"`
	AllocationID string `json:"allocation_id"`
	Allocation   string `json:"allocation" doc:"The allocation's name"`
	ProjectID    string `json:"project_id"`
	SKU          string `json:"sku"`
	SKUID        string `json:"sku_id"`
	GPUs         uint32 `json:"gpus"`
	Start        string `json:"start" format:"date-time"`
	End          string `json:"end,omitempty" format:"date-time" doc:"Left out: it still runs"`
	Free         bool   `json:"free" doc:"The provider's failure: not charged"`
	LockedMicros *int64 `json:"locked_micros_per_unit_hour,omitempty"`
}

var timeSchema = &huma.Schema{Type: "string", Format: "date-time"}

func (s *Server) ledgerRoutes() {
	command(s, route{method: "POST", path: "/v1/tenants/{t}/credits", id: "grant-credit", tag: "Billing", summary: "Give a tenant credit", status: 201}, s.grantCredit)
	read(s, route{path: "/v1/tenants/{t}/balance", id: "get-balance", tag: "Billing", summary: "A tenant's money now, open usage included"}, s.balance)
	read(s, route{path: "/v1/tenants/{t}/credits", id: "list-credits", tag: "Billing", summary: "List credits and what is left of them", query: paging}, s.listCredits)
	read(s, route{path: "/v1/tenants/{t}/ledger", id: "list-ledger", tag: "Billing", summary: "Every posting, in the order it was recorded", about: "The legs of one transaction sum to zero. No posting is ever altered.", query: paging}, s.listLedger)
	read(s, route{path: "/v1/tenants/{t}/usage", id: "list-usage", tag: "Billing", summary: "Billable time, VM by VM", query: append([]*param{
		queryParam("from", "Only what ends after this time.", timeSchema), queryParam("to", "Only what begins before this time.", timeSchema),
		queryParam("project_id", "Only this project's.", stringSchema),
	}, paging...)}, s.listUsage)
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
		ID: e.ID.String(), CRN: s.crn(e.Tenant.String(), "", "credit", e.ID.String()), Name: e.Kind.String(), TenantID: e.Tenant.String(), State: "active",
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

func (s *Server) listCredits(c *call) (*List[Credit], *domain.Error) {
	var id domain.TenantID
	if err := pathID(c, "t", "tenant", &id); err != nil {
		return nil, err
	}
	return list(c, func(o projections.ListOptions) (projections.Page[projections.Grant], error) {
		return s.o.Reads.Grants(c.ctx(), c.scope(), id, o)
	}, func(r *projections.Grant) Credit {
		state := "active"
		switch {
		case r.LapsedAt != 0:
			state = "expired"
		case r.BalanceMicros == 0:
			state = "used"
		}
		balance := r.BalanceMicros
		return Credit{
			ID: r.ID, CRN: s.crn(r.TenantID, "", "credit", r.ID), Name: r.Kind, TenantID: r.TenantID, State: state, Currency: r.Currency, Amount: r.AmountMicros,
			Balance: &balance, Kind: r.Kind, Priority: r.Priority, ExpiresAt: r.ExpiresAt.String(), CreatedAt: r.GrantedAt.String(),
		}
	})
}

func (s *Server) listLedger(c *call) (*List[LedgerEntry], *domain.Error) {
	var id domain.TenantID
	if err := pathID(c, "t", "tenant", &id); err != nil {
		return nil, err
	}
	return list(c, func(o projections.ListOptions) (projections.Page[projections.Entry], error) {
		return s.o.Reads.Ledger(c.ctx(), c.scope(), id, o)
	}, func(r *projections.Entry) LedgerEntry {
		return LedgerEntry{
			Sequence: r.N, TxID: r.TxID, TenantID: r.TenantID, Kind: r.Kind, Account: r.Account, Amount: r.AmountMicros, Currency: r.Currency,
			AllocationID: r.AllocationID, VMID: r.VMID, EffectiveAt: r.EffectiveAt.String(), RecordedAt: r.RecordedAt.String(),
			Corrects: r.Corrects, PriceID: r.PriceID, UsageFrom: r.UsageFrom.String(), UsageTo: r.UsageTo.String(),
		}
	})
}

func (s *Server) listUsage(c *call) (*List[UsageLine], *domain.Error) {
	var id domain.TenantID
	err := pathID(c, "t", "tenant", &id)
	if err != nil {
		return nil, err
	}
	var by projections.UsageFilter
	for name, t := range map[string]*domain.Time{"from": &by.From, "to": &by.To} {
		if *t, err = timeField(name, c.echo.QueryParam(name)); err != nil {
			err.Field = ""
			return nil, err
		}
	}
	if by.Project.UnmarshalText([]byte(c.echo.QueryParam("project_id"))) != nil {
		return nil, notFound("project")
	}
	return list(c, func(o projections.ListOptions) (projections.Page[projections.UsageLine], error) {
		return s.o.Reads.Usage(c.ctx(), c.scope(), id, by, o)
	}, func(r *projections.UsageLine) UsageLine {
		return UsageLine{
			VMID: r.VMID, AllocationID: r.AllocationID, Allocation: r.Allocation, ProjectID: r.ProjectID, SKU: r.SKU, SKUID: r.SKUID, GPUs: r.GPUs,
			Start: r.Start.String(), End: r.End.String(), Free: r.Free, LockedMicros: r.LockedMicros,
		}
	})
}
