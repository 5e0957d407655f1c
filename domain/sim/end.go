package sim

import (
	"context"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
)

// end: the faults cease. In bounded time every VM is where its tenant wants it, every
// lease ends when it is asked to, and every slot is available or in a quarantine that
// somebody sees; then the books are looked at.
func (s *Sim) end() {
	s.dice.calm = true
	s.calmDown()
	s.until(s.now.Add(2 * domain.Hour))
	for _, a := range s.shadow.order {
		for _, v := range a.vms {
			h := s.hostOf(v.host)
			if !h.forged && (v.state == domain.Provisioning || v.state == domain.Starting || v.state == domain.Stopping) {
				s.fail("two hours after the faults ceased VM %s on host %s is %s, boot %d power %s: %+v %+v", v.id, h.name, v.state, v.boot, v.power, h.machine.vm(v.id), h.mem)
			}
		}
	}
	s.releaseAll()
	s.until(s.now.Add(25 * domain.Minute)) // within the deadline: by what hosts report
	for _, a := range s.shadow.order {
		for _, v := range a.vms {
			if h := s.hostOf(v.host); !h.forged && v.state != domain.Released {
				s.fail("25 minutes after its release VM %s on host %s is %s: %+v", v.id, h.name, v.state, h.machine.vm(v.id))
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
	s.operators.rests = true
	s.until(s.now.Add(30 * domain.Hour)) // beyond every wipe's deadline
	for _, v := range s.shadow.slotList {
		if v.state != domain.SlotIsAvailable && v.state != domain.SlotIsQuarantined && v.state != domain.SlotIsRetired {
			h := s.hostOf(v.host)
			s.fail("slot %s is %s for ever: %+v on host %s (forged: %v, frozen: %v)", v.id, v.state, v, h.name, h.forged, h.frozen)
		}
	}
	s.audit()
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
	if before, known := s.shadow.states[v.Head.Hash]; known && before != v.State {
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
