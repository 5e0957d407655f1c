package projections

import (
	"context"

	"github.com/gpuaas/gpuaas/domain"
)

// entryRow is one leg of a transaction.
type entryRow struct {
	tx     *domain.LedgerPosted
	tenant string
	leg    int
	at     at
}

var entryInserts = inserts("ledger_entries",
	text("tenant_id", func(r *entryRow) string { return r.tenant }),
	bigint("number", func(r *entryRow) uint64 { return r.at.Number }),
	integer("leg", func(r *entryRow) int { return r.leg }),
	bigint("n", func(r *entryRow) uint64 { return r.at.N }),
	ident("tx_id", func(r *entryRow) domain.TxID { return r.tx.Tx }),
	text("kind", func(r *entryRow) string { return r.tx.Kind.String() }),
	text("account", func(r *entryRow) string { return r.tx.Legs[r.leg].Account.String() }),
	bigint("amount_micros", func(r *entryRow) domain.Micros { return r.tx.Legs[r.leg].Amount }),
	text("currency", func(r *entryRow) string { return string(r.tx.Currency) }),
	ident("allocation_id", func(r *entryRow) domain.AllocationID { return r.tx.Allocation }),
	ident("vm_id", func(r *entryRow) domain.VMID { return r.tx.VM }),
	instant("effective_at", func(r *entryRow) domain.Time { return r.tx.Effective }),
	instant("recorded_at", func(r *entryRow) domain.Time { return r.at.At }),
	ident("corrects_tx_id", func(r *entryRow) domain.TxID { return r.tx.Corrects }),
	ident("price_id", func(r *entryRow) domain.PriceID { return r.tx.Price }),
	instant("usage_from", func(r *entryRow) domain.Time { return r.tx.From }),
	instant("usage_to", func(r *entryRow) domain.Time { return r.tx.To }),
)

type balanceKey struct {
	tenant   domain.TenantID // zero: the platform's
	account  domain.Account  // Ref zero for holds: a tenant's are kept together
	currency domain.Currency
}

// balanceRow is what a batch adds to an account.
type balanceRow struct {
	key    balanceKey
	amount domain.Micros
}

var balanceAdds = adds("balances",
	ident("tenant_id", func(r *balanceRow) domain.TenantID { return r.key.tenant }),
	text("account", func(r *balanceRow) string { return r.key.name() }),
	text("currency", func(r *balanceRow) string { return string(r.key.currency) }),
	bigint("amount_micros", func(r *balanceRow) domain.Micros { return r.amount }),
)

// name is the account's, "hold" for all holds of a tenant.
func (k *balanceKey) name() string {
	if k.account.Kind == domain.AccountHold {
		return "hold"
	}
	return k.account.String()
}

func (b *batch) ledgerPosted(x *at, e *domain.LedgerPosted) {
	tenant := e.Tenant.String()
	for i := range e.Legs {
		l := &e.Legs[i]
		b.entries = append(b.entries, &entryRow{tx: e, tenant: tenant, leg: i, at: *x})
		key := balanceKey{account: l.Account, currency: e.Currency}
		if l.Account.Kind.OfTenant() {
			key.tenant = e.Tenant
		}
		if l.Account.Kind == domain.AccountHold {
			b.changeAllocation(x, domain.AllocationID(l.Account.Ref), func(a *allocationRow) { a.hold += l.Amount })
			key.account.Ref = [16]byte{}
		}
		sum := b.balances[key]
		if sum == nil {
			sum = &balanceRow{key: key}
			b.balances[key] = sum
		}
		sum.amount += l.Amount
	}
	if e.Kind == domain.TxExpiry {
		b.grantLapsed(e)
	}
}

// Entry is one leg of a transaction. The legs of one transaction sum to zero.
type Entry struct {
	Number       int64       `json:"-" db:"number"`
	Leg          int32       `json:"leg" db:"leg"`
	N            uint64      `json:"sequence" db:"n"`
	TxID         string      `json:"tx_id" db:"tx_id"`
	TenantID     string      `json:"tenant_id" db:"tenant_id"`
	Kind         string      `json:"kind" db:"kind"`
	Account      string      `json:"account" db:"account"`
	AmountMicros int64       `json:"amount_micros" db:"amount_micros"`
	Currency     string      `json:"currency" db:"currency"`
	AllocationID string      `json:"allocation_id,omitempty" db:"allocation_id"`
	VMID         string      `json:"vm_id,omitempty" db:"vm_id"`
	EffectiveAt  domain.Time `json:"effective_at" db:"effective_at"`
	RecordedAt   domain.Time `json:"recorded_at" db:"recorded_at"`
	Corrects     string      `json:"corrects_tx_id,omitempty" db:"corrects_tx_id"` // of a correction, with what follows
	PriceID      string      `json:"price_id,omitempty" db:"price_id"`
	UsageFrom    domain.Time `json:"usage_from,omitzero" db:"usage_from"`
	UsageTo      domain.Time `json:"usage_to,omitzero" db:"usage_to"`
}

func (e Entry) place() cursor { return cursor{e.Number, int64(e.Leg)} }

// Ledger lists a tenant's postings in the order they were recorded.
func (r *Reader) Ledger(ctx context.Context, scope Scope, tenant domain.TenantID, o ListOptions) (page Page[Entry], err error) {
	page.N, err = r.view(ctx, scope, func(ctx context.Context, v *view) error {
		if err := v.requireTenant(ctx, tenant); err != nil {
			return err
		}
		var f filter
		f.add("tenant_id = ?", tenant.String())
		page, err = list[Entry](ctx, v, listLedger, `SELECT number, leg, n, tx_id, tenant_id, kind, account, amount_micros, currency, allocation_id, vm_id, effective_at, recorded_at,
			corrects_tx_id, price_id, usage_from, usage_to FROM ledger_entries`, f, []string{"number", "leg"}, o)
		return err
	})
	return page, err
}

// Balance is a tenant's money as it is posted, in the platform's sign: what is
// owed to the tenant is positive. Usage since the last posting is not in it; the
// world computes that.
type Balance struct {
	TenantID         string      `json:"tenant_id" db:"tenant_id"`
	Currency         string      `json:"currency" db:"currency"`
	LotsMicros       int64       `json:"lots_micros" db:"lots"` // not lapsed, less what holds took
	HeldMicros       int64       `json:"held_micros" db:"held"`
	ReceivableMicros int64       `json:"receivable_micros" db:"receivable"` // negative: the tenant owes it
	CreditMicros     int64       `json:"customer_credit_micros" db:"credit"`
	CreditLineMicros int64       `json:"credit_line_micros" db:"credit_line"`
	AvailableMicros  int64       `json:"available_micros" db:"available"`
	AsOf             domain.Time `json:"as_of" db:"-"` // of the commit it reflects
}

// Balance reads a tenant's posted balance.
func (r *Reader) Balance(ctx context.Context, scope Scope, tenant domain.TenantID) (b Balance, n uint64, err error) {
	n, err = r.view(ctx, scope, func(ctx context.Context, v *view) error {
		if !v.sees(tenant.String()) {
			return notFound("tenant")
		}
		b, err = get[Balance](ctx, v, "tenant", `SELECT o.id AS tenant_id, o.currency, s.lots, s.held, s.receivable, s.credit, o.credit_line_micros AS credit_line,
			o.credit_line_micros + s.lots + s.receivable + s.credit AS available
			FROM organizations o CROSS JOIN LATERAL (SELECT
				coalesce(sum(amount_micros) FILTER (WHERE account LIKE 'lot:%'), 0)::bigint AS lots,
				coalesce(sum(amount_micros) FILTER (WHERE account = 'hold'), 0)::bigint AS held,
				coalesce(sum(amount_micros) FILTER (WHERE account = 'receivable'), 0)::bigint AS receivable,
				coalesce(sum(amount_micros) FILTER (WHERE account = 'customer_credit'), 0)::bigint AS credit
				FROM balances WHERE tenant_id = o.id AND currency = o.currency) s WHERE o.id = $1`, tenant.String())
		b.AsOf = v.at
		return err
	})
	return b, n, err
}
