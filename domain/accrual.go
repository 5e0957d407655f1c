package domain

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

// charge is what the VM has cost from `from` to `to`.
func (w *World) charge(v *VM, from, to Time) Micros {
	if v.BillStart == 0 || to <= from {
		return 0
	}
	a := w.allocations.row(v.alloc)
	return w.cost(w.tenants.row(a.tenant), endedLine{start: v.BillStart, sku: a.sku, gpus: a.Shape}, a.LockedRate, from, to, everyPrice)
}

// everyPrice stands for all late prices there are.
const everyPrice = ^uint32(0)

// cost is what a line has cost from `from` to `to` by the prices that are known with
// the late price of that number. Both times count from the beginning of the stretch of
// one price and period that they are in, so that the floors fall where they always
// fell.
func (w *World) cost(t *Tenant, l endedLine, locked Micros, from, to Time, known uint32) Micros {
	var sum Micros
	sku := w.skus.row(l.sku)
	at := l.start
	if from > at { // what ended before `from` is nothing to it
		since := Time(0)
		if locked < 0 {
			_, since, _, _ = sku.versionAt(t.ID, t.Currency, from, known)
		}
		at = max(at, since, t.calendar.start(from))
	}
	for at < to {
		rate, until := locked, Time(0)
		if rate < 0 {
			rate, until, _ = sku.rateAt(t.ID, t.Currency, at, known)
		}
		end := min(to, t.calendar.end(at))
		if until != 0 {
			end = min(end, until)
		}
		if end > from {
			sum = sum.add(accrued(rate, l.gpus, end.Sub(at)))
			if from > at {
				sum -= accrued(rate, l.gpus, from.Sub(at))
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
		rate, _, _ = w.skus.row(a.sku).rateAt(a.Tenant, w.tenants.row(a.tenant).Currency, t, everyPrice)
	}
	return rate * Micros(a.Shape)
}

// captured moves a VM into the tenant's hourly accrual.
func (w *World) captured(t *Tenant, v *VM, at Time) {
	if v == nil {
		return
	}
	if v.Captured { // its first hour was in two billing periods
		v.PostedTo = max(v.PostedTo, at)
		return
	}
	v.Captured, v.PostedTo = true, at
	if t.captured == 0 {
		t.AccruedTo = max(t.AccruedTo, at)
	}
	t.captured++
	if t.AccrueAt == 0 {
		if w.LogicLevel >= 2 { // of a first hour in two billing periods the first part may end before what is posted
			at = max(at, t.AccruedTo)
		}
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

func (v *VM) lineOpen() bool { return v.BillStart != 0 && v.BillEnd == 0 }

func (w *World) closeLine(v *VM, at Time, free bool) {
	if !v.lineOpen() {
		return
	}
	v.BillEnd = max(at, v.BillStart)
	a := w.allocations.row(v.alloc)
	t := w.tenants.row(a.tenant)
	if !free && a.LockedRate < 0 && v.BillEnd > v.BillStart {
		w.keepEnded(t, endedLine{start: v.BillStart, end: v.BillEnd, sku: a.sku, gpus: a.Shape})
	}
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
