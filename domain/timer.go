package domain

import (
	"fmt"
	"slices"
)

// Timers are part of the world: every waiting state has a deadline. The heap here
// only orders them; whether a deadline still stands is asked of the state itself,
// so entries that were overtaken are simply dropped, and the heap can be rebuilt
// from the state at any time.

type timerKind uint8

const (
	timerGrant timerKind = iota + 1 // before accrual: a lot lapses at its instant
	timerCapture
	timerAccrue
	timerRunway
	timerGrace
	timerVM
	timerBill
	timerExpire
	timerWipe
	timerReprice
	timerLost
)

var timerNames = [...]string{"", "grant", "capture", "accrue", "runway", "grace", "vm", "bill", "expire", "wipe", "reprice", "lost"}

// stands reports whether the deadline is still the state's.
func (w *World) stands(t timer) bool {
	if len(w.parked) > 0 && w.parked[t] {
		return false
	}
	//exhaustive:enforce
	switch t.kind {
	case timerGrant:
		g := w.grants.row(t.row)
		return g.Expires == t.at && !g.lapsed
	case timerCapture:
		v := w.vms.row(t.row)
		return v.BillStart != 0 && v.BillStart.Add(firstHour) == t.at && !v.Captured && v.BillEnd == 0
	case timerAccrue:
		return w.tenants.row(t.row).AccrueAt == t.at
	case timerRunway:
		return w.tenants.row(t.row).RunwayAt == t.at
	case timerGrace:
		return w.tenants.row(t.row).GraceUntil == t.at
	case timerVM:
		return w.vms.row(t.row).Deadline == t.at
	case timerBill:
		v := w.vms.row(t.row)
		return v.Started != 0 && v.Started.Add(billAnywayAfter) == t.at && v.BillStart == 0 && v.State < Releasing
	case timerExpire:
		a := w.allocations.row(t.row)
		return a.Expires == t.at && a.State != 0 && a.State < Releasing
	case timerWipe:
		s := w.slots.row(t.row)
		return s.State == SlotIsWiping && s.Deadline == t.at
	case timerReprice:
		return w.repriceAt(w.tenants.row(t.row)) == t.at
	case timerLost:
		return w.hosts.row(t.row).LostAt == t.at
	}
	return false
}

// NextDeadline is the earliest deadline of the world; zero when there is none.
func (w *World) NextDeadline() Time {
	for len(w.timers.heap) > 0 {
		if t := w.timers.heap[0]; w.stands(t) {
			return t.at
		}
		w.timers.pop()
	}
	return 0
}

// MaxTickTimers is how many deadlines one tick handles at most.
const MaxTickTimers = 64

// Tick handles what is due, in order of (deadline, kind, row).
type Tick struct {
	Limit uint32 `json:"limit,omitempty"` // at most so many deadlines; 0: MaxTickTimers
	// Park takes the first deadline away instead, for this reason: a tick that was
	// refused would be refused for ever.
	Park string `json:"park,omitempty"`
}

// CommandType implements CommandBody.
func (*Tick) CommandType() string { return "tick" }

func (m *Tick) wire(c *coder) {
	uintField(c, 1, &m.Limit)
	c.str(2, &m.Park)
}

// TimerParked takes a deadline away whose handling is broken or refused, so that the others
// go on. It is an alarm.
type TimerParked struct {
	Kind string `json:"kind"`
	Row  uint32 `json:"row"`
	At   Time   `json:"at"`
	Why  string `json:"why"`
}

// EventType implements EventBody.
func (*TimerParked) EventType() string { return "site.timer_parked" }

// Owner implements EventBody.
func (*TimerParked) Owner() string { return "" }

// Resource implements EventBody.
func (e *TimerParked) Resource() string { return e.Kind }

func (e *TimerParked) wire(c *coder) {
	c.str(1, &e.Kind)
	uintField(c, 2, &e.Row)
	c.time(3, &e.At)
	c.str(4, &e.Why)
}

func (e *TimerParked) apply(w *World, _ *Applied) {
	w.parked[timer{e.At, e.Row, timerKind(slices.Index(timerNames[:], e.Kind))}] = true
}

func (m *Tick) decide(w *World, x *Context) ([]EventBody, *Error) {
	if x.Actor.Kind != ActorSystem {
		return nil, notFound("command")
	}
	if next := w.NextDeadline(); m.Park != "" && next != 0 && next <= x.At {
		return []EventBody{park(w.timers.heap[0], m.Park)}, nil
	}
	limit := MaxTickTimers
	if m.Limit > 0 {
		limit = int(min(m.Limit, MaxTickTimers))
	}
	var events []EventBody
	var popped []timer
	defer func() { // what was taken off the heap stays there until an event says that it is done
		for _, t := range popped {
			w.timers.push(t)
		}
	}()
	tick := tick{w: w, x: x, purses: map[uint32]*purse{}, last: map[uint32]timerKind{}, allocs: map[uint32]bool{}}
	for alone := false; !alone && len(w.timers.heap) > 0 && len(popped) < limit && len(events) < MaxDecisionEvents/4; {
		t := w.timers.heap[0]
		if t.at > x.At {
			break
		}
		if !w.stands(t) || len(popped) > 0 && t == popped[len(popped)-1] { // overtaken, or set twice
			w.timers.pop()
			continue
		}
		alone = t.kind == timerLost // it touches any tenant
		if alone && len(popped) > 0 || !tick.independent(t) {
			break
		}
		popped = append(popped, w.timers.pop())
		follows, broke := tick.handleSafely(t)
		events = append(events, follows...)
		if broke && w.LogicLevel >= 2 {
			break // half of what it did may stand in its tenant's purse
		}
	}
	return events, nil
}

// tick is one Tick's work. Its parts are decided one after another without being
// applied in between, so a deadline that depends on an earlier one of the same
// tick waits for the next.
type tick struct {
	w      *World
	x      *Context
	purses map[uint32]*purse
	last   map[uint32]timerKind // by tenant row
	allocs map[uint32]bool
}

// independent reports whether t can be handled beside what the tick already did.
// Captures of one tenant can stand together: their purse adds them up.
func (k *tick) independent(t timer) bool {
	tenant, alloc := none, none
	switch t.kind {
	case timerGrant:
		tenant = k.w.tenants.find(k.w.grants.row(t.row).Tenant)
	case timerAccrue, timerRunway, timerGrace, timerReprice:
		tenant = t.row
	case timerCapture, timerVM, timerBill:
		alloc = k.w.vms.row(t.row).alloc
		tenant = k.w.allocations.row(alloc).tenant
	case timerExpire:
		alloc = t.row
		tenant = k.w.allocations.row(alloc).tenant
	}
	if tenant == none {
		return true
	}
	if before, seen := k.last[tenant]; seen && (before != t.kind || t.kind != timerCapture && t.kind != timerBill) {
		return false
	}
	if alloc != none && t.kind != timerCapture && k.allocs[alloc] {
		return false
	}
	k.last[tenant] = t.kind
	if alloc != none {
		k.allocs[alloc] = true
	}
	return true
}

// handleSafely parks a deadline whose handling panics.
func (k *tick) handleSafely(t timer) (events []EventBody, broke bool) {
	defer func() {
		if r := recover(); r != nil {
			events, broke = []EventBody{park(t, fmt.Sprint(r))}, true
		}
	}()
	return k.handle(t), false
}

func park(t timer, why string) *TimerParked {
	return &TimerParked{Kind: timerNames[t.kind], Row: t.row, At: t.at, Why: clip(why, 200)}
}

func (k *tick) purse(tenant uint32) *purse {
	p := k.purses[tenant]
	if p == nil {
		p = newPurse(k.w, k.w.tenants.row(tenant), k.x)
		k.purses[tenant] = p
	}
	return p
}

func (k *tick) handle(t timer) []EventBody {
	w, x := k.w, k.x
	//exhaustive:enforce
	switch t.kind {
	case timerGrant:
		p := k.purse(w.tenants.find(w.grants.row(t.row).Tenant))
		p.settle(t.at)
		return p.take()
	case timerAccrue:
		p := k.purse(t.row)
		p.settle(t.at)
		if len(p.events) == 0 { // nothing ran: the timer still has to go
			p.events = append(p.events, p.tx(TxAccrual, t.at, AllocationID{}, VMID{}, nil))
		}
		return p.take()
	case timerCapture:
		v := w.vms.row(t.row)
		p := k.purse(w.allocations.row(v.alloc).tenant)
		p.capture(v)
		return p.take()
	case timerReprice:
		return k.purse(t.row).take()
	case timerLost:
		return w.loseVMs(k, w.hosts.row(t.row))
	case timerRunway:
		p := k.purse(t.row)
		return append(p.take(), w.runwayDue(p)...)
	case timerGrace:
		return w.graceDue(x, w.tenants.row(t.row))
	case timerVM:
		return w.vmDue(k, w.vms.row(t.row))
	case timerBill:
		v := w.vms.row(t.row)
		c := w.vmChange(v, t.at)
		c.Reason = "started"
		return []EventBody{&VMBillable{c}}
	case timerExpire:
		a := w.allocations.row(t.row)
		return w.release(k.purse(a.tenant), a, "expired", t.at, false)
	case timerWipe:
		s := w.slots.row(t.row)
		return []EventBody{&SlotQuarantined{Host: w.hosts.row(s.host).ID, Slot: s.ID, Component: "host", Scope: "host", Reason: "wipe.late"}}
	}
	return nil
}

func (p *purse) take() []EventBody {
	e := p.events
	p.events = nil
	return e
}

// defaultGrace is the time between the end of the credit and the stop of compute.
const defaultGrace = Day

// runwayDue looks whether the credit has really ended.
func (w *World) runwayDue(p *purse) []EventBody {
	t, at := p.t, p.x.At
	b := w.BalanceAt(t, at)
	if b.Available > 0 || len(t.vms) == 0 {
		next := at.Add(max(Minute, lasts(b.Available, t.Rate)))
		return []EventBody{&RunwayPlanned{Tenant: t.ID, At: next}}
	}
	grace := defaultGrace
	if n, ok := w.policyLimit("billing.grace_seconds", t.ID, ProjectID{}); ok {
		grace = Duration(min(n, 1<<32)) * Second
	}
	return []EventBody{&TenantStateChanged{Tenant: t.ID, State: TenantPastDue, GraceUntil: at.Add(max(grace, Millisecond))}}
}

// graceDue stops the compute of a tenant that has not paid, a bounded number of
// allocations at a time, and looks again until all of it is off.
func (w *World) graceDue(x *Context, t *Tenant) []EventBody {
	if t.State == TenantActive {
		return []EventBody{&TenantStateChanged{Tenant: t.ID, State: TenantActive}}
	}
	var events []EventBody
	left, seen := false, map[uint32]bool{}
	lines := t.vms
	if w.LogicLevel >= 2 { // in an order that a start from a snapshot knows too
		lines = slices.Sorted(slices.Values(lines))
	}
	for _, row := range lines {
		v := w.vms.row(row)
		if v.State == Stopped || seen[v.alloc] {
			continue
		}
		left = true
		if len(events) == 32 {
			break
		}
		seen[v.alloc] = true
		if a := w.allocations.row(v.alloc); a.State == Running || a.State == Starting {
			events = append(events, w.stopRequested(a, "suspended", x.At))
		}
	}
	next := Time(0)
	if left {
		next = x.At.Add(Minute)
	}
	return append(events, &TenantStateChanged{Tenant: t.ID, State: TenantSuspended, GraceUntil: next})
}

// vmDue handles a VM that did not do in time what it should.
func (w *World) vmDue(k *tick, v *VM) []EventBody {
	a := w.allocations.row(v.alloc)
	c := w.vmChange(v, k.x.At)
	switch v.State {
	case Provisioning, Starting:
		if v.Started != 0 && v.Alive {
			c.Reason, c.Address = "guest.ready_not_reported", v.Address
			return []EventBody{&VMRunning{c}}
		}
		// Its disk holds the tenant's data, also when it was booted again in what the log lost.
		hasRun := v.State == Starting && v.Boot > 1
		if w.LogicLevel >= 2 {
			hasRun = v.State == Starting || v.Boot > 1
		}
		if hasRun {
			c.Reason = "start.timeout"
			return []EventBody{&VMStopped{c}}
		}
		if v.Started != 0 { // it ran and was never heard of: not the provider's failure
			return w.release(k.purse(a.tenant), a, "guest.no_sign_of_life", k.x.At, false)
		}
		return w.release(k.purse(a.tenant), a, "provision.timeout", k.x.At, true)
	case Releasing:
		// The tenant is done with it. The slots are in quarantine by their own
		// deadline until the host proves otherwise.
		events := []EventBody{&VMRemoved{c}}
		for _, other := range a.vms {
			if o := w.vms.row(other); o != v && o.State != Released {
				return events
			}
		}
		return append(events, &AllocationReleased{ID: a.ID, Tenant: a.Tenant})
	}
	c.Reason = v.State.String()
	c.Deadline = k.x.At.Add(Hour)
	return []EventBody{&VMOverdue{c}}
}
