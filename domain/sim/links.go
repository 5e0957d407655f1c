package sim

import (
	"cmp"
	"slices"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
)

// published is what a host's subject in the placements stream holds.
type published struct {
	placement *domain.Placement
	digest    domain.Digest
}

// offer hands placements to the process's placer, which keeps the newest of a host.
func (p *process) offer(all []*domain.PlacementDraft) {
	for _, x := range all {
		id := x.Host()
		waits := p.next[id] != nil
		p.next[id] = x
		if !waits {
			p.later(between(p.s.dice.net, 2*domain.Millisecond, 60*domain.Millisecond), "publish", func() { p.publish(id) })
		}
	}
}

// publish is streams.Placements.Publish: it never takes a host back.
func (p *process) publish(id domain.HostID) {
	s, x := p.s, p.next[id].Placement()
	p.next[id] = nil
	digest := x.Desired.Digest()
	if have := s.placements[id]; have != nil {
		h, w := &have.placement.Desired, &x.Desired
		same := h.Epoch == w.Epoch
		if h.Epoch > w.Epoch || same && (h.Generation > w.Generation || have.placement.From.N > x.From.N) {
			return
		}
		if same && h.Generation == w.Generation && have.digest != digest {
			if s.lost != nil { // streams.ErrForked
				return
			}
			s.fail("host %s: generation %d is published with two contents", id, w.Generation)
		}
	}
	s.shadow.published(x)
	s.placements[id] = &published{x, digest}
	for _, h := range s.hosts {
		if h.id == id {
			h.send(x)
		}
	}
}

// send is a placement on its way to the host.
func (h *host) send(x *domain.Placement) {
	s := h.s
	life := s.log.life
	arrive := func() {
		// A connection to a server that is gone delivers what is on the line, and no more.
		if life == s.log.life || s.lost != nil && s.now.Sub(s.lost.at) < domain.Second {
			h.deliver(x)
		}
	}
	switch {
	case s.dice.happens(PlacementLost): // not acknowledged: it is delivered again
		s.after(30*domain.Second, "placement again", h.n, arrive)
	case s.dice.happens(PlacementLate):
		s.after(between(s.dice.net, domain.Second, 10*domain.Minute), "placement late", h.n, arrive)
	default:
		s.after(between(s.dice.net, domain.Millisecond, 80*domain.Millisecond), "placement", h.n, arrive)
	}
	if s.dice.happens(PlacementTwice) {
		s.after(between(s.dice.net, domain.Millisecond, 5*domain.Minute), "placement twice", h.n, arrive)
	}
}

// A report out of order waits for those before it, handed out again after a pause that
// grows (streams.Reports, processes.Reports).
const (
	maxOutOfOrder = 7
	maxHandOut    = 30 * domain.Second
)

// reported is a report that reached the control plane, and a process that takes it.
func (s *Sim) reported(h *host, report []byte, delivery int) {
	p := s.anyWriter()
	if p == nil {
		return // the host sends it again
	}
	cmd := &domain.Command{Actor: domain.Actor{Kind: domain.ActorHost, Host: h.id}, Body: &domain.RecordReport{Host: h.id, Report: report}}
	p.submit(&request{cmd: cmd, answer: func(r commands.Reply) {
		switch {
		case r.Err != nil && r.Err.Code == "report.out_of_order" && delivery < maxOutOfOrder && !(h.forged && s.dice.calm): // those before it never come
			s.after(min(domain.Second<<(delivery-1), maxHandOut), "report waits", h.n, func() { s.reported(h, report, delivery+1) })
		case r.Err != nil:
			s.tell("%s is answered: %v", h.name, r.Err)
		case len(r.Events) == 0:
			s.seen.mark(RepeatedReport)
		}
	}})
}

// anyWriter is a process that answers; with two, either: nobody can know. When the faults
// have ceased, the one that was deposed does not answer any more: its claim is over
// (streams.Claim).
func (s *Sim) anyWriter() *process {
	var up []*process
	for _, p := range s.processes {
		if p.started {
			up = append(up, p)
		}
	}
	if len(up) == 0 {
		return nil
	}
	if s.dice.calm {
		return slices.MaxFunc(up, func(p, q *process) int { return cmp.Compare(p.core.World().Term, q.core.World().Term) })
	}
	return pick(s.dice.net, up)
}

const silentAfter = 15 * domain.Second

// lookForHosts is processes.Liveness.check: it says when a host falls silent and
// when it is back.
func (p *process) lookForHosts() {
	for _, h := range p.s.hosts {
		p.lookFor(h)
	}
}

func (p *process) lookFor(h *host) {
	if !p.started || h.id.IsZero() {
		return
	}
	p.compareHost(h)
	var act domain.HostAction
	var since domain.Time
	last := max(h.beat, p.since)
	switch late := !h.beating() && p.s.now.Sub(last) > silentAfter; {
	case late && !p.silent[h.id]:
		act, since = domain.HostSilent, last
	case h.beating() && p.silent[h.id]:
		act = domain.HostInTouch
	default:
		return
	}
	p.silent[h.id] = act == domain.HostSilent
	p.submit(&request{cmd: p.system(&domain.ActOnHost{Host: h.id, Action: act, Since: since})})
}

// noticed has every process look at a host whose heartbeats began or ended.
func (s *Sim) noticed(h *host) {
	s.after(silentAfter+domain.Second, "liveness", h.n, func() {
		for _, p := range s.processes {
			p.lookFor(h)
		}
	})
}
