package domain

import (
	"fmt"
	"math/big"
	"slices"
	"testing"
)

// shadowMoney computes, beside the world and knowing nothing of how it accrues, what
// every tenant has used: each line's stretches of one price version in one month.
type shadowMoney struct {
	prices []PricePublished
	months map[TenantID][]Time // month starts, where they are not those of UTC
	lines  map[VMID]*shadowLine
	posted map[TenantID]Micros // revenue
	late   int
}

type shadowLine struct {
	alloc      AllocationID
	tenant     TenantID
	sku        SKUID
	gpus       uint32
	locked     Micros
	start, end Time
	free       bool
}

func newShadowMoney() *shadowMoney {
	return &shadowMoney{months: map[TenantID][]Time{}, lines: map[VMID]*shadowLine{}, posted: map[TenantID]Micros{}}
}

func (m *shadowMoney) see(events []EventBody) {
	for _, e := range events {
		switch e := e.(type) {
		case *PricePublished:
			m.prices = append(m.prices, *e)
			if e.Late {
				m.late++
			}
		case *AllocationPlaced:
			for _, v := range e.VMs {
				m.lines[v.VM] = &shadowLine{alloc: e.ID, tenant: e.Tenant, sku: e.SKU, gpus: e.Shape, locked: e.LockedRate}
			}
		case *VMBillable:
			m.lines[e.VM].start = e.At
		case *AllocationReleasing:
			for _, l := range m.lines {
				if l.alloc == e.ID && l.start != 0 {
					l.end, l.free = max(l.start, e.BilledTo), e.Free
				}
			}
		case *LedgerPosted:
			for _, l := range e.Legs {
				if l.Account.Kind == AccountRevenue {
					m.posted[e.Tenant] += l.Amount
				}
			}
		}
	}
}

// version is the price in force, as its place among those published, and month the
// billing period.
func (m *shadowMoney) version(l *shadowLine, t Time) int {
	best := -1
	for i := range m.prices {
		p := &m.prices[i]
		if p.SKU != l.sku || p.Effective > t || !p.Tenant.IsZero() && p.Tenant != l.tenant {
			continue
		}
		if best >= 0 {
			b := &m.prices[best]
			if own, bestOwn := !p.Tenant.IsZero(), !b.Tenant.IsZero(); own != bestOwn {
				if own {
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

func (m *shadowMoney) month(l *shadowLine, t Time) string {
	if months := m.months[l.tenant]; months != nil {
		n := 0
		for n < len(months) && months[n] <= t {
			n++
		}
		return fmt.Sprint(n)
	}
	return t.Std().Format("2006-01")
}

func (m *shadowMoney) cost(l *shadowLine) *big.Int {
	sum := new(big.Int)
	if l.start == 0 || l.free {
		return sum
	}
	cuts := []Time{l.start, l.end}
	for _, p := range m.prices {
		cuts = append(cuts, p.Effective)
	}
	cuts = append(cuts, m.months[l.tenant]...)
	for y := 2026; y < 2028; y++ {
		for mo := 1; mo <= 12; mo++ {
			cuts = append(cuts, at(fmt.Sprintf("%d-%02d-01T00:00:00Z", y, mo)))
		}
	}
	slices.Sort(cuts)
	key := func(t Time) string {
		if l.locked >= 0 {
			return m.month(l, t)
		}
		return fmt.Sprint(m.version(l, t), " ", m.month(l, t))
	}
	for from := l.start; from < l.end; {
		to := l.end
		for _, c := range cuts {
			if c > from && c < to && key(c) != key(from) {
				to = c
			}
		}
		rate := l.locked
		if rate < 0 {
			rate = m.prices[m.version(l, from)].Micros
		}
		n := new(big.Int).Mul(big.NewInt(int64(rate)), big.NewInt(int64(l.gpus)))
		sum.Add(sum, n.Mul(n, big.NewInt(int64(to-from))).Div(n, big.NewInt(int64(Hour))))
		from = to
	}
	return sum
}

// check compares what was posted with what was used; every line has ended.
func (m *shadowMoney) check(t interface{ Fatalf(string, ...any) }) {
	used := map[TenantID]*big.Int{}
	for _, l := range m.lines {
		if used[l.tenant] == nil {
			used[l.tenant] = new(big.Int)
		}
		used[l.tenant].Add(used[l.tenant], m.cost(l))
	}
	for tenant, want := range used {
		if got := m.posted[tenant]; !want.IsInt64() || want.Int64() != int64(got) {
			t.Fatalf("tenant %s: posted %d, used %s", tenant, got, want)
		}
	}
}

// The shadow itself, on figures worked out by hand.
func TestShadowMoney(t *testing.T) {
	t.Parallel()
	m := newShadowMoney()
	m.prices = []PricePublished{
		{Micros: 2_490_000, Effective: at("2026-03-01T00:00:00Z")},
		{Micros: 2_190_000, Effective: at("2026-03-10T00:00:00Z")},
	}
	l := &shadowLine{gpus: 1, locked: -1, start: at("2026-03-01T00:00:00Z"), end: at("2026-03-15T00:00:00Z")}
	if got := m.cost(l); got.Int64() != 800_640_000 {
		t.Fatal(got)
	}
}
