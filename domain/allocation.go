package domain

import (
	"fmt"
	"strings"
)

// An allocation is what a tenant launches: count VMs of one SKU, all or none.

// AllocationState is where an allocation, or one of its VMs, is in its life.
type AllocationState uint8

// The states, in the order of "least advanced first" within a life.
const (
	Pending AllocationState = iota + 1
	Provisioning
	Starting
	Running
	Stopping
	Stopped
	Releasing
	Released
	Failed
)

var allocationStateNames = [...]string{"", "pending", "provisioning", "starting", "running", "stopping", "stopped", "releasing", "released", "failed"}

func (s AllocationState) String() string { return enumName(allocationStateNames[:], s) }

// MarshalText implements encoding.TextMarshaler.
func (s AllocationState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *AllocationState) UnmarshalText(b []byte) error {
	return enumParse(s, allocationStateNames[:], string(b), "allocation state")
}

// Allocation is an allocation's state.
type Allocation struct {
	ID         AllocationID
	Project    ProjectID
	Tenant     TenantID
	Name       string
	Image      string
	ImageHash  Digest
	UserData   Digest
	User       UserID
	Shape      uint32
	State      AllocationState
	Reason     string
	Created    Time
	Expires    Time
	LockedRate Micros // -1: follows the price book
	Hold       Micros
	parts      []holdPart
	vms        []uint32
	tenant     uint32
	sku        uint32
}

// CreateAllocation asks for VMs. Everything from outside is resolved at the edge:
// the image's digest, and the vault's digest of ssh keys, user data and tags.
type CreateAllocation struct {
	Project   ProjectID `json:"project_id"`
	Name      string    `json:"name"`
	SKU       SKUID     `json:"sku_id"`
	SKUName   string    `json:"sku"`   // instead of the id
	Shape     uint32    `json:"shape"` // 0: the SKU's
	Count     uint32    `json:"count"`
	Image     string    `json:"image"`
	ImageHash Digest    `json:"image_digest"`
	UserData  Digest    `json:"user_data_digest"`
	Expires   Time      `json:"expires_at"`
	LockPrice bool      `json:"lock_price"`
}

// CommandType implements CommandBody.
func (*CreateAllocation) CommandType() string { return "allocation.create" }

func (m *CreateAllocation) wire(c *coder) {
	idField(c, 1, &m.Project)
	c.str(2, &m.Name)
	idField(c, 3, &m.SKU)
	c.str(4, &m.SKUName)
	uintField(c, 5, &m.Shape)
	uintField(c, 6, &m.Count)
	c.str(7, &m.Image)
	c.digest(8, &m.ImageHash)
	c.digest(9, &m.UserData)
	c.time(10, &m.Expires)
	c.bool(11, &m.LockPrice)
}

// VMPlaced is one VM's place.
type VMPlaced struct {
	VM    VMID     `json:"vm_id"`
	Host  HostID   `json:"host_id"`
	Slots []SlotID `json:"slot_ids"`
}

func (v *VMPlaced) wire(c *coder) {
	idField(c, 1, &v.VM)
	idField(c, 2, &v.Host)
	ids(c, 3, &v.Slots)
}

// AllocationPlaced is the fact: the slots are reserved, the hosts will act.
type AllocationPlaced struct {
	ID         AllocationID `json:"id"`
	Tenant     TenantID     `json:"tenant_id"`
	Project    ProjectID    `json:"project_id"`
	Name       string       `json:"name"`
	SKU        SKUID        `json:"sku_id"`
	Shape      uint32       `json:"shape"`
	Image      string       `json:"image"`
	ImageHash  Digest       `json:"image_digest,omitzero"`
	UserData   Digest       `json:"user_data_digest,omitzero"`
	User       UserID       `json:"requested_by_user_id"`
	Expires    Time         `json:"expires_at,omitzero"`
	LockedRate Micros       `json:"locked_micros_per_unit_hour"` // -1: not locked
	VMs        []VMPlaced   `json:"vms"`
	Seed       [16]byte     `json:"-"` // of the leases' nonces
	Deadline   Time         `json:"deadline"`
}

// EventType implements EventBody.
func (*AllocationPlaced) EventType() string { return "allocation.placed" }

// Owner implements EventBody.
func (e *AllocationPlaced) Owner() string { return e.Tenant.String() }

// Resource implements EventBody.
func (e *AllocationPlaced) Resource() string { return e.ID.String() }

func (e *AllocationPlaced) wire(c *coder) {
	idField(c, 1, &e.ID)
	idField(c, 2, &e.Tenant)
	idField(c, 3, &e.Project)
	c.str(4, &e.Name)
	idField(c, 5, &e.SKU)
	uintField(c, 6, &e.Shape)
	c.str(7, &e.Image)
	c.digest(8, &e.ImageHash)
	c.digest(9, &e.UserData)
	idField(c, 10, &e.User)
	c.time(11, &e.Expires)
	intField(c, 12, &e.LockedRate)
	msgs(c, 13, &e.VMs)
	c.fixedBytes(14, e.Seed[:])
	c.time(15, &e.Deadline)
}

// SlotReserved says, on the host's subject, that slots are taken for a VM.
type SlotReserved struct {
	Host       HostID       `json:"host_id"`
	Allocation AllocationID `json:"allocation_id"`
	VM         VMID         `json:"vm_id"`
	Slots      []SlotID     `json:"slot_ids"`
}

// EventType implements EventBody.
func (*SlotReserved) EventType() string { return "slot.reserved" }

// Owner implements EventBody.
func (e *SlotReserved) Owner() string { return e.Host.String() }

// Resource implements EventBody.
func (e *SlotReserved) Resource() string { return e.Slots[0].String() }

func (e *SlotReserved) wire(c *coder) {
	idField(c, 1, &e.Host)
	idField(c, 2, &e.Allocation)
	idField(c, 3, &e.VM)
	ids(c, 4, &e.Slots)
}

// How long a VM may take from placing to a started domain, and from there to a
// guest that reports ready: a base and an allowance for each slot (a 1.5 TB guest
// boots for minutes).
const (
	provisionDeadline = 15 * Minute
	bootDeadline      = 20 * Minute
	perSlotAllowance  = 2 * Minute
	stopDeadline      = 10 * Minute
	releaseDeadline   = 30 * Minute
	billAnywayAfter   = 5 * Minute // from the domain's start, if the guest shows no life
)

func (m *CreateAllocation) decide(w *World, x *Context) ([]EventBody, *Error) {
	prj, who, err := w.requireProject(x, m.Project, ProjectMember)
	if err != nil {
		return nil, err
	}
	t := w.tenants.get(prj.Tenant)
	sku, err := w.checkLaunch(x, m, t, prj)
	if err != nil {
		return nil, err
	}
	rate, _, priced := sku.rateAt(t.ID, t.Currency, x.At)
	if !priced {
		return nil, Errorf(Conflict, "sku.no_price", "%s has no price in %s", sku.Name, t.Currency)
	}
	expires, err := w.launchExpiry(x, m, prj)
	if err != nil {
		return nil, err
	}
	gpus := m.Count * sku.Shape
	if err := w.checkQuota(t, prj, gpus); err != nil {
		return nil, err
	}
	hold := rate * Micros(gpus)
	p := newPurse(w, t, x)
	if have, ok := w.canSpend(t, p, hold); !ok {
		return nil, Errorf(PaymentRequired, "funds.insufficient", "a launch puts one hour's price aside: %d micros of %s, %d are available; add credit or launch less", hold, t.Currency, max(0, have))
	}
	places := w.place(placementRequest{
		class: sku.GPUClass, shape: sku.Shape, count: m.Count,
		spread:       w.policyWord("placement.strategy", "pack", t.ID, prj.ID) == "spread",
		antiAffinity: w.policyWord("placement.anti_affinity", "none", t.ID, prj.ID),
	})
	if places == nil {
		return nil, Errorf(Exhausted, "capacity.exhausted", "no room for %d x %s now: see GET /v1/offers", m.Count, sku.Name)
	}
	e := &AllocationPlaced{
		ID: deriveID[allocationKind](x.Entropy, 0), Tenant: t.ID, Project: prj.ID, Name: m.Name, SKU: sku.ID, Shape: sku.Shape,
		Image: w.launchImage(m, prj), ImageHash: m.ImageHash, UserData: m.UserData, User: who.user, Expires: expires, LockedRate: -1,
		VMs: make([]VMPlaced, len(places)), Deadline: x.At.Add(provisionDeadline + Duration(sku.Shape)*perSlotAllowance),
	}
	if m.LockPrice {
		e.LockedRate = rate
	}
	seed := x.Entropy.derive("lease-seed", 0)
	copy(e.Seed[:], seed[:])
	if e.Name == "" {
		id := e.ID.String()
		e.Name = "a-" + id[len(id)-10:]
	}
	events := make([]EventBody, 1, 2+len(places))
	events[0] = e
	for i, pl := range places {
		v := VMPlaced{VM: deriveID[vmKind](x.Entropy, i), Host: w.hosts.row(pl.host).ID, Slots: make([]SlotID, pl.n)}
		for k := range v.Slots {
			v.Slots[k] = w.slots.row(pl.slots[k]).ID
		}
		e.VMs[i] = v
		events = append(events, &SlotReserved{Host: v.Host, Allocation: e.ID, VM: v.VM, Slots: v.Slots})
	}
	if hold > 0 {
		legs := append(p.burn(hold, x.At+1), Leg{Account{Kind: AccountHold, Ref: e.ID}, hold})
		events = append(events, p.tx(TxHold, x.At, e.ID, VMID{}, legs))
	}
	return events, nil
}

// checkLaunch checks the request against tenant, project, catalog and guardrails.
func (w *World) checkLaunch(x *Context, m *CreateAllocation, t *Tenant, prj *Project) (*SKU, *Error) {
	if m.Name != "" {
		if err := checkSlug("name", m.Name); err != nil {
			return nil, err
		}
		if w.allocationByName(prj.ID, m.Name) != none {
			return nil, Errorf(Conflict, "allocation.name_taken", "an allocation named %q is live in this project: choose another name", m.Name)
		}
	}
	if t.State != TenantActive {
		return nil, Errorf(PaymentRequired, "tenant."+t.State.String(), "the tenant is %s: add credit to launch again", t.State)
	}
	id := m.SKU
	if id.IsZero() {
		id = w.skuNames[m.SKUName]
	}
	sku := w.skus.get(id)
	if sku == nil {
		return nil, invalidField("sku", "sku.not_found", "no such sku: see GET /v1/offers")
	}
	if m.Shape != 0 && m.Shape != sku.Shape {
		return nil, invalidField("shape", "sku.wrong_shape", "shape: %s has shape %d; leave it out or choose another sku", sku.Name, sku.Shape)
	}
	if m.Count < 1 || m.Count > maxGangVMs {
		return nil, invalidField("count", "allocation.count", "count: want 1 to %d", maxGangVMs)
	}
	if len(w.policies) == 0 {
		return sku, nil
	}
	if limit, ok := w.policyLimit("allocation.max_count", t.ID, prj.ID); ok && int64(m.Count) > limit {
		return nil, Errorf(Forbidden, "policy.max_count", "count: the policy allocation.max_count allows %d", limit)
	}
	if eff, ok := w.EffectivePolicy("allocation.images", t.ID, prj.ID); ok {
		image, allowed := w.launchImage(m, prj), false
		for _, s := range eff.Value.List {
			allowed = allowed || s == image
		}
		if !allowed {
			return nil, Errorf(Forbidden, "policy.image", "image %q: the policy allocation.images allows %v", clip(image, 64), eff.Value.List)
		}
	}
	return sku, nil
}

// DefaultImage is launched when neither request nor policy name one.
const DefaultImage = "tiny"

func (w *World) launchImage(m *CreateAllocation, prj *Project) string {
	if m.Image != "" {
		return m.Image
	}
	return w.policyWord("allocation.default_image", DefaultImage, prj.Tenant, prj.ID)
}

// ImageFor is the image a request without one gets, for the edge to resolve.
func (w *World) ImageFor(project ProjectID) string {
	if prj := w.projects.get(project); prj != nil {
		return w.launchImage(&CreateAllocation{}, prj)
	}
	return DefaultImage
}

func (w *World) launchExpiry(x *Context, m *CreateAllocation, prj *Project) (Time, *Error) {
	if m.Expires != 0 && m.Expires <= x.At {
		return 0, invalidField("expires_at", "time.past", "expires_at: lies in the past")
	}
	if len(w.policies) == 0 {
		return m.Expires, nil
	}
	limit, ok := w.policyLimit("allocation.max_lifetime_seconds", prj.Tenant, prj.ID)
	if !ok {
		return m.Expires, nil
	}
	last := x.At.Add(Duration(min(limit, 1<<40)) * Second)
	if m.Expires == 0 {
		return last, nil
	}
	if m.Expires > last {
		return 0, Errorf(Forbidden, "policy.max_lifetime", "expires_at: the policy allocation.max_lifetime_seconds allows %d seconds", limit)
	}
	return m.Expires, nil
}

// checkQuota holds the launch against the quotas of tenant and project.
func (w *World) checkQuota(t *Tenant, prj *Project, gpus uint32) *Error {
	if len(w.policies) == 0 {
		return nil
	}
	for _, q := range [...]struct {
		key     string
		project ProjectID
		used    uint32
		more    uint32
	}{
		{"quota.gpus", ProjectID{}, t.GPUs, gpus}, {"quota.gpus", prj.ID, prj.GPUs, gpus},
		{"quota.allocations", ProjectID{}, t.Allocations, 1}, {"quota.allocations", prj.ID, prj.Allocations, 1},
	} {
		if limit, ok := w.policyLimit(q.key, t.ID, q.project); ok && int64(q.used)+int64(q.more) > limit {
			e := Errorf(Exhausted, "quota.exceeded", "%s: %d in use and %d asked for, the limit is %d", q.key, q.used, q.more, limit)
			e.Retryable = false
			return e
		}
	}
	return nil
}

func (e *AllocationPlaced) apply(w *World, x *Applied) {
	ai, a := w.allocations.add(e.ID)
	t, sku := w.tenants.find(e.Tenant), w.skus.find(e.SKU)
	*a = Allocation{
		ID: e.ID, Project: e.Project, Tenant: e.Tenant, Name: strings.Clone(e.Name), Image: w.word(e.Image), ImageHash: e.ImageHash, UserData: e.UserData,
		User: e.User, Shape: e.Shape, State: Provisioning, Created: x.At, Expires: e.Expires, LockedRate: e.LockedRate, tenant: t, sku: sku,
		vms: make([]uint32, len(e.VMs)),
	}
	gpus := uint32(len(e.VMs)) * e.Shape
	tn, prj := w.tenants.row(t), w.projects.get(e.Project)
	tn.GPUs += gpus
	tn.Allocations++
	prj.GPUs += gpus
	prj.Allocations++
	w.allocNames.add(w.allocNameHash(ai), ai, w.allocNameHash)
	w.skus.row(sku).live++
	for i := range e.VMs {
		pv := &e.VMs[i]
		vi, v := w.vms.add(pv.VM)
		hi := w.hosts.find(pv.Host)
		*v = VM{ID: pv.VM, alloc: ai, host: hi, index: uint16(i), n: uint8(len(pv.Slots)), State: Provisioning, Power: PowerOn, Boot: 1, Placed: x.At, Deadline: e.Deadline}
		for k := range pv.Slots {
			row := w.slots.find(pv.Slots[k])
			s := w.slots.row(row)
			s.State, s.vm, s.seed, s.Attempt = SlotIsReserved, vi, e.Seed, 0
			s.Generation++
			v.slots[k] = row
		}
		a.vms[i] = vi
		h := w.hosts.row(hi)
		v.hostAt = uint32(len(h.vms))
		h.vms = append(h.vms, vi)
		w.touch(h)
		w.fleet.refresh(w, hi)
		w.timers.add(e.Deadline, timerVM, vi)
	}
	w.timers.add(e.Expires, timerExpire, ai)
}

func (e *SlotReserved) apply(*World, *Applied) {} // AllocationPlaced did it; this one tells the host's subscribers

// ActOnAllocation stops, starts, reboots or releases.
type ActOnAllocation struct {
	Allocation AllocationID     `json:"allocation_id"`
	Action     AllocationAction `json:"action"`
}

// AllocationAction is what ActOnAllocation asks for.
type AllocationAction uint8

// The actions.
const (
	ActionStop AllocationAction = iota + 1
	ActionStart
	ActionReboot
	ActionRelease
)

var allocationActionNames = [...]string{"", "stop", "start", "reboot", "release"}

func (a AllocationAction) String() string { return enumName(allocationActionNames[:], a) }

// MarshalText implements encoding.TextMarshaler.
func (a AllocationAction) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *AllocationAction) UnmarshalText(b []byte) error {
	return enumParse(a, allocationActionNames[:], string(b), "action")
}

// CommandType implements CommandBody.
func (*ActOnAllocation) CommandType() string { return "allocation.act" }

func (m *ActOnAllocation) wire(c *coder) {
	idField(c, 1, &m.Allocation)
	uintField(c, 2, &m.Action)
}

func (m *ActOnAllocation) decide(w *World, x *Context) ([]EventBody, *Error) {
	a, err := w.requireAllocation(x, m.Allocation, ProjectMember)
	if err != nil {
		return nil, err
	}
	wrong := func(verb string) ([]EventBody, *Error) {
		return nil, Errorf(Conflict, "allocation.wrong_state", "the allocation is %s: it cannot be %s", a.State, verb)
	}
	switch m.Action {
	case ActionStop:
		switch a.State {
		case Stopping, Stopped:
			return nil, nil
		case Running, Starting:
			return []EventBody{w.stopRequested(a, "requested", x.At)}, nil
		}
		return wrong("stopped")
	case ActionStart:
		switch a.State {
		case Running, Starting:
			return nil, nil
		case Stopped:
			if t := w.tenants.row(a.tenant); t.State != TenantActive {
				return nil, Errorf(PaymentRequired, "tenant."+t.State.String(), "the tenant is %s: add credit to start again", t.State)
			}
			return []EventBody{&AllocationStartRequested{w.powerChange(a, "requested", x.At.Add(bootDeadline+Duration(a.Shape)*perSlotAllowance))}}, nil
		}
		return wrong("started")
	case ActionReboot:
		if a.State != Running {
			return wrong("rebooted")
		}
		return []EventBody{&AllocationRebootRequested{w.powerChange(a, "requested", x.At.Add(bootDeadline+Duration(a.Shape)*perSlotAllowance))}}, nil
	case ActionRelease:
		if a.State >= Releasing {
			return nil, nil
		}
		return w.release(newPurse(w, w.tenants.row(a.tenant), x), a, "requested", x.At, false), nil
	}
	return nil, invalidField("action", "allocation.unknown_action", "no such action")
}

// PowerChange is what the power events share.
type PowerChange struct {
	ID       AllocationID `json:"id"`
	Tenant   TenantID     `json:"tenant_id"`
	Cause    string       `json:"cause"` // "requested", "suspended"
	Deadline Time         `json:"deadline"`
}

// Owner implements EventBody.
func (e *PowerChange) Owner() string { return e.Tenant.String() }

// Resource implements EventBody.
func (e *PowerChange) Resource() string { return e.ID.String() }

func (e *PowerChange) wire(c *coder) {
	idField(c, 1, &e.ID)
	idField(c, 2, &e.Tenant)
	c.str(3, &e.Cause)
	c.time(4, &e.Deadline)
}

// The power events.
type (
	AllocationStopRequested   struct{ PowerChange }
	AllocationStartRequested  struct{ PowerChange }
	AllocationRebootRequested struct{ PowerChange }
)

// EventType implements EventBody.
func (*AllocationStopRequested) EventType() string { return "allocation.stop_requested" }

// EventType implements EventBody.
func (*AllocationStartRequested) EventType() string { return "allocation.start_requested" }

// EventType implements EventBody.
func (*AllocationRebootRequested) EventType() string { return "allocation.reboot_requested" }

func (w *World) powerChange(a *Allocation, cause string, deadline Time) PowerChange {
	return PowerChange{ID: a.ID, Tenant: a.Tenant, Cause: cause, Deadline: deadline}
}

func (w *World) stopRequested(a *Allocation, cause string, at Time) *AllocationStopRequested {
	return &AllocationStopRequested{w.powerChange(a, cause, at.Add(stopDeadline))}
}

func (e *AllocationStopRequested) apply(w *World, _ *Applied) {
	w.eachVM(e.ID, func(row uint32, v *VM) {
		v.Power = PowerOff
		if v.State == Running || v.State == Starting {
			w.wait(row, v, Stopping, e.Deadline)
		}
	})
}

func (e *AllocationStartRequested) apply(w *World, _ *Applied) {
	w.eachVM(e.ID, func(row uint32, v *VM) {
		v.Power = PowerOn
		if v.State == Stopped {
			v.Boot++
			w.wait(row, v, Starting, e.Deadline)
		}
	})
}

func (e *AllocationRebootRequested) apply(w *World, _ *Applied) {
	w.eachVM(e.ID, func(row uint32, v *VM) {
		if v.State == Running {
			v.Boot++
			w.wait(row, v, Starting, e.Deadline)
		}
	})
}

// eachVM changes all VMs of an allocation, and then what follows from them.
func (w *World) eachVM(id AllocationID, f func(uint32, *VM)) {
	a := w.allocations.get(id)
	for _, row := range a.vms {
		v := w.vms.row(row)
		f(row, v)
		w.touch(w.hosts.row(v.host))
	}
	w.derive(a)
}

func (w *World) wait(row uint32, v *VM, s AllocationState, deadline Time) {
	v.State, v.Deadline = s, deadline
	w.timers.add(deadline, timerVM, row)
}

// derive sets the allocation's state: that of its least advanced VM.
func (w *World) derive(a *Allocation) {
	if a.State >= Releasing {
		return
	}
	s := Failed
	for _, row := range a.vms {
		s = min(s, w.vms.row(row).State)
	}
	a.State = s
}

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
		if v.BillStart != 0 && v.BillEnd == 0 {
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
		w.closeLine(v, e.BilledTo)
		h := w.hosts.row(v.host)
		last := len(h.vms) - 1
		moved := h.vms[last]
		h.vms[v.hostAt] = moved
		w.vms.row(moved).hostAt = v.hostAt
		h.vms = h.vms[:last]
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

// CheckDetails is what the edge checks of free text before it goes to the vault.
func CheckDetails(sshKeys []string, userData []byte, tags map[string]string) *Error {
	if len(userData) > maxUserData {
		return invalidField("user_data", "user_data.too_large", "user_data: %d bytes, at most %d", len(userData), maxUserData)
	}
	if len(sshKeys) > maxSSHKeys || len(tags) > maxTags {
		return invalidField("ssh_keys", "details.too_many", "at most %d ssh_keys and %d tags", maxSSHKeys, maxTags)
	}
	for i, k := range sshKeys {
		if len(k) > 16<<10 {
			return invalidField(fmt.Sprintf("ssh_keys[%d]", i), "ssh_key.too_large", "ssh_keys[%d]: too large", i)
		}
		for _, c := range k {
			if c < ' ' {
				return invalidField(fmt.Sprintf("ssh_keys[%d]", i), "ssh_key.control_character", "ssh_keys[%d]: one line, no control characters", i)
			}
		}
	}
	for k, v := range tags {
		if err := checkWord("tags", k, maxName, false); err != nil {
			return err
		}
		if len(v) > 256 {
			return invalidField("tags", "tag.too_large", "tags: a value has more than 256 bytes")
		}
	}
	return nil
}
