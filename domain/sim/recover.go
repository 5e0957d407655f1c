package sim

import (
	"hash/maphash"

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
	w := p.load(visible)
	s.fold(w, visible)
	if visible < s.log.len() {
		s.seen.mark(Stale)
	} else {
		s.shadow.checkWorld(w, "a recovered world")
	}
	return w
}

// load is the newest snapshot that is whole and that the log confirms, or the beginning.
func (p *process) load(visible uint64) *domain.World {
	s := p.s
	for i := len(p.snapshots) - 1; i >= 0; i-- {
		loaded, err := commands.OpenSnapshot(p.snapshots[i].sealed())
		if damaged := p.snapshots[i].damaged; damaged != (err != nil) {
			s.fail("a snapshot (damaged: %v) is opened: %v", damaged, err)
		}
		if err != nil || loaded.Head.N > visible || !s.log.holds(loaded.Head) {
			s.seen.mark(SnapshotRefused)
			continue
		}
		s.seen.mark(FromSnapshot)
		return loaded
	}
	return domain.NewWorld()
}

// fold applies the log's commits up to number n. They were read when they arrived;
// commands.Verify reads them again.
func (s *Sim) fold(w *domain.World, n uint64) {
	for w.Head.N < n {
		if err := w.ApplyCommit(s.log.decoded[w.Head.N], s.log.hashes[w.Head.N]); err != nil {
			s.fail("the log does not fold: %v", err)
		}
	}
}

// keep writes a snapshot of a commit that is durable; two stay.
func (p *process) keep(f *flight) {
	p.s.shadow.states[f.closed.Head.Hash] = stateOf(f.state)
	p.snapshots = append(p.snapshots, file{head: f.closed.Head, state: f.state})
	if n := len(p.snapshots); n > 2 {
		p.snapshots = p.snapshots[n-2:]
	}
}

// sealed are the file's bytes. Most files are never read, and never sealed.
func (f *file) sealed() []byte {
	if f.bytes == nil {
		f.bytes = seal(f.state)
	}
	return f.bytes
}

var stateSeed = maphash.MakeSeed()

// stateOf tells states apart. It is another in every process, and only compared.
func stateOf(state []byte) uint64 { return maphash.Bytes(stateSeed, state) }
