package sim

import (
	"fmt"
	"slices"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/domain/domaintest"
	"github.com/gpuaas/gpuaas/hostd/journal"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/plan"
)

// host is a server with its daemon: what hostd.Agent does, without its goroutines.
type host struct {
	s    *Sim
	n    int
	id   domain.HostID // zero until it is enrolled
	name string

	machine machineState // the hardware and what runs on it

	// On the daemon's disk.
	fence   journal.Seen
	from    domain.Head // the commit of the newest placement that it took
	refused domain.Head // and of another content of it
	outrun  domain.Head // the commit of what it was told, less than it had been: it waits for an epoch
	jr      reports
	mem     memory
	maps    map[domain.Digest]*domain.SlotMap // that it proposed
	drift   domain.Duration                   // of its clock
	beat    domain.Time                       // last heartbeat that was heard, once there are none

	// In the daemon's life.
	life       uint64
	up, cut    bool
	desired    *domain.Desired
	approved   *domain.SlotMap
	chains     []*chain
	holdOff    map[string]domain.Time
	lookAt     domain.Time // when it looks again by itself
	publishing bool
	line       domain.Time // when the newest report on the line arrives

	// Known to nobody but the simulation.
	well    domain.Time // since when nothing was in its way
	highest [2]uint64   // epoch and generation that it ever acted on
	frozen  bool        // it was shown two contents of one generation
	passed  bool        // it follows a log that had lost its end, and gone on further than what it had seen, before anybody noticed
	forged  bool        // it was shown an order that nobody gave: no check may blame it for following
}

func newHost(s *Sim, n int, name string, h *domaintest.Host) *host {
	out := &host{s: s, n: n, name: name, id: h.ID, maps: map[domain.Digest]*domain.SlotMap{h.Map.Digest(): h.Map}, mem: newMemory()}
	out.machine.hardware = h.Map
	for i := range h.Map.Slots {
		serial := h.Map.Slots[i].NVMe.Serial
		s.drives[serial] = &drive{serial: serial}
	}
	d := domain.DigestOf([]byte(name))
	copy(out.jr.id[:], d[:])
	out.jr.last, out.jr.acked = uint64(len(h.Map.Slots)+1), uint64(len(h.Map.Slots)+1)
	out.mem.proposed = h.Map.Digest()
	return out
}

func (h *host) clock() domain.Time { return h.s.now.Add(h.drift) }

// beating reports whether heartbeats are heard.
func (h *host) beating() bool { return h.up && !h.cut }

// start is the daemon's start. It knows only what is on its disk and takes no
// placement for granted.
func (h *host) start() {
	if h.up || h.id.IsZero() {
		return
	}
	h.life++
	h.up, h.outrun, h.desired, h.approved, h.chains, h.holdOff, h.lookAt = true, domain.Head{}, nil, nil, nil, map[string]domain.Time{}, 0
	h.jr.sent, h.publishing, h.jr.unheard.since = h.jr.acked, false, 0
	h.connect()
	h.inventory()
	h.publish()
}

// stop ends the daemon at once; VMs run on.
func (h *host) stop() {
	if !h.up {
		return
	}
	h.beat = h.s.now
	h.life++
	h.up = false
	for _, c := range h.chains {
		c.cutShort()
	}
	h.chains = nil
	h.s.noticed(h)
}

// connect gets the newest placement, as a new subscription does.
func (h *host) connect() {
	h.well = max(h.well, h.s.now)
	h.s.noticed(h)
	if x := h.s.placements[h.id]; x != nil && !h.cut {
		h.send(x.placement)
	}
}

func (h *host) later(d domain.Duration, what string, do func()) {
	life := h.life
	h.s.after(d, what, h.n, func() {
		if h.life == life {
			do()
		}
	})
}

// deliver is a placement that arrives: the fence first, then what it acknowledges,
// then what it asks for.
func (h *host) deliver(x *domain.Placement) {
	if !h.up || h.cut {
		return
	}
	s, d := h.s, &x.Desired
	before := h.fence
	s.tell("%s is told generation %d.%d of commit %d, account %v, map %s, %d VMs; report %d of %s acknowledged", h.name, d.Epoch, d.Generation, x.From.N, d.Account, d.SlotMap, len(d.VMs), x.Acked, x.Journal)
	if before.Outruns(x, h.from, h.jr.id, h.jr.acked) {
		if len(s.shadow.past) == 0 && !h.forged {
			s.fail("host %s is outrun by generation %d.%d, and the log lost nothing", h.name, d.Epoch, d.Generation)
		}
		s.seen.mark(Outrun)
		if d.Generation != before.Generation {
			h.outrun = x.From
			s.noticed(h) // by its next heartbeat
		}
		return
	}
	seen, verdict := h.fence.Admit(d)
	h.fence = seen
	switch verdict {
	case journal.Stale:
		s.seen.mark(StalePlacement)
		return
	case journal.Conflict:
		s.seen.mark(ConflictPlacement)
		if !h.forged && len(s.shadow.past) == 0 {
			s.fail("host %s saw generation %d.%d with two contents, and nobody forged any", h.name, d.Epoch, d.Generation)
		}
		if h.refused.N == 0 {
			h.refused = x.From
		}
		h.frozen, h.desired, h.approved = true, nil, nil
		h.cancel(func(*chain) bool { return true })
		h.once(fmt.Sprintf("conflict/%d", d.Epoch), &domain.FaultReport{Component: "host", Scope: "host", Reason: "placement.two_digests"})
		h.publish()
		s.noticed(h) // by its next heartbeat
		return
	}
	if (d.Epoch < before.Epoch || d.Epoch == before.Epoch && d.Generation < before.Generation) && !h.forged {
		s.fail("host %s takes generation %d.%d, and has seen %d.%d", h.name, d.Epoch, d.Generation, before.Epoch, before.Generation)
	}
	if before.Epoch == d.Epoch && !s.log.holds(h.from) && s.log.holds(x.From) && !h.forged {
		s.seen.mark(Passed)
		h.passed = true
	}
	h.outrun = domain.Head{}
	news := x.From.N >= h.from.N || before.Epoch != d.Epoch || before.Generation != d.Generation
	if x.From.N > h.from.N || before.Epoch != d.Epoch || before.Generation != d.Generation {
		h.from = x.From
	}
	if before.Epoch != d.Epoch {
		h.passed = false
	}
	if before.Epoch != d.Epoch && h.frozen { // an epoch that operators have opened ends every conflict
		h.frozen, h.refused, h.publishing, h.jr.pause = false, domain.Head{}, false, 0
	}
	if news {
		h.acknowledge(x)
	}
	if !s.log.holds(h.from) { // one that was under way when the log lost its end: its next heartbeat says so
		s.noticed(h)
	}
	if h.desired != nil && h.desired.Generation == d.Generation && h.desired.Epoch == d.Epoch {
		return
	}
	if d.Account {
		if before.Epoch != d.Epoch {
			h.mem.before = before
		}
	} else {
		h.mem.accept(d)
	}
	for i := range d.VMs {
		s.shadow.known[d.VMs[i].VM] = true
	}
	h.desired = d
	switch {
	case !d.Account:
		h.approved = h.maps[d.SlotMap]
	case h.approved == nil: // what was approved before stays so until the site has heard
		h.approved = h.maps[h.mem.inForce]
	}
	clear(h.holdOff)
	h.cancel(func(c *chain) bool { return !c.wanted(d) })
	h.reconcile()
}

// reconcile is one turn of the daemon: look, say what is new, plan, begin.
func (h *host) reconcile() {
	if !h.up {
		return
	}
	defer h.publish()
	if h.desired != nil && h.desired.Account {
		h.account()
		return
	}
	if h.desired == nil {
		return
	}
	if found := h.machine.hardware; h.approved == nil || h.approved != found && h.approved.Digest() != found.Digest() {
		h.inventory() // the site does not know the map, or has lost it with the log's end
	}
	if h.approved == nil {
		return
	}
	if h.frozen {
		h.s.fail("host %s acts after it was shown two contents of one generation", h.name)
	}
	now := [2]uint64{uint64(h.desired.Epoch), h.desired.Generation}
	if slices.Compare(now[:], h.highest[:]) < 0 {
		h.s.fail("host %s acts on generation %v after %v", h.name, now, h.highest)
	}
	h.highest = now
	observed := h.machine.observe()
	h.adopt(observed)
	state := h.mem.state(h.approved, observed)
	state.Broken = h.broken()
	h.reportVMs(state.VMs)
	h.reportBroken(state.Broken)
	steps := plan.Diff(h.desired, state)
	h.begin(steps)
	if len(steps) > 0 && len(h.chains) == 0 && h.lookAt <= h.s.now {
		h.lookAt = h.s.now.Add(replan)
		h.later(replan, "replan", h.reconcile)
	}
}

const replan = 30 * domain.Second

// adopt takes on VMs that exist and that the journal does not know.
func (h *host) adopt(observed []machine.Observed) {
	for _, v := range observed {
		if _, known := h.mem.known[v.VM]; known {
			continue
		}
		h.s.seen.mark(Adopted)
		h.mem.known[v.VM] = v.Slots
		for _, i := range v.Slots {
			if int(i) < len(h.approved.Slots) {
				h.mem.dirty[h.approved.Slots[i].NVMe.Serial] = v.VM
			}
		}
	}
	h.meet(observed)
}

// meet takes drives that the journal does not know for used by what stands there, or by
// somebody.
func (h *host) meet(observed []machine.Observed) {
	met := map[string]bool{}
	for i := range h.approved.Slots {
		serial := h.approved.Slots[i].NVMe.Serial
		met[serial] = true
		if _, dirty := h.mem.dirty[serial]; dirty || h.mem.met[serial] {
			continue
		}
		h.s.seen.mark(UnknownDrive)
		h.mem.dirty[serial] = domain.VMID{}
		for _, v := range observed {
			if slices.Contains(v.Slots, uint32(i)) {
				h.mem.dirty[serial] = v.VM
			}
		}
	}
	h.mem.met = met
}

// trouble is what may befall a host.
func (h *host) trouble() {
	d := h.s.dice
	if h.id.IsZero() || d.calm {
		return
	}
	if h.up && d.happens(HostCrash) {
		h.crash()
		h.s.after(between(d.work, domain.Second, 3*domain.Minute), "hostd starts", h.n, h.start)
	}
	if d.happens(HostReboot) {
		h.stop()
		h.machine.powerLoss(h.clock())
		h.s.after(between(d.work, domain.Minute, 20*domain.Minute), "host boots", h.n, h.start)
	}
	if !h.cut && d.happens(HostSilent) {
		h.beat, h.cut = h.s.now, true
		h.s.noticed(h)
		h.s.after(between(d.work, 5*domain.Second, 4*domain.Hour), "host heard again", h.n, h.heard)
	}
	if d.happens(ClockDrift) {
		h.drift = between(d.work, -30*domain.Second, 30*domain.Second)
	}
	h.machineTrouble()
	h.forgeries()
}

// heard ends a cut.
func (h *host) heard() {
	if h.cut {
		h.cut = false
		h.connect()
		h.publish()
	}
}

// crash kills the daemon, perhaps in the middle of a write to its journal.
func (h *host) crash() {
	h.stop()
	switch d := h.s.dice; {
	case !h.forged && d.happens(JournalLost): // what it remembers is all that a forger meets
		h.jr = reports{id: h.newJournal()}
		proposed, in := h.mem.proposed, h.mem.proposedIn
		h.mem = newMemory()
		h.mem.proposed, h.mem.proposedIn = proposed, in
		h.s.seen.mark(RenewedJournal)
	case d.happens(JournalTorn) && len(h.jr.queue) > 0:
		h.jr.tear()
		h.renew()
	}
}
