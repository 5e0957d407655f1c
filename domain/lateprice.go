package domain

import "cmp"

// A price that is published after the time from which it holds changes what open
// billing periods have cost already. What was posted stays: each tenant gets
// transactions that post the difference. They are made by the next decision that
// touches the tenant's money, and by a deadline that falls due at once; until then
// every balance is computed with them.

// latePrice is a late price that was published; their numbers are 1, 2, 3, ...
type latePrice struct {
	price PriceID
	sku   uint32
	at    Time // recorded
}

func (l *latePrice) wire(c *coder) {
	idField(c, 1, &l.price)
	uintField(c, 2, &l.sku)
	c.time(3, &l.at)
}

// endedLine is a line that ended in a billing period that is still open. One with a
// locked price is not kept: no late price changes it.
type endedLine struct {
	start, end Time
	sku        uint32
	gpus       uint32
}

func (l *endedLine) wire(c *coder) {
	c.time(1, &l.start)
	c.time(2, &l.end)
	uintField(c, 3, &l.sku)
	uintField(c, 4, &l.gpus)
}

// periodGrace is how long after its end a billing period is still open.
const periodGrace = Day

// openSince is the start of the tenant's oldest open billing period.
func (t *Tenant) openSince(now Time) Time { return t.calendar.start(now.Add(-periodGrace)) }

// keepEnded remembers a line that ended, and forgets those of closed periods.
func (w *World) keepEnded(t *Tenant, l endedLine) {
	if since := t.openSince(w.At); since > t.endedSince {
		t.endedSince = since
		kept := t.ended[:0]
		for _, l := range t.ended {
			if l.end > since {
				kept = append(kept, l)
			}
		}
		t.ended = kept
	}
	t.ended = append(t.ended, l)
	s := w.skus.row(l.sku)
	s.usedTo = max(s.usedTo, l.end)
}

// checkLate refuses a price that would change a billing period that is closed. It
// reports whether any usage is later than the price.
func (w *World) checkLate(x *Context, s *SKU, e *PricePublished) (late bool, err *Error) {
	if e.Effective >= x.At || s.live == 0 && s.usedTo <= e.Effective {
		return false, nil
	}
	if w.LogicLevel < 2 {
		if s.live > 0 {
			return false, invalidField("effective_at", "price.in_the_past", "effective_at: lies in the past while allocations of this SKU are billed; give a time from now on")
		}
		return false, nil
	}
	for _, t := range w.tenants.rows() {
		if !e.concerns(t) {
			continue
		}
		if since := t.openSince(x.At); e.Effective < since {
			return false, invalidField("effective_at", "price.period_closed", "effective_at: lies in a billing period that is closed for tenant %s: give a time from %s on", t.ID, since)
		}
	}
	return true, nil
}

// concerns reports whether the tenant has usage that the price could be for.
func (e *PricePublished) concerns(t *Tenant) bool {
	return t.Currency == e.Currency && (e.Tenant.IsZero() || e.Tenant == t.ID) && (len(t.vms) > 0 || len(t.ended) > 0)
}

// publishedLate numbers a late price and asks for the corrections of the tenants.
func (w *World) publishedLate(e *PricePublished, at Time) (number uint32) {
	w.late = append(w.late, latePrice{e.ID, w.skus.find(e.SKU), at})
	number = uint32(len(w.late))
	w.priceChanged = max(w.priceChanged, at)
	for row, t := range w.tenants.rows() {
		if t.repriced == number-1 && !e.concerns(t) {
			t.repriced = number
		}
		w.timers.add(w.repriceAt(t), timerReprice, row)
	}
	return number
}

// repriceAt is when the tenant's corrections are due: when the first late price that
// it has none for was recorded; 0: there is none.
func (w *World) repriceAt(t *Tenant) Time {
	if int(t.repriced) == len(w.late) {
		return 0
	}
	return w.late[t.repriced].at
}

// repriced remembers that a late price's corrections for the tenant are posted.
func (w *World) repriced(t *Tenant, price PriceID) {
	for i := int(t.repriced); i < len(w.late); i++ {
		if w.late[i].price == price {
			t.repriced = uint32(i) + 1
		}
	}
	w.rerate(t)
}

// reprice posts what late prices change of the usage that is posted, one price
// after the other, one transaction for each billing period; one without legs if
// they change nothing.
func (p *purse) reprice() {
	w, t := p.w, p.t
	for number := t.repriced + 1; int(number) <= len(w.late); number++ {
		l := w.late[number-1]
		sku := w.skus.row(l.sku)
		since, before := sku.price(l.price).Effective, len(p.events)
		for from := since; from < p.x.At; {
			to := min(t.calendar.end(from), p.x.At)
			var delta Micros
			for _, line := range p.postedLines(l.sku) {
				posted := min(line.end, to)
				delta += w.cost(t, line.endedLine, -1, from, posted, number) - w.cost(t, line.endedLine, -1, from, posted, number-1)
			}
			if delta != 0 {
				p.correct(l.sku, delta, from, to, l.price)
			}
			from = to
		}
		if len(p.events) == before {
			e := p.tx(TxCorrection, p.x.At, AllocationID{}, VMID{}, nil)
			e.Price = l.price
			p.events = append(p.events, e)
		}
	}
}

// postedLine is a line of the tenant as far as it is posted.
type postedLine struct{ endedLine }

// postedLines lists the tenant's lines of a SKU that follow the price book, each up
// to where its usage is posted.
func (p *purse) postedLines(sku uint32) (lines []postedLine) {
	for _, l := range p.t.ended {
		if l.sku == sku {
			lines = append(lines, postedLine{l})
		}
	}
	for _, row := range p.t.vms {
		v := p.w.vms.row(row)
		if a := p.w.allocations.row(v.alloc); a.sku == sku && a.LockedRate < 0 && v.Captured {
			lines = append(lines, postedLine{endedLine{start: v.BillStart, end: p.w.postedTo(v), sku: sku, gpus: a.Shape}})
		}
	}
	return lines
}

// correct posts that usage in [from, to) costs amount more (or, negative, less)
// than was posted.
func (p *purse) correct(sku uint32, amount Micros, from, to Time, price PriceID) *LedgerPosted {
	legs := append(p.burn(amount, p.x.At), Leg{Account{Kind: AccountRevenue, Ref: p.w.skus.row(sku).ID}, amount})
	e := p.tx(TxCorrection, to, AllocationID{}, VMID{}, legs)
	e.Corrects, e.Price, e.From, e.To = p.t.lastUsage, price, from, to
	p.events = append(p.events, e)
	return e
}

func (s *SKU) price(id PriceID) *Price {
	for i := range s.prices {
		if s.prices[i].ID == id {
			return &s.prices[i]
		}
	}
	return nil
}

// byEffective is the order of a SKU's prices; of two at one instant the later
// recorded wins, so it stays behind.
func byEffective(a, b Price) int { return cmp.Compare(a.Effective, b.Effective) }
