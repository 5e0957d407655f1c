package domain

import (
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

func at(s string) Time {
	var t Time
	if err := t.UnmarshalText([]byte(s)); err != nil {
		panic(err)
	}
	return t
}

// running brings one VM of a SKU up at t, with no ledger of its own yet.
func (s *site) running(h *fakeHost, f tenantFixture, sku string, start Time) AllocationID {
	s.t.Helper()
	s.to(start)
	id := s.launch(f, "", sku, 1)
	h.boot()
	return id
}

func (s *site) used(f tenantFixture) Micros { return s.account(AccountRevenue) }

// A rate that does not end in whole micros a second charges the same however
// often one meters: rounding or flooring each second would be off by hundreds.
func TestChargeDoesNotDependOnTicks(t *testing.T) {
	t.Parallel()
	start, stop := at("2026-03-02T10:00:00Z"), at("2026-03-02T11:00:01Z")
	if got := accrued(2_490_000, 1, stop.Sub(start)); got != 2_490_691 {
		t.Fatalf("3601 s at 2.49/h: %d", got)
	}
	rapid.Check(t, func(t *rapid.T) {
		rate := Micros(rapid.Int64Range(0, 1e12).Draw(t, "rate"))
		q := rapid.Uint32Range(0, 4096).Draw(t, "quantity")
		var posted Micros
		var elapsed Duration
		for range rapid.IntRange(1, 20).Draw(t, "ticks") {
			next := elapsed + Duration(rapid.Int64Range(0, int64(40*Day)).Draw(t, "step"))
			posted += accrued(rate, q, next) - accrued(rate, q, elapsed)
			elapsed = next
		}
		want := new(big.Int).Mul(big.NewInt(int64(rate)), big.NewInt(int64(q)))
		want.Mul(want, big.NewInt(int64(elapsed))).Div(want, big.NewInt(int64(Hour)))
		if !want.IsInt64() || posted != Micros(want.Int64()) {
			t.Fatalf("posted %d, exactly %s", posted, want)
		}
	})
}

func TestPriceChangeMidHour(t *testing.T) {
	t.Parallel()
	for _, locked := range []bool{false, true} {
		s := newSite(t)
		h := s.host("h", 1, "r")
		sku := s.sku("gpu-1x", 1, 2_490_000)
		f := s.tenant("acme", 100_000_000)
		s.must(s.admin, &PublishPrice{SKU: sku, Currency: "USD", Micros: 1_990_000, Effective: t0.Add(37*Minute + 13*Second)})
		id := s.must(f.key, &CreateAllocation{Project: f.project, SKUName: "gpu-1x", Count: 1, LockPrice: locked})[0].(*AllocationPlaced).ID
		h.boot()
		s.after(Hour)
		s.release(f, id, h)
		want := Micros(1_544_491 + 755_647)
		if locked {
			want = 2_490_000
		}
		if got := s.used(f); got != want {
			t.Errorf("locked %v: charged %d, want %d", locked, got, want)
		}
		s.replays()
	}
}

// Months are the billing period: a line's floor falls at the boundary.
func TestPeriodBoundarySplitsALine(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h", 1, "r")
	s.sku("gpu-1x", 1, 1)
	f := s.tenant("acme", 100_000_000)
	id := s.running(h, f, "gpu-1x", at("2026-03-31T23:30:00Z"))
	s.after(Hour) // half a micro in each month: nothing in either
	s.release(f, id, h)
	if got := s.used(f); got != 0 {
		t.Fatalf("charged %d", got)
	}
}

func TestCreditBurnsByPriorityExpiryAge(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h", 1, "r")
	s.sku("gpu-1x", 1, 500_000)
	f := s.tenant("acme", 0)
	s.to(at("2026-03-09T00:00:00Z"))
	grants := map[string]GrantID{}
	for _, g := range []struct {
		name     string
		kind     GrantKind
		amount   Micros
		priority uint32
		expires  string
	}{
		{"G1", GrantPromotional, 5_000_000, 10, "2026-03-15T00:00:00Z"},
		{"G2", GrantPaid, 20_000_000, 20, ""},
		{"G3", GrantPromotional, 10_000_000, 10, "2026-03-10T00:00:00Z"},
		{"G4", GrantPromotional, 3_000_000, 5, "2026-03-12T00:00:00Z"},
	} {
		m := &GrantCredit{Tenant: f.id, Currency: "USD", Amount: g.amount, Kind: g.kind, Priority: g.priority}
		if g.expires != "" {
			m.Expires = at(g.expires)
		}
		for _, e := range s.must(s.admin, m) {
			if e, ok := e.(*CreditGranted); ok {
				grants[g.name] = e.ID
			}
		}
	}
	id := s.launch(f, "", "gpu-1x", 1)
	h.boot()
	s.to(at("2026-03-11T00:00:00Z"))
	s.release(f, id, h)
	for name, want := range map[string]Micros{"G1": 0, "G2": 13_000_000, "G3": 0, "G4": 0} {
		if got := s.w.grants.get(grants[name]).Balance; got != want {
			t.Errorf("%s has %d left, want %d", name, got, want)
		}
	}
	if got := s.used(f); got != 24_000_000 {
		t.Errorf("used %d", got)
	}
	// 18 of promotions were granted, 1 of G3 lapsed: the expense is what was used.
	if got := s.account(AccountPromoExpense); got != -17_000_000 {
		t.Errorf("promo expense %d", got)
	}
	s.replays()
}

// What does not fit into the hold spills into lots, and then is owed.
func TestUsageBeyondTheCredit(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h", 8, "r")
	s.sku("gpu-8x", 8, 1_000_000)
	f := s.tenant("acme", 12_000_000)
	id := s.running(h, f, "gpu-8x", t0.Add(Hour))
	start := s.now
	s.refused(f.key, &CreateAllocation{Project: f.project, SKUName: "gpu-8x", Count: 1}, "funds.insufficient")
	s.to(start.Add(90 * Minute)) // 8 in the first hour, 4 in the next half: nothing left
	if b := s.balance(f); b.Available != 0 || b.Held != 0 {
		t.Fatalf("%+v", b)
	}
	s.after(5 * Minute)
	if st := s.w.tenants.get(f.id).State; st != TenantPastDue {
		t.Fatalf("the credit has ended and the tenant is %s", st)
	}
	s.refused(f.key, &CreateAllocation{Project: f.project, SKUName: "gpu-8x", Count: 1}, "tenant.past_due")
	s.to(start.Add(90*Minute + Day + 10*Minute))
	if st := s.w.tenants.get(f.id).State; st != TenantSuspended {
		t.Fatalf("the grace has ended and the tenant is %s", st)
	}
	if v := h.placement().Desired.VMs[0]; v.Power != PowerOff {
		t.Fatal("the compute of a suspended tenant goes on")
	}
	h.vm(ReportStopped, h.placement().Desired.VMs[0], s.now)
	s.refused(f.key, &ActOnAllocation{Allocation: id, Action: ActionStart}, "tenant.suspended")
	end := s.now
	s.must(s.admin, &GrantCredit{Tenant: f.id, Currency: "USD", Amount: 1_000_000_000, Kind: GrantPaid})
	if st := s.w.tenants.get(f.id).State; st != TenantActive {
		t.Fatalf("paid, and the tenant is %s", st)
	}
	s.release(f, id, h)
	used := accrued(1_000_000, 8, end.Sub(start))
	if got := s.used(f); got != used {
		t.Fatalf("used %d, want %d", got, used)
	}
	if b := s.balance(f); b.Available != 1_012_000_000-used || b.Receivable != used-12_000_000 {
		t.Fatalf("%+v", b)
	}
	s.replays()
}

// Credit makes a tenant active again when it is more than the debt, not before.
func TestCreditBelowTheDebt(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h", 8, "r")
	s.sku("gpu-8x", 8, 1_000_000)
	f := s.tenant("acme", 12_000_000)
	s.running(h, f, "gpu-8x", t0.Add(Hour))
	s.after(2 * Day)
	h.vm(ReportStopped, h.placement().Desired.VMs[0], s.now)
	debt := -s.balance(f).Available
	if st := s.w.tenants.get(f.id).State; st != TenantSuspended || debt <= 0 {
		t.Fatalf("%s, with a debt of %d", st, debt)
	}
	for _, c := range []struct {
		amount Micros
		want   TenantState
	}{{1, TenantSuspended}, {debt - 2, TenantSuspended}, {1, TenantSuspended}, {1, TenantActive}} {
		e := s.must(s.admin, &GrantCredit{Tenant: f.id, Currency: "USD", Amount: c.amount, Kind: GrantPaid})
		if st := s.w.tenants.get(f.id).State; st != c.want {
			t.Fatalf("%d more and %d available, and the tenant is %s: %+v", c.amount, s.balance(f).Available, st, e)
		}
	}
	s.replays()
}

// A failure of the provider's making is free; a guest of the tenant's that never
// reports is not.
func TestWhatIsCharged(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h", 8, "r")
	s.sku("gpu-1x", 1, 3_600_000) // 1 micro a millisecond
	f := s.tenant("acme", 100_000_000)

	s.launch(f, "never-starts", "gpu-1x", 1)
	s.after(Hour)
	if s.used(f) != 0 || s.balance(f).Available != 100_000_000 {
		t.Fatalf("never started, charged %d", s.used(f))
	}

	id := s.launch(f, "fails", "gpu-1x", 1)
	v := h.placement().Desired.VMs[0]
	h.vm(ReportStarted, v, s.now)
	h.vm(ReportAlive, v, s.now)
	s.after(Minute)
	h.report(Report{Kind: ReportFailed, VM: &VMReport{VM: v.VM, Boot: 1, At: s.now, Reason: "gpu.lost"}})
	if s.used(f) != 0 || s.balance(f).Available != 100_000_000 {
		t.Fatalf("the provider's failure is free, charged %d", s.used(f))
	}
	if st := s.w.allocations.get(id).State; st != Failed {
		t.Fatal(st)
	}

	s.launch(f, "silent-guest", "gpu-1x", 1)
	v = h.placement().Desired.VMs[0]
	started := s.now
	h.vm(ReportStarted, v, s.now)
	s.to(started.Add(billAnywayAfter + Minute))
	if b := s.balance(f); b.Unbilled != Micros(Minute) {
		t.Fatalf("billed from five minutes after the start: %+v", b)
	}
	s.replays()
}

func TestExactBalanceAtAnyInstant(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h", 2, "r")
	s.sku("gpu-1x", 1, 2_490_000)
	f := s.tenant("acme", 1_000_000_000)
	id := s.running(h, f, "gpu-1x", t0.Add(Minute))
	start := s.now
	for _, d := range []Duration{1, 999, Minute, 59 * Minute, Hour, Hour + 1, 2*Hour + 17, 3 * Day, 3*Day + 1} {
		s.to(start.Add(d))
		b := s.balance(f)
		want := accrued(2_490_000, 1, d)
		if got := 1_000_000_000 - b.Available - b.Held; got != want {
			t.Fatalf("after %v: %d is gone, want %d", d.Std(), got, want)
		}
	}
	s.release(f, id, h)
	if got := s.used(f); got != accrued(2_490_000, 1, s.now.Sub(start)) {
		t.Fatalf("used %d", got)
	}
	s.replays()
}

func TestLeapSecondIsRefused(t *testing.T) {
	t.Parallel()
	var v Time
	if err := v.UnmarshalText([]byte("2016-12-31T23:59:60Z")); err == nil {
		t.Fatal("a second of 60 was read")
	}
}
