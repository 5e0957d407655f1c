package domain

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// shadow remembers, beside the world and knowing nothing of it, what must be true
// of every slot before it is given to a tenant.
type shadow struct {
	clean   map[SlotID]bool // verified since it was last used
	owner   map[SlotID]TenantID
	drive   map[SlotID]string   // serial of the slot's drive
	data    map[string]TenantID // whose data may be on a drive, whatever slot it is in
	retired map[SlotID]bool
	owed    map[WipeDutyID]bool
}

func (sh *shadow) see(t *rapid.T, events []EventBody) {
	for _, e := range events {
		switch e := e.(type) {
		case *MapApproved:
			for _, s := range e.Slots {
				sh.drive[s.ID] = s.Spec.NVMe.Serial
			}
		case *MapAmended:
			for _, s := range e.Slots {
				if s.Change != "kept" && (sh.owner[s.ID] != TenantID{}) {
					t.Fatalf("slot %s of %s is changed", s.ID, sh.owner[s.ID])
				}
				if sh.drive[s.ID] != s.Spec.NVMe.Serial {
					sh.clean[s.ID] = false
				}
				sh.drive[s.ID] = s.Spec.NVMe.Serial
			}
		case *SlotRetired:
			sh.retired[e.Slot] = true
		case *WipeOwed:
			sh.owed[e.ID] = true
		case *WipeDischarged:
			delete(sh.owed, e.ID)
		case *AllocationPlaced:
			for _, v := range e.VMs {
				for _, id := range v.Slots {
					if on := sh.data[sh.drive[id]]; on != (TenantID{}) || sh.retired[id] {
						t.Fatalf("slot %s (retired: %v) given to %s with data of %s", id, sh.retired[id], e.Tenant, on)
					}
					sh.data[sh.drive[id]] = e.Tenant
					if !sh.clean[id] || sh.owner[id] != (TenantID{}) {
						t.Fatalf("slot %s given to %s: clean %v, owner %s", id, e.Tenant, sh.clean[id], sh.owner[id])
					}
					sh.clean[id], sh.owner[id] = false, e.Tenant
				}
			}
		case *SlotWipeStarted:
			for _, s := range e.Slots {
				sh.clean[s.Slot], sh.owner[s.Slot] = false, TenantID{}
			}
		case *SlotWiped:
			for _, d := range e.Devices {
				if d.Result != WipeVerified {
					t.Fatalf("freed by a wipe that is %s", d.Result)
				}
			}
			sh.clean[e.Slot] = true
			for _, d := range e.Devices {
				if d.Component == "nvme" {
					delete(sh.data, d.Serial)
				}
			}
		case *SlotQuarantined:
			sh.clean[e.Slot] = false
		}
	}
}

// Anything in any order: all invariants hold after every event (the harness checks
// them), no slot is given away that was not wiped, and the log decides and folds
// again to the same world.
func TestAnythingInAnyOrder(t *testing.T) {
	t.Parallel()
	late, amended := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		s := newSiteAt(t, at("2026-03-31T12:00:00Z")) // a month ends on the way
		sh := &shadow{
			clean: map[SlotID]bool{}, owner: map[SlotID]TenantID{}, drive: map[SlotID]string{}, data: map[string]TenantID{},
			retired: map[SlotID]bool{}, owed: map[WipeDutyID]bool{},
		}
		hosts := []*fakeHost{s.host("h1", 8, "r1"), s.host("h2", 8, "r1"), s.host("h3", 4, "r2")}
		money := newShadowMoney()
		for _, h := range hosts {
			for i, row := range s.w.hosts.get(h.id).slots {
				sh.drive[s.w.slots.row(row).ID] = h.m.Slots[i].NVMe.Serial
			}
		}
		s.seen = money.see
		var skus []SKUID
		for _, shape := range []uint32{1, 2, 4, 8} {
			skus = append(skus, s.sku([]string{"", "gpu-1x", "gpu-2x", "", "gpu-4x", "", "", "", "gpu-8x"}[shape], shape, 2_490_000))
		}
		tenants := []tenantFixture{s.tenant("one", 300_000_000), s.tenant("two", 20_000_000)}
		var months []Time
		for i := range 12 * 8 {
			months = append(months, TimeOf(time.Date(2026, time.Month(1+i), 1, 5, 0, 0, 0, time.UTC)))
		}
		tenants = append(tenants, s.tenantOf(&CreateTenant{Name: "west", Currency: "USD", Zone: "Test/West", Months: months}, 300_000_000))
		money.months[tenants[2].id] = months
		for row := range s.w.slots.next {
			sh.clean[s.w.slots.row(row).ID] = true
		}
		s.seen = func(events []EventBody) { sh.see(rt, events); money.see(events) }
		var live []AllocationID
		act := func(a Actor, b CommandBody) {
			events, _ := s.try(a, b)
			for _, e := range events {
				if p, ok := e.(*AllocationPlaced); ok {
					live = append(live, p.ID)
				}
			}
		}
		report := func(h *fakeHost, r Report) {
			h.n++
			r.Host, r.Journal, r.Number, r.At, r.Epoch, r.Generation = h.id, h.journal, h.n, s.now, 1, h.placement().Desired.Generation
			act(Actor{Kind: ActorHost, Host: h.id}, &RecordReport{Host: h.id, Report: EncodeReport(&r)})
		}
		for range rapid.IntRange(20, 120).Draw(rt, "steps") {
			h := rapid.SampledFrom(hosts).Draw(rt, "host")
			f := rapid.SampledFrom(tenants).Draw(rt, "tenant")
			var id AllocationID
			if len(live) > 0 {
				id = rapid.SampledFrom(live).Draw(rt, "allocation")
			}
			switch rapid.IntRange(0, 17).Draw(rt, "what") {
			case 0, 1, 2:
				act(f.key, &CreateAllocation{Project: f.project, SKUName: rapid.SampledFrom([]string{"gpu-1x", "gpu-2x", "gpu-4x", "gpu-8x"}).Draw(rt, "sku"), Count: rapid.Uint32Range(1, 3).Draw(rt, "count"), LockPrice: rapid.IntRange(0, 4).Draw(rt, "lock") == 0})
			case 3:
				act(f.key, &ActOnAllocation{Allocation: id, Action: rapid.SampledFrom([]AllocationAction{ActionStop, ActionStart, ActionReboot, ActionRelease, ActionRelease}).Draw(rt, "action")})
			case 4, 5, 6:
				if vms := h.placement().Desired.VMs; len(vms) > 0 {
					v := rapid.SampledFrom(vms).Draw(rt, "vm")
					report(h, Report{Kind: rapid.SampledFrom([]ReportKind{ReportStarted, ReportAlive, ReportReady, ReportReady, ReportStopped, ReportFailed}).Draw(rt, "kind"), VM: &VMReport{
						VM: v.VM, Boot: v.Boot, At: s.now - Time(rapid.Int64Range(0, 60000).Draw(rt, "ago")), Address: "10.0.0.1", Reason: "x", Theirs: rapid.Bool().Draw(rt, "theirs"),
						Lost: rapid.Bool().Draw(rt, "lost"), Slot: v.Leases[0].Slot, Component: rapid.SampledFrom([]string{"", "", "nvme"}).Draw(rt, "component"), Scope: "device",
					}})
				}
			case 7, 8:
				for _, w := range h.placement().Desired.Wipes {
					ev := h.evidence(w)
					if rapid.IntRange(0, 9).Draw(rt, "bad") == 0 {
						ev.Devices[rapid.IntRange(0, 2).Draw(rt, "device")].Result = rapid.SampledFrom([]WipeResult{WipeFailed, WipeUnknown, WipeSkipped, WipePartial}).Draw(rt, "result")
					}
					report(h, Report{Kind: ReportWiped, Wipe: ev})
				}
			case 9:
				for row := range s.w.vms.next {
					if v := s.w.vms.row(row); v.State == Releasing && s.w.hosts.row(v.host).ID == h.id {
						report(h, Report{Kind: ReportRemoved, VM: &VMReport{VM: v.ID, Boot: v.Boot, At: s.now}})
						break
					}
				}
			case 10:
				s.to(s.now.Add(Duration(rapid.Int64Range(0, int64(3*Hour)).Draw(rt, "wait"))))
			case 11:
				act(s.admin, &ActOnHost{Host: h.id, Action: rapid.SampledFrom([]HostAction{HostCordon, HostUncordon, HostDrain, HostPoweredOff}).Draw(rt, "act")})
				act(System, &ActOnHost{Host: h.id, Action: rapid.SampledFrom([]HostAction{HostSilent, HostInTouch}).Draw(rt, "touch"), Since: s.now})
			case 12:
				row := rapid.Uint32Range(0, s.w.slots.next-1).Draw(rt, "slot")
				act(s.admin, &QuarantineSlot{Slot: s.w.slots.row(row).ID, Reason: "test"})
				act(s.admin, &RewipeSlot{Slot: s.w.slots.row(row).ID})
			case 16: // other drives in a slot or two, perhaps one that was in another host
				m := h.clone()
				for range rapid.IntRange(1, 2).Draw(rt, "drives") {
					i := rapid.IntRange(0, len(m.Slots)-1).Draw(rt, "swapped")
					serials := []string{"NVME-h1-0", "NVME-h2-0", "NVME-h3-0", m.Slots[0].NVMe.Serial, "SPARE-1", "SPARE-2", "SPARE-3"}
					m.Slots[i].NVMe.Serial = rapid.SampledFrom(serials).Draw(rt, "serial")
				}
				report(h, Report{Kind: ReportInventory, Inventory: m})
				if e, err := s.try(s.admin, &ApproveMap{Host: h.id, Digest: m.Digest(), Policy: WipeAuto}); err == nil && len(e) > 0 {
					h.m, amended = m, amended+1
				} else {
					report(h, Report{Kind: ReportInventory, Inventory: h.m})
				}
			case 17:
				if rapid.IntRange(0, 3).Draw(rt, "retire") == 0 {
					row := rapid.Uint32Range(0, s.w.slots.next-1).Draw(rt, "old")
					act(s.admin, &RetireSlot{Slot: s.w.slots.row(row).ID, Reason: "old"})
				}
				act(s.admin, &RemoveHost{Host: h.id})
			case 14, 15: // a price, late more often than not
				p := &PublishPrice{SKU: rapid.SampledFrom(skus).Draw(rt, "priced"), Currency: "USD", Micros: Micros(rapid.Int64Range(0, 9_000_000).Draw(rt, "price"))}
				if rapid.IntRange(0, 3).Draw(rt, "own") == 0 {
					p.Tenant = f.id
				}
				p.Effective = s.now.Add(Duration(rapid.Int64Range(-int64(2*Day), int64(6*Hour)).Draw(rt, "from")))
				act(s.admin, p)
			case 13:
				act(s.admin, &GrantCredit{Tenant: f.id, Currency: "USD", Amount: 10_000_000, Kind: GrantPromotional, Priority: 3, Expires: s.now.Add(Duration(rapid.Int64Range(1, int64(Day)).Draw(rt, "lapses")))})
			}
		}
		// Faults cease and time passes: every lease ends or its slot is quarantined.
		for _, f := range tenants {
			for _, id := range live {
				act(f.key, &ActOnAllocation{Allocation: id, Action: ActionRelease})
			}
		}
		s.to(s.now.Add(3 * Day))
		if n := s.w.allocations.len(); n != 0 {
			rt.Fatalf("%d allocations never ended", n)
		}
		for row := range s.w.slots.next {
			if st := s.w.slots.row(row).State; st != SlotIsAvailable && st != SlotIsQuarantined && st != SlotIsRetired {
				rt.Fatalf("slot %d is %s for ever", row, st)
			}
		}
		if len(sh.owed) != s.w.duties.len() {
			rt.Fatalf("%d wipes are owed, the world has %d", len(sh.owed), s.w.duties.len())
		}
		money.check(rt)
		late += money.late
		s.replays()
	})
	if late == 0 || amended == 0 {
		t.Errorf("%d late prices, %d amended maps", late, amended)
	}
}
