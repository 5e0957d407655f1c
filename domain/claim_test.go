package domain

import "testing"

// claims is a VM that was placed and not heard of yet. Times are minutes from then.
type claims struct {
	*site
	h *fakeHost
	f tenantFixture
	v PlacedVM
}

func newClaims(t *testing.T) *claims {
	t.Helper()
	s := newSite(t)
	h := s.host("h1", 1, "r")
	s.sku("gpu-1x", 1, 3_600_000)
	f := s.tenant("acme", 1e9)
	s.now = t0.Add(Day)
	s.launch(f, "", "gpu-1x", 1)
	return &claims{s, h, f, h.placement().Desired.VMs[0]}
}

// at is the minute's time, and no deadline is handled on the way there.
func (c *claims) at(minute float64) Time {
	return t0.Add(Day + Duration(minute*float64(Minute)))
}

func (c *claims) decided(minute float64) {
	c.now = c.at(minute)
	c.must(c.admin, &GrantCredit{Tenant: c.f.id, Currency: "USD", Amount: 1, Kind: GrantPaid})
}

func (c *claims) outage(from, to float64) {
	c.decided(from)
	c.now = c.at(to)
	c.must(System, &StartWriter{Site: "test", LogicLevel: LogicLevel})
}

func (c *claims) silent(from, noticed float64) {
	c.now = c.at(noticed)
	c.must(System, &ActOnHost{Host: c.h.id, Action: HostSilent, Since: c.at(from)})
}

func (c *claims) back(at float64) {
	c.now = c.at(at)
	c.must(System, &ActOnHost{Host: c.h.id, Action: HostInTouch})
}

// A bill begins where the host says, as far as the report's receipt, and the times in
// which no report could come, bear it out.
func TestClaimedTimes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name                    string
		before                  func(c *claims)
		received, claimed, want float64
	}{
		{"soon", nil, 5, 1, 1},
		{"at the end of the allowance", nil, 12, 2, 2},
		{"later than anything explains", nil, 12, 1, 2},
		{"before it was placed", nil, 5, -5, 0},
		{"before it was placed, and late", nil, 60, -5, 50},
		{"in the future", nil, 5, 9, 5},
		{"nobody wrote", func(c *claims) { c.outage(0, 60) }, 60, 1, 1},
		{"nobody wrote, and some time went by after", func(c *claims) { c.outage(3, 60) }, 67, 1, 1},
		{"nobody wrote, and too much went by after", func(c *claims) { c.outage(3, 60) }, 69, 1, 2},
		{"nobody wrote long ago", func(c *claims) { c.outage(3, 60) }, 71, 1, 61},
		{"two outages", func(c *claims) { c.outage(2, 30); c.outage(34, 60) }, 63, 1, 1},
		{"two outages, and what is between them counts", func(c *claims) { c.outage(4, 30); c.outage(35, 60) }, 63, 1, 2},
		{"a writer that came and went", func(c *claims) {
			for minute := 1.0; minute < 60; minute++ {
				c.outage(minute, minute+0.5)
			}
		}, 60, 1, 1},
		{"more outages than are remembered", func(c *claims) {
			for minute := 0.0; minute < 60; minute += 3 {
				c.outage(minute+1, minute+3)
			}
		}, 60, 1, 34},
		{"the host is not heard", func(c *claims) { c.silent(2, 3) }, 40, 1, 1},
		{"the host was not heard", func(c *claims) { c.silent(2, 3); c.back(40) }, 41, 1, 1},
		{"the host was not heard some time ago", func(c *claims) { c.silent(2, 3); c.back(40) }, 49, 1, 1},
		{"the host was not heard long ago", func(c *claims) { c.silent(2, 3); c.back(40) }, 51, 1, 41},
		{"the host came and went", func(c *claims) { c.silent(2, 3); c.back(20); c.silent(20.5, 21); c.back(40) }, 50, 1, 2},
		{"the host is away again", func(c *claims) { c.silent(2, 3); c.back(20); c.silent(20.5, 21) }, 50, 1, 1},
		{"silent before the outage and after it", func(c *claims) { c.silent(2, 3); c.outage(10, 50); c.back(60) }, 68, 1, 1},
		{"both, and no time counts twice", func(c *claims) { c.silent(2, 3); c.outage(10, 50); c.back(60) }, 71, 1, 61},
		{"silent, then nobody wrote", func(c *claims) { c.silent(2, 3); c.back(20); c.outage(24, 60) }, 62, 1, 1},
		{"nobody wrote, then silent", func(c *claims) { c.outage(2, 20); c.silent(24, 25); c.back(60) }, 62, 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, kind := range []ReportKind{ReportStarted, ReportAlive, ReportReady} {
				f := newClaims(t)
				if c.before != nil {
					c.before(f)
				}
				f.now = f.at(c.received)
				f.h.vm(kind, f.v, f.at(c.claimed))
				v := f.w.vms.get(f.v.VM)
				got := v.BillStart
				if kind == ReportStarted {
					got = v.Started
				}
				if got != f.at(c.want) {
					t.Errorf("%s: believed from minute %v, want %v", kind, float64(got-f.at(0))/float64(Minute), c.want)
				}
				again, err := DecodeWorld(f.w.Encode())
				if err != nil || again.Hash() != f.w.Hash() {
					t.Errorf("the world of a snapshot differs: %v", err)
				}
				f.replays()
			}
		})
	}
}

// What happened while nobody wrote arrives at once, and is billed from when it did.
func TestBillAfterAnOutage(t *testing.T) {
	t.Parallel()
	c := newClaims(t)
	c.outage(0, 120)
	c.h.vm(ReportStarted, c.v, c.at(3))
	c.h.vm(ReportAlive, c.v, c.at(3.5))
	c.h.vm(ReportReady, c.v, c.at(5))
	c.to(c.at(180))
	if v := c.w.vms.get(c.v.VM); v.Started != c.at(3) || v.BillStart != c.at(3.5) {
		t.Fatalf("%+v", v)
	}
	if b := c.balance(c.f); b.Available != 1e9+1-Micros(176.5*60_000) {
		t.Errorf("176.5 minutes of 1,000 micros a second: %+v", b)
	}
	c.replays()
}

func TestClaimsWithinABoot(t *testing.T) {
	t.Parallel()
	t.Run("it lives after it was started", func(t *testing.T) {
		t.Parallel()
		c := newClaims(t)
		c.now = c.at(6)
		c.h.vm(ReportStarted, c.v, c.at(5))
		c.h.vm(ReportReady, c.v, c.at(1))
		if v := c.w.vms.get(c.v.VM); v.BillStart != c.at(5) {
			t.Errorf("%+v", v)
		}
	})
	t.Run("a start that was not believed is said again", func(t *testing.T) {
		t.Parallel()
		c := newClaims(t)
		c.now = c.at(30)
		c.h.vm(ReportStarted, c.v, c.at(1))
		c.h.vm(ReportReady, c.v, c.at(30))
		c.now = c.at(50)
		if e := c.h.vm(ReportStarted, c.v, c.at(1)); len(e) != 1 {
			t.Errorf("%+v", e[1])
		}
		if v := c.w.vms.get(c.v.VM); v.Started != c.at(20) || !v.Ready {
			t.Errorf("%+v", v)
		}
	})
	t.Run("a bill ends when the host says, however late it does", func(t *testing.T) {
		t.Parallel()
		c := newClaims(t)
		c.now = c.at(6)
		c.h.vm(ReportStarted, c.v, c.at(2))
		c.h.vm(ReportReady, c.v, c.at(6))
		c.now = c.at(50)
		e := c.h.said(ReportFailed, c.v, func(r *VMReport) { r.At, r.Reason, r.Theirs = c.at(16), "guest.bad", true })
		if r, ok := last(e[:len(e)-1]).(*AllocationReleasing); !ok || r.BilledTo != c.at(16) {
			t.Errorf("%+v", e)
		}
	})
	t.Run("it fails after it was started", func(t *testing.T) {
		t.Parallel()
		c := newClaims(t)
		c.now = c.at(6)
		c.h.vm(ReportStarted, c.v, c.at(5))
		e := c.h.said(ReportFailed, c.v, func(r *VMReport) { r.At, r.Reason, r.Theirs = c.at(1), "guest.bad", true })
		if r, ok := last(e[:len(e)-1]).(*AllocationReleasing); !ok || r.BilledTo != c.at(5) {
			t.Errorf("%+v", e)
		}
	})
	t.Run("at the first level history decides as it did", func(t *testing.T) {
		t.Parallel()
		c := newClaims(t)
		c.w.LogicLevel = 1
		c.now = c.at(60)
		c.h.vm(ReportStarted, c.v, c.at(5))
		c.h.vm(ReportReady, c.v, c.at(1))
		if v := c.w.vms.get(c.v.VM); v.Started != c.at(5) || v.BillStart != c.at(1) {
			t.Errorf("%+v", v)
		}
	})
}
