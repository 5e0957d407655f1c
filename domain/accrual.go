package domain

import (
	"slices"
)

// Accrual turns running time into postings. One line is one VM; what it has cost
// up to t is the sum, over the stretches in which price and billing period stay
// the same, of floor(rate * GPUs * elapsed / hour). A posting is the difference to
// what was posted before, so no total depends on when or how often one meters.
//
// A VM's first hour is paid from the hold its launch put aside, and posted as one
// transaction when it is over (or when the VM ends). From then on the VM is part
// of its tenant's hourly transaction.

// firstHour is what a launch puts aside.
const firstHour = Hour

// charge is what the VM has cost from `from` to `to`. Both count from the
// beginning of the line, so that the floors fall where they always fell.
func (w *World) charge(v *VM, from, to Time) Micros {
	if v.BillStart == 0 || to <= from {
		return 0
	}
	a := w.allocations.row(v.alloc)
	sku, cur := w.skus.row(a.sku), w.tenants.row(a.tenant).Currency
	var sum Micros
	for at := v.BillStart; at < to; {
		rate, until := a.LockedRate, Time(0)
		if rate < 0 {
			rate, until, _ = sku.rateAt(a.Tenant, cur, at)
		}
		end := min(to, firstOfNextMonth(at))
		if until != 0 {
			end = min(end, until)
		}
		if end > from {
			sum = sum.add(accrued(rate, a.Shape, end.Sub(at)))
			if from > at {
				sum -= accrued(rate, a.Shape, from.Sub(at))
			}
		}
		at = end
	}
	return sum
}

// postedTo is the instant up to which the VM's usage is in the ledger.
func (w *World) postedTo(v *VM) Time {
	if !v.Captured {
		return v.BillStart
	}
	return max(v.PostedTo, w.tenants.row(w.allocations.row(v.alloc).tenant).AccruedTo)
}

// hourly is the VM's price per hour at t.
func (w *World) hourly(v *VM, t Time) Micros {
	a := w.allocations.row(v.alloc)
	rate := a.LockedRate
	if rate < 0 {
		rate, _, _ = w.skus.row(a.sku).rateAt(a.Tenant, w.tenants.row(a.tenant).Currency, t)
	}
	return rate * Micros(a.Shape)
}

// purse is a tenant's money while one decision works on it: what several postings
// of the decision do to the same lots and holds adds up here.
type purse struct {
	w          *World
	x          *Context
	t          *Tenant
	lots       []purseLot // in burn order
	receivable Micros
	held       map[uint32]Micros // holds touched, by allocation row
	accruedTo  Time
	events     []EventBody
	txs        int
}

type purseLot struct {
	row     uint32
	balance Micros
	expires Time
}

func newPurse(w *World, t *Tenant, x *Context) *purse {
	p := &purse{w: w, x: x, t: t, receivable: t.Receivable, accruedTo: t.AccruedTo}
	p.lots = make([]purseLot, len(t.grants))
	for i, row := range t.grants {
		g := w.grants.row(row)
		p.lots[i] = purseLot{row, g.Balance, g.Expires}
	}
	return p
}

// available is what can still be spent: lots, credit line, less what is owed.
func (p *purse) available() Micros {
	sum := p.t.CreditLine.add(p.receivable).add(p.t.Credit)
	for _, l := range p.lots {
		if l.expires == 0 || l.expires > p.x.At {
			sum = sum.add(l.balance)
		}
	}
	return sum
}

func (p *purse) tx(kind TxKind, effective Time, a AllocationID, v VMID, legs []Leg) *LedgerPosted {
	h := p.x.Entropy.derive("tx:"+p.t.ID.String(), p.txs)
	p.txs++
	return &LedgerPosted{Tx: TxID(h[:16]), Tenant: p.t.ID, Currency: p.t.Currency, Kind: kind, Effective: effective, Allocation: a, VM: v, Legs: legs}
}

// burn takes amount from the lots that were good just before `at`, and what they
// lack from the receivable. A negative amount is given back, to the lots in
// reverse order up to what each was granted, after settling what is owed.
func (p *purse) burn(amount Micros, at Time) (legs []Leg) {
	take := func(l *purseLot, n Micros) {
		l.balance -= n
		legs = append(legs, Leg{Account{Kind: AccountLot, Ref: p.w.grants.row(l.row).ID}, -n})
	}
	owe := func(n Micros) {
		p.receivable -= n
		legs = append(legs, Leg{Account{Kind: AccountReceivable}, -n})
	}
	if amount < 0 {
		if back := min(-amount, -p.receivable); back > 0 {
			owe(-back)
			amount += back
		}
		for i := len(p.lots) - 1; i >= 0 && amount < 0; i-- {
			l := &p.lots[i]
			if back := min(-amount, p.w.grants.row(l.row).Amount-l.balance); back > 0 {
				take(l, -back)
				amount += back
			}
		}
		if amount < 0 {
			owe(amount)
		}
		return legs
	}
	for i := range p.lots {
		if amount == 0 {
			return legs
		}
		l := &p.lots[i]
		if l.balance <= 0 || l.expires != 0 && l.expires < at {
			continue
		}
		n := min(amount, l.balance)
		take(l, n)
		amount -= n
	}
	if amount > 0 {
		owe(amount)
	}
	return legs
}

// hold returns what is left of the allocation's hold in this decision.
func (p *purse) hold(row uint32) Micros {
	if h, ok := p.held[row]; ok {
		return h
	}
	return p.w.allocations.row(row).Hold
}

// pay posts usage of one VM: from its hold first, then from the lots.
func (p *purse) pay(kind TxKind, v *VM, amount Micros, effective Time) {
	a := p.w.allocations.row(v.alloc)
	var legs []Leg
	rest := amount
	if held := p.hold(v.alloc); rest > 0 && held > 0 {
		n := min(rest, held)
		if p.held == nil {
			p.held = map[uint32]Micros{}
		}
		p.held[v.alloc] = held - n
		legs = append(legs, Leg{Account{Kind: AccountHold, Ref: a.ID}, -n})
		rest -= n
	}
	legs = append(legs, p.burn(rest, effective)...)
	if amount != 0 {
		legs = append(legs, Leg{Account{Kind: AccountRevenue, Ref: p.w.skus.row(a.sku).ID}, amount})
	}
	if amount != 0 || kind == TxCapture {
		p.events = append(p.events, p.tx(kind, effective, a.ID, v.ID, legs))
	}
}

// capture posts a VM's first hour, and moves it into the tenant's hourly accrual.
func (p *purse) capture(v *VM) {
	to := max(v.BillStart.Add(firstHour), p.accruedTo)
	p.pay(TxCapture, v, p.w.charge(v, v.BillStart, to), to)
}

// close posts what is left of a line that ended at `end`, or gives back what was
// posted beyond it.
func (p *purse) close(v *VM, end Time) {
	posted := p.w.postedTo(v)
	if v.Captured {
		posted = max(posted, p.accruedTo)
	}
	amount := p.w.charge(v, posted, end)
	if end < posted {
		amount = -p.w.charge(v, end, posted)
	}
	p.pay(TxClose, v, amount, end)
}

// settle posts the usage of all VMs past their first hour up to `to`, and lets
// lots lapse at their instants on the way.
func (p *purse) settle(to Time) {
	for {
		next := Time(0)
		for _, l := range p.lots {
			if l.expires != 0 && l.expires <= to && (next == 0 || l.expires < next) {
				next = l.expires
			}
		}
		if next == 0 {
			break
		}
		p.accrueTo(next)
		p.lapse(next)
	}
	p.accrueTo(to)
}

// accrueTo posts one transaction for the tenant.
func (p *purse) accrueTo(to Time) {
	if to <= p.accruedTo {
		return
	}
	bySKU := map[uint32]Micros{}
	var total Micros
	for _, row := range p.t.vms {
		v := p.w.vms.row(row)
		if !v.Captured {
			continue
		}
		from := max(v.PostedTo, p.accruedTo)
		if n := p.w.charge(v, from, to); n != 0 {
			sku := p.w.allocations.row(v.alloc).sku
			bySKU[sku] = bySKU[sku].add(n)
			total = total.add(n)
		}
	}
	p.accruedTo = to
	if total == 0 && p.t.captured == 0 {
		return
	}
	legs := p.burn(total, to)
	skus := make([]uint32, 0, len(bySKU))
	for sku := range bySKU {
		skus = append(skus, sku)
	}
	slices.Sort(skus)
	for _, sku := range skus {
		legs = append(legs, Leg{Account{Kind: AccountRevenue, Ref: p.w.skus.row(sku).ID}, bySKU[sku]})
	}
	p.events = append(p.events, p.tx(TxAccrual, to, AllocationID{}, VMID{}, legs))
}

// lapse ends the lots that expire at `at`: what is left of a promotion reverses
// its expense, what is left of a paid credit is breakage.
func (p *purse) lapse(at Time) {
	p.lots = slices.DeleteFunc(p.lots, func(l purseLot) bool {
		if l.expires == 0 || l.expires > at {
			return false
		}
		g := p.w.grants.row(l.row)
		p.events = append(p.events, p.tx(TxExpiry, l.expires, AllocationID{}, VMID{}, []Leg{
			{Account{Kind: AccountLot, Ref: g.ID}, -l.balance},
			{Account{Kind: lapsedAccount(g.Kind)}, l.balance},
		}))
		return true
	})
}

func lapsedAccount(k GrantKind) AccountKind {
	if k == GrantPromotional {
		return AccountPromoExpense
	}
	return AccountBreakage
}

// releaseHold gives what is left of an allocation's hold back to where it came
// from; a part whose lot has lapsed lapses too.
func (p *purse) releaseHold(row uint32) {
	a := p.w.allocations.row(row)
	left := p.hold(row)
	if left <= 0 {
		return
	}
	legs := []Leg{{Account{Kind: AccountHold, Ref: a.ID}, -left}}
	used := a.Hold - left // captured in this decision: from the first parts
	for _, part := range a.parts {
		n := min(used, part.amount)
		used -= n
		back := part.amount - n
		if back == 0 {
			continue
		}
		to := Account{Kind: AccountReceivable}
		if part.grant == none {
			p.receivable += back
		} else if g := p.w.grants.row(part.grant); g.lapsed {
			to = Account{Kind: lapsedAccount(g.Kind)}
		} else {
			to = Account{Kind: AccountLot, Ref: g.ID}
			for i := range p.lots {
				if p.lots[i].row == part.grant {
					p.lots[i].balance += back
				}
			}
		}
		legs = append(legs, Leg{to, back})
	}
	if p.held == nil {
		p.held = map[uint32]Micros{}
	}
	p.held[row] = 0
	p.events = append(p.events, p.tx(TxRelease, p.x.At, a.ID, VMID{}, legs))
}

// captured moves a VM into the tenant's hourly accrual.
func (w *World) captured(t *Tenant, v *VM, at Time) {
	if v == nil || v.Captured {
		return
	}
	v.Captured, v.PostedTo = true, at
	if t.captured == 0 {
		t.AccruedTo = max(t.AccruedTo, at)
	}
	t.captured++
	if t.AccrueAt == 0 {
		t.AccrueAt = nextHour(t, at)
		w.timers.add(t.AccrueAt, timerAccrue, w.tenants.find(t.ID))
	}
}

// nextHour is the tenant's next hourly posting after `at`. Tenants are spread over
// the hour by their ids.
func nextHour(t *Tenant, at Time) Time {
	offset := Time(uint16(t.ID[0])<<8|uint16(t.ID[1])) % Time(Hour)
	return (at-offset)/Time(Hour)*Time(Hour) + offset + Time(Hour)
}

// openLine and closeLine keep what a tenant's balance is computed from.
func (w *World) openLine(v *VM, row uint32, at Time) {
	a := w.allocations.row(v.alloc)
	t := w.tenants.row(a.tenant)
	v.BillStart, v.lineAt = at, uint32(len(t.vms))
	t.vms = append(t.vms, row)
	t.Rate = t.Rate.add(w.hourly(v, at))
	w.timers.add(at.Add(firstHour), timerCapture, row)
	w.planRunway(t)
}

func (w *World) closeLine(v *VM, at Time) {
	if v.BillStart == 0 || v.BillEnd != 0 {
		return
	}
	v.BillEnd = max(at, v.BillStart)
	t := w.tenants.row(w.allocations.row(v.alloc).tenant)
	last := len(t.vms) - 1
	moved := t.vms[last]
	t.vms[v.lineAt] = moved
	w.vms.row(moved).lineAt = v.lineAt
	t.vms = t.vms[:last]
	t.Rate = max(0, t.Rate-w.hourly(v, at))
	if v.Captured {
		t.captured--
	}
	if len(t.vms) == 0 {
		t.Rate = 0
	}
	w.planRunway(t)
}

// rerate brings a tenant's hourly rate up to date after a price changed.
func (w *World) rerate(t *Tenant) {
	if w.priceChanged < t.ratedAt {
		return
	}
	t.Rate, t.ratedAt = 0, w.At
	for _, row := range t.vms {
		t.Rate = t.Rate.add(w.hourly(w.vms.row(row), w.At))
	}
}

// Balance is a tenant's money at an instant, with usage that is not posted yet.
type Balance struct {
	Currency   Currency `json:"currency"`
	Available  Micros   `json:"available_micros"`
	Held       Micros   `json:"held_micros"`
	Unbilled   Micros   `json:"unbilled_micros"`
	Receivable Micros   `json:"receivable_micros"`
	AsOf       Time     `json:"as_of"`
}

// BalanceAt computes a balance to `at` from the ledger and the open lines.
// Unbilled is usage that is metered but not yet posted; it is already taken from
// held and available.
func (w *World) BalanceAt(t *Tenant, at Time) Balance {
	p := newPurse(w, t, &Context{At: at})
	b := Balance{Currency: t.Currency, AsOf: at, Receivable: -t.Receivable}
	holds := map[uint32]Micros{}
	for _, row := range t.vms {
		v := w.vms.row(row)
		n := w.charge(v, w.postedTo(v), at)
		b.Unbilled = b.Unbilled.add(n)
		left, seen := holds[v.alloc]
		if !seen {
			left = w.allocations.row(v.alloc).Hold
		}
		fromHold := min(left, n)
		holds[v.alloc] = left - fromHold
		b.Held -= fromHold
		b.Available -= n - fromHold
	}
	b.Held += t.Held
	b.Available += p.available()
	return b
}

// canSpend reports whether the tenant has `amount` at x.At. The quick answer
// over-estimates usage that is not posted yet; only when that is not enough are
// all open lines computed.
func (w *World) canSpend(t *Tenant, p *purse, amount Micros) (Micros, bool) {
	have := p.available()
	if have >= amount && len(t.vms) == 0 {
		return have, true
	}
	if w.priceChanged < t.AccruedTo && t.AccruedTo != 0 {
		usage := accrued(t.Rate, 1, p.x.At.Sub(t.AccruedTo)) + Micros(len(t.vms))
		if have-usage >= amount {
			return have, true
		}
	}
	exact := w.BalanceAt(t, p.x.At).Available
	return exact, exact >= amount
}

// planRunway sets the instant at which the credit ends at the present rate, or
// earlier. It is a deadline of the world: nobody polls.
func (w *World) planRunway(t *Tenant) {
	if t.Rate == 0 || t.State != TenantActive {
		t.RunwayAt = 0
		return
	}
	have := t.CreditLine.add(t.Receivable).add(t.Credit)
	for _, row := range t.grants {
		have = have.add(w.grants.row(row).Balance)
	}
	at := max(t.AccruedTo, w.At).Add(max(Minute, lasts(have, t.Rate)))
	// A later end needs no new deadline: the old one finds out and plans again.
	if t.RunwayAt > w.At && at >= t.RunwayAt {
		return
	}
	w.setRunway(t, at)
}

func (w *World) setRunway(t *Tenant, at Time) {
	t.RunwayAt = at
	w.timers.add(at, timerRunway, w.tenants.find(t.ID))
}

// RunwayPlanned says when the tenant's credit will end if nothing changes.
type RunwayPlanned struct {
	Tenant TenantID `json:"tenant_id"`
	At     Time     `json:"credit_ends_at"`
}

// EventType implements EventBody.
func (*RunwayPlanned) EventType() string { return "ledger.runway_planned" }

// Owner implements EventBody.
func (e *RunwayPlanned) Owner() string { return e.Tenant.String() }

// Resource implements EventBody.
func (e *RunwayPlanned) Resource() string { return e.Tenant.String() }

func (e *RunwayPlanned) wire(c *coder) {
	idField(c, 1, &e.Tenant)
	c.time(2, &e.At)
}

func (e *RunwayPlanned) apply(w *World, _ *Applied) { w.setRunway(w.tenants.get(e.Tenant), e.At) }
