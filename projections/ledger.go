package projections

import "github.com/gpuaas/gpuaas/domain"

// entryRow is one leg of a transaction.
type entryRow struct {
	tx     *domain.LedgerPosted
	tenant string
	leg    int
	at     at
}

var entryInserts = inserts("ledger_entries",
	text("tenant_id", func(r *entryRow) string { return r.tenant }),
	integer("number", func(r *entryRow) uint64 { return r.at.Number }),
	integer("leg", func(r *entryRow) int { return r.leg }),
	integer("n", func(r *entryRow) uint64 { return r.at.N }),
	text("tx_id", func(r *entryRow) string { return r.tx.Tx.String() }),
	text("kind", func(r *entryRow) string { return r.tx.Kind.String() }),
	text("account", func(r *entryRow) string { return r.tx.Legs[r.leg].Account.String() }),
	integer("amount_micros", func(r *entryRow) domain.Micros { return r.tx.Legs[r.leg].Amount }),
	text("currency", func(r *entryRow) string { return string(r.tx.Currency) }),
	text("allocation_id", func(r *entryRow) string { return r.tx.Allocation.String() }),
	text("vm_id", func(r *entryRow) string { return r.tx.VM.String() }),
	instant("effective_at", func(r *entryRow) domain.Time { return r.tx.Effective }),
	instant("recorded_at", func(r *entryRow) domain.Time { return r.at.At }),
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
	text("tenant_id", func(r *balanceRow) string { return r.key.tenant.String() }),
	text("account", func(r *balanceRow) string { return r.key.name() }),
	text("currency", func(r *balanceRow) string { return string(r.key.currency) }),
	integer("amount_micros", func(r *balanceRow) domain.Micros { return r.amount }),
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
