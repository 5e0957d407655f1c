package domain

import "testing"

// A first hour that is in two months is posted in two parts, and billed once.
func TestFirstHourInTwoMonths(t *testing.T) {
	t.Parallel()
	s := newSiteAt(t, at("2026-03-31T12:00:00Z"))
	h := s.host("h", 1, "r")
	s.sku("gpu-1x", 1, 1_000_000)
	f := s.tenant("acme", 100_000_000)
	id := s.running(h, f, "gpu-1x", at("2026-03-31T23:30:00Z"))
	s.after(3 * Hour)
	s.release(f, id, h)
	parts := s.ledger(TxCapture)
	if len(parts) != 2 || revenueOf(parts[0]) != 500_000 || revenueOf(parts[1]) != 500_000 || parts[0].Effective != at("2026-04-01T00:00:00Z") {
		t.Errorf("%d parts: %+v", len(parts), parts)
	}
	if got := s.used(f); got != 3_000_000 {
		t.Errorf("used %d", got)
	}
	s.replays()
}

// A first hour in two months that is reported late, when hours of the second month are
// posted: the next posting is after those.
func TestFirstHourInTwoMonthsReportedLate(t *testing.T) {
	t.Parallel()
	s := newSiteAt(t, at("2026-03-31T12:00:00Z"))
	first, second := s.host("first", 1, "r"), s.host("second", 1, "r")
	s.sku("gpu-1x", 1, 1_000_000)
	f := s.tenant("acme", 100_000_000)
	began := at("2026-03-31T21:00:00Z")
	ended := s.running(first, f, "gpu-1x", began)
	s.to(at("2026-03-31T23:20:00Z"))
	late := s.launch(f, "", "gpu-1x", 1)
	v := second.placement().Desired.VMs[0]
	tenant := s.w.tenants.get(f.id)
	s.now = tenant.AccrueAt.Add(2*Hour - Minute) // nobody writes until then
	s.must(System, &StartWriter{Site: "test", Build: "test", LogicLevel: LogicLevel})
	s.to(s.now)
	until := s.now
	s.release(f, ended, first)
	s.after(2 * Minute)
	if posted := tenant.AccruedTo; tenant.AccrueAt != 0 || posted < at("2026-04-01T01:00:00Z") {
		t.Fatalf("posted to %s, next at %s", posted, tenant.AccrueAt)
	}
	alive := at("2026-03-31T23:25:00Z")
	second.vm(ReportStarted, v, alive)
	second.vm(ReportAlive, v, alive)
	s.to(s.now)
	if next := tenant.AccrueAt; next <= s.now {
		t.Errorf("the next posting is at %s, it is %s", next, s.now)
	}
	s.after(3 * Hour)
	s.release(f, late, second)
	if got, want := s.used(f), accrued(1_000_000, 1, until.Sub(began))+accrued(1_000_000, 1, s.now.Sub(alive)); got < want-2 || got > want {
		t.Errorf("used %d, want %d", got, want)
	}
	s.replays()
}

// What ended in a closed period is forgotten, what ended in the open one is not.
func TestLatePriceAfterAMonthWasClosed(t *testing.T) {
	t.Parallel()
	s := newSiteAt(t, at("2026-03-30T00:00:00Z"))
	h := s.host("h", 4, "r")
	sku := s.sku("gpu-1x", 1, 1_000_000)
	f := s.tenant("acme", 1_000_000_000)
	march, april, later := s.launch(f, "", "gpu-1x", 1), s.launch(f, "", "gpu-1x", 1), s.launch(f, "", "gpu-1x", 1)
	h.boot()
	s.to(at("2026-03-31T00:00:00Z"))
	s.release(f, march, h)
	s.to(at("2026-04-01T10:00:00Z"))
	s.release(f, april, h)
	if n := len(s.w.tenants.get(f.id).ended); n != 2 {
		t.Fatalf("March is open for a day more: %d lines", n)
	}
	s.to(at("2026-04-02T02:00:00Z"))
	s.release(f, later, h)
	if n := len(s.w.tenants.get(f.id).ended); n != 2 {
		t.Fatalf("%d lines of the open period", n)
	}
	used := s.used(f)
	s.refused(s.admin, &PublishPrice{SKU: sku, Currency: "USD", Micros: 2_000_000, Effective: at("2026-03-31T23:00:00Z")}, "price.period_closed")
	s.must(s.admin, &PublishPrice{SKU: sku, Currency: "USD", Micros: 2_000_000, Effective: at("2026-04-01T05:00:00Z")})
	s.to(s.now)
	if got := s.used(f) - used; got != 5_000_000+21_000_000 {
		t.Fatalf("corrected by %d", got)
	}
	s.replays()
}
