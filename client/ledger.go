package client

import (
	"context"
	"iter"
	"time"
)

// Balance is a tenant's money at AsOf, with usage that is not posted yet.
type Balance struct {
	Currency         string    `json:"currency"`
	AvailableMicros  int64     `json:"available_micros"`
	HeldMicros       int64     `json:"held_micros"`       // put aside for first hours
	UnbilledMicros   int64     `json:"unbilled_micros"`   // used, not posted yet
	ReceivableMicros int64     `json:"receivable_micros"` // owed by the tenant
	AsOf             time.Time `json:"as_of"`
}

// Credit is a lot of credit. Usage burns lots by priority, then expiry, then age.
type Credit struct {
	ID            string    `json:"id"` // grant_...
	CRN           string    `json:"crn"`
	Name          string    `json:"name"` // the kind
	TenantID      string    `json:"tenant_id"`
	State         string    `json:"state"` // active, used, expired
	Currency      string    `json:"currency"`
	AmountMicros  int64     `json:"amount_micros"`
	BalanceMicros *int64    `json:"balance_micros,omitempty"` // what is left of it
	Kind          string    `json:"kind"`                     // paid, promotional
	Priority      int       `json:"priority"`                 // lower is used first
	ExpiresAt     time.Time `json:"expires_at,omitzero"`
	CreatedAt     time.Time `json:"created_at"`
}

// NewCredit is credit to be granted.
type NewCredit struct {
	Currency     string    `json:"currency"` // the tenant's
	AmountMicros int64     `json:"amount_micros"`
	Kind         string    `json:"kind"` // paid, promotional
	Priority     int       `json:"priority,omitempty"`
	ExpiresAt    time.Time `json:"expires_at,omitzero"`
}

// LedgerEntry is one leg of a transaction; a transaction's legs sum to zero.
type LedgerEntry struct {
	Sequence     uint64    `json:"sequence"`
	TxID         string    `json:"tx_id"`
	TenantID     string    `json:"tenant_id"`
	Kind         string    `json:"kind"`
	Account      string    `json:"account"`
	AmountMicros int64     `json:"amount_micros"`
	Currency     string    `json:"currency"`
	AllocationID string    `json:"allocation_id,omitempty"`
	VMID         string    `json:"vm_id,omitempty"`
	EffectiveAt  time.Time `json:"effective_at"`
	RecordedAt   time.Time `json:"recorded_at"`
	CorrectsTxID string    `json:"corrects_tx_id,omitempty"` // of a correction: the last of the originals
	PriceID      string    `json:"price_id,omitempty"`       // and the late price that is the reason
	UsageFrom    time.Time `json:"usage_from,omitzero"`      // and the usage it is about
	UsageTo      time.Time `json:"usage_to,omitzero"`
}

// UsageLine is one VM's billable time.
type UsageLine struct {
	VMID                    string    `json:"vm_id"`
	AllocationID            string    `json:"allocation_id"`
	Allocation              string    `json:"allocation"`
	ProjectID               string    `json:"project_id"`
	SKU                     string    `json:"sku"`
	SKUID                   string    `json:"sku_id"`
	GPUs                    int       `json:"gpus"`
	Start                   time.Time `json:"start"`
	End                     time.Time `json:"end,omitzero"` // zero: still running
	Free                    bool      `json:"free"`         // the provider's failure
	LockedMicrosPerUnitHour *int64    `json:"locked_micros_per_unit_hour,omitempty"`
}

// UsageQuery narrows usage to what overlaps [From, To); zero is no bound.
type UsageQuery struct {
	From, To time.Time
	Project  string
}

// Balance is a tenant's money now.
func (c *Client) Balance(ctx context.Context, tenant string) (*Balance, error) {
	return get[Balance](ctx, c, path("/v1/tenants/%s/balance", tenant), nil)
}

// Ledger lists a tenant's postings in the order they were recorded.
func (c *Client) Ledger(ctx context.Context, tenant string, options ...ListOption) iter.Seq2[LedgerEntry, error] {
	return list[LedgerEntry](ctx, c, path("/v1/tenants/%s/ledger", tenant), nil, options)
}

// Usage lists a tenant's billable time.
func (c *Client) Usage(ctx context.Context, tenant string, q UsageQuery, options ...ListOption) iter.Seq2[UsageLine, error] {
	return list[UsageLine](ctx, c, path("/v1/tenants/%s/usage", tenant), queryOf("from", timeText(q.From), "to", timeText(q.To), "project_id", q.Project), options)
}

// Credits lists a tenant's credits.
func (c *Client) Credits(ctx context.Context, tenant string, options ...ListOption) iter.Seq2[Credit, error] {
	return list[Credit](ctx, c, path("/v1/tenants/%s/credits", tenant), nil, options)
}

// GrantCredit needs the platform role finance or operator.
func (c *Client) GrantCredit(ctx context.Context, tenant string, n NewCredit) (*Credit, error) {
	return post[Credit](ctx, c, path("/v1/tenants/%s/credits", tenant), n)
}

func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}
