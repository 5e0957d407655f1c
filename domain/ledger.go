package domain

// The ledger is double entry: a transaction is a list of postings that sum to
// zero per currency, and no posting is ever altered. The sign convention is the
// platform's: what the site owes a tenant (its lots, its holds) and what the site
// has earned (revenue) is positive; what a tenant owes (receivable) and what the
// site spent (promo_expense) is negative.

// AccountKind is the first word of an account's name.
type AccountKind uint8

// The accounts. The first five are per tenant, the others the platform's.
const (
	AccountLot  AccountKind = iota + 1 // lot:<grant>
	AccountHold                        // hold:<allocation>
	AccountUnbilled
	AccountReceivable
	AccountCustomerCredit
	AccountRevenue // revenue:<sku>
	AccountContraRevenue
	AccountPromoExpense
	AccountBreakage
	AccountTaxPayable
	AccountStripeClearing
	AccountStripeFees
	AccountRounding
	AccountBadDebt
	AccountDispute
	AccountSuspense
)

var accountNames = [...]string{
	"", "lot", "hold", "unbilled", "receivable", "customer_credit", "revenue", "contra_revenue", "promo_expense",
	"breakage", "tax_payable", "stripe_clearing", "stripe_fees", "rounding", "bad_debt", "dispute", "suspense",
}

// OfTenant reports whether each tenant has its own account of this kind.
func (k AccountKind) OfTenant() bool { return k <= AccountCustomerCredit }

// Account is an account's name; Ref is the grant, allocation or SKU.
type Account struct {
	Kind AccountKind
	Ref  [16]byte
}

// String is the name: "lot:grant_...", "receivable".
func (a Account) String() string {
	name := enumName(accountNames[:], a.Kind)
	switch a.Kind {
	case AccountLot:
		return name + ":" + GrantID(a.Ref).String()
	case AccountHold:
		return name + ":" + AllocationID(a.Ref).String()
	case AccountRevenue:
		return name + ":" + SKUID(a.Ref).String()
	}
	return name
}

// MarshalText implements encoding.TextMarshaler.
func (a Account) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// Leg is one posting.
type Leg struct {
	Account Account `json:"account"`
	Amount  Micros  `json:"amount_micros"`
}

func (l *Leg) wire(c *coder) {
	uintField(c, 1, &l.Account.Kind)
	c.fixedBytes(2, l.Account.Ref[:])
	intField(c, 3, &l.Amount)
}

// TxKind says why a transaction was posted.
type TxKind uint8

// The kinds of transactions.
const (
	TxGrant      TxKind = iota + 1 // a credit becomes spendable
	TxExpiry                       // what is left of a grant lapses
	TxHold                         // a launch puts one hour aside
	TxCapture                      // a VM's first hour, or its whole life if shorter
	TxAccrual                      // a tenant's usage since the last one, all VMs past their first hour
	TxClose                        // a line's last usage
	TxRelease                      // what is left of a hold goes back
	TxCorrection                   // usage that was posted is worth something else, or was none
	TxAdjustment                   // two operators corrected a balance
)

var txKindNames = [...]string{"", "grant", "expiry", "hold", "capture", "accrual", "close", "release", "correction", "adjustment"}

func (k TxKind) String() string { return enumName(txKindNames[:], k) }

// MarshalText implements encoding.TextMarshaler.
func (k TxKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// LedgerPosted is one transaction with all its legs. Effective is when it counts,
// the commit's time is when it was recorded.
//
// A correction changes what was posted for the usage in [From, To), all of it in
// one billing period, and names the original: Corrects is the last transaction that
// posted usage of the tenant. What it corrects are that one and those before it
// whose usage reaches beyond From. They stay as they are.
type LedgerPosted struct {
	Tx         TxID         `json:"tx_id"`
	Tenant     TenantID     `json:"tenant_id"`
	Currency   Currency     `json:"currency"`
	Kind       TxKind       `json:"kind"`
	Effective  Time         `json:"effective_at"`
	Allocation AllocationID `json:"allocation_id,omitzero"`
	VM         VMID         `json:"vm_id,omitzero"`
	Legs       []Leg        `json:"legs"`

	Corrects TxID    `json:"corrects_tx_id,omitzero"`
	Price    PriceID `json:"price_id,omitzero"` // the late price that is the reason; zero: a late stop
	From     Time    `json:"usage_from,omitzero"`
	To       Time    `json:"usage_to,omitzero"`
}

// EventType implements EventBody.
func (*LedgerPosted) EventType() string { return "ledger.posted" }

// Owner implements EventBody.
func (e *LedgerPosted) Owner() string { return e.Tenant.String() }

// Resource implements EventBody.
func (e *LedgerPosted) Resource() string { return e.Tx.String() }

func (e *LedgerPosted) wire(c *coder) {
	idField(c, 1, &e.Tx)
	idField(c, 2, &e.Tenant)
	stringField(c, 3, &e.Currency)
	uintField(c, 4, &e.Kind)
	c.time(5, &e.Effective)
	idField(c, 6, &e.Allocation)
	idField(c, 7, &e.VM)
	msgs(c, 8, &e.Legs)
	idField(c, 9, &e.Corrects)
	idField(c, 10, &e.Price)
	c.time(11, &e.From)
	c.time(12, &e.To)
}

type platformAccount struct {
	Account  Account
	Currency Currency
}

func (e *LedgerPosted) apply(w *World, _ *Applied) {
	t := w.tenants.get(e.Tenant)
	for _, l := range e.Legs {
		switch l.Account.Kind {
		case AccountLot:
			g := w.grants.get(GrantID(l.Account.Ref))
			g.Balance = g.Balance.add(l.Amount)
		case AccountHold:
			w.allocations.get(AllocationID(l.Account.Ref)).moveHold(w, e, l.Amount)
		case AccountReceivable:
			t.Receivable = t.Receivable.add(l.Amount)
		case AccountCustomerCredit:
			t.Credit = t.Credit.add(l.Amount)
		default:
			key := platformAccount{l.Account, t.Currency}
			w.platform[key] = w.platform[key].add(l.Amount)
		}
	}
	switch e.Kind {
	case TxCapture, TxAccrual, TxClose:
		if len(e.Legs) > 0 {
			t.lastUsage = e.Tx
		}
	}
	switch e.Kind {
	case TxCapture:
		w.captured(t, w.vms.get(e.VM), e.Effective)
	case TxCorrection:
		w.repriced(t, e.Price)
	case TxAccrual:
		t.AccruedTo = e.Effective
		w.rerate(t)
		if t.AccrueAt != 0 && t.AccrueAt <= e.Effective {
			t.AccrueAt = 0
			if t.captured > 0 {
				t.AccrueAt = nextHour(t, e.Effective)
				w.timers.add(t.AccrueAt, timerAccrue, w.tenants.find(t.ID))
			}
		}
	case TxExpiry:
		w.dropGrant(t, GrantID(e.Legs[0].Account.Ref))
	}
	w.planRunway(t)
}

// moveHold keeps, beside a hold's balance, which lots it came from, so that what
// is not captured goes back there.
func (a *Allocation) moveHold(w *World, e *LedgerPosted, amount Micros) {
	a.Hold = a.Hold.add(amount)
	t := w.tenants.row(a.tenant)
	t.Held = t.Held.add(amount)
	switch e.Kind {
	case TxHold:
		for _, l := range e.Legs {
			if l.Amount < 0 {
				part := holdPart{grant: none, amount: -l.Amount}
				if l.Account.Kind == AccountLot {
					part.grant = w.grants.find(GrantID(l.Account.Ref))
					w.grants.row(part.grant).holds++
				}
				a.parts = append(a.parts, part)
			}
		}
	case TxRelease:
		for _, p := range a.parts {
			w.unhold(p)
		}
		a.parts = nil
	default: // captured: the first parts are used up first
		left := -amount
		for len(a.parts) > 0 && left > 0 {
			p := &a.parts[0]
			n := min(left, p.amount)
			p.amount -= n
			left -= n
			if p.amount == 0 {
				w.unhold(*p)
				a.parts = a.parts[1:]
			}
		}
	}
}

func (w *World) unhold(p holdPart) {
	if p.grant != none {
		w.grants.row(p.grant).holds--
	}
}

// holdPart is what of a hold came from one lot; none stands for the credit line.
type holdPart struct {
	grant  uint32
	amount Micros
}
