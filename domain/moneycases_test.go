package domain

import (
	"testing"
	"time"
)

// Worked cases with exact figures, beside those of money_test.go: late prices, time
// zones, holds, other currencies, and a stop that is known only after its month.

// ledger collects the transactions of a kind, in the order of the log.
func (s *site) ledger(kind TxKind) (txs []*LedgerPosted) {
	for _, b := range s.log {
		c, err := DecodeCommit(b)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, d := range c.Decisions {
			for _, e := range d.Events {
				if tx, ok := e.Body.(*LedgerPosted); ok && (kind == 0 || tx.Kind == kind) {
					txs = append(txs, tx)
				}
			}
		}
	}
	return txs
}

func revenueOf(tx *LedgerPosted) (sum Micros) {
	for _, l := range tx.Legs {
		if l.Account.Kind == AccountRevenue {
			sum += l.Amount
		}
	}
	return sum
}

// settled posts the tenant's usage up to now: a credit does that.
func (s *site) settled(f tenantFixture) {
	s.t.Helper()
	s.must(s.admin, &GrantCredit{Tenant: f.id, Currency: s.w.tenants.get(f.id).Currency, Amount: 1, Kind: GrantPaid})
}

// A price from 10 March on is published on the 15th: the usage since then is
// corrected by a new transaction that names the original.
func TestPricePublishedLate(t *testing.T) {
	t.Parallel()
	const credit = 2_000_000_000
	s := newSiteAt(t, at("2026-02-27T12:00:00Z"))
	h := s.host("h", 1, "r")
	sku := s.sku("gpu-1x", 1, 2_490_000)
	f := s.tenant("acme", credit)
	id := s.running(h, f, "gpu-1x", at("2026-03-01T00:00:00Z"))
	gone := func() Micros { b := s.balance(f); return credit - b.Available - b.Held + b.Receivable }

	s.to(at("2026-03-14T23:59:59Z"))
	if got := gone(); got != 836_639_308 {
		t.Fatalf("before anyone knew: %d", got)
	}
	s.to(at("2026-03-15T00:00:00Z"))
	s.settled(f)
	before := s.ledger(0)
	s.refused(s.admin, &PublishPrice{SKU: sku, Currency: "USD", Micros: 2_190_000, Effective: at("2026-02-28T23:00:00Z")}, "price.period_closed")
	late := s.must(s.admin, &PublishPrice{SKU: sku, Currency: "USD", Micros: 2_190_000, Effective: at("2026-03-10T00:00:00Z")})[0].(*PricePublished)
	if !late.Late {
		t.Fatal("the price is not known to be late")
	}
	if got := gone() + 1; got != 800_640_000 {
		t.Fatalf("216 h at 2.49 and 120 h at 2.19 are 800.64, the balance says %d", got)
	}
	s.to(s.now) // the deadline is due at once
	corrections := s.ledger(TxCorrection)
	if len(corrections) != 1 {
		t.Fatalf("%d corrections", len(corrections))
	}
	c := corrections[0]
	original := before[len(before)-2] // the last but the credit's
	if got := revenueOf(c); got != -36_000_000 || c.Corrects != original.Tx || original.Kind != TxAccrual || c.Price != late.ID {
		t.Fatalf("%d micros, corrects %s (the last accrual was %s)", got, c.Corrects, original.Tx)
	}
	if c.From != late.Effective || c.To != s.now {
		t.Fatalf("corrects the usage from %s to %s", c.From, c.To)
	}
	if got := s.used(f); got != 800_640_000 {
		t.Fatalf("posted %d", got)
	}
	s.after(Hour)
	s.release(f, id, h)
	if got := s.used(f); got != 800_640_000+2_190_000 {
		t.Fatalf("an hour later: %d", got)
	}
	s.replays()
}

// Lines that ended, tenants with their own price, locked prices and a dearer price:
// each is corrected by what it is.
func TestLatePriceReachesWhatItConcerns(t *testing.T) {
	t.Parallel()
	s := newSiteAt(t, at("2026-03-01T12:00:00Z"))
	h := s.host("h", 8, "r")
	sku := s.sku("gpu-1x", 1, 1_000_000)
	s.sku("other", 1, 1_000_000)
	ended, locked, own, short := s.tenant("ended", 1e9), s.tenant("locked", 1e9), s.tenant("own", 1e9), s.tenant("short", 1e9)
	s.must(s.admin, &PublishPrice{SKU: sku, Tenant: own.id, Currency: "USD", Micros: 500_000})
	gone := s.launch(ended, "", "gpu-1x", 1)
	other := s.launch(ended, "", "other", 1)
	lock := s.must(locked.key, &CreateAllocation{Project: locked.project, SKUName: "gpu-1x", Count: 1, LockPrice: true})[0].(*AllocationPlaced).ID
	mine := s.launch(own, "", "gpu-1x", 1)
	h.boot()
	start := s.now
	s.after(4 * Hour)
	s.release(ended, gone, h)
	quick := s.launch(short, "", "gpu-1x", 1)
	h.boot()
	s.after(30 * Minute) // inside its first hour: nothing is posted of it yet
	s.must(s.admin, &PublishPrice{SKU: sku, Currency: "USD", Micros: 3_000_000, Effective: start.Add(2 * Hour)})
	s.must(s.admin, &PublishPrice{SKU: sku, Currency: "USD", Micros: 2_000_000, Effective: start.Add(3 * Hour)})
	s.release(ended, other, h)
	s.release(locked, lock, h)
	s.release(own, mine, h)
	s.release(short, quick, h)
	s.to(s.now)
	spent := func(f tenantFixture) Micros { b := s.balance(f); return 1e9 - b.Available + b.Receivable }
	for name, c := range map[string]struct {
		f    tenantFixture
		want Micros
	}{
		"ended":  {ended, 2_000_000 + 3_000_000 + 2_000_000 + 4_500_000},
		"locked": {locked, 4_500_000},
		"own":    {own, 2_250_000},
		"short":  {short, 1_000_000},
	} {
		if got := spent(c.f); got != c.want {
			t.Errorf("%s spent %d, want %d", name, got, c.want)
		}
	}
	s.replays()
}

// Days and months of a billing time zone: a day of 23 hours, one of 25, and a March
// of 743.
func TestBillingTimeZone(t *testing.T) {
	t.Parallel()
	zone, err := time.LoadLocation("America/New_York")
	if err != nil {
		t.Skip("no time zone database here: ", err)
	}
	local := func(y int, m time.Month, d int) Time { return TimeOf(time.Date(y, m, d, 0, 0, 0, 0, zone)) }
	var months []Time
	for i := range 12 * 10 {
		months = append(months, local(2026, time.Month(1+i), 1))
	}
	s := newSiteAt(t, at("2026-02-27T12:00:00Z"))
	h := s.host("h", 1, "r")
	s.sku("gpu-1x", 1, 2_000_000)
	m := &CreateTenant{Name: "acme", Currency: "USD", Zone: "America/New_York", Months: months}
	f := s.tenantOf(m, 20_000_000_000)
	if got := s.w.tenants.get(f.id).Zone(); got != "America/New_York" {
		t.Fatal(got)
	}
	if again := s.must(s.admin, &CreateTenant{Name: "two", Currency: "USD", Zone: m.Zone, Months: months}); len(again) != 1 {
		t.Fatal("the same months were published twice")
	}
	s.running(h, f, "gpu-1x", local(2026, time.March, 1))
	if got := s.w.tenants.get(f.id).calendar.end(s.now); got != at("2026-04-01T04:00:00Z") || s.now != at("2026-03-01T05:00:00Z") {
		t.Fatalf("March is from %s to %s", s.now, got)
	}
	used := func(from, to Time) Micros {
		t.Helper()
		s.to(from)
		before := s.balance(f)
		s.to(to)
		after := s.balance(f)
		return before.Available + before.Held - after.Available - after.Held
	}
	if got := used(local(2026, 3, 8), local(2026, 3, 9)); got != 46_000_000 {
		t.Errorf("8 March: %d", got)
	}
	s.to(local(2026, 4, 2))
	var march Micros
	for _, tx := range s.ledger(0) {
		if tx.Effective > local(2026, 3, 1) && tx.Effective <= local(2026, 4, 1) {
			march += revenueOf(tx)
		}
	}
	if march != 1_486_000_000 {
		t.Errorf("March, 743 hours: posted %d", march)
	}
	s.replays()

	autumn := newSiteAt(t, at("2026-10-31T00:00:00Z"))
	h = autumn.host("h", 1, "r")
	autumn.sku("gpu-1x", 1, 2_000_000)
	late := autumn.tenantOf(&CreateTenant{Name: "acme", Currency: "USD", Zone: m.Zone, Months: months}, 1_000_000_000)
	autumn.running(h, late, "gpu-1x", local(2026, 11, 1))
	autumn.to(local(2026, 11, 2))
	if b := autumn.balance(late); 1_000_000_000-b.Available-b.Held != 50_000_000 {
		t.Errorf("1 November: %+v", b)
	}

	for name, bad := range map[string][]Time{
		"none": nil, "one": months[:1], "too short ahead": months[:24], "begins later": months[4:],
		"not rising": append([]Time{months[1]}, months...), "not months": append([]Time{months[0].Add(-Day)}, months...),
	} {
		if _, err := s.try(s.admin, &CreateTenant{Name: "b" + name[:1], Currency: "USD", Zone: "Europe/Berlin", Months: bad}); err == nil || err.Code != "time_zone.bad_months" {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Other rules for the future: what has begun stays.
	changed := append([]Time(nil), months...)
	for i := range changed {
		changed[i] += Time(Hour)
	}
	events := s.must(s.admin, &CreateTenant{Name: "three", Currency: "USD", Zone: m.Zone, Months: changed})
	cal := s.w.tenants.get(f.id).calendar
	if len(events) != 2 || cal.end(local(2026, 3, 5)) != local(2026, 4, 1) || cal.end(local(2027, 1, 5)) != local(2027, 2, 1).Add(Hour) {
		t.Errorf("%d events, %s, %s", len(events), cal.end(local(2026, 3, 5)), cal.end(local(2027, 1, 5)))
	}
	s.replays()
}

// Holds, a top-up between them, a capture that gives the rest back, and a hold that
// was never used.
func TestOverlappingHolds(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h", 8, "r")
	s.sku("a", 1, 8_000_000)
	s.sku("b", 1, 5_000_000)
	f := s.tenant("acme", 10_000_000)
	available := func(want Micros) {
		t.Helper()
		if got := s.balance(f).Available; got != want {
			t.Fatalf("available %d, want %d", got, want)
		}
	}
	a := s.launch(f, "a", "a", 1)
	h.boot()
	s.after(40 * Minute)
	available(2_000_000)
	s.refused(f.key, &CreateAllocation{Project: f.project, SKUName: "b", Count: 1}, "funds.insufficient")
	s.must(s.admin, &GrantCredit{Tenant: f.id, Currency: "USD", Amount: 5_000_000, Kind: GrantPaid})
	available(7_000_000)
	b := s.launch(f, "b", "b", 1)
	available(2_000_000)
	s.after(8*Minute + 45*Second) // 48.75 minutes at 8 an hour are 6.5
	s.release(f, a, h)
	available(3_500_000)
	s.release(f, b, h)
	available(8_500_000)
	s.refused(f.key, &ActOnAllocation{Allocation: b, Action: ActionRelease}, "allocation.not_found")
	available(8_500_000)
	if bal := s.balance(f); bal.Held != 0 || bal.Receivable != 0 || s.used(f) != 6_500_000 {
		t.Fatalf("%+v, revenue %d", bal, s.used(f))
	}
	s.replays()
}

// A credit with one Idempotency-Key is granted once; the same key with another
// amount is refused; another key grants again.
func TestCreditIsGrantedOnceForAKey(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	f := s.tenant("acme", 0)
	send := func(key byte, amount Micros) *Error {
		c := s.command(s.admin, &GrantCredit{Tenant: f.id, Currency: "USD", Amount: amount, Kind: GrantPaid})
		c.IdemKey, c.BodyHash = Digest{key}, DigestOf([]byte{byte(amount >> 16)})
		_, err := s.tryCommand(c)
		return err
	}
	for range 50 {
		if err := send(1, 25_000_000); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.balance(f).Available; got != 25_000_000 {
		t.Fatalf("available %d", got)
	}
	if err := send(1, 30_000_000); err == nil || err.Code != "idempotency.conflict" {
		t.Fatal(err)
	}
	if err := send(2, 25_000_000); err != nil || s.balance(f).Available != 50_000_000 {
		t.Fatalf("%v, available %d", err, s.balance(f).Available)
	}
	s.replays()
}

// Micros are 10^-6 of the major unit in every currency: nothing depends on how many
// digits its coins have.
func TestOtherCurrencies(t *testing.T) {
	t.Parallel()
	for currency, c := range map[Currency]struct {
		price   Micros
		seconds Duration
		want    Micros
	}{
		"JPY": {398_000_000, 100, 11_055_555},
		"KWD": {763_000, 5400, 1_144_500},
	} {
		s := newSite(t)
		h := s.host("h", 1, "r")
		sku := s.sku("gpu-1x", 1, 1)
		s.must(s.admin, &PublishPrice{SKU: sku, Currency: currency, Micros: c.price})
		f := s.tenantOf(&CreateTenant{Name: "acme", Currency: currency}, 1_000_000_000)
		id := s.launch(f, "", "gpu-1x", 1)
		h.boot()
		s.after(c.seconds * Second)
		s.release(f, id, h)
		if got := s.used(f); got != c.want {
			t.Errorf("%s: %d, want %d", currency, got, c.want)
		}
		s.replays()
	}
}

// A host is known on 3 February to have been dead since 31 January, 23:30: what was
// posted since then is given back month by month, by transactions that name the
// original.
func TestStopKnownAfterItsMonth(t *testing.T) {
	t.Parallel()
	s := newSiteAt(t, at("2026-01-30T00:00:00Z"))
	h := s.host("h", 1, "r")
	s.sku("gpu-1x", 1, 3_200_000)
	f := s.tenant("acme", 1_000_000_000)
	s.running(h, f, "gpu-1x", at("2026-01-31T00:00:00Z"))
	stop, february := at("2026-01-31T23:30:00Z"), at("2026-02-01T00:00:00Z")
	posted := func(from, to Time) (sum Micros) {
		for _, tx := range s.ledger(0) {
			if tx.Effective > from && tx.Effective <= to && tx.Kind != TxCorrection {
				sum += revenueOf(tx)
			}
		}
		return sum
	}
	s.to(at("2026-02-03T00:00:00Z"))
	s.settled(f)
	if got := posted(0, february); got != 76_800_000 {
		t.Fatalf("January: %d", got)
	}
	if got := posted(february, s.now); got != 153_600_000 {
		t.Fatalf("February: %d", got)
	}
	s.must(System, &ActOnHost{Host: h.id, Action: HostSilent, Since: stop})
	s.must(s.admin, &ActOnHost{Host: h.id, Action: HostPoweredOff})
	s.after(0)
	accruals := s.ledger(TxAccrual)
	last := accruals[len(accruals)-1].Tx
	corrections := s.ledger(TxCorrection)
	if len(corrections) != 2 {
		t.Fatalf("%d corrections", len(corrections))
	}
	for i, want := range []struct {
		amount   Micros
		from, to Time
	}{{-1_600_000, stop, february}, {-153_600_000, february, s.now}} {
		c := corrections[i]
		if revenueOf(c) != want.amount || c.From != want.from || c.To != want.to || c.Corrects != last || c.Allocation.IsZero() {
			t.Errorf("correction %d: %d from %s to %s of %s", i, revenueOf(c), c.From, c.To, c.Corrects)
		}
	}
	if got := s.used(f); got != 75_200_000 || posted(0, february) != 76_800_000 {
		t.Fatalf("23.5 hours are 75.2: %d; January as it was posted: %d", got, posted(0, february))
	}
	s.replays()
}
