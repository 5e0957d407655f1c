package sim

import (
	"slices"

	"github.com/gpuaas/gpuaas/domain"
)

// compare holds a writer's world against what the log says, when both speak of the
// same commit; all of it now and then.
func (h *shadow) compare(p *process) {
	w := p.core.World()
	if !p.core.Empty() || w.Head.N != h.n {
		return
	}
	if h.compared++; h.compared%8 != 0 {
		return
	}
	h.checkWorld(w, writersWorld)
	for _, host := range h.s.hosts {
		h.sameContent(w, host)
	}
}

// sameContent: what a host is told of one generation is one thing, also when nobody
// thought of telling it.
func (h *shadow) sameContent(w *domain.World, host *host) {
	have := h.s.placements[host.id]
	if x, ok := w.PlacementOf(host.id); ok && have != nil && h.s.lost == nil && x.Desired.Epoch == have.placement.Desired.Epoch && x.Desired.Generation == have.placement.Desired.Generation && x.Desired.Digest() != have.digest {
		h.s.fail("host %s is told another generation %d than the world has", host.name, x.Desired.Generation)
	}
}

// checkWorld: the world is the fold of the log.
func (h *shadow) checkWorld(w *domain.World, whose string) {
	if w.Head.N != h.n || w.Head.Hash != h.hash || w.At != h.at || w.Number != h.number {
		h.s.fail("%s is at commit %d of %s, event %d; the log is at %d of %s, event %d", whose, w.Head.N, w.At, w.Number, h.n, h.at, h.number)
	}
	h.view.agree(h.s, w, whose)
	if err := w.CheckAll(); err != nil {
		h.s.fail("%s at commit %d: %v", whose, w.Head.N, err)
	}
	if h.checked++; h.checked%4 == 0 || whose != writersWorld {
		h.sameState(w, whose)
	}
}

const writersWorld = "a writer's world"

// sameState: whoever folds the log to this commit has the same bytes.
func (h *shadow) sameState(w *domain.World, whose string) {
	h.scratch = w.AppendTo(h.scratch[:0])
	state := stateOf(h.scratch)
	if before, known := h.states[w.Head.Hash]; known && before != state {
		h.s.fail("%s at commit %d has another state than a world before it", whose, w.Head.N)
	}
	h.states[w.Head.Hash] = state
}

// agree compares a view with a world that is the fold of the same commits.
func (v *view) agree(s *Sim, w *domain.World, whose string) {
	slots := 0
	w.Slots(func(id domain.SlotID, state domain.SlotState, generation uint32) {
		slots++
		if x := v.slots[id]; x == nil || x.state != state || x.generation != generation {
			s.fail("%s at commit %d: slot %s is %s, generation %d; the events say %+v", whose, w.Head.N, id, state, generation, x)
		}
	})
	allocs := 0
	w.Allocations(func(id domain.AllocationID, state domain.AllocationState) {
		allocs++
		if x := v.allocs[id]; x == nil || x.state != state {
			s.fail("%s at commit %d: allocation %s is %s; the events say %+v", whose, w.Head.N, id, state, x)
		}
	})
	if slots != len(v.slots) || allocs != len(v.allocs) {
		s.fail("%s at commit %d has %d slots and %d allocations; the events say %d and %d", whose, w.Head.N, slots, allocs, len(v.slots), len(v.allocs))
	}
	accounts := 0
	w.Balances(func(t domain.TenantID, a domain.Account, _ domain.Currency, n domain.Micros) {
		accounts++
		if have := v.balances[balanceKey{t, a}]; have != n {
			s.fail("%s at commit %d: account %s of %s is %d; the events say %d", whose, w.Head.N, a, t, n, have)
		}
	})
	for _, n := range v.balances {
		if n != 0 {
			accounts--
		}
	}
	if accounts != 0 {
		s.fail("%s at commit %d has %d accounts more than the events", whose, w.Head.N, accounts)
	}
}

// published: a placement names exactly the live leases of its host, and the wipes that
// are awaited (invariant 1).
func (h *shadow) published(x *domain.Placement) {
	if x.From.N != h.n {
		return // another commit landed meanwhile
	}
	s, d := h.s, &x.Desired
	if h.fleet[d.Host].ahead {
		s.fail("host %s is known to be ahead of the log, and is told generation %d", d.Host, d.Generation)
	}
	if d.Account != h.fleet[d.Host].accounts {
		s.fail("the placement of %s asks for an account: %v", d.Host, d.Account)
	}
	if d.Account {
		if len(d.VMs)+len(d.Wipes)+len(d.Keep) > 0 {
			s.fail("the placement of %s asks for an account, and for more: %+v", d.Host, d)
		}
		return
	}
	if !slices.Equal(d.Keep, h.unknown[d.Host]) {
		s.fail("host %s is told to keep %v; unknown are %v", d.Host, d.Keep, h.unknown[d.Host])
	}
	vms, wipes := 0, 0
	for _, a := range h.order {
		for _, v := range a.vms {
			if v.host == d.Host && v.state < domain.Releasing {
				vms++
			}
		}
	}
	for _, v := range h.slotList {
		if v.host == d.Host && v.state == domain.SlotIsWiping {
			wipes++
		}
	}
	if vms != len(d.VMs) || wipes != len(d.Wipes) {
		s.fail("the placement of %s has %d VMs and %d wipes; the events say %d and %d", d.Host, len(d.VMs), len(d.Wipes), vms, wipes)
	}
	for i := range d.VMs {
		p := &d.VMs[i]
		v := h.vms[p.VM]
		if v == nil || v.state >= domain.Releasing || v.host != d.Host || v.power != p.Power || v.boot != p.Boot || len(v.slots) != len(p.Leases) {
			s.fail("host %s is told %+v; the events say %+v", d.Host, p, v)
		}
		for k := range p.Leases {
			h.leased(&p.Leases[k], v.slots[k], v.id)
		}
	}
	for i := range d.Wipes {
		p := &d.Wipes[i]
		v := h.slots[p.Lease.Slot]
		if v == nil || v.state != domain.SlotIsWiping || v.attempt != p.Attempt || v.policy != p.Policy || v.host != d.Host {
			s.fail("host %s is told to wipe %+v; the events say %+v", d.Host, p, v)
		}
		h.leased(&p.Lease, v.id, domain.VMID{})
	}
}

func (h *shadow) leased(l *domain.Lease, slot domain.SlotID, vm domain.VMID) {
	v := h.slots[slot]
	if l.Slot != v.id || l.Index != v.index || l.Generation != v.generation || l.Nonce != v.leaseNonce() || v.vm != vm {
		h.s.fail("a lease of slot %s, number %d generation %d, is placed; the events say %+v", l.Slot, l.Index, l.Generation, v)
	}
}
