package domain

import (
	"cmp"
	"slices"
)

// A grant is a lot of credit, paid or promotional, with a priority and perhaps an
// expiry. Usage burns lots by priority, then expiry (never last), then age, then
// id.

// GrantKind is where a credit came from.
type GrantKind uint8

// The kinds of grants.
const (
	GrantPaid GrantKind = iota + 1
	GrantPromotional
)

var grantKindNames = [...]string{"", "paid", "promotional"}

func (k GrantKind) String() string { return enumName(grantKindNames[:], k) }

// MarshalText implements encoding.TextMarshaler.
func (k GrantKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *GrantKind) UnmarshalText(b []byte) error {
	return enumParse(k, grantKindNames[:], string(b), "kind of credit")
}

// Grant is a grant's state.
type Grant struct {
	ID       GrantID
	Tenant   TenantID
	Kind     GrantKind
	Priority uint32
	Granted  Time
	Expires  Time
	Amount   Micros
	Balance  Micros
	holds    uint32 // parts of holds that came from here
	lapsed   bool
}

// burnOrder compares two grants: the one that is used first is smaller.
func burnOrder(a, b *Grant) int {
	never := Time(1) << 62
	ea, eb := a.Expires, b.Expires
	if ea == 0 {
		ea = never
	}
	if eb == 0 {
		eb = never
	}
	return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(ea, eb), cmp.Compare(a.Granted, b.Granted), slices.Compare(a.ID[:], b.ID[:]))
}

// GrantCredit gives a tenant credit.
type GrantCredit struct {
	Tenant   TenantID  `json:"tenant_id"`
	Currency Currency  `json:"currency"`
	Amount   Micros    `json:"amount_micros"`
	Kind     GrantKind `json:"kind"`
	Priority uint32    `json:"priority"`
	Expires  Time      `json:"expires_at"`
}

// CommandType implements CommandBody.
func (*GrantCredit) CommandType() string { return "credit.grant" }

func (m *GrantCredit) wire(c *coder) {
	idField(c, 1, &m.Tenant)
	stringField(c, 2, &m.Currency)
	intField(c, 3, &m.Amount)
	uintField(c, 4, &m.Kind)
	uintField(c, 5, &m.Priority)
	c.time(6, &m.Expires)
}

// CreditGranted is the fact; a ledger.posted beside it moves the money.
type CreditGranted struct {
	ID       GrantID   `json:"id"`
	Tenant   TenantID  `json:"tenant_id"`
	Currency Currency  `json:"currency"`
	Amount   Micros    `json:"amount_micros"`
	Kind     GrantKind `json:"kind"`
	Priority uint32    `json:"priority"`
	Expires  Time      `json:"expires_at,omitzero"`
}

// EventType implements EventBody.
func (*CreditGranted) EventType() string { return "ledger.credit_granted" }

// Owner implements EventBody.
func (e *CreditGranted) Owner() string { return e.Tenant.String() }

// Resource implements EventBody.
func (e *CreditGranted) Resource() string { return e.ID.String() }

func (e *CreditGranted) wire(c *coder) {
	idField(c, 1, &e.ID)
	idField(c, 2, &e.Tenant)
	stringField(c, 3, &e.Currency)
	intField(c, 4, &e.Amount)
	uintField(c, 5, &e.Kind)
	uintField(c, 6, &e.Priority)
	c.time(7, &e.Expires)
}

// maxGrants bounds a tenant's live lots: a launch looks at each.
const maxGrants = 1000

func (m *GrantCredit) decide(w *World, x *Context) ([]EventBody, *Error) {
	if err := w.requirePlatform(x, RoleOperator|RoleFinance); err != nil {
		return nil, err
	}
	t := w.tenants.get(m.Tenant)
	if t == nil {
		return nil, notFound("tenant")
	}
	if m.Currency != t.Currency {
		return nil, invalidField("currency", "currency.not_the_tenants", "currency: this tenant is billed in %s", t.Currency)
	}
	if m.Amount <= 0 || m.Amount > MaxMicros {
		return nil, invalidField("amount_micros", "amount.invalid", "amount_micros: want 1 to %d", MaxMicros)
	}
	if m.Kind != GrantPaid && m.Kind != GrantPromotional {
		return nil, invalidField("kind", "credit.kind", "kind: want paid or promotional")
	}
	if m.Expires != 0 && m.Expires <= x.At {
		return nil, invalidField("expires_at", "time.past", "expires_at: lies in the past")
	}
	if len(t.grants) >= maxGrants {
		return nil, Errorf(Exhausted, "credit.too_many", "the tenant has %d live credits: use some up first", maxGrants)
	}
	p := newPurse(w, t, x)
	total := m.Amount
	for _, l := range p.lots {
		if total += l.balance; total > MaxMicros {
			return nil, invalidField("amount_micros", "amount.too_much", "amount_micros: the tenant's credit would be more than %d", MaxMicros)
		}
	}
	// Usage up to now burns the lots there were until now.
	p.settle(x.At)
	e := &CreditGranted{ID: deriveID[grantKind](x.Entropy, 0), Tenant: m.Tenant, Currency: m.Currency, Amount: m.Amount, Kind: m.Kind, Priority: m.Priority, Expires: m.Expires}
	from := AccountSuspense // until finance matches it with a payment
	if m.Kind == GrantPromotional {
		from = AccountPromoExpense
	}
	events := append(p.events, e, p.tx(TxGrant, x.At, AllocationID{}, VMID{}, []Leg{
		{Account{Kind: AccountLot, Ref: e.ID}, m.Amount},
		{Account{Kind: from}, -m.Amount},
	}))
	if t.State != TenantActive && p.available()+m.Amount > 0 {
		events = append(events, &TenantStateChanged{Tenant: t.ID, State: TenantActive})
	}
	return events, nil
}

func (e *CreditGranted) apply(w *World, x *Applied) {
	row, g := w.grants.add(e.ID)
	*g = Grant{ID: e.ID, Tenant: e.Tenant, Kind: e.Kind, Priority: e.Priority, Granted: x.At, Expires: e.Expires, Amount: e.Amount}
	t := w.tenants.get(e.Tenant)
	at, _ := slices.BinarySearchFunc(t.grants, g, func(r uint32, g *Grant) int { return burnOrder(w.grants.row(r), g) })
	t.grants = slices.Insert(t.grants, at, row)
	w.timers.add(e.Expires, timerGrant, row)
}

// dropGrant takes a lapsed grant out of the burn order. Its row stays while holds
// that came from it are open.
func (w *World) dropGrant(t *Tenant, id GrantID) {
	row := w.grants.find(id)
	w.grants.row(row).lapsed = true
	t.grants = slices.DeleteFunc(t.grants, func(r uint32) bool { return r == row })
}

// TenantStateChanged follows the tenant's money: past due, suspended, active.
type TenantStateChanged struct {
	Tenant     TenantID    `json:"tenant_id"`
	State      TenantState `json:"state"`
	GraceUntil Time        `json:"grace_until,omitzero"`
}

// EventType implements EventBody.
func (*TenantStateChanged) EventType() string { return "tenant.state_changed" }

// Owner implements EventBody.
func (e *TenantStateChanged) Owner() string { return e.Tenant.String() }

// Resource implements EventBody.
func (e *TenantStateChanged) Resource() string { return e.Tenant.String() }

func (e *TenantStateChanged) wire(c *coder) {
	idField(c, 1, &e.Tenant)
	uintField(c, 2, &e.State)
	c.time(3, &e.GraceUntil)
}

func (e *TenantStateChanged) apply(w *World, _ *Applied) {
	row := w.tenants.find(e.Tenant)
	t := w.tenants.row(row)
	t.State, t.GraceUntil = e.State, e.GraceUntil
	w.timers.add(t.GraceUntil, timerGrace, row)
	w.planRunway(t)
}
