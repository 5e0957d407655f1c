package domain

// Questions that are answered from the world, for the edge and for operators.

// Identities walks keys, people and hosts, in the order they came.
func (w *World) Identities(key func(APIKey), member func(Member), host func(*Host)) {
	for row := uint32(0); row < w.keys.next; row++ {
		if k := w.keys.row(row); !k.ID.IsZero() && k.Revoked == 0 {
			key(*k)
		}
	}
	for row := uint32(0); row < w.members.next; row++ {
		if m := w.members.row(row); !m.ID.IsZero() {
			member(*m)
		}
	}
	for row := uint32(0); row < w.hosts.next; row++ {
		if h := w.hosts.row(row); !h.ID.IsZero() && !h.Removed {
			host(h)
		}
	}
}

// Offer is what a caller can launch of one SKU now.
type Offer struct {
	SKU       SKUID    `json:"sku_id"`
	Name      string   `json:"sku"`
	Shape     uint32   `json:"shape"`
	GPUClass  string   `json:"gpu_class,omitempty"`
	Features  Features `json:"features"`
	Currency  Currency `json:"currency"`
	Micros    Micros   `json:"micros_per_unit_hour"`
	Effective Time     `json:"effective_at"`
	Quantity  uint32   `json:"quantity"`           // VMs launchable by this caller now
	WhyZero   string   `json:"why_zero,omitempty"` // stable code when quantity is 0
}

// Offers lists what the tenant can launch now, in one project or (zero) any.
func (w *World) Offers(tenant TenantID, project ProjectID, at Time) ([]Offer, *Error) {
	t := w.tenants.get(tenant)
	if t == nil {
		return nil, notFound("tenant")
	}
	have := w.BalanceAt(t, at).Available
	out := []Offer{}
	for row := uint32(0); row < w.skus.next; row++ {
		s := w.skus.row(row)
		if s.ID.IsZero() {
			continue
		}
		o := Offer{SKU: s.ID, Name: s.Name, Shape: s.Shape, GPUClass: s.GPUClass, Features: s.Features, Currency: t.Currency}
		rate, since, priced := s.priceAt(tenant, t.Currency, at)
		o.Micros, o.Effective = rate, since
		o.Quantity, o.WhyZero = w.quantity(t, project, s, rate, priced, have)
		out = append(out, o)
	}
	return out, nil
}

// quantity is the least of what fits, what the quota leaves and what the money
// pays for, with the code of what made it zero.
func (w *World) quantity(t *Tenant, project ProjectID, s *SKU, rate Micros, priced bool, have Micros) (uint32, string) {
	switch {
	case !priced:
		return 0, "sku.no_price"
	case t.State != TenantActive:
		return 0, "tenant." + t.State.String()
	}
	n, why := int64(w.launchable(s.GPUClass, s.Features, s.Shape)), "capacity.exhausted"
	atMost := func(left int64, code string) {
		if left < n {
			n, why = max(0, left), code
		}
	}
	each := int64(maxGangVMs) // VMs in one allocation
	if limit, ok := w.policyLimit("allocation.max_count", t.ID, project); ok {
		each = min(each, limit)
	}
	if each == 0 {
		atMost(0, "policy.max_count")
	}
	if eff, ok := w.EffectivePolicy("allocation.images", t.ID, project); ok && len(eff.Value.List) == 0 {
		atMost(0, "policy.image")
	}
	scopes := []quotaUse{{ProjectID{}, t.GPUs, t.Allocations}}
	if prj := w.projects.get(project); prj != nil {
		scopes = append(scopes, quotaUse{project, prj.GPUs, prj.Allocations})
	}
	for _, u := range scopes {
		if limit, ok := w.policyLimit("quota.gpus", t.ID, u.project); ok {
			atMost((limit-int64(u.gpus))/int64(s.Shape), "quota.exceeded")
		}
		if limit, ok := w.policyLimit("quota.allocations", t.ID, u.project); ok {
			atMost(min(limit-int64(u.allocations), 1<<32)*each, "quota.exceeded")
		}
	}
	if price := rate * Micros(s.Shape); price > 0 {
		atMost(int64(have/price), "funds.insufficient")
	}
	if n == 0 {
		return 0, why
	}
	return uint32(n), ""
}

// quotaUse is what counts against the quotas of a tenant or of a project.
type quotaUse struct {
	project           ProjectID
	gpus, allocations uint32
}

// priceAt is rateAt with the time since which the price holds.
func (s *SKU) priceAt(tenant TenantID, cur Currency, t Time) (rate Micros, since Time, ok bool) {
	rate, _, ok = s.rateAt(tenant, cur, t, everyPrice)
	for i := range s.prices {
		if p := &s.prices[i]; p.Currency == cur && p.Micros == rate && p.Effective <= t && (p.Tenant.IsZero() || p.Tenant == tenant) {
			since = p.Effective
		}
	}
	return rate, since, ok
}

// TenantBalance is BalanceAt for an id.
func (w *World) TenantBalance(id TenantID, at Time) (Balance, *Error) {
	t := w.tenants.get(id)
	if t == nil {
		return Balance{}, notFound("tenant")
	}
	return w.BalanceAt(t, at), nil
}

// TenantOfProject says who owns a project.
func (w *World) TenantOfProject(id ProjectID) (TenantID, bool) {
	if p := w.projects.get(id); p != nil {
		return p.Tenant, true
	}
	return TenantID{}, false
}

// MayRead reports, with the same answers that a command would get, whether the
// actor may read what belongs to the tenant or project.
func (w *World) MayRead(actor Actor, at Time, tenant TenantID, project ProjectID) *Error {
	x := &Context{At: at, Actor: actor}
	if !project.IsZero() {
		p, err := w.principal(x)
		if err == nil && p.platform != 0 && w.projects.get(project) != nil {
			return nil // finance and auditors read every project
		}
		_, _, err = w.requireProject(x, project, ProjectViewer)
		return err
	}
	_, p, err := w.requireTenant(x, tenant, TenantViewer)
	if err != nil && err.Kind == Forbidden && p.platform != 0 {
		return nil // finance and auditors read every tenant
	}
	return err
}

// MayAct reports whether the actor may act on the project's allocations.
func (w *World) MayAct(actor Actor, at Time, project ProjectID) *Error {
	_, _, err := w.requireProject(&Context{At: at, Actor: actor}, project, ProjectMember)
	return err
}

// EffectivePolicies lists every policy that is set for a project.
func (w *World) EffectivePolicies(project ProjectID) []EffectivePolicy {
	out := []EffectivePolicy{}
	prj := w.projects.get(project)
	if prj == nil {
		return out
	}
	for _, k := range PolicyKeys {
		if eff, ok := w.EffectivePolicy(k.Key, prj.Tenant, project); ok {
			out = append(out, eff)
		}
	}
	return out
}

// AdmittedHosts lists every admitted host, for
// a writer that publishes what its predecessor may not have.
func (w *World) AdmittedHosts() []HostID {
	var out []HostID
	for row := uint32(0); row < w.hosts.next; row++ {
		if h := w.hosts.row(row); h.NATSKey != "" && !h.Removed {
			out = append(out, h.ID)
		}
	}
	return out
}

// VMPlaceOf says where a VM is, and whose: for consoles and for what a host may
// ask of the vault.
func (w *World) VMPlaceOf(id VMID) (host HostID, alloc AllocationID, project ProjectID, ok bool) {
	v := w.vms.get(id)
	if v == nil {
		return
	}
	a := w.allocations.row(v.alloc)
	return w.hosts.row(v.host).ID, a.ID, a.Project, true
}

// VMOf is the i-th VM of an allocation.
func (w *World) VMOf(id AllocationID, i int) (VMID, bool) {
	a := w.allocations.get(id)
	if a == nil || i < 0 || i >= len(a.vms) {
		return VMID{}, false
	}
	return w.vms.row(a.vms[i]).ID, true
}

// Counts are the world's sizes, for metrics.
type Counts struct {
	Tenants, Hosts, Slots, Allocations, VMs int
	SlotStates                              map[string]int
}

// Count counts.
func (w *World) Count() Counts {
	c := Counts{Tenants: w.tenants.len(), Hosts: w.hosts.len(), Slots: w.slots.len(), Allocations: w.allocations.len(), VMs: w.vms.len(), SlotStates: map[string]int{}}
	var by [len(slotStateNames)]int
	for row := uint32(0); row < w.slots.next; row++ {
		by[w.slots.row(row).State]++
	}
	for i, n := range by {
		if i > 0 {
			c.SlotStates[slotStateNames[i]] = n
		}
	}
	return c
}

// MayHaveUserData reports whether a VM placed on the host has this vault document.
func (w *World) MayHaveUserData(host HostID, vm VMID, digest Digest) bool {
	v := w.vms.get(vm)
	return v != nil && v.State < Releasing && w.hosts.row(v.host).ID == host && w.allocations.row(v.alloc).UserData == digest
}

// Operators is how many users have the operator's role.
func (w *World) Operators() int { return int(w.operators) }

// IsOperator reports whether a user is an operator of the site.
func (w *World) IsOperator(id UserID) bool {
	u := w.members.get(id)
	return u != nil && u.Platform&RoleOperator != 0
}

// AllocationState is where a live allocation is.
func (w *World) AllocationState(id AllocationID) (AllocationState, bool) {
	a := w.allocations.get(id)
	if a == nil {
		return 0, false
	}
	return a.State, true
}

// SKUName is a SKU's name, which never changes.
func (w *World) SKUName(id SKUID) (string, bool) {
	s := w.skus.get(id)
	if s == nil {
		return "", false
	}
	return s.Name, true
}

// ProjectOf says in which project a live allocation is, and of which SKU.
func (w *World) ProjectOf(id AllocationID) (project ProjectID, sku SKUID, ok bool) {
	a := w.allocations.get(id)
	if a == nil {
		return
	}
	return a.Project, w.skus.row(a.sku).ID, true
}

// MapOf says how far a host's slot map is: the digest that waits for approval,
// whether one is approved, and how many slots are still in a wipe.
func (w *World) MapOf(id HostID) (proposal Digest, approved bool, wiping int) {
	h := w.hosts.get(id)
	if h == nil {
		return
	}
	proposal = h.proposalID()
	for _, row := range h.slots {
		if w.slots.row(row).State == SlotIsWiping {
			wiping++
		}
	}
	return proposal, !h.MapID.IsZero(), wiping
}

// SlotIsCondemned reports whether a slot is out of service as soon as its lease and
// the wipe after it are over.
func (w *World) SlotIsCondemned(id SlotID) bool {
	s := w.slots.get(id)
	return s != nil && s.Condemned
}

// The world as a fold to compare read models with: projections.Fold.

// Slots walks all slots.
func (w *World) Slots(f func(id SlotID, state SlotState, generation uint32)) {
	for _, s := range w.slots.rows() {
		f(s.ID, s.State, s.Generation)
	}
}

// Devices walks all slots with the keys ([DeviceKey]) of their GPU, drive and VF; 0:
// none.
func (w *World) Devices(f func(id SlotID, devices [3]uint64)) {
	for _, s := range w.slots.rows() {
		f(s.ID, s.devices)
	}
}

// Allocations walks the allocations that have not ended.
func (w *World) Allocations(f func(AllocationID, AllocationState)) {
	for _, a := range w.allocations.rows() {
		f(a.ID, a.State)
	}
}

// Balances walks the accounts that are not zero: each tenant's, its holds as one
// sum, and the platform's under the zero tenant.
func (w *World) Balances(f func(TenantID, Account, Currency, Micros)) {
	put := func(t *Tenant, a Account, n Micros) {
		if n != 0 {
			f(t.ID, a, t.Currency, n)
		}
	}
	for _, t := range w.tenants.rows() {
		put(t, Account{Kind: AccountReceivable}, t.Receivable)
		put(t, Account{Kind: AccountCustomerCredit}, t.Credit)
		put(t, Account{Kind: AccountHold}, t.Held)
	}
	for _, g := range w.grants.rows() {
		put(w.tenants.get(g.Tenant), Account{Kind: AccountLot, Ref: g.ID}, g.Balance)
	}
	for key, n := range w.platform {
		if n != 0 {
			f(TenantID{}, key.Account, key.Currency, n)
		}
	}
}

// HostSignKey is the Ed25519 public key that the host's reports are signed with; a
// removed host's too, whose evidence stays.
func (w *World) HostSignKey(id HostID) (key []byte, ok bool) {
	if h := w.hosts.get(id); h != nil && h.SignKey != [32]byte{} {
		return h.SignKey[:], true
	}
	return nil, false
}
