package domain

// A release ends an allocation: its VMs are removed, its slots are wiped.

// AllocationReleasing ends all leases of an allocation: its slots go to be wiped,
// its VMs are removed. Reason says why; failed, that it did not reach its end.
type AllocationReleasing struct {
	ID       AllocationID `json:"id"`
	Tenant   TenantID     `json:"tenant_id"`
	Reason   string       `json:"reason"` // "requested", "expired", or a failure's stable code
	Failed   bool         `json:"failed"`
	BilledTo Time         `json:"billed_to"`
	Free     bool         `json:"free"` // the provider's failure: nothing is charged
	Deadline Time         `json:"deadline"`
}

// EventType implements EventBody.
func (*AllocationReleasing) EventType() string { return "allocation.releasing" }

// Owner implements EventBody.
func (e *AllocationReleasing) Owner() string { return e.Tenant.String() }

// Resource implements EventBody.
func (e *AllocationReleasing) Resource() string { return e.ID.String() }

func (e *AllocationReleasing) wire(c *coder) {
	idField(c, 1, &e.ID)
	idField(c, 2, &e.Tenant)
	c.str(3, &e.Reason)
	c.bool(4, &e.Failed)
	c.time(5, &e.BilledTo)
	c.bool(6, &e.Free)
	c.time(7, &e.Deadline)
}

// release ends an allocation: the last usage is posted, the rest of the hold goes
// back, and every slot goes to its wipe. Billing ends at `end`, the earliest
// credible stop; free charges nothing at all.
func (w *World) release(p *purse, a *Allocation, reason string, end Time, free bool) []EventBody {
	row := w.allocations.find(a.ID)
	byHost := []*SlotWipeStarted{}
	for _, vi := range a.vms {
		v := w.vms.row(vi)
		if v.lineOpen() {
			if free {
				p.close(v, v.BillStart)
			} else {
				p.close(v, max(v.BillStart, end))
			}
		}
		wipe := &SlotWipeStarted{Host: w.hosts.row(v.host).ID, Cause: "released"}
		for _, s := range v.slots[:v.n] {
			sl := w.slots.row(s)
			wipe.Slots = append(wipe.Slots, WipingSlot{Slot: sl.ID, Generation: sl.Generation, Deadline: p.x.At.Add(releaseDeadline + wipeDeadline(sl.Policy))})
		}
		byHost = append(byHost, wipe)
	}
	p.releaseHold(row)
	failed := reason != "requested" && reason != "expired"
	events := append(p.events, &AllocationReleasing{ID: a.ID, Tenant: a.Tenant, Reason: reason, Failed: failed, BilledTo: end, Free: free, Deadline: p.x.At.Add(releaseDeadline)})
	p.events = nil
	for _, e := range byHost {
		events = append(events, e)
	}
	return events
}

func (e *AllocationReleasing) apply(w *World, x *Applied) {
	a := w.allocations.get(e.ID)
	a.State, a.Reason = Releasing, w.word(e.Reason)
	for _, row := range a.vms {
		v := w.vms.row(row)
		w.closeLine(v, e.BilledTo, e.Free)
		h := w.hosts.row(v.host)
		last := len(h.vms) - 1
		moved := h.vms[last]
		h.vms[v.hostAt] = moved
		w.vms.row(moved).hostAt = v.hostAt
		if h.vms = h.vms[:last]; last == 0 {
			h.LostAt = 0
		}
		w.touch(h)
		w.wait(row, v, Releasing, e.Deadline)
	}
	gpus := uint32(len(a.vms)) * a.Shape
	t, prj := w.tenants.row(a.tenant), w.projects.get(a.Project)
	t.GPUs -= gpus
	t.Allocations--
	prj.GPUs -= gpus
	prj.Allocations--
	ai := w.allocations.find(e.ID)
	w.allocNames.remove(w.allocNameHash(ai), ai, w.allocNameHash)
	w.skus.row(a.sku).live--
	if e.Failed {
		a.State = Failed
	}
}

// AllocationReleased is the end: nothing of it runs any more. The wipes of its
// slots have a life of their own.
type AllocationReleased struct {
	ID     AllocationID `json:"id"`
	Tenant TenantID     `json:"tenant_id"`
}

// EventType implements EventBody.
func (*AllocationReleased) EventType() string { return "allocation.released" }

// Owner implements EventBody.
func (e *AllocationReleased) Owner() string { return e.Tenant.String() }

// Resource implements EventBody.
func (e *AllocationReleased) Resource() string { return e.ID.String() }

func (e *AllocationReleased) wire(c *coder) {
	idField(c, 1, &e.ID)
	idField(c, 2, &e.Tenant)
}

// apply takes the allocation out of the world: it lives on in the read models.
func (e *AllocationReleased) apply(w *World, _ *Applied) {
	a := w.allocations.get(e.ID)
	for _, row := range a.vms {
		w.vms.remove(w.vms.row(row).ID)
	}
	for _, p := range a.parts {
		w.unhold(p)
	}
	w.allocations.remove(e.ID)
}
