package domain

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
	b := Balance{Currency: t.Currency, AsOf: at, Receivable: -p.receivable}
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
	if since, ok := w.unpostedSince(t, p.x.At); ok && w.priceChanged < since {
		usage := accrued(t.Rate, 1, p.x.At.Sub(since)) + Micros(len(t.vms))
		if have-usage >= amount {
			return have, true
		}
	}
	exact := w.BalanceAt(t, p.x.At).Available
	return exact, exact >= amount
}

// unpostedSince is a time before which all usage of the tenant is posted. A line in
// its first hour has a deadline at that hour's end, so it cannot have begun an hour
// before the first deadline there is.
func (w *World) unpostedSince(t *Tenant, now Time) (Time, bool) {
	since := now
	if t.captured > 0 {
		since = min(since, t.AccruedTo)
	}
	if int(t.captured) < len(t.vms) {
		if len(w.timers.heap) == 0 || len(w.parked) > 0 {
			return 0, false
		}
		since = min(since, w.timers.heap[0].at-Time(firstHour))
	}
	return since, true
}
