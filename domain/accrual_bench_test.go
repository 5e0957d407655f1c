package domain

import (
	"fmt"
	"testing"
)

// manyLines is a tenant with n VMs in one allocation's SKU, whose lines began `age`
// ago; captured says whether they are past their first hour.
func manyLines(b *testing.B, n int, age Duration, captured bool) (*site, *Tenant) {
	s := newSiteAt(b, at("2024-01-15T00:00:00Z"))
	s.check = false
	for i := range (n + 7) / 8 {
		s.host(fmt.Sprintf("h%d", i), 8, "r")
	}
	s.sku("gpu-1x", 1, 2_490_000)
	f := s.tenant("acme", MaxMicros/2)
	s.now = s.now.Add(Day) // the price is not new
	for range n {
		s.launch(f, "", "gpu-1x", 1)
	}
	t := s.w.tenants.get(f.id)
	for row := range s.w.vms.next {
		s.w.openLine(s.w.vms.row(row), row, s.now)
	}
	s.now = s.now.Add(age)
	if captured {
		for row := range s.w.vms.next {
			s.w.captured(t, s.w.vms.row(row), s.now.Add(-Minute))
		}
		t.AccruedTo = s.now.Add(-Minute)
	}
	s.w.At = s.now
	return s, t
}

// What a launch asks of the money of a tenant with 1,000 VMs in their first hour.
func BenchmarkCanSpend(b *testing.B) {
	s, t := manyLines(b, 1000, 30*Minute, false)
	x := &Context{At: s.now}
	for b.Loop() {
		if _, ok := s.w.canSpend(t, newPurse(s.w, t, x), 2_490_000); !ok {
			b.Fatal("it can")
		}
	}
}

// The hourly posting of a tenant with 1,000 VMs that have run for two years.
func BenchmarkAccrueOldLines(b *testing.B) {
	s, t := manyLines(b, 1000, 730*Day, true)
	x := &Context{At: s.now}
	for b.Loop() {
		newPurse(s.w, t, x).accrueTo(s.now)
	}
}
