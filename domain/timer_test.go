package domain

import "testing"

// Deadlines that were overtaken do not pile up: a wipe's lies a day ahead, and most
// wipes take seconds.
func TestOvertakenDeadlinesAreForgotten(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.check = false
	h := s.host("h", 1, "r")
	s.sku("gpu-1x", 1, 1)
	f := s.tenant("acme", 1_000_000_000)
	most := 0
	for range 3000 {
		s.now = s.now.Add(Second)
		id := s.launch(f, "", "gpu-1x", 1)
		h.boot()
		s.release(f, id, h)
		most = max(most, len(s.w.timers.heap))
	}
	if most > 3*sweepFrom/2 {
		t.Fatalf("%d deadlines, with one VM at a time", most)
	}
	for i, x := range s.w.timers.heap {
		if i > 0 && x.before(s.w.timers.heap[(i-1)/2]) {
			t.Fatalf("deadline %d is before the one above it", i)
		}
	}
	s.check = true
	s.replays()
}

// The quick answer about money is never better than the exact one.
func TestQuickAnswerAboutMoney(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h", 8, "r")
	s.sku("gpu-1x", 1, 2_490_000)
	s.now = s.now.Add(Day)
	f := s.tenant("acme", 60_000_000)
	quick := 0
	for i := range 300 {
		if i%40 == 0 {
			if _, err := s.try(f.key, &CreateAllocation{Project: f.project, SKUName: "gpu-1x", Count: 1}); err == nil {
				h.boot()
			}
		}
		s.after(Minute + Duration(i))
		tn := s.w.tenants.get(f.id)
		exact := s.w.BalanceAt(tn, s.now).Available
		for _, amount := range []Micros{1, 2_490_000, exact - 1, exact, exact + 1} {
			have, ok := s.w.canSpend(tn, newPurse(s.w, tn, &Context{At: s.now}), amount)
			if ok != (exact >= amount) {
				t.Fatalf("after %d minutes: %d of %d (%d exactly): %v", i, amount, have, exact, ok)
			}
			if ok && have != exact {
				quick++
			}
		}
	}
	if quick == 0 {
		t.Fatal("the quick answer was never good enough")
	}
}

// Whoever goes on from a snapshot stops a tenant's allocations in the same order as
// who never ended: the log would not decide again as it did.
func TestSuspendedInOneOrder(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h", 8, "r")
	s.sku("gpu-1x", 1, 2_490_000)
	f := s.tenant("acme", 60_000_000)
	var ids []AllocationID
	for range 6 {
		ids = append(ids, s.launch(f, "", "gpu-1x", 1))
	}
	h.boot()
	s.release(f, ids[0], h) // the last line takes the place of the first
	for n := 0; s.w.tenants.get(f.id).State != TenantPastDue; n++ {
		if s.after(Minute); n == 24*60 {
			t.Fatal("it is never past due")
		}
	}
	due := s.w.tenants.get(f.id).GraceUntil
	s.to(due - 1)
	again, err := DecodeWorld(s.w.Encode())
	if err != nil {
		t.Fatal(err)
	}
	tick := s.command(System, &Tick{})
	a, b := s.w.Decide(due, tick), again.Decide(due, tick)
	if len(a.Events) != len(b.Events) || len(a.Events) < 6 {
		t.Fatalf("%d and %d events", len(a.Events), len(b.Events))
	}
	for i := range a.Events {
		if a.Events[i].Resource() != b.Events[i].Resource() {
			t.Errorf("event %d is about %s, from the snapshot about %s", i, a.Events[i].Resource(), b.Events[i].Resource())
		}
	}
}

// A deadline whose handling panics is parked, once, and takes no other with it: neither
// its tenant's later ones, whose purse it may have left half done, nor another tenant's.
func TestPanickingDeadlineIsParked(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.host("h", 8, "r")
	s.sku("gpu-1x", 1, 1)
	a, b := s.tenant("a", 1e9), s.tenant("b", 1e9)
	at := s.now.Add(Minute)
	create := func(f tenantFixture) AllocationID {
		for _, e := range s.must(f.key, &CreateAllocation{Project: f.project, SKUName: "gpu-1x", Count: 1, Expires: at}) {
			if p, ok := e.(*AllocationPlaced); ok {
				return p.ID
			}
		}
		t.Fatal("not placed")
		return AllocationID{}
	}
	bad, rest := create(a), []AllocationID{create(a), create(b)}
	s.check = false // what follows is no state that a log can lead to
	row := s.w.allocations.row(s.w.allocations.find(bad))
	vms := row.vms
	row.vms = []uint32{1 << 30}
	defer func() { row.vms = vms }()
	parked := 0
	s.now = at
	for range 10 { // as the loop does
		next := s.w.NextDeadline()
		if next == 0 || next > s.now {
			break
		}
		for _, e := range s.must(System, &Tick{}) {
			if p, ok := e.(*TimerParked); ok {
				if parked++; p.Kind != "expire" || p.Why == "" {
					t.Errorf("%+v", p)
				}
			}
		}
	}
	if parked != 1 {
		t.Errorf("parked %d times", parked)
	}
	for _, id := range rest {
		if x := s.w.allocations.get(id); x != nil && x.State < Releasing {
			t.Errorf("%s is %v", id, x.State)
		}
	}
	if x := s.w.allocations.get(bad); x == nil || x.State >= Releasing {
		t.Errorf("the broken one: %+v", x)
	}
}
