package sim

import (
	"slices"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/plan"
)

// The log loses its end: a backup is restored, or a disk has lied. Whoever knows of more
// than the log that is left says so and stops; then two operators open the site's next
// epoch, and hosts account for what they hold. What stands in here for
// cmd/gpuaas/epoch.go and cmd/gpuaas/lost_tail.go follows the same rules.

// lostTail is a loss of which no epoch was opened yet.
type lostTail struct {
	at      domain.Time
	left    uint64 // commits
	alarmed bool   // somebody has noticed: operators are on their way
}

// maxLosses bounds the losses of a schedule.
const maxLosses = 3

// first is the commit after which the log may end: what a site cannot be without stays.
func (s *Sim) first() uint64 { return max(s.site.head.N, s.racked) }

func (s *Sim) mayLose() bool {
	return s.lost == nil && !s.stopped && len(s.shadow.past) < maxLosses && s.log.len() > s.first()
}

// loseTail takes commits away, wherever everybody is. What was made from them is there
// still, or comes from the same backup.
func (s *Sim) loseTail() {
	r := s.dice.work
	n := s.log.len()
	tail := 1 + r.Uint64N(n-s.first())
	if r.IntN(3) > 0 {
		tail = min(tail, 1+r.Uint64N(24))
	}
	left := n - tail
	s.lost = &lostTail{at: s.now, left: left}
	s.say("log lost its end", 0, left)
	survivor := s.log.truncate(left)
	for _, p := range s.processes {
		switch {
		case !p.up:
		case survivor && p.started: // it finds out by its append, or by what follows the log
			p.cut = true
			p.later(between(r, domain.Second, 40*domain.Second), "the log became shorter", func() { p.die("lost tail") })
		default:
			p.die("log lost its end")
		}
	}
	whole := r.IntN(3) == 0 // everything is restored: only hosts know
	for _, p := range s.processes {
		if whole || r.IntN(4) == 0 {
			p.snapshots = slices.DeleteFunc(p.snapshots, func(f file) bool { return f.head.N > left })
		}
	}
	if whole || r.IntN(4) == 0 {
		s.feed = s.log.head(min(s.feed.N, left))
	}
	if whole || r.IntN(4) == 0 {
		s.projector.restore(left)
	}
	if whole {
		for id, x := range s.placements {
			if x.placement.From.N > left {
				delete(s.placements, id)
			}
		}
	}
	for _, h := range s.hosts {
		s.after(5*domain.Second, "host connects again", h.n, func() {
			if h.beating() {
				h.connect()
			}
		})
	}
	s.shadow = s.shadow.rewound()
	s.projector.interrupt()
	s.after(between(r, domain.Second, domain.Minute), "supervisor", 0, s.supervise)
}

// truncate ends the log after commit n. It returns whether a writer that runs may go on
// for a moment.
func (l *simLog) truncate(n uint64) bool {
	l.messages, l.decoded, l.hashes = l.messages[:n:n], l.decoded[:n:n], l.hashes[:n:n]
	l.life++
	return l.s.dice.work.IntN(2) == 0
}

// head is the log's at commit n.
func (l *simLog) head(n uint64) domain.Head { return domain.Head{N: n, Hash: l.hashes[n-1]} }

// signs are what process p has at hand that knows of more than the log, or of another
// one: site.refuseLostTail.
func (s *Sim) signs(p *process) (signs []domain.LostSign) {
	look := func(source string, h domain.Head) {
		if !s.log.holds(h) {
			signs = append(signs, domain.LostSign{Source: source, Commit: h.N, Hash: h.Hash})
		}
	}
	for _, f := range p.snapshots {
		look("snapshot", f.head)
	}
	look("feed", s.feed)
	look("read_models", s.projector.standby.Head)
	return signs
}

// alarm calls operators, once.
func (s *Sim) alarm() {
	if s.lost == nil || s.lost.alarmed {
		return
	}
	s.lost.alarmed = true
	wait := between(s.dice.operators, 10*domain.Second, 2*domain.Hour)
	if s.dice.calm {
		wait = domain.Minute
	}
	s.after(wait, "operators stop the site", operatorsAre, s.stopForEpoch)
}

func (s *Sim) stopForEpoch() {
	s.stopped = true
	for _, p := range s.processes {
		p.die("stopped")
	}
	s.after(between(s.dice.operators, 10*domain.Second, 10*domain.Minute), "open-epoch", operatorsAre, s.openEpoch)
}

// openEpoch is gpuaas site open-epoch.
func (s *Sim) openEpoch() {
	by := pick(s.dice.work, s.processes) // where it is run
	w := by.load(s.log.len())
	s.fold(w, s.log.len())
	s.shadow.checkWorld(w, "the world of open-epoch")
	signs := s.signs(by)
	for _, h := range s.hosts {
		if x := s.placements[h.id]; x != nil && !s.log.holds(x.placement.From) {
			signs = append(signs, domain.LostSign{Source: "placement", Name: h.name, Commit: x.placement.From.N, Hash: x.placement.From.Hash, Epoch: x.placement.Desired.Epoch})
		}
	}
	_, _, ahead, _ := w.EpochState()
	for _, id := range ahead {
		signs = append(signs, domain.LostSign{Source: "host", Name: id.String(), Epoch: w.AheadEpoch(id)})
	}
	for _, p := range s.processes {
		if p != by {
			signs = append(signs, s.signs(p)...) // asked for where that one's files are
		}
	}
	end := w.Head
	core := commands.NewCore(w)
	ask := func(m domain.OpenEpoch) commands.Reply {
		m.Survived, m.SurvivedAt, m.Reason, m.Lost = end, s.decodedAt(end.N), "restored-backup", signs
		return core.Decide(s.now, by.system(&m))
	}
	admin, second, next := s.site.admin.Key, s.site.second.Key, w.NextEpoch(signs)
	for _, m := range []domain.OpenEpoch{
		{Epoch: next, Approved: []domain.APIKeyID{admin}},
		{Epoch: next, Approved: []domain.APIKeyID{admin, admin}},
		{Epoch: next, Approved: []domain.APIKeyID{admin, s.tenants[0].Key.Key}},
		{Epoch: w.Epoch, Approved: []domain.APIKeyID{admin, second}},
	} {
		if r := ask(m); r.Err == nil {
			s.fail("epoch %d is opened by %v", m.Epoch, m.Approved)
		}
	}
	r := ask(domain.OpenEpoch{Epoch: next, Approved: []domain.APIKeyID{admin, second}})
	if len(signs) == 0 { // a snapshot told of the loss, and was lost itself before operators came
		if r.Err == nil || r.Err.Code != "epoch.nothing_lost" {
			s.fail("epoch %d is opened, and nobody knows of a loss: %v", next, r.Err)
		}
		s.lost.alarmed, s.stopped = false, false
		s.supervise()
		return
	}
	if r.Err != nil {
		s.fail("two operators cannot open epoch %d: %v", next, r.Err)
	}
	closed := core.Close()
	s.lost = nil
	if !s.log.arrive(end.N, closed.Commit) {
		s.fail("the commit of epoch %d is not taken", w.Epoch)
	}
	if s.dice.work.IntN(4) == 0 { // interrupted, and asked for again
		s.seen.mark(EpochFinished)
		s.after(domain.Minute, "open-epoch again", operatorsAre, func() { s.clearLost(end) })
		return
	}
	s.clearLost(end)
}

func (s *Sim) decodedAt(n uint64) domain.Time { return s.log.decoded[n-1].At }

// clearLost removes what was made from the lost end, makes anew what can be, and lets
// the site start.
func (s *Sim) clearLost(domain.Head) {
	for _, p := range s.processes {
		p.snapshots = slices.DeleteFunc(p.snapshots, func(f file) bool { return !s.log.holds(f.head) })
	}
	s.feed = s.log.head(s.log.len())
	if !s.log.holds(s.projector.standby.Head) {
		s.projector.restore(s.log.len())
	}
	s.projector.wake()
	s.stopped = false
	s.supervise()
}

// compareHosts is Liveness.noteAhead: a host whose heartbeat names what this log never
// placed.
func (p *process) compareHosts() {
	for _, h := range p.s.hosts {
		p.compareHost(h)
	}
}

func (p *process) compareHost(h *host) {
	if !p.started || !h.beating() || h.forged {
		return
	}
	s, w := p.s, p.core.World()
	held := s.log.holds(h.from) && s.log.holds(h.refused) && !(h.outrun.N > 0 && s.log.holds(h.outrun))
	if h.fence.Epoch < w.Epoch || held && !w.AheadOf(h.id, h.fence.Epoch, h.fence.Generation) {
		return
	}
	if s.lost == nil && len(s.shadow.past) == 0 && w.Head.N >= s.log.len() { // a writer that was deposed may think so
		s.fail("host %s has seen generation %d.%d of commit %d, which was never placed", h.name, h.fence.Epoch, h.fence.Generation, h.from.N)
	}
	p.submit(&request{cmd: p.system(&domain.NoteHostAhead{Host: h.id, Epoch: h.fence.Epoch, Generation: h.fence.Generation, Forked: !held})})
}

// rewound is what the log says that is left, by its events; what really happened stays.
func (h *shadow) rewound() *shadow {
	s := h.s
	out := newShadow(s)
	out.past = append(slices.Clone(h.past), pastView{h.view, s.epoch})
	out.states, out.erased, out.told, out.said, out.known = h.states, h.erased, h.told, h.said, h.known
	for _, c := range s.log.decoded {
		out.commit(c)
	}
	out.checking = true
	return out
}

// pastView is what a log said whose end was lost.
type pastView struct {
	*view
	epoch uint32 // in which it was lost: hosts follow it until they have heard of the next
}

// believed calls f with what a host may act on that was asked in an epoch: what the log
// says, and what a log said that was lost. It returns the first answer unless one is "".
func (h *shadow) believed(epoch uint32, f func(*view) string) string {
	why := f(h.view)
	for _, p := range h.past {
		if why == "" {
			return ""
		}
		if epoch <= p.epoch && f(p.view) == "" {
			return ""
		}
	}
	return why
}

// restore makes the read models as of commit n.
func (p *projector) restore(n uint64) {
	if p.at <= n && p.s.log.holds(p.standby.Head) {
		return
	}
	life := p.life + 1
	*p = *newProjector(p.s)
	p.life = life
	for p.at < n {
		p.step()
	}
}

// interrupt ends a transaction that is under way.
func (p *projector) interrupt() {
	p.life++
	p.working = false
	p.s.after(domain.Minute, "projector starts", 0, p.wake)
}

// account is Agent.account: what the host holds, once an epoch and when nothing but wipes
// is under way. What it reported before is forgotten: the log may have, too.
func (h *host) account() {
	now := [2]uint64{uint64(h.desired.Epoch), h.desired.Generation}
	if h.mem.accounted == now || slices.ContainsFunc(h.chains, func(c *chain) bool { return c.steps[0].Op != plan.Wipe }) {
		return
	}
	observed := h.machine.observe()
	m := h.approved
	if m == nil {
		m = &domain.SlotMap{}
	} else {
		h.adopt(observed)
	}
	state := h.mem.state(m, observed)
	r := &domain.HoldingsReport{Epoch: h.mem.before.Epoch, Generation: h.mem.before.Generation}
	if h.approved != nil {
		r.SlotMap = m.Digest()
	}
	held := map[domain.VMID]domain.HeldVM{}
	for id, slots := range state.Known {
		held[id] = domain.HeldVM{VM: id, Slots: slots}
	}
	for _, o := range state.VMs {
		held[o.VM] = domain.HeldVM{VM: o.VM, Slots: o.Slots, Boot: o.Boot, Running: o.Running}
	}
	for _, v := range held {
		r.VMs = append(r.VMs, v)
	}
	slices.SortFunc(r.VMs, func(x, y domain.HeldVM) int { return slices.Compare(x.VM[:], y.VM[:]) })
	for i := range m.Slots {
		index := m.Slots[i].Index
		s := domain.HeldSlot{Index: index, Slot: h.mem.slotID[index], Generation: h.mem.slotGeneration[index]}
		_, s.Dirty = state.Dirty[index]
		r.Slots = append(r.Slots, s)
	}
	undo := h.mem.forgetReported(now)
	h.report(&domain.Report{Kind: domain.ReportInventory, Holdings: r}, undo)
	h.publish()
}

// forgetReported drops what was reported, and returns how to have it again.
func (m *memory) forgetReported(now [2]uint64) (undo func()) {
	before := *m
	m.accounted = now
	m.said, m.failed, m.wiped, m.lost, m.faults = map[saidKey]bool{}, map[domain.VMID]uint32{}, nil, map[domain.VMID]lostAt{}, nil
	m.wiped = newMemory().wiped
	return func() {
		m.accounted, m.said, m.failed, m.wiped, m.lost, m.faults = before.accounted, before.said, before.failed, before.wiped, before.lost, before.faults
	}
}
