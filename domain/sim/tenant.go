package sim

import (
	"encoding/json"
	"fmt"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/domain/domaintest"
)

// tenant does everything a tenant can do, at any time, to what it has and to what it
// has not.
type tenant struct {
	domaintest.Tenant
	s    *Sim
	n    int
	keys int
	busy domain.Duration // between two acts, at most
}

func newTenant(s *Sim, n int, t domaintest.Tenant) *tenant {
	out := &tenant{Tenant: t, s: s, n: n, busy: between(s.dice.tenants, domain.Minute, 20*domain.Minute)}
	s.after(between(s.dice.tenants, 10*domain.Second, 2*domain.Minute), "tenant", n, out.act)
	return out
}

// live are the tenant's allocations.
func (t *tenant) live() (out []*allocView) {
	for _, a := range t.s.shadow.order {
		if a.tenant == t.ID {
			out = append(out, a)
		}
	}
	return out
}

func (t *tenant) act() {
	s, r := t.s, t.s.dice.tenants
	if s.dice.calm {
		return
	}
	s.after(between(r, 5*domain.Second, t.busy), "tenant", t.n, t.act)
	live := t.live()
	if _, known := s.shadow.owners[t.Key.Key]; !known || s.shadow.revoked[t.Key.Key] {
		t.newKey()
		return
	}
	if s.shadow.tenants[t.ID] != domain.TenantActive && len(live) > 0 && r.IntN(2) == 0 {
		t.inNeed(live)
		return
	}
	switch n := r.IntN(100); {
	case n < 34 || len(live) == 0:
		t.launch(1)
	case n < 38: // all at once
		for range 2 + r.IntN(14) {
			t.launch(0)
		}
	case n < 88:
		a := pick(r, live)
		t.want(&domain.ActOnAllocation{Allocation: a.id, Action: pick(r, []domain.AllocationAction{
			domain.ActionRelease, domain.ActionRelease, domain.ActionRelease, domain.ActionStop, domain.ActionStop, domain.ActionStart, domain.ActionStart, domain.ActionReboot,
		})})
	case n < 93:
		t.quota()
	case n < 96:
		t.want(&domain.RevokeAPIKey{Key: t.Key.Key})
	default:
		t.trespass()
	}
}

// inNeed is what a tenant without money tries: to start what was stopped, and to launch
// with what a release gives back.
func (t *tenant) inNeed(live []*allocView) {
	for _, a := range live {
		if a.state == domain.Stopped {
			t.want(&domain.ActOnAllocation{Allocation: a.id, Action: domain.ActionStart})
			return
		}
	}
	t.want(&domain.ActOnAllocation{Allocation: live[0].id, Action: domain.ActionRelease})
	t.s.after(domain.Minute, "tenant in need", t.n, func() { t.launch(0) })
}

func (t *tenant) want(body domain.CommandBody) { t.s.clients.want(t.n, t.Key, body, nil) }

func (t *tenant) launch(least uint32) {
	r := t.s.dice.tenants
	m := &domain.CreateAllocation{Project: t.Project, SKUName: pick(r, []string{"gpu-1x", "gpu-1x", "gpu-1x", "gpu-2x", "gpu-2x", "gpu-4x", "gpu-8x"}), Count: max(least, 1)}
	if least > 0 && r.IntN(6) == 0 {
		m.Count = 1 + r.Uint32N(4)
	}
	m.LockPrice = r.IntN(5) == 0
	if r.IntN(10) == 0 {
		m.Expires = t.s.now.Add(between(r, domain.Minute, 12*domain.Hour))
	}
	t.want(m)
}

// quota sets or removes a guardrail of its own.
func (t *tenant) quota() {
	r := t.s.dice.tenants
	m := &domain.SetPolicy{Scope: domain.PolicyScope{Tenant: t.ID}, Key: "quota.gpus", Remove: r.IntN(3) == 0}
	if r.IntN(2) == 0 {
		m.Scope = domain.PolicyScope{Project: t.Project}
	}
	m.Value = number(int64(r.IntN(10)))
	if r.IntN(3) == 0 {
		m.Key, m.Value = "placement.strategy", word(pick(r, []string{"pack", "spread"}))
	}
	t.want(m)
}

func number(n int64) (v domain.PolicyValue) {
	_ = json.Unmarshal(fmt.Append(nil, n), &v)
	return v
}

func word(s string) (v domain.PolicyValue) {
	_ = json.Unmarshal(fmt.Appendf(nil, "%q", s), &v)
	return v
}

// newKey has an operator make a key for a tenant that revoked its own.
func (t *tenant) newKey() {
	t.keys++
	body := &domain.CreateAPIKey{Tenant: t.ID, Name: "owner", Role: domain.TenantOwner, Hash: domain.DigestOf(fmt.Appendf(nil, "t%d-%d", t.n, t.keys)), Reason: "lost"}
	t.s.clients.want(t.n, t.s.site.admin, body, func(r commands.Reply) {
		for _, e := range r.Events {
			if k, ok := e.(*domain.APIKeyCreated); ok {
				t.Key = domain.Actor{Kind: domain.ActorKey, Key: k.ID}
			}
		}
	})
}

// trespass tries what is another tenant's: the answer has to be that it is not there.
func (t *tenant) trespass() {
	s, r := t.s, t.s.dice.tenants
	other := s.tenants[(t.n+1)%len(s.tenants)]
	bodies := []domain.CommandBody{
		&domain.CreateAllocation{Project: other.Project, SKUName: "gpu-1x", Count: 1},
		&domain.SetPolicy{Scope: domain.PolicyScope{Tenant: other.ID}, Key: "quota.gpus", Value: number(0)},
		&domain.RevokeAPIKey{Key: other.Key.Key},
	}
	for _, a := range other.live() {
		bodies = append(bodies, &domain.ActOnAllocation{Allocation: a.id, Action: domain.ActionRelease}, &domain.ActOnAllocation{Allocation: a.id, Action: domain.ActionStop})
	}
	body := pick(r, bodies)
	s.clients.want(t.n, t.Key, body, func(reply commands.Reply) {
		if reply.Err == nil || reply.Err.Kind != domain.NotFound && reply.Err.Kind != domain.Unauthenticated && reply.Err.Code != "command.expired" {
			s.fail("tenant %s tries %s on what is of %s, and is answered %v", t.ID, body.CommandType(), other.ID, reply.Err)
		}
	})
}
