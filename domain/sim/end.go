package sim

import (
	"context"
	"fmt"
	"slices"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
)

// end: the faults cease. In bounded time every VM is where its tenant wants it, every
// lease ends when it is asked to, and every slot is available or in a quarantine that
// somebody sees; then the books are looked at.
func (s *Sim) end() {
	s.dice.calm = true
	s.calmDown()
	for range 4 { // operators who were called before come in their time
		if s.stopped || s.lost != nil && s.lost.alarmed {
			s.until(s.now.Add(domain.Hour))
		}
	}
	s.until(s.now.Add(2 * domain.Hour))
	s.allAsAsked()
	s.releaseAll()
	s.until(s.now.Add(25 * domain.Minute)) // within the deadline: by what hosts report
	for _, a := range s.shadow.order {
		for _, v := range a.vms {
			if h := s.hostOf(v.host); !h.forged && v.state != domain.Released {
				s.fail("25 minutes after its release VM %s on host %s is %s: %+v; %s", v.id, h.name, v.state, h.machine.vm(v.id), s.whereIs(h))
			}
		}
	}
	for round := 0; len(s.shadow.order) > 0; round++ {
		if round == 12 {
			s.fail("%d allocations never end", len(s.shadow.order))
		}
		s.releaseAll()
		s.until(s.now.Add(domain.Hour))
	}
	s.nobodyAhead()
	s.operators.rests = true
	s.until(s.now.Add(30 * domain.Hour)) // beyond every wipe's deadline
	for _, v := range s.shadow.slotList {
		if v.state != domain.SlotIsAvailable && v.state != domain.SlotIsQuarantined && v.state != domain.SlotIsRetired {
			h := s.hostOf(v.host)
			s.fail("slot %s is %s for ever: %+v on host %s (forged: %v, frozen: %v)", v.id, v.state, v, h.name, h.forged, h.frozen)
		}
	}
	for _, h := range s.hosts {
		for _, v := range h.machine.vms {
			if !h.forged && h.up && !slices.Contains(s.shadow.unknown[h.id], v.VM) {
				s.fail("host %s still has VM %s, of nobody: %s, %+v", h.name, v.VM, s.whereIs(h), s.shadow.fleet[h.id])
			}
		}
	}
	s.nobodyWaits()
	s.audit()
}

// allAsAsked: two hours after the faults ceased no VM is on its way, each is on its host
// what the log says that it is, and none runs beyond its end or its tenant's credit.
func (s *Sim) allAsAsked() {
	for _, a := range s.shadow.order {
		since, suspended := s.shadow.suspended[a.tenant]
		suspended = suspended && s.now.Sub(since) > domain.Hour
		if a.expires != 0 && s.now.Sub(a.expires) > domain.Hour && a.state < domain.Releasing {
			s.fail("allocation %s was to end at %s, and is %s", a.id, a.expires, a.state)
		}
		for _, v := range a.vms {
			h := s.hostOf(v.host)
			if lately := s.now.Sub(v.asked) < 30*domain.Minute; h.forged || lately { // a tenant's credit may have just ended
				continue
			}
			there := h.machine.vm(v.id)
			switch v.state {
			case domain.Provisioning, domain.Starting, domain.Stopping:
				s.fail("two hours after the faults ceased VM %s on host %s is %s, boot %d power %s: %+v %+v", v.id, h.name, v.state, v.boot, v.power, there, h.mem)
			case domain.Stopped:
				if there != nil && there.Running {
					s.fail("VM %s is stopped, and runs on host %s: %+v", v.id, h.name, there)
				}
			case domain.Running:
				if suspended {
					s.fail("VM %s of tenant %s runs, which is suspended since %s", v.id, a.tenant, since)
				}
				if there == nil || !there.Running {
					s.fail("VM %s is running, and does not run on host %s: %+v", v.id, h.name, there)
				}
			}
		}
	}
}

// nobodyWaits: what hosts have said is acknowledged.
func (s *Sim) nobodyWaits() {
	for _, h := range s.hosts {
		if n := len(h.jr.queue); n > 0 && h.up && !h.forged && !h.frozen {
			s.fail("%d reports of host %s are never acknowledged, the first is %d of %s: %s", n, h.name, h.jr.queue[0].n, h.jr.id, s.whereIs(h))
		}
	}
}

func (s *Sim) releaseAll() {
	for _, t := range s.tenants {
		for _, a := range t.live() {
			s.clients.want(t.n, s.site.admin, &domain.ActOnAllocation{Allocation: a.id, Action: domain.ActionRelease}, nil)
		}
	}
}

// calmDown heals everything.
func (s *Sim) calmDown() {
	s.supervise()
	for _, h := range s.hosts {
		h.heard()
		h.start()
		h.publish()
	}
}

// audit looks at the books when everything has ended.
func (s *Sim) audit() {
	s.shadow.settled()
	if s.cfg.Seed%4 != 0 {
		s.fold(s.projector.standby, s.log.len())
		s.shadow.checkWorld(s.projector.standby, "a standby that never ended")
		return
	}
	v, err := commands.Verify(context.Background(), logReader{s.log})
	if err != nil {
		s.fail("the log does not decide again as it did: %v", err)
	}
	s.fold(s.projector.standby, s.log.len())
	s.shadow.sameState(s.projector.standby, "a standby that never ended")
	if s.projector.standby.Hash() != v.State {
		s.fail("the log, decided again, leads to another state")
	}
}

// logReader is the log for commands.Verify.
type logReader struct{ *simLog }

func (l logReader) Seq(n uint64) uint64 { return n }

func (l logReader) Check(context.Context, domain.Head) error { return nil }

func (l logReader) Read(_ context.Context, from uint64, fn func(uint64, []byte) error) error {
	for n := from; n <= l.len(); n++ {
		if err := fn(n, l.messages[n-1]); err != nil {
			return err
		}
	}
	return nil
}

// nobodyAhead: whoever knows of a lost end was noticed; then an epoch was opened, and every
// host has accounted for itself.
func (s *Sim) nobodyAhead() {
	for _, h := range s.hosts {
		switch v := s.shadow.fleet[h.id]; {
		case h.forged:
		case !s.log.holds(h.from):
			s.fail("host %s follows commit %d, which the log does not have, and nobody noticed: %s, %+v", h.name, h.from.N, s.whereIs(h), s.shadow.fleet[h.id])
		case v.accounts:
			s.fail("host %s never said what it holds: up %v, %+v", h.name, h.up, h.desired)
		}
	}
}

// whereIs says how far a host is, for whoever reads a failure.
func (s *Sim) whereIs(h *host) string {
	out := fmt.Sprintf("up %v cut %v frozen %v, seen %d.%d of commit %d (in the log: %v)", h.up, h.cut, h.frozen, h.fence.Epoch, h.fence.Generation, h.from.N, s.log.holds(h.from))
	if x := s.placements[h.id]; x != nil {
		out += fmt.Sprintf(", placed %d.%d of commit %d of %d", x.placement.Desired.Epoch, x.placement.Desired.Generation, x.placement.From.N, s.log.len())
	}
	return out + fmt.Sprintf(", %d chains, %d reports wait, lost %+v", len(h.chains), len(h.jr.queue), s.lost)
}
