package domain

// The runway ends when the tenant's credit does.

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
