package sim

import (
	"fmt"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/domain/domaintest"
)

// operators run the site: they look at what the log says and act on it, late and
// sometimes for no reason.
type operators struct {
	s     *Sim
	shelf []string // drives that were taken out
	rests bool     // they begin nothing any more
}

const operatorsAre = 90 // in the trace

func newOperators(s *Sim) *operators {
	o := &operators{s: s}
	s.after(domain.Minute, "operators", operatorsAre, o.act)
	s.after(between(s.dice.operators, domain.Minute, 4*domain.Hour), "a host is racked", operatorsAre, o.rack)
	return o
}

func (o *operators) want(body domain.CommandBody) {
	o.s.clients.want(operatorsAre, o.s.site.admin, body, nil)
}

func (o *operators) act() {
	s, r := o.s, o.s.dice.operators
	pause := between(r, 30*domain.Second, 15*domain.Minute)
	if s.dice.calm {
		pause *= 4
	}
	s.after(pause, "operators", operatorsAre, o.act)
	if !o.rests {
		o.duties()
	}
	if s.dice.calm {
		return
	}
	h := pick(r, s.hosts)
	slot := pick(r, s.shadow.slotList)
	switch r.IntN(16) {
	case 0:
		o.want(&domain.ActOnHost{Host: h.id, Action: pick(r, []domain.HostAction{domain.HostCordon, domain.HostDrain})})
	case 1, 2, 3:
		o.want(&domain.ActOnHost{Host: h.id, Action: domain.HostUncordon})
	case 4:
		o.want(&domain.QuarantineSlot{Slot: slot.id, Reason: "noise"})
	case 5:
		o.want(&domain.RewipeSlot{Slot: slot.id})
	case 6:
		if r.IntN(6) == 0 {
			o.want(&domain.RetireSlot{Slot: slot.id, Reason: "old"})
		}
	case 7, 8:
		o.credit(pick(r, s.tenants))
	case 9:
		o.price()
	case 10:
		scope := domain.PolicyScope{}
		if r.IntN(2) == 0 {
			scope.Tenant = pick(r, s.tenants).ID
		}
		o.want(&domain.SetPolicy{Scope: scope, Key: pick(r, []string{"quota.gpus", "allocation.max_count", "billing.grace_seconds"}), Value: number(int64(r.IntN(24))), Remove: r.IntN(2) == 0})
	case 11:
		o.want(&domain.SetPolicy{Key: "placement.anti_affinity", Value: word(pick(r, []string{"none", "host", "rack"}))})
	}
}

// duties are what an operator does because it has to be done.
func (o *operators) duties() {
	s, r := o.s, o.s.dice.operators
	for _, h := range s.hosts {
		v := s.shadow.fleet[h.id]
		if v == nil {
			continue
		}
		if !v.proposal.IsZero() {
			o.want(&domain.ApproveMap{Host: h.id, Digest: v.proposal, Policy: s.site.policy})
		}
		if v.silent && !s.dice.calm && r.IntN(6) == 0 {
			o.powerOff(h)
		}
		if v.faulted && !v.silent {
			o.want(&domain.ActOnHost{Host: h.id, Action: domain.HostUncordon})
		}
	}
	for _, t := range s.tenants {
		if live := t.live(); len(live) > 0 && s.shadow.tenants[t.ID] != domain.TenantActive && r.IntN(8) == 0 { // goodwill: what it used costs less
			o.want(&domain.PublishPrice{SKU: live[0].sku, Tenant: t.ID, Currency: "USD", Micros: domain.Micros(r.Int64N(200_000)), Effective: s.now.Add(-12 * domain.Hour)})
		}
	}
	for _, h := range s.hosts {
		for _, vm := range s.shadow.unknown[h.id] {
			if r.IntN(4) == 0 {
				o.want(&domain.DestroyUnknownVM{Host: h.id, VM: vm, Reason: "tenant-agreed"})
			}
		}
	}
	for _, slot := range s.shadow.slotList {
		if slot.state == domain.SlotIsQuarantined && r.IntN(4) == 0 {
			o.want(&domain.RewipeSlot{Slot: slot.id})
		}
	}
}

// powerOff pulls a host's plug before it says so: the word of an operator is true.
func (o *operators) powerOff(h *host) {
	h.stop()
	h.machine.powerLoss(h.clock())
	o.want(&domain.ActOnHost{Host: h.id, Action: domain.HostPoweredOff})
	o.s.after(between(o.s.dice.operators, 10*domain.Minute, 3*domain.Hour), "host boots", h.n, h.start)
}

func (o *operators) credit(t *tenant) {
	r := o.s.dice.operators
	m := &domain.GrantCredit{Tenant: t.ID, Currency: "USD", Amount: domain.Micros(1+r.IntN(60)) * 1_000_000, Kind: domain.GrantPaid, Priority: r.Uint32N(3)}
	if r.IntN(2) == 0 {
		m.Kind, m.Expires = domain.GrantPromotional, o.s.now.Add(between(r, domain.Minute, domain.Day))
	}
	o.want(m)
}

// nudge is a command that a process has at once, before it looks at any deadline.
func (o *operators) nudge(p *process) {
	t := pick(o.s.dice.operators, o.s.tenants)
	n := &op{c: o.s.clients, cmd: domain.Command{Actor: o.s.site.admin, Body: &domain.GrantCredit{Tenant: t.ID, Currency: "USD", Amount: 1, Kind: domain.GrantPaid}}, who: operatorsAre}
	n.name()
	cmd := n.cmd
	p.submit(&request{cmd: &cmd, answer: func(r commands.Reply) { n.answered(cmd.ID, r) }})
}

func (o *operators) price() {
	s, r := o.s, o.s.dice.operators
	m := &domain.PublishPrice{SKU: pick(r, s.shadow.skus), Currency: "USD", Micros: domain.Micros(r.Int64N(9_000_000))}
	if r.IntN(4) == 0 {
		m.Tenant = pick(r, s.tenants).ID
	}
	m.Effective = s.now.Add(between(r, -12*domain.Hour, 4*domain.Hour))
	o.want(m)
}

// rack brings a new host into the site, from its enrolment on.
func (o *operators) rack() {
	s := o.s
	if s.dice.calm {
		return
	}
	n := len(s.hosts)
	name := fmt.Sprintf("h%d", n)
	token := domain.DigestOf([]byte("token of " + name))
	m := domaintest.Map(name, 1+s.dice.operators.IntN(8))
	for i := range m.Slots {
		for _, d := range []*domain.Device{&m.Slots[i].GPU, &m.Slots[i].NVMe, &m.Slots[i].IBVF} {
			d.PCIID = "10de:2330"
		}
	}
	enrol := &domain.EnrollHost{Name: name, Rack: "r9", TokenID: token}
	s.clients.want(operatorsAre, s.site.admin, enrol, func(commands.Reply) { o.admit(name, token, m) })
}

func (o *operators) admit(name string, token domain.Digest, m *domain.SlotMap) {
	s := o.s
	p := s.anyWriter()
	if p == nil {
		s.after(domain.Minute, "enrolment again", operatorsAre, func() { o.admit(name, token, m) })
		return
	}
	key := fmt.Sprintf("U%055d", len(s.hosts))
	p.submit(&request{cmd: p.system(&domain.AdmitHost{TokenID: token, NATSKey: key, SignKey: make([]byte, 32)}), answer: func(r commands.Reply) {
		if r.Err != nil || len(r.Events) == 0 {
			return
		}
		h := newHost(s, len(s.hosts), name, &domaintest.Host{ID: r.Events[0].(*domain.HostAdmitted).ID, Map: m})
		h.jr = reports{id: h.newJournal()}
		h.mem.proposed = domain.Digest{}
		s.hosts, s.racked = append(s.hosts, h), r.N
		h.start()
	}})
}
