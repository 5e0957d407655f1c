package sim

import (
	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
)

// projector keeps a read model as a database would: rows and checkpoint change in one
// transaction, and a projector that dies in it begins again at the checkpoint. Beside
// it a standby folds the same commits.
type projector struct {
	s       *Sim
	rows    *view
	at      uint64 // checkpoint
	standby *domain.World
	life    uint64
	working bool
}

func newProjector(s *Sim) *projector {
	w, err := commands.OpenSnapshot(s.site.snapshot)
	if err != nil {
		s.fail("the site's snapshot: %v", err)
	}
	p := &projector{s: s, rows: newView(), standby: w}
	for _, c := range s.site.decoded {
		p.project(c)
	}
	return p
}

func (p *projector) project(c *domain.Commit) {
	for i := range c.Decisions {
		for k := range c.Decisions[i].Events {
			p.rows.apply(c.Decisions[i].Events[k].Body)
		}
	}
	p.at = c.N
}

// wake begins a transaction, if none is under way.
func (p *projector) wake() {
	if p.working || p.at == p.s.log.len() || !p.s.log.holds(p.standby.Head) { // ahead of the log, or of another: it stops
		return
	}
	p.working = true
	life := p.life
	to := p.s.log.len()
	p.s.after(between(p.s.dice.work, domain.Second, 5*domain.Minute), "projected", 0, func() {
		if p.life == life {
			p.commit(to)
		}
	})
}

// commit makes the transaction's rows and checkpoint true at once.
func (p *projector) commit(to uint64) {
	for p.at < to {
		p.step()
	}
	p.rows.agree(p.s, p.standby, "the read model's fold")
	if _, known := p.s.shadow.states[p.standby.Head.Hash]; known {
		p.s.shadow.sameState(p.standby, "a standby")
	}
	p.working = false
	p.wake()
}

// step folds one commit more.
func (p *projector) step() {
	c := p.s.log.decoded[p.at]
	p.project(c)
	if err := p.standby.ApplyCommit(c, p.s.log.hashes[c.N-1]); err != nil {
		p.s.fail("a standby: %v", err)
	}
}

// trouble kills the projector; an open transaction is gone.
func (p *projector) trouble() {
	if p.s.dice.happens(ProjectorDie) {
		p.life++
		p.working = false
		p.s.after(between(p.s.dice.work, domain.Second, domain.Hour), "projector starts", 0, p.wake)
	}
}
