package sim

import (
	"slices"
	"strings"

	"github.com/gpuaas/gpuaas/domain"
)

// shadow reads the log as it grows and objects to what must never be in it. It knows
// events, and what really happened on the hosts; it does not know the world.
type shadow struct {
	*view
	s        *Sim
	checking bool
	account  bool   // the decision is about a host's account
	n        uint64 // commits read
	hash     domain.Digest
	at       domain.Time

	commands  map[domain.CommandID]uint64 // accepted, and by which commit
	keys      map[idemKey]idemSeen
	states    map[domain.Digest]uint64 // stateOf by head, as whoever was there first had it
	scratch   []byte                   // of worlds that are encoded
	erased    map[wipeOf]bool          // wipes that were really done
	accounts  map[domain.Account]domain.Micros
	fleet     map[domain.HostID]*hostView
	owners    map[domain.APIKeyID]domain.TenantID
	revoked   map[domain.APIKeyID]bool
	projects  map[domain.ProjectID]domain.TenantID
	tenants   map[domain.TenantID]domain.TenantState
	suspended map[domain.TenantID]domain.Time // since when
	skus      []domain.SKUID
	quotas    map[domain.PolicyScope]int64
	owed      map[string]bool             // drives whose wipe is owed
	journals  map[domain.JournalID]bool   // that reports were recorded of
	known     map[domain.VMID]bool        // VMs that their host was told of
	told      map[saidKey]bool            // what hosts said of their VMs
	said      map[recorded]*domain.Report // of VMs and faults
	word      *domain.Report              // what the decision follows from, if a host said it
	money     money
	past      []pastView                      // what the log said before it lost its end, each time
	unknown   map[domain.HostID][]domain.VMID // VMs that the log does not know: kept until an operator has decided
	compared  uint64
	checked   uint64
}

type idemKey struct {
	owner domain.TenantID
	key   domain.Digest
}

type idemSeen struct {
	n  uint64
	at domain.Time
}

type hostView struct {
	cordoned, draining, faulted, approved, removed bool
	silent, ahead, accounts, admitted              bool
	proposal                                       domain.Digest
	report                                         recorded // the newest
}

type recorded struct {
	journal domain.JournalID
	number  uint64
}

func (h *hostView) placeable() bool {
	return h.approved && !h.cordoned && !h.draining && !h.faulted && !h.silent && !h.removed && !h.ahead && !h.accounts
}

func newShadow(s *Sim) *shadow {
	return &shadow{
		view: newView(), s: s, commands: map[domain.CommandID]uint64{}, keys: map[idemKey]idemSeen{}, states: map[domain.Digest]uint64{},
		erased: map[wipeOf]bool{}, accounts: map[domain.Account]domain.Micros{}, fleet: map[domain.HostID]*hostView{},
		owners: map[domain.APIKeyID]domain.TenantID{}, revoked: map[domain.APIKeyID]bool{}, projects: map[domain.ProjectID]domain.TenantID{},
		tenants: map[domain.TenantID]domain.TenantState{}, suspended: map[domain.TenantID]domain.Time{}, quotas: map[domain.PolicyScope]int64{}, owed: map[string]bool{}, told: map[saidKey]bool{}, said: map[recorded]*domain.Report{}, known: map[domain.VMID]bool{}, unknown: map[domain.HostID][]domain.VMID{}, journals: map[domain.JournalID]bool{}, money: newMoney(),
	}
}

// commit is in the log from now on.
func (h *shadow) commit(c *domain.Commit) {
	h.s.tellCommit(c)
	if c.N != h.n+1 || c.Prev != h.hash || c.At < h.at {
		h.s.fail("commit %d at %s follows commit %d at %s: the chain is broken", c.N, c.At, h.n, h.at)
	}
	h.n, h.at, h.hash = c.N, c.At, h.s.log.hashes[c.N-1]
	for i := range c.Decisions {
		d := &c.Decisions[i]
		h.accepted(&d.Command)
		h.word = nil
		h.account = slices.ContainsFunc(d.Events, func(e domain.Event) bool { _, is := e.Body.(*domain.HostReconciled); return is })
		for k := range d.Events {
			e := &d.Events[k]
			if e.Number != h.number+1 {
				h.s.fail("commit %d: event number %d follows %d", c.N, e.Number, h.number)
			}
			h.number = e.Number
			if h.checking {
				h.check(&d.Command, e.Body)
			}
			h.apply(e.Body)
			h.remember(e.Body)
		}
		if h.checking {
			h.checkFault()
		}
	}
}

// accepted: a command is in the log once, whoever sent it and however often, and
// never by a key that was revoked before.
func (h *shadow) accepted(c *domain.Command) {
	if c.Actor.Kind != domain.ActorKey {
		return
	}
	if n, twice := h.commands[c.ID]; twice {
		h.s.fail("command %s is in commits %d and %d", c.ID, n, h.n)
	}
	if h.revoked[c.Actor.Key] {
		h.s.fail("command %s of a revoked key is in commit %d", c.ID, h.n)
	}
	h.commands[c.ID] = h.n
	if c.IdemKey.IsZero() {
		return
	}
	key := idemKey{h.owners[c.Actor.Key], c.IdemKey}
	if before, twice := h.keys[key]; twice && h.at.Sub(before.at) < domain.Day {
		h.s.fail("an Idempotency-Key's command is in commits %d and %d", before.n, h.n)
	}
	h.keys[key] = idemSeen{h.n, h.at}
}

// check objects to an event.
func (h *shadow) check(c *domain.Command, e domain.EventBody) {
	s := h.s
	if c.Actor.Kind == domain.ActorHost {
		h.here(c, e)
	}
	switch e := e.(type) {
	case *domain.AllocationPlaced:
		h.checkPlaced(c, e)
	case *domain.SlotWiped:
		h.checkWiped(e)
	case *domain.SlotQuarantined:
		if v := h.slots[e.Slot]; v.state != domain.SlotIsWiping && v.state != domain.SlotIsAvailable && (v.state != domain.SlotIsQuarantined || e.Reason != "epoch.unknown_vm") {
			s.fail("slot %s is quarantined while it is %s", e.Slot, v.state)
		}
		for _, d := range e.Devices {
			// Of a wipe that the log asked for before it lost its end, or that nobody asked for.
			other := e.Reason == "wipe.wrong_nonce" && (len(h.past) > 0 || s.hostOf(e.Host).forged)
			if d.Detail == done && e.Reason != "condemned" && !other {
				s.fail("slot %s was erased, and its evidence is not believed: %s %s", e.Slot, e.Component, e.Reason)
			}
		}
	case *domain.SlotWipeStarted:
		for _, w := range e.Slots {
			v := h.slots[w.Slot]
			if v.state == domain.SlotIsWiping && e.Cause != "epoch" || v.state == domain.SlotIsRetired || v.generation != w.Generation || v.state == domain.SlotIsQuarantined && e.Cause == "rewipe" && w.Attempt != v.attempt+1 {
				s.fail("slot %s, %s, generation %d attempt %d: a wipe of %d attempt %d begins (%s)", w.Slot, v.state, v.generation, v.attempt, w.Generation, w.Attempt, e.Cause)
			}
			if len(h.unknownOn(v)) > 0 && (e.Cause == "rewipe" || e.Cause == "epoch") { // after an approval the wipe waits for the VM
				s.fail("slot %s is sent to its wipe (%s), and unknown VMs are on it", w.Slot, e.Cause)
			}
			if e.Cause == "released" && h.vms[v.vm].state != domain.Releasing {
				s.fail("slot %s is sent to its wipe, and its VM is %s", w.Slot, h.vms[v.vm].state)
			}
		}
	case *domain.SlotRetired:
		v := h.slots[e.Slot]
		if v.state != domain.SlotIsAvailable && v.state != domain.SlotIsQuarantined {
			s.fail("slot %s is retired while it is %s", e.Slot, v.state)
		}
		h.leaves(v.serials[1], e.Slot)
	case *domain.WipeDischarged:
		if d := s.drives[h.slots[e.Slot].serials[1]]; !d.data.IsZero() && !s.hostOf(e.Host).forged {
			s.fail("the duty to wipe what is in slot %s is discharged, with the data of %s on it", e.Slot, d.data)
		}
	case *domain.MapAmended:
		here := map[string]bool{}
		for _, a := range e.Slots {
			here[a.Spec.NVMe.Serial] = true
		}
		for _, a := range e.Slots {
			v := h.slots[a.ID]
			if v != nil && !here[v.serials[1]] {
				h.leaves(v.serials[1], a.ID)
			}
			if v != nil && a.Change != "kept" && v.state != domain.SlotIsAvailable && v.state != domain.SlotIsQuarantined {
				s.fail("slot %s is %s (%s) while it is %s", a.ID, a.Change, a.Spec.NVMe.Serial, v.state)
			}
			if v != nil && (a.Change == "kept" || a.Change == "changed") && v.serials != serialsOf(&a.Spec) {
				s.fail("slot %s has other devices and is %s", a.ID, a.Change)
			}
		}
	case *domain.VMBillable:
		if v := h.vms[e.VM]; v.started != 0 || e.At > h.at || v.state >= domain.Releasing {
			s.fail("VM %s, %s, billed from %s: is billed from %s in a commit of %s", e.VM, v.state, v.started, e.At, h.at)
		}
	case *domain.AllocationReleasing:
		if v := h.allocs[e.ID]; v == nil || v.state >= domain.Releasing {
			s.fail("allocation %s is released twice", e.ID)
		}
		h.mine(c, e.Tenant)
		if c.Actor.Kind == domain.ActorHost && !strings.HasPrefix(e.Reason, "epoch.") && !slices.ContainsFunc(h.allocs[e.ID].vms, func(v *vmView) bool { return v.state != domain.Stopped }) {
			s.fail("allocation %s, which is stopped, is released for a report: %s", e.ID, e.Reason)
		}
		h.checkRelease(e)
		if e.BilledTo > h.at {
			s.fail("allocation %s is billed to %s, in a commit of %s", e.ID, e.BilledTo, h.at)
		}
	case *domain.AllocationStopRequested:
		h.mine(c, e.Tenant)
	case *domain.AllocationStartRequested:
		h.mine(c, e.Tenant)
		if h.tenants[e.Tenant] != domain.TenantActive {
			s.fail("allocation %s of a tenant that is %s is started", e.ID, h.tenants[e.Tenant])
		}
	case *domain.VMRemoved: // by a deadline: the host never said so
		v := h.vms[e.VM]
		if x := s.hostOf(v.host); c.Actor.Kind == domain.ActorSystem && h.known[v.id] && !x.forged && s.lost == nil && !h.fleet[v.host].accounts && x.beating() && x.well < v.releasing && s.log.away < v.releasing && !x.wipesUnder(v.id) {
			s.fail("host %s was asked to remove VM %s at %s and is well since %s, and never said that it did", x.name, v.id, v.releasing, x.well)
		}
	case *domain.VMOverdue:
		if e.Deadline <= h.at {
			s.fail("VM %s is overdue, and nobody looks again", e.VM)
		}
	case *domain.AllocationReleased:
		for _, v := range h.allocs[e.ID].vms {
			if v.state != domain.Released {
				s.fail("allocation %s has ended, and its VM %s is %s", e.ID, v.id, v.state)
			}
		}
	case *domain.LedgerPosted:
		h.checkPosted(e)
	case *domain.TimerParked:
		s.fail("a deadline was parked: %s %s", e.Kind, e.Why)
	}
}

// mine: a tenant's key acts on what is its tenant's.
func (h *shadow) mine(c *domain.Command, owner domain.TenantID) {
	if t := h.owners[c.Actor.Key]; c.Actor.Kind == domain.ActorKey && !t.IsZero() && t != owner {
		h.s.fail("tenant %s acts on what is of tenant %s", t, owner)
	}
}

// checkPlaced: invariants 1 and 2, quotas, and hosts that take no VMs.
func (h *shadow) checkPlaced(c *domain.Command, e *domain.AllocationPlaced) {
	s := h.s
	h.mine(c, e.Tenant)
	if h.projects[e.Project] != e.Tenant || h.tenants[e.Tenant] != domain.TenantActive {
		s.fail("allocation %s of tenant %s (%s), whose project is not", e.ID, e.Tenant, h.tenants[e.Tenant])
	}
	taken := map[domain.SlotID]bool{}
	for _, v := range e.VMs {
		if uint32(len(v.Slots)) != e.Shape || !h.fleet[v.Host].placeable() {
			s.fail("VM %s of shape %d has %d slots on host %s: %+v", v.VM, e.Shape, len(v.Slots), v.Host, *h.fleet[v.Host])
		}
		for _, id := range v.Slots {
			x := h.slots[id]
			if x.state != domain.SlotIsAvailable || x.host != v.Host || taken[id] || !x.vm.IsZero() || x.condemned {
				s.fail("slot %s, %s, is given to VM %s", id, x.state, v.VM)
			}
			taken[id] = true
			if d := s.drives[x.serials[1]]; !d.data.IsZero() && !s.hostOf(v.Host).forged && s.lost == nil {
				s.fail("slot %s is given to VM %s with the data of %s on drive %s", id, v.VM, d.data, d.serial)
			}
		}
	}
	h.checkQuota(e)
}

// leaves: a drive that leaves its slot with a tenant's data is owed a wipe.
func (h *shadow) leaves(serial string, slot domain.SlotID) {
	if d := h.s.drives[serial]; h.ofTenant(d.data) && !h.owed[serial] && h.s.lost == nil {
		h.s.fail("drive %s leaves slot %s with the data of %s, and no wipe of it is owed", serial, slot, d.data)
	}
}

func (h *shadow) checkQuota(e *domain.AllocationPlaced) {
	ofTenant, ofProject := int64(len(e.VMs))*int64(e.Shape), int64(len(e.VMs))*int64(e.Shape)
	for _, a := range h.order {
		if a.state >= domain.Releasing {
			continue
		}
		n := int64(len(a.vms)) * int64(a.shape)
		if a.tenant == e.Tenant {
			ofTenant += n
		}
		if a.project == e.Project {
			ofProject += n
		}
	}
	for _, at := range []struct {
		scope domain.PolicyScope
		used  int64
	}{{domain.PolicyScope{}, ofTenant}, {domain.PolicyScope{Tenant: e.Tenant}, ofTenant}, {domain.PolicyScope{Tenant: e.Tenant, Project: e.Project}, ofProject}} {
		if limit, set := h.quotas[at.scope]; set && at.used > limit {
			h.s.fail("tenant %s has %d GPUs, the quota (%s) is %d", e.Tenant, at.used, at.scope.Name(), limit)
		}
	}
}

// checkWiped: invariants 2 and 3. The wipe was really done, of these devices, for this
// lease and in this attempt.
func (h *shadow) checkWiped(e *domain.SlotWiped) {
	v := h.slots[e.Slot]
	left := v.serials
	for _, d := range e.Devices {
		if d.Result != domain.WipeVerified {
			h.s.fail("slot %s is free by a wipe that is %s", e.Slot, d.Result)
		}
		if at := slices.Index([]string{"gpu", "nvme", "ib_vf"}, d.Component); at >= 0 && d.Serial == left[at] {
			left[at] = ""
		}
	}
	switch {
	case v.state != domain.SlotIsWiping || v.condemned || v.generation != e.Generation || v.host != e.Host:
		h.s.fail("slot %s, %s (condemned: %v) generation %d, is free by a wipe of generation %d", e.Slot, v.state, v.condemned, v.generation, e.Generation)
	case e.Nonce != v.leaseNonce() || left != [3]string{}:
		h.s.fail("slot %s is free by a wipe with another lease's nonce or of other devices: %v", e.Slot, left)
	case !h.erased[wipeOf{e.Slot, e.Generation, v.attempt, e.Nonce}]:
		h.s.fail("slot %s generation %d attempt %d is free, and was never erased", e.Slot, e.Generation, v.attempt)
	}
}

// checkPosted: invariant 5, and no lot or hold below zero.
func (h *shadow) checkPosted(e *domain.LedgerPosted) {
	var sum domain.Micros
	for _, l := range e.Legs {
		sum += l.Amount
		if k := l.Account.Kind; k == domain.AccountLot || k == domain.AccountHold {
			if have := h.accounts[l.Account] + l.Amount; have < 0 {
				h.s.fail("account %s is %d after transaction %s", l.Account, have, e.Tx)
			}
		}
	}
	if sum != 0 {
		h.s.fail("transaction %s (%s) sums to %d", e.Tx, e.Kind, sum)
	}
	if e.Kind == domain.TxHold {
		h.checkHold(e)
	}
}

// checkHold: a launch puts one hour's price aside, and the tenant has it.
func (h *shadow) checkHold(e *domain.LedgerPosted) {
	a := h.allocs[e.Allocation]
	rate := a.locked
	if rate < 0 {
		rate = h.money.prices[h.money.version(a, h.at)].Micros
	}
	want := rate * domain.Micros(a.shape) * domain.Micros(len(a.vms))
	for _, l := range e.Legs {
		switch {
		case l.Account.Kind == domain.AccountHold && l.Amount != want:
			h.s.fail("allocation %s holds %d, an hour costs %d", a.id, l.Amount, want)
		case l.Account.Kind == domain.AccountReceivable:
			h.s.fail("allocation %s is launched on %d that the tenant does not have", a.id, -l.Amount)
		}
	}
}

func (s *Sim) hostOf(id domain.HostID) *host {
	for _, h := range s.hosts {
		if h.id == id {
			return h
		}
	}
	return nil
}
