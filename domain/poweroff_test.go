package domain

import (
	"fmt"
	"testing"
)

// The power-off of a host with as many VMs as a map has slots is one change of state,
// and ticks that are due at once release its VMs, all billed to the last heartbeat.
func TestPowerOffOfAFullHost(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.check = false
	h, tenants := s.fullHost()
	s.check = true
	s.after(2 * Hour)
	since := s.now.Add(-Minute)
	s.must(System, &ActOnHost{Host: h.id, Action: HostSilent, Since: since})
	confirm := &ActOnHost{Host: h.id, Action: HostPoweredOff}
	if events := s.must(s.admin, confirm); len(events) != 1 {
		t.Fatalf("%d events at once", len(events))
	}
	if events := s.must(s.admin, confirm); events != nil {
		t.Errorf("a repeat gave %v", events)
	}
	released, ticks := 0, 0
	s.seen = func(events []EventBody) {
		ticks++
		for _, e := range ofType[*AllocationReleasing](events) {
			released++
			if e.BilledTo != since || e.Reason != "host.lost" || !e.Failed {
				t.Errorf("%+v", e)
			}
		}
		if len(events) > MaxDecisionEvents/2 {
			t.Errorf("%d events in a tick", len(events))
		}
	}
	s.must(System, &Tick{})
	s.must(System, &ActOnHost{Host: h.id, Action: HostInTouch}) // it comes back meanwhile
	s.refused(s.admin, &ActOnHost{Host: h.id, Action: HostUncordon}, "host.losing_vms")
	s.after(0)
	if released != maxSlotsOnMap || ticks < 3 || len(s.w.hosts.get(h.id).vms) != 0 {
		t.Errorf("%d allocations released in %d ticks, %d VMs are left", released, ticks, len(s.w.hosts.get(h.id).vms))
	}
	for _, f := range tenants {
		b, want := s.balance(f), Micros(maxSlotsOnMap/2)*accrued(3_600_000_000, 1, 2*Hour-Minute)
		if b.Available != 1e15-want || b.Held != 0 || b.Unbilled != 0 {
			t.Errorf("%+v, billed should be %d", b, want)
		}
	}
	s.must(s.admin, &ActOnHost{Host: h.id, Action: HostUncordon})
	s.seen = nil
	s.after(Hour)
	s.replays()
}

// fullHost is a host with as many VMs as a map has slots, of two tenants, at 1000 micros a
// millisecond.
func (s *site) fullHost() (*fakeHost, []tenantFixture) {
	s.t.Helper()
	m := testMap("h1", maxSlotsOnMap)
	for i := range m.Slots {
		sp := &m.Slots[i]
		sp.Threads, sp.MemoryMiB = []uint16{uint16(sp.NUMANode)*64 + uint16(i%32)}, 1<<14
		sp.GPU.Address, sp.NVMe.Address, sp.IBVF.Address = fmt.Sprintf("0001:%02x:00.0", i), fmt.Sprintf("0002:%02x:00.0", i), fmt.Sprintf("0003:%02x:00.0", i)
	}
	h := s.hostOf("h1", m, "r1")
	s.sku("gpu-1x", 1, 3_600_000_000)
	tenants := []tenantFixture{s.tenant("a", 1e15), s.tenant("b", 1e15)}
	for i := range maxSlotsOnMap {
		s.launch(tenants[i%2], "", "gpu-1x", 1)
	}
	h.boot()
	return h, tenants
}
