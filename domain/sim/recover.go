package sim

import (
	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
)

// recover is commands.Recover on the simulated log and disk: the newest snapshot that
// is whole and that the log confirms, and the fold of what comes after it.
func (p *process) recover() *domain.World {
	s := p.s
	visible := s.log.len()
	if s.dice.happens(StaleRead) {
		visible -= min(visible-s.site.head.N, 1+s.dice.work.Uint64N(4))
	}
	w := domain.NewWorld()
	for i := len(p.snapshots) - 1; i >= 0; i-- {
		loaded, err := commands.OpenSnapshot(p.snapshots[i].bytes)
		if damaged := p.snapshots[i].damaged; damaged != (err != nil) {
			s.fail("a snapshot (damaged: %v) is opened: %v", damaged, err)
		}
		if err != nil || loaded.Head.N > visible || !s.log.holds(loaded.Head) {
			s.seen.mark(SnapshotRefused)
			continue
		}
		s.seen.mark(FromSnapshot)
		w = loaded
		break
	}
	s.fold(w, visible)
	if visible < s.log.len() {
		s.seen.mark(Stale)
	} else {
		s.shadow.checkWorld(w, "a recovered world")
	}
	return w
}

// fold applies the log's commits up to number n.
func (s *Sim) fold(w *domain.World, n uint64) {
	for w.Head.N < n {
		if err := commands.Fold(w, s.log.messages[w.Head.N]); err != nil {
			s.fail("the log does not fold: %v", err)
		}
	}
}

// keep writes a snapshot of a commit that is durable; two stay.
func (p *process) keep(f *flight) {
	b := seal(f.state)
	p.s.shadow.states[f.closed.Head.Hash] = domain.Digest(b[:32])
	p.snapshots = append(p.snapshots, file{bytes: b})
	if n := len(p.snapshots); n > 2 {
		p.snapshots = p.snapshots[n-2:]
	}
}
