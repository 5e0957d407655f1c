package domain

import "strconv"

// What is wrong in the world, by a bug or by something that no report will ever say, is
// repaired by an event, never by editing history: one operator proposes what a field is
// and should be, another approves. Where there is an event that does it, it follows
// beside world.corrected, so that every reader knows it; money moves by a posting.

// The fields that can be corrected.
const (
	// FieldSlotState: to "quarantined", of a slot that no live VM holds.
	FieldSlotState = "slot.state"
	// FieldAllocationState: to "released", of an allocation that is on its way out and whose
	// host will never say that it is gone.
	FieldAllocationState = "allocation.state"
	// FieldGrantBalance is what is left of a credit, in micros.
	FieldGrantBalance = "grant.balance_micros"
	// FieldReceivable is what a tenant owes, in micros: 0 or negative.
	FieldReceivable = "tenant.receivable_micros"
	// FieldHostAhead: to "false", of a host that does not know more than the log after all.
	FieldHostAhead = "host.ahead"
)

const (
	maxCorrections  = 64
	correctionLives = 24 * Hour
)

// Correction is one that waits for another operator.
type Correction struct {
	ID       CorrectionID `json:"id"`
	Field    string       `json:"field"`
	Resource string       `json:"resource_id"`
	Before   string       `json:"before"`
	After    string       `json:"after"`
	Reason   string       `json:"reason"`
	By       UserID       `json:"proposed_by_user_id"`
	Until    Time         `json:"expires_at"`
}

func (r *Correction) key() CorrectionID { return r.ID }

func (r *Correction) wire(c *coder) {
	idField(c, 1, &r.ID)
	c.str(2, &r.Field)
	c.str(3, &r.Resource)
	c.str(4, &r.Before)
	c.str(5, &r.After)
	c.str(6, &r.Reason)
	idField(c, 7, &r.By)
	c.time(8, &r.Until)
}

// ProposeCorrection is the first operator's word.
type ProposeCorrection struct {
	Field    string `json:"field"`
	Resource string `json:"resource_id"`
	Before   string `json:"before"`
	After    string `json:"after"`
	Reason   string `json:"reason"`
}

// CommandType implements CommandBody.
func (*ProposeCorrection) CommandType() string { return "world.propose_correction" }

func (m *ProposeCorrection) wire(c *coder) {
	c.str(1, &m.Field)
	c.str(2, &m.Resource)
	c.str(3, &m.Before)
	c.str(4, &m.After)
	c.str(5, &m.Reason)
}

// CorrectionProposed is the fact.
type CorrectionProposed struct{ Correction }

// EventType implements EventBody.
func (*CorrectionProposed) EventType() string { return "world.correction_proposed" }

// Owner implements EventBody.
func (*CorrectionProposed) Owner() string { return "" }

// Resource implements EventBody.
func (e *CorrectionProposed) Resource() string { return e.Correction.Resource }

func (m *ProposeCorrection) decide(w *World, x *Context) ([]EventBody, *Error) {
	who, err := w.operatorInPerson(x)
	if err != nil {
		return nil, err
	}
	if err := checkWord("reason", m.Reason, 256, false); err != nil {
		return nil, err
	}
	waiting := 0
	for _, c := range w.corrections.rows() {
		if c.Until >= x.At {
			waiting++
		}
	}
	if waiting >= maxCorrections {
		return nil, Errorf(Exhausted, "correction.too_many", "%d corrections wait: approve or withdraw some first", waiting)
	}
	c := Correction{
		ID: deriveID[correctionKind](x.Entropy, 0), Field: m.Field, Resource: m.Resource, Before: m.Before, After: m.After, Reason: m.Reason,
		By: who, Until: x.At.Add(correctionLives),
	}
	if _, err := w.correct(x, &c); err != nil {
		return nil, err
	}
	return []EventBody{&CorrectionProposed{c}}, nil
}

// operatorInPerson is the operator who asks: not the system.
func (w *World) operatorInPerson(x *Context) (UserID, *Error) {
	if err := w.requirePlatform(x, RoleOperator); err != nil {
		return UserID{}, err
	}
	who, err := w.principal(x)
	if err == nil && who.user.IsZero() {
		err = Errorf(Forbidden, "auth.platform_only", "only an operator in person can do this")
	}
	return who.user, err
}

// apply also forgets what nobody approved in time.
func (e *CorrectionProposed) apply(w *World, x *Applied) {
	for _, c := range w.corrections.rows() {
		if c.Until < x.At {
			w.corrections.remove(c.ID)
		}
	}
	_, c := w.corrections.add(e.ID)
	*c = e.Correction
	for _, s := range []*string{&c.Field, &c.Resource, &c.Before, &c.After, &c.Reason} {
		*s = w.word(*s)
	}
}

// ApproveCorrection is the second operator's word; Withdraw takes a proposal back, by
// any operator.
type ApproveCorrection struct {
	Correction CorrectionID `json:"correction_id"`
	Withdraw   bool         `json:"withdraw,omitempty"`
}

// CommandType implements CommandBody.
func (*ApproveCorrection) CommandType() string { return "world.approve_correction" }

func (m *ApproveCorrection) wire(c *coder) {
	idField(c, 1, &m.Correction)
	c.bool(2, &m.Withdraw)
}

// WorldCorrected repairs one field. What follows from it stands in the events beside it.
type WorldCorrected struct {
	Correction
	Approved UserID `json:"approved_by_user_id"`
}

// EventType implements EventBody.
func (*WorldCorrected) EventType() string { return "world.corrected" }

// Owner implements EventBody.
func (*WorldCorrected) Owner() string { return "" }

// Resource implements EventBody.
func (e *WorldCorrected) Resource() string { return e.Correction.Resource }

func (e *WorldCorrected) wire(c *coder) {
	c.sub(1, &e.Correction)
	idField(c, 2, &e.Approved)
}

// CorrectionWithdrawn ends a proposal.
type CorrectionWithdrawn struct {
	ID   CorrectionID `json:"id"`
	User UserID       `json:"user_id"`
}

// EventType implements EventBody.
func (*CorrectionWithdrawn) EventType() string { return "world.correction_withdrawn" }

// Owner implements EventBody.
func (*CorrectionWithdrawn) Owner() string { return "" }

// Resource implements EventBody.
func (e *CorrectionWithdrawn) Resource() string { return e.ID.String() }

func (e *CorrectionWithdrawn) wire(c *coder) {
	idField(c, 1, &e.ID)
	idField(c, 2, &e.User)
}

func (e *CorrectionWithdrawn) apply(w *World, _ *Applied) { w.corrections.remove(e.ID) }

func (m *ApproveCorrection) decide(w *World, x *Context) ([]EventBody, *Error) {
	who, err := w.operatorInPerson(x)
	if err != nil {
		return nil, err
	}
	c := w.corrections.get(m.Correction)
	switch {
	case c == nil:
		return nil, notFound("correction")
	case m.Withdraw:
		return []EventBody{&CorrectionWithdrawn{ID: c.ID, User: who}}, nil
	case c.By == who:
		return nil, Errorf(Forbidden, "correction.same_operator", "you proposed it: another operator has to approve")
	case c.Until < x.At:
		return nil, Errorf(Conflict, "correction.expired", "nobody approved it in time: propose it again")
	}
	events, err := w.correct(x, c)
	if err != nil {
		return nil, err
	}
	return append([]EventBody{&WorldCorrected{Correction: *c, Approved: who}}, events...), nil
}

// apply does what no other event does.
func (e *WorldCorrected) apply(w *World, _ *Applied) {
	w.corrections.remove(e.ID)
	if e.Field == FieldHostAhead {
		id, _ := ParseID[hostKind](e.Correction.Resource) // decide has read it
		w.changeHost(id, func(h *Host) {
			h.Ahead, h.AheadEpoch = false, 0
			w.markDirty(h)
		})
	}
}

// correct holds a correction against the world, and says what follows beside
// world.corrected. Before has to be what is there.
func (w *World) correct(x *Context, c *Correction) ([]EventBody, *Error) {
	switch c.Field {
	case FieldSlotState:
		return w.correctSlot(c)
	case FieldAllocationState:
		return w.correctAllocation(x, c)
	case FieldGrantBalance, FieldReceivable:
		return w.correctMoney(x, c)
	case FieldHostAhead:
		id, perr := ParseID[hostKind](c.Resource)
		h := w.hosts.get(id)
		if perr != nil || h == nil || h.Removed {
			return nil, notFound("host")
		}
		return nil, c.fits(strconv.FormatBool(h.Ahead), "false")
	}
	return nil, invalidField("field", "correction.field", "field: want one of %s, %s, %s, %s, %s", FieldSlotState, FieldAllocationState, FieldGrantBalance, FieldReceivable, FieldHostAhead)
}

// fits compares before with what is there, and after with the one value it can get.
func (r *Correction) fits(now, to string) *Error {
	switch {
	case r.Before != now:
		return Errorf(Conflict, "correction.before_differs", "%s of %s is %s, not %s", r.Field, clip(r.Resource, 64), now, clip(r.Before, 64))
	case r.After != to:
		return invalidField("after", "correction.after", "after: %s can only become %s", r.Field, to)
	case now == to:
		return Errorf(Conflict, "correction.nothing", "it is so already")
	}
	return nil
}

func (w *World) correctSlot(c *Correction) ([]EventBody, *Error) {
	id, perr := ParseID[slotKind](c.Resource)
	s := w.slots.get(id)
	if perr != nil || s == nil {
		return nil, notFound("slot")
	}
	if err := c.fits(s.State.String(), SlotIsQuarantined.String()); err != nil {
		return nil, err
	}
	if s.State == SlotIsRetired || s.vm != none && w.vms.row(s.vm).State < Releasing {
		return nil, Errorf(Conflict, "correction.in_use", "the slot is retired, or a live VM holds it")
	}
	return []EventBody{&SlotQuarantined{Host: w.hosts.row(s.host).ID, Slot: s.ID, Component: "host", Scope: "host", Reason: "corrected"}}, nil
}

func (w *World) correctAllocation(x *Context, c *Correction) (events []EventBody, _ *Error) {
	id, perr := ParseID[allocationKind](c.Resource)
	a := w.allocations.get(id)
	if perr != nil || a == nil {
		return nil, notFound("allocation")
	}
	if err := c.fits(a.State.String(), Released.String()); err != nil {
		return nil, err
	}
	if a.State < Releasing {
		return nil, Errorf(Conflict, "correction.in_use", "the allocation is %s: release it first", a.State)
	}
	for _, row := range a.vms {
		if v := w.vms.row(row); v.State != Released {
			events = append(events, &VMRemoved{w.vmChange(v, x.At)})
		}
	}
	return append(events, &AllocationReleased{ID: a.ID, Tenant: a.Tenant}), nil
}

// correctMoney posts the difference against contra_revenue.
func (w *World) correctMoney(x *Context, c *Correction) ([]EventBody, *Error) {
	var t *Tenant
	var now Micros
	leg := Leg{Account: Account{Kind: AccountReceivable}}
	low, high := -MaxMicros, Micros(0)
	if c.Field == FieldGrantBalance {
		id, perr := ParseID[grantKind](c.Resource)
		g := w.grants.get(id)
		if perr != nil || g == nil || g.lapsed {
			return nil, notFound("credit")
		}
		t, now, leg.Account = w.tenants.get(g.Tenant), g.Balance, Account{Kind: AccountLot, Ref: id}
		low, high = 0, g.Amount
	} else {
		id, perr := ParseID[tenantKind](c.Resource)
		if t = w.tenants.get(id); perr != nil || t == nil {
			return nil, notFound("tenant")
		}
		now = t.Receivable
	}
	after, perr := strconv.ParseInt(c.After, 10, 64)
	if perr != nil || Micros(after) < low || Micros(after) > high || strconv.FormatInt(after, 10) != c.After {
		return nil, invalidField("after", "correction.after", "after: want %d to %d", low, high)
	}
	if err := c.fits(strconv.FormatInt(int64(now), 10), c.After); err != nil {
		return nil, err
	}
	leg.Amount = Micros(after) - now
	p := newPurse(w, t, x)
	events := append(p.events, p.tx(TxAdjustment, x.At, AllocationID{}, VMID{}, []Leg{leg, {Account{Kind: AccountContraRevenue}, -leg.Amount}}))
	if t.State != TenantActive && leg.Amount > 0 && p.available()+leg.Amount > 0 {
		events = append(events, &TenantStateChanged{Tenant: t.ID, State: TenantActive})
	}
	return events, nil
}

// Corrections are those that wait for another operator.
func (w *World) Corrections(at Time) (out []Correction) {
	for _, c := range w.corrections.rows() {
		if c.Until >= at {
			out = append(out, *c)
		}
	}
	return out
}
