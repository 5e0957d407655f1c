package sim

import (
	"slices"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

// money computes what every tenant has used, and knows nothing of how it accrues: each
// line's stretches of one price version in one month.
type money struct {
	prices []domain.PricePublished
	posted map[domain.TenantID]domain.Micros // revenue
}

func newMoney() money { return money{posted: map[domain.TenantID]domain.Micros{}} }

func (m *money) see(e domain.EventBody) {
	switch e := e.(type) {
	case *domain.PricePublished:
		m.prices = append(m.prices, *e)
	case *domain.LedgerPosted:
		for _, l := range e.Legs {
			if l.Account.Kind == domain.AccountRevenue {
				m.posted[e.Tenant] += l.Amount
			}
		}
	}
}

// version is the price in force, as its place among those published.
func (m *money) version(a *allocView, t domain.Time) int {
	best := -1
	for i := range m.prices {
		p := &m.prices[i]
		if p.SKU != a.sku || p.Effective > t || !p.Tenant.IsZero() && p.Tenant != a.tenant {
			continue
		}
		if best >= 0 {
			b := &m.prices[best]
			if b.Tenant.IsZero() != p.Tenant.IsZero() {
				if !p.Tenant.IsZero() {
					best = i
				}
				continue
			}
			if p.Effective < b.Effective {
				continue
			}
		}
		best = i
	}
	return best
}

// cost is what a line that has ended cost.
func (m *money) cost(v *vmView) (sum domain.Micros) {
	if v.started == 0 || v.free {
		return 0
	}
	cuts := []domain.Time{v.ended}
	for i := range m.prices {
		if p := &m.prices[i]; p.SKU == v.alloc.sku && p.Effective > v.started && p.Effective < v.ended {
			cuts = append(cuts, p.Effective)
		}
	}
	y, mo, _ := v.started.Std().Date()
	for k := 1; ; k++ {
		t := domain.TimeOf(time.Date(y, mo+time.Month(k), 1, 0, 0, 0, 0, time.UTC))
		if t >= v.ended {
			break
		}
		cuts = append(cuts, t)
	}
	slices.Sort(cuts)
	type stretch struct {
		version int
		month   time.Month
	}
	of := func(t domain.Time) stretch {
		x := stretch{version: -1, month: t.Std().Month()}
		if v.alloc.locked < 0 {
			x.version = m.version(v.alloc, t)
		}
		return x
	}
	for i, from := 0, v.started; from < v.ended; {
		for i < len(cuts)-1 && (cuts[i] <= from || of(cuts[i]) == of(from)) {
			i++
		}
		rate, to := v.alloc.locked, max(cuts[i], from)
		if rate < 0 {
			rate = m.prices[of(from).version].Micros
		}
		sum += rate * domain.Micros(v.alloc.shape) * domain.Micros(to.Sub(from)) / domain.Micros(domain.Hour)
		from = to
	}
	return sum
}

// settled: when every line has ended, what was posted is what was used.
func (h *shadow) settled() {
	used := map[domain.TenantID]domain.Micros{}
	for _, v := range h.vms {
		used[v.alloc.tenant] += h.money.cost(v)
	}
	for _, t := range h.s.tenants {
		if used[t.ID] != h.money.posted[t.ID] {
			h.s.fail("tenant %s used %d and was posted %d", t.ID, used[t.ID], h.money.posted[t.ID])
		}
	}
}
