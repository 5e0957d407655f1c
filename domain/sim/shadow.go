package sim

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/plan"
)

// shadow reads the log as it grows and objects to what must never be in it. It knows
// events, and what really happened on the hosts; it does not know the world.
type shadow struct {
	*view
	s        *Sim
	checking bool
	n        uint64 // commits read
	hash     domain.Digest
	at       domain.Time

	commands map[domain.CommandID]uint64 // accepted, and by which commit
	keys     map[idemKey]idemSeen
	states   map[domain.Digest]domain.Digest // state hash by head, as whoever was there first had it
	erased   map[wipeOf]bool                 // wipes that were really done
	accounts map[domain.Account]domain.Micros
	fleet    map[domain.HostID]*hostView
	owners   map[domain.APIKeyID]domain.TenantID
	revoked  map[domain.APIKeyID]bool
	projects map[domain.ProjectID]domain.TenantID
	tenants  map[domain.TenantID]domain.TenantState
	skus     []domain.SKUID
	quotas   map[domain.PolicyScope]int64
	money    money
	compared uint64
	checked  uint64
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
	silent                                         bool
	proposal                                       domain.Digest
}

func (h *hostView) placeable() bool {
	return h.approved && !h.cordoned && !h.draining && !h.faulted && !h.silent && !h.removed
}

func newShadow(s *Sim) *shadow {
	return &shadow{
		view: newView(), s: s, commands: map[domain.CommandID]uint64{}, keys: map[idemKey]idemSeen{}, states: map[domain.Digest]domain.Digest{},
		erased: map[wipeOf]bool{}, accounts: map[domain.Account]domain.Micros{}, fleet: map[domain.HostID]*hostView{},
		owners: map[domain.APIKeyID]domain.TenantID{}, revoked: map[domain.APIKeyID]bool{}, projects: map[domain.ProjectID]domain.TenantID{},
		tenants: map[domain.TenantID]domain.TenantState{}, quotas: map[domain.PolicyScope]int64{}, money: newMoney(),
	}
}

// commit is in the log from now on.
func (h *shadow) commit(c *domain.Commit) {
	if c.N != h.n+1 || c.Prev != h.hash || c.At < h.at {
		h.s.fail("commit %d at %s follows commit %d at %s: the chain is broken", c.N, c.At, h.n, h.at)
	}
	h.n, h.at, h.hash = c.N, c.At, h.s.log.hashes[c.N-1]
	for i := range c.Decisions {
		d := &c.Decisions[i]
		h.accepted(&d.Command)
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
	switch e := e.(type) {
	case *domain.AllocationPlaced:
		h.checkPlaced(c, e)
	case *domain.SlotWiped:
		h.checkWiped(e)
	case *domain.SlotQuarantined:
		if v := h.slots[e.Slot]; v.state != domain.SlotIsWiping && v.state != domain.SlotIsAvailable {
			s.fail("slot %s is quarantined while it is %s", e.Slot, v.state)
		}
		for _, d := range e.Devices {
			if d.Detail == done && e.Reason != "condemned" {
				s.fail("slot %s was erased, and its evidence is not believed: %s %s", e.Slot, e.Component, e.Reason)
			}
		}
	case *domain.SlotWipeStarted:
		for _, w := range e.Slots {
			v := h.slots[w.Slot]
			if v.state == domain.SlotIsWiping || v.state == domain.SlotIsRetired || v.generation != w.Generation || v.state == domain.SlotIsQuarantined && e.Cause == "rewipe" && w.Attempt != v.attempt+1 {
				s.fail("slot %s, %s, generation %d attempt %d: a wipe of %d attempt %d begins (%s)", w.Slot, v.state, v.generation, v.attempt, w.Generation, w.Attempt, e.Cause)
			}
			if e.Cause == "released" && h.vms[v.vm].state != domain.Releasing {
				s.fail("slot %s is sent to its wipe, and its VM is %s", w.Slot, h.vms[v.vm].state)
			}
		}
	case *domain.SlotRetired:
		if v := h.slots[e.Slot]; v.state != domain.SlotIsAvailable && v.state != domain.SlotIsQuarantined {
			s.fail("slot %s is retired while it is %s", e.Slot, v.state)
		}
	case *domain.MapAmended:
		for _, a := range e.Slots {
			v := h.slots[a.ID]
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
			if d := s.drives[x.serials[1]]; !d.data.IsZero() && !s.hostOf(v.Host).forged {
				s.fail("slot %s is given to VM %s with the data of %s on drive %s", id, v.VM, d.data, d.serial)
			}
		}
	}
	h.checkQuota(e)
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
	var b [36]byte
	copy(b[:], v.seed[:])
	copy(b[16:], e.Slot[:])
	binary.BigEndian.PutUint32(b[32:], v.generation)
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
	case e.Nonce != sha256.Sum256(b[:]) || left != [3]string{}:
		h.s.fail("slot %s is free by a wipe with another lease's nonce or of other devices: %v", e.Slot, left)
	case !h.erased[wipeOf{e.Slot, e.Generation, v.attempt}]:
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
}

// mayDo says why the log does not ask for what a host does to a VM; "" if it does.
func (h *shadow) mayDo(host *host, step plan.Step) string {
	v := h.vms[step.VM]
	if v == nil || v.host != host.id {
		return "nobody placed it here"
	}
	switch step.Op {
	case plan.Start, plan.Reboot:
		if step.Boot > v.boot {
			return "this boot was never asked for"
		}
	case plan.Stop:
		if v.stops == 0 {
			return "nobody asked for it to be off"
		}
	case plan.Remove:
		if v.state < domain.Releasing {
			return "it is " + v.state.String()
		}
	}
	return ""
}

func (s *Sim) hostOf(id domain.HostID) *host {
	for _, h := range s.hosts {
		if h.id == id {
			return h
		}
	}
	return nil
}
