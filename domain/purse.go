package domain

import "slices"

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

// newPurse opens the tenant's purse. Its first events are the corrections that late
// prices still ask for.
func newPurse(w *World, t *Tenant, x *Context) *purse {
	p := &purse{w: w, x: x, t: t, receivable: t.Receivable, accruedTo: t.AccruedTo}
	p.lots = make([]purseLot, len(t.grants))
	for i, row := range t.grants {
		g := w.grants.row(row)
		p.lots[i] = purseLot{row, g.Balance, g.Expires}
	}
	if int(t.repriced) < len(w.late) {
		p.reprice()
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
	p.payFor(TxCapture, v, v.BillStart, to)
}

// payFor posts what a VM's usage costs, a transaction for each billing period.
func (p *purse) payFor(kind TxKind, v *VM, from, to Time) {
	for p.w.LogicLevel >= 2 && p.t.calendar.end(from) < to {
		end := p.t.calendar.end(from)
		p.pay(kind, v, p.w.charge(v, from, end), end)
		from = end
	}
	p.pay(kind, v, p.w.charge(v, from, to), to)
}

// close posts what is left of a line that ended at `end`, or gives back what was
// posted beyond it.
func (p *purse) close(v *VM, end Time) {
	posted := p.w.postedTo(v)
	if v.Captured {
		posted = max(posted, p.accruedTo)
	}
	switch {
	case end >= posted:
		p.payFor(TxClose, v, posted, end)
	case p.w.LogicLevel < 2:
		p.pay(TxClose, v, -p.w.charge(v, end, posted), end)
	default:
		p.giveBack(v, end, posted)
	}
}

// giveBack corrects usage that was posted and did not happen.
func (p *purse) giveBack(v *VM, from, posted Time) {
	a := p.w.allocations.row(v.alloc)
	for from < posted {
		to := min(p.t.calendar.end(from), posted)
		if amount := p.w.charge(v, from, to); amount != 0 {
			e := p.correct(a.sku, -amount, from, to, PriceID{})
			e.Allocation, e.VM = a.ID, v.ID
		}
		from = to
	}
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

// accrueTo posts one transaction for the tenant, and one more for each billing
// period that ends on the way.
func (p *purse) accrueTo(to Time) {
	for p.w.LogicLevel >= 2 && p.t.captured > 0 && p.t.calendar.end(p.accruedTo) < to {
		p.accruePart(p.t.calendar.end(p.accruedTo))
	}
	p.accruePart(to)
}

func (p *purse) accruePart(to Time) {
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
