package sim

import (
	"encoding/binary"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/journal"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/plan"
)

// memory is what a daemon keeps in its journal beside the reports: hostd/memory.go.
type memory struct {
	known    map[domain.VMID][]uint32
	failed   map[domain.VMID]uint32
	rebooted map[domain.VMID]uint32
	said     map[saidKey]bool
	lost     map[domain.VMID]lostAt
	wiped    map[plan.WipeKey]bool
	dirty    map[string]domain.VMID // by drive serial
	met      map[string]bool        // by drive serial: whatever was on it before, what came after is remembered
	slotID   map[uint32]domain.SlotID
	faults   []string
	proposed domain.Digest

	proposedIn     uint32            // the epoch in which it was
	slotGeneration map[uint32]uint32 // the highest placed
	inForce        domain.Digest     // the approved map
	before         journal.Seen      // what was seen before the present epoch
	accepted       uint32            // the epoch of what it last took on, accounts apart
	accounted      [2]uint64         // the epoch and generation that it was last asked in, and said what it holds
}

// lostAt is the boot of which it was said that it was lost, and when.
type lostAt struct {
	boot  uint32
	since domain.Time
}

type saidKey struct {
	vm   domain.VMID
	boot uint32
	kind domain.ReportKind
}

func newMemory() memory {
	return memory{
		known: map[domain.VMID][]uint32{}, failed: map[domain.VMID]uint32{}, rebooted: map[domain.VMID]uint32{}, said: map[saidKey]bool{}, lost: map[domain.VMID]lostAt{},
		wiped: map[plan.WipeKey]bool{}, dirty: map[string]domain.VMID{}, met: map[string]bool{}, slotID: map[uint32]domain.SlotID{}, slotGeneration: map[uint32]uint32{},
	}
}

// accept remembers what has to be known before anything of d is done.
func (m *memory) accept(d *domain.Desired) {
	m.inForce = d.SlotMap
	if m.accepted != 0 && m.accepted != d.Epoch && m.accounted[0] != uint64(d.Epoch) {
		m.forgetReported(m.accounted)
	}
	m.accepted = d.Epoch
	placed := func(l *domain.Lease) {
		m.slotID[l.Index] = l.Slot
		m.slotGeneration[l.Index] = max(m.slotGeneration[l.Index], l.Generation)
	}
	wanted := map[plan.WipeKey]bool{}
	for i := range d.Wipes {
		w := &d.Wipes[i]
		if len(m.wiped) > 0 {
			wanted[plan.KeyOf(w)] = true
		}
		placed(&w.Lease)
	}
	for key := range m.wiped {
		if !wanted[key] {
			delete(m.wiped, key)
		}
	}
	for i := range d.VMs {
		v := &d.VMs[i]
		var slots []uint32
		for k := range v.Leases {
			slots = append(slots, v.Leases[k].Index)
			placed(&v.Leases[k])
		}
		if _, known := m.known[v.VM]; !known {
			m.known[v.VM] = slots
		}
	}
}

// state is the planner's view of the host.
func (m *memory) state(approved *domain.SlotMap, observed []machine.Observed) plan.State {
	s := plan.State{VMs: observed, Known: m.known, GivenUp: m.failed, Wiped: m.wiped, Dirty: map[uint32]domain.VMID{}}
	for i := range approved.Slots {
		if by, dirty := m.dirty[approved.Slots[i].NVMe.Serial]; dirty {
			s.Dirty[uint32(i)] = by
		}
	}
	for i := range observed {
		observed[i].Boot = max(observed[i].Boot, m.rebooted[observed[i].VM])
	}
	return s
}

// forget drops what is remembered of a VM; whose data is on the drives stays.
func (m *memory) forget(id domain.VMID) {
	delete(m.known, id)
	delete(m.failed, id)
	delete(m.rebooted, id)
	delete(m.lost, id)
	for key := range m.said {
		if key.vm == id {
			delete(m.said, key)
		}
	}
}

// reports is a daemon's journal: numbered evidence that waits until the host's
// placement acknowledges it.
type reports struct {
	id    domain.JournalID
	last  uint64
	acked uint64
	sent  uint64
	queue []entry
	pause domain.Duration

	unheard struct { // since when another journal is acknowledged in this life, and at what commit
		since domain.Time
		from  uint64
	}
}

type entry struct {
	n      uint64
	report domain.Report
	bytes  []byte
	undo   func() // takes back what was remembered together with it
}

// tear loses the newest report, and what was remembered with it.
func (j *reports) tear() {
	last := len(j.queue) - 1
	j.queue[last].undo()
	j.queue = j.queue[:last]
}

func (h *host) newJournal() (id domain.JournalID) {
	binary.BigEndian.PutUint64(id[:], h.s.dice.guests.Uint64()|1)
	return id
}

// renew begins the journal anew under another id: what waits gets other numbers.
func (h *host) renew() {
	h.s.seen.mark(RenewedJournal)
	old := h.jr.queue
	h.jr = reports{id: h.newJournal()}
	for _, e := range old {
		h.enter(e.report, e.undo)
	}
}

// report makes evidence durable, with how to take back what was remembered with it.
func (h *host) report(r *domain.Report, undo func()) {
	r.Host, r.At, r.Epoch, r.Generation = h.id, h.clock(), max(h.fence.Epoch, 1), h.fence.Generation
	if h.desired != nil {
		r.Epoch, r.Generation = h.desired.Epoch, h.desired.Generation
	}
	h.enter(*r, undo)
}

func (h *host) enter(r domain.Report, undo func()) {
	h.jr.last++
	r.Journal, r.Number = h.jr.id, h.jr.last
	if r.VM != nil || r.Fault != nil {
		h.s.shadow.said[recorded{r.Journal, r.Number}] = &r
	}
	h.s.tell("%s reports %d of %s: %s, in %d.%d", h.name, r.Number, r.Journal, r.Kind, r.Epoch, r.Generation)
	h.jr.queue = append(h.jr.queue, entry{h.jr.last, r, domain.EncodeReport(&r), undo})
}

// acknowledge drops what the log has.
func (h *host) acknowledge(x *domain.Placement) {
	j, unheard := &h.jr, h.jr.unheard
	j.unheard.since = 0
	switch id, n := x.Journal, x.Acked; {
	case id != j.id && j.acked == 0:
		if len(j.queue) == 0 {
			return
		}
		if j.unheard = unheard; unheard.since == 0 || x.From.N < unheard.from {
			j.unheard.since, j.unheard.from = h.s.now, x.From.N
		} else if h.s.now.Sub(unheard.since) >= renewAfter && x.From.N > unheard.from {
			h.renew()
		}
	case id == j.id && n <= j.acked:
	case id != j.id, n > j.last: // something is lost
		h.renew()
		h.mem.met = map[string]bool{}
	default:
		for len(j.queue) > 0 && j.queue[0].n <= n {
			j.queue = j.queue[1:]
		}
		j.acked, j.pause = n, 0
	}
}

// renewAfter is hostd's.
const renewAfter = 10 * domain.Minute

const (
	resend    = 10 * domain.Second
	resendMax = 320 * domain.Second
)

// publish sends what was not sent, and all of it again after a while without an
// acknowledgement.
func (h *host) publish() {
	if !h.up || len(h.jr.queue) == 0 {
		return
	}
	for _, e := range h.jr.queue {
		if e.n > h.jr.sent && !h.cut {
			h.jr.sent = e.n
			h.carry(e.bytes)
		}
	}
	if h.publishing {
		return
	}
	h.publishing = true
	h.jr.pause = min(max(2*h.jr.pause, resend), resendMax)
	if h.frozen { // nobody will ever acknowledge anything
		h.jr.pause = 6 * domain.Hour
	}
	before := h.jr.acked
	h.later(h.jr.pause, "resend", func() {
		h.publishing = false
		if h.jr.acked == before {
			h.jr.sent = 0
		}
		h.publish()
	})
}

// carry is a report's way over the link.
func (h *host) carry(report []byte) {
	s := h.s
	arrive := func() { s.reported(h, report, 1) }
	switch {
	case s.dice.happens(ReportLost):
	case s.dice.happens(ReportLate):
		late := 5 * domain.Minute
		if s.dice.net.IntN(4) == 0 {
			late = 2 * domain.Hour
		}
		s.after(between(s.dice.net, domain.Second, late), "report late", h.n, arrive)
	default:
		h.line = max(h.line, s.now.Add(between(s.dice.net, domain.Millisecond, 50*domain.Millisecond))) // one connection
		s.after(h.line.Sub(s.now), "report", h.n, arrive)
	}
	if s.dice.happens(ReportTwice) {
		s.after(between(s.dice.net, domain.Millisecond, domain.Minute), "report twice", h.n, arrive)
	}
}
