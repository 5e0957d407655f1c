package sim

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
)

// process is one control-plane process: what commands.Loop does around a Core,
// without its goroutines.
type process struct {
	s    *Sim
	id   int
	life uint64 // counts starts and deaths: what was meant for another life is void
	up   bool

	core      *commands.Core
	started   bool // its term is durable: it answers
	open      *flight
	flying    *flight
	waiting   []*request
	drift     domain.Duration // of its clock
	tickAt    domain.Time     // when it looks at deadlines next
	snapAt    uint64
	every     uint64 // commits between snapshots
	snapshots []file // on its disk, newest last
	next      map[domain.HostID]*domain.PlacementDraft
	silent    map[domain.HostID]bool
	since     domain.Time // start of this life
	cut       bool        // its log lost its end: its claim is not live
}

// file is a snapshot on a disk.
type file struct {
	head    domain.Head // its name: the commit it was made after
	state   []byte      // until it is read
	bytes   []byte
	damaged bool
}

// flight is a group with everyone who waits for it.
type flight struct {
	closed  commands.Closed
	replies []answer
	state   []byte // the world after it, when a snapshot is due
}

type answer struct {
	to    func(commands.Reply)
	reply commands.Reply
}

// request is a command that somebody sent. answer is called once, or never.
type request struct {
	cmd    *domain.Command
	answer func(commands.Reply)
}

func (p *process) clock() domain.Time { return p.s.now.Add(p.drift) }

// later is after, for as long as this life lasts.
func (p *process) later(d domain.Duration, what string, do func()) {
	life := p.life
	p.s.after(d, what, p.id, func() {
		if p.life == life {
			do()
		}
	})
}

// boot starts the process: it reads what the log holds and opens its term.
func (p *process) boot() {
	if p.up || p.s.stopped {
		return
	}
	if signs := p.s.signs(p); len(signs) > 0 {
		p.s.seen.mark(StartRefused)
		p.s.tell("process %d is not started: the log does not have what it knows of: %v", p.id, signs)
		p.s.alarm()
		return
	}
	p.life++
	*p = process{
		s: p.s, id: p.id, life: p.life, up: true, drift: p.drift, snapshots: p.snapshots, since: p.s.now,
		open: &flight{}, next: map[domain.HostID]*domain.PlacementDraft{}, silent: map[domain.HostID]bool{},
	}
	if p.every = 8 + p.s.dice.work.Uint64N(60); p.s.dice.work.IntN(5) == 0 {
		p.every = 1
	}
	w := p.recover()
	p.snapAt = w.Head.N
	p.core = commands.NewCore(w)
	w.Identities(func(domain.APIKey) {}, func(domain.Member) {}, func(h *domain.Host) { p.silent[h.ID] = h.Silent != 0 })
	r := p.core.Decide(p.clock(), p.system(&domain.StartWriter{Site: siteName, Build: "sim", LogicLevel: commands.LogicLevel}))
	if r.Err != nil {
		p.s.fail("a writer cannot start: %v", r.Err)
	}
	if p.s.operators != nil && p.s.dice.work.IntN(3) == 0 {
		p.s.operators.nudge(p)
	}
	p.pump()
}

// die ends the process at once.
func (p *process) die(why string) {
	if !p.up {
		return
	}
	p.s.say(why, p.id, p.life)
	p.life++
	p.up, p.core, p.started, p.open, p.flying, p.waiting = false, nil, false, nil, nil, nil
	s := p.s
	s.after(between(s.dice.work, domain.Second, 40*domain.Second), "supervisor", p.id, s.supervise)
}

// supervise has at least one process running.
func (s *Sim) supervise() {
	for _, p := range s.processes {
		if p.up {
			return
		}
	}
	pick(s.dice.work, s.processes).boot()
}

func (p *process) trouble() {
	d := p.s.dice
	switch {
	case !p.up && d.happens(SecondWriter):
		p.boot()
	case !p.up:
	case d.happens(Crash):
		p.die("crash")
	case d.happens(ClockJump):
		p.drift = between(d.work, -4*domain.Second, 4*domain.Second)
		p.die("clock jumped")
	case d.happens(ClockDrift):
		p.s.operators.nudge(p)
		p.drift = between(d.work, -4*domain.Second, 4*domain.Second)
		p.s.operators.nudge(p)
	}
	if n := len(p.snapshots); n > 0 && d.happens(TornSnapshot) {
		b := slices.Clone(p.snapshots[n-1].sealed())
		if d.work.IntN(2) == 0 || len(b) == 0 {
			b = b[:d.work.IntN(max(len(b), 1))]
		} else {
			b[d.work.IntN(len(b))] ^= 1 << d.work.IntN(8)
		}
		p.snapshots[n-1].bytes, p.snapshots[n-1].damaged = b, true
	}
	if d.happens(SnapshotsLost) {
		p.snapshots = nil
	}
}

func (p *process) system(body domain.CommandBody) *domain.Command {
	cmd := &domain.Command{Actor: domain.System, Body: body}
	p.fill(cmd)
	cmd.ID = commands.NewCommandID(p.clock().Std(), cmd.Entropy)
	return cmd
}

func (p *process) fill(cmd *domain.Command) {
	for i := 0; i < len(cmd.Entropy); i += 8 {
		binary.LittleEndian.PutUint64(cmd.Entropy[i:], p.s.dice.entropy.Uint64())
	}
}

// submit takes a command in; a process that has not started lets it wait.
func (p *process) submit(r *request) {
	p.waiting = append(p.waiting, r)
	p.pump()
}

// maxTicks is commands.Loop's.
const maxTicks = 16

// pump does what can be done now, in the order of Loop.run.
func (p *process) pump() {
	for p.up {
		if p.flying == nil && !p.core.Empty() {
			p.close()
		} else if p.flying == nil && len(p.open.replies) > 0 && !p.cut {
			p.answer(p.open)
			p.open.replies = nil
		}
		if p.started && len(p.waiting) > 0 && !p.core.Full() {
			p.decide()
			continue
		}
		if p.started && !p.core.Full() && p.tick() {
			continue
		}
		break
	}
	if p.up {
		p.arm()
	}
}

func (p *process) decide() {
	for len(p.waiting) > 0 && !p.core.Full() {
		r := p.waiting[0]
		p.waiting = p.waiting[1:]
		if r.cmd.Entropy == (domain.Entropy{}) {
			p.fill(r.cmd)
		}
		reply := p.core.Decide(p.clock(), r.cmd)
		if reply.Err != nil && reply.Err.Kind == domain.Internal {
			p.s.fail("%s cannot be decided: %v: %v", r.cmd.Body.CommandType(), reply.Err, reply.Err.Cause)
		}
		if r.answer != nil {
			p.open.replies = append(p.open.replies, answer{r.answer, reply})
		}
	}
}

func (p *process) tick() (progressed bool) {
	for range maxTicks {
		next := p.core.World().NextDeadline()
		if next == 0 || next > p.core.Now(p.clock()) || p.core.Full() {
			break
		}
		r := p.core.Decide(p.clock(), p.system(&domain.Tick{}))
		if r.Err != nil {
			p.s.fail("tick: %v: %v", r.Err, r.Err.Cause)
		}
		if len(r.Events) == 0 {
			p.s.fail("a deadline, %s, is due and its tick does nothing", next)
		}
		progressed = true
	}
	return progressed
}

// arm wakes the process at the world's next deadline.
func (p *process) arm() {
	next := p.core.World().NextDeadline()
	if next == 0 || !p.started {
		return
	}
	at := max(next.Add(-p.drift), p.s.now+1)
	if p.tickAt > p.s.now && p.tickAt <= at {
		return
	}
	p.tickAt = at
	p.later(at.Sub(p.s.now), "deadline", p.pump)
}

// close finishes the open group and sends it to the log.
func (p *process) close() {
	s := p.s
	p.flying, p.open = p.open, &flight{}
	p.flying.closed = p.core.Close()
	c := &p.flying.closed
	if c.Decisions >= 8 {
		s.seen.mark(FullGroup)
	}
	if c.Head.N >= p.snapAt+p.every {
		s.shadow.scratch = p.core.World().AppendTo(s.shadow.scratch[:0])
		p.snapAt, p.flying.state = c.Head.N, bytes.Clone(s.shadow.scratch)
	}
	a := &appending{p: p, life: p.life, expected: c.Head.N - 1, bytes: c.Commit, began: s.now}
	a.send()
	if p.up && s.dice.happens(CrashAppending) {
		p.later(between(s.dice.net, 0, 30*domain.Millisecond), "crash", func() { p.die("crash in an append") })
	}
}

// durable: the flying group is in the log. Only now is anybody told.
func (p *process) durable() {
	f := p.flying
	p.flying = nil
	if !p.started {
		p.started = true
		p.begin()
	}
	if f.state != nil {
		p.keep(f)
	}
	p.s.feed = f.closed.Head
	p.offer(f.closed.Placements)
	p.answer(f)
	p.core.Recycle(f.closed.Commit)
	p.s.shadow.compare(p)
	p.pump()
}

func (p *process) answer(f *flight) {
	for _, a := range f.replies {
		a.to(a.reply)
	}
}

// begin is what a writer does when its term is durable.
func (p *process) begin() {
	w := p.core.World()
	for _, h := range p.s.hosts {
		h.well = max(h.well, p.s.now)
	}
	for _, id := range w.AdmittedHosts() {
		if x, ok := w.DraftPlacement(id); ok {
			p.offer([]*domain.PlacementDraft{x.From(w.Head)})
		}
	}
	p.later(silentAfter+domain.Second, "liveness", p.lookForHosts)
	if p.s.lost != nil {
		if _, _, ahead, _ := w.EpochState(); len(ahead) > 0 { // known, and shown to operators
			p.s.alarm()
		}
		p.later(between(p.s.dice.net, 100, 5*domain.Second), "heartbeats", p.compareHosts)
	}
}
