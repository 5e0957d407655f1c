package domain

import (
	"slices"
	"strings"
	"testing"
)

// forged stands for a decision with a bug: it decides what it is told.
type forged struct{ events []EventBody }

func (*forged) CommandType() string { return "test.forged" }
func (*forged) wire(*coder)         {}
func (f *forged) decide(*World, *Context) ([]EventBody, *Error) {
	return f.events, nil
}

// decides is what becomes of a decision of these events now.
func (s *site) decides(events ...EventBody) *Error {
	return s.w.Decide(s.now, s.command(System, &forged{events})).Err
}

// A bug in a decision cannot bill a slot twice for the same time, nor for time that
// has not passed: the decision is refused before anything is appended or applied.
func TestBilledTimeIsHeld(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h1", 4, "r")
	s.sku("gpu-1x", 1, 3_600_000)
	f := s.tenant("acme", 1e9)
	s.launch(f, "", "gpu-1x", 1)
	h.boot()
	s.after(90 * Minute) // captured, and accrued once
	young := s.launch(f, "", "gpu-1x", 1)
	h.boot()
	s.after(Minute)
	s.launch(f, "", "gpu-1x", 1) // not billed yet

	vm := func(row uint32) *VM { return s.w.vms.row(row) }
	old, fresh, waiting := vm(0), vm(s.w.allocations.get(young).vms[0]), vm(2)
	tenant, host := s.w.tenants.get(f.id), s.w.hosts.get(h.id)
	if !old.Captured || fresh.Captured || fresh.BillStart == 0 || waiting.BillStart != 0 || tenant.AccruedTo == 0 {
		t.Fatalf("%+v\n%+v\n%+v", old, fresh, waiting)
	}
	billable := func(v *VM, at Time) EventBody { return &VMBillable{s.w.vmChange(v, at)} }
	posted := func(kind TxKind, v *VM, to Time) *LedgerPosted {
		e := &LedgerPosted{Tx: TxID{1}, Tenant: f.id, Currency: "USD", Kind: kind, Effective: to, Legs: []Leg{
			{Account{Kind: AccountReceivable}, -1}, {Account{Kind: AccountRevenue}, 1},
		}}
		if v != nil {
			e.VM = v.ID
		}
		return e
	}
	corrected := func(from, to Time) EventBody {
		e := posted(TxCorrection, nil, to)
		e.From, e.To = from, to
		return e
	}
	releasing := func(v *VM, to Time, free bool) EventBody {
		return &AllocationReleasing{ID: s.w.allocations.row(v.alloc).ID, Tenant: f.id, BilledTo: to, Free: free}
	}
	slotOf := func(v *VM) *Slot { return s.w.slots.row(v.slots[0]) }
	wiping := func(v *VM) EventBody {
		return &SlotWipeStarted{Host: host.ID, Slots: []WipingSlot{{Slot: slotOf(v).ID, Generation: slotOf(v).Generation}}}
	}
	amended := func(v *VM, change string) EventBody {
		return &MapAmended{Host: host.ID, Slots: []SlotAmendment{{ID: slotOf(v).ID, Change: change}}}
	}

	for name, events := range map[string][]EventBody{
		"a line opens":                              {billable(waiting, s.now)},
		"a line opens at its placing":               {billable(waiting, waiting.Placed)},
		"a first hour in two periods":               {posted(TxCapture, fresh, s.now-1), posted(TxCapture, fresh, s.now)},
		"usage goes on":                             {posted(TxAccrual, nil, tenant.AccruedTo+1), posted(TxAccrual, nil, s.now)},
		"only the deadline goes":                    {&LedgerPosted{Tenant: f.id, Kind: TxAccrual, Effective: tenant.AccruedTo}},
		"a line is closed, its slot wiped":          {posted(TxClose, old, s.now), releasing(old, s.now, false), wiping(old)},
		"a line is closed, its slot quarantined":    {releasing(old, s.now, true), &SlotQuarantined{Slot: slotOf(old).ID}},
		"closed before it began: it cost nothing":   {releasing(fresh, fresh.BillStart-1, false)},
		"a month corrected":                         {corrected(s.now-2, s.now)},
		"a slot that nobody is billed for is wiped": {wiping(waiting)},
		"a map keeps a slot":                        {amended(old, "kept")},
		"the allocation is gone":                    {releasing(old, s.now, false), &AllocationReleased{ID: s.w.allocations.row(old.alloc).ID}},
	} {
		if err := s.decides(events...); err != nil {
			t.Errorf("%s: %v: %v", name, err, err.Cause)
		}
	}

	for name, events := range map[string][]EventBody{
		"a line opens before its placing":      {billable(waiting, waiting.Placed-1)},
		"a line opens in the future":           {billable(waiting, s.now+1)},
		"a line opens twice":                   {billable(waiting, s.now), billable(waiting, s.now)},
		"an open line opens":                   {billable(old, s.now)},
		"a line of no VM":                      {&VMBillable{VMChange{VM: VMID{9}, At: s.now}}},
		"closed in the future":                 {releasing(old, s.now+1, false)},
		"closed twice":                         {releasing(old, s.now, false), releasing(old, s.now, false)},
		"closed before it is posted to":        {posted(TxClose, old, s.now), releasing(old, s.now-1, false)},
		"free, and posted":                     {posted(TxClose, old, s.now), releasing(old, s.now, true)},
		"closed where it is opened":            {billable(waiting, s.now), releasing(waiting, s.now, false)},
		"a first hour to come":                 {posted(TxCapture, fresh, s.now+1)},
		"a first hour twice":                   {posted(TxCapture, fresh, s.now), posted(TxCapture, fresh, s.now)},
		"a first hour that was posted":         {posted(TxCapture, old, s.w.postedTo(old))},
		"a first hour of no line":              {posted(TxCapture, waiting, s.now)},
		"usage to come":                        {posted(TxAccrual, nil, s.now+1)},
		"usage that was posted":                {posted(TxAccrual, nil, tenant.AccruedTo)},
		"usage twice":                          {posted(TxAccrual, nil, s.now), posted(TxAccrual, nil, s.now)},
		"the end of a line that was posted":    {posted(TxClose, old, s.w.postedTo(old))},
		"usage of no tenant":                   {&LedgerPosted{Tenant: TenantID{9}, Kind: TxAccrual, Effective: s.now}},
		"a month to come is corrected":         {corrected(s.now, s.now+1)},
		"a month is corrected backwards":       {corrected(s.now, s.now-1)},
		"its slot is wiped under it":           {wiping(old)},
		"its slot is wiped before it is over":  {wiping(old), releasing(old, s.now, false)},
		"its slot is wiped as its line opens":  {billable(waiting, s.now), wiping(waiting)},
		"its slot is quarantined under it":     {&SlotQuarantined{Slot: slotOf(old).ID}},
		"its slot is retired under it":         {&SlotRetired{Slot: slotOf(old).ID}},
		"its slot gets another device":         {amended(old, "replaced")},
		"its allocation leaves with open line": {&AllocationReleased{ID: s.w.allocations.row(old.alloc).ID}},
	} {
		before := s.w.Hash()
		err := s.decides(events...)
		if err == nil || err.Code != "invariant.broken" || err.Kind != Internal || err.Cause == nil {
			t.Errorf("%s: %v", name, err)
		}
		if s.w.Hash() != before {
			t.Errorf("%s: refused, and the world changed", name)
		}
	}

	// A line needs its slot: one that was let go, and given to somebody else, is not
	// billed a second time.
	slotOf(waiting).vm = none
	if err := s.decides(billable(waiting, s.now)); err == nil || !strings.Contains(err.Cause.Error(), "does not hold") {
		t.Errorf("billed for a slot it does not hold: %v", err)
	}
	slotOf(waiting).vm = 2

	// What a test of the whole world would see.
	for name, spoil := range map[string]func(*VM){
		"billed before it was placed": func(v *VM) { v.BillStart = v.Placed - 1 },
		"posted to the future":        func(v *VM) { v.PostedTo = s.w.At + 1 },
		"open in its release":         func(v *VM) { v.State = Releasing },
	} {
		v := *old
		spoil(old)
		if err := s.w.checkLines(); err == nil {
			t.Errorf("%s: nobody noticed", name)
		}
		*old = v
	}
	if err := s.w.CheckAll(); err != nil {
		t.Error(err)
	}
}

// The older invariants, by the same seam.
func TestBrokenDecisionsAreRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h1", 2, "r")
	s.sku("gpu-1x", 1, 3_600_000)
	f := s.tenant("acme", 1e9)
	e := s.must(f.key, &CreateAllocation{Project: f.project, SKUName: "gpu-1x", Count: 1})[0].(*AllocationPlaced)
	held := e.VMs[0].Slots[0]
	free := s.w.slots.row(s.w.hosts.get(h.id).slots[slices.IndexFunc(s.w.hosts.get(h.id).slots, func(row uint32) bool {
		return s.w.slots.row(row).ID != held
	})]).ID
	placed := func(shape uint32, slots ...SlotID) EventBody {
		return &AllocationPlaced{ID: AllocationID{7}, Shape: shape, VMs: []VMPlaced{{VM: VMID{7}, Host: h.id, Slots: slots}}}
	}
	tx := func(legs ...Leg) EventBody { return &LedgerPosted{Tenant: f.id, Kind: TxHold, Legs: legs} }
	hold := Account{Kind: AccountHold, Ref: e.ID}
	if err := s.decides(placed(1, free), tx(Leg{hold, -1}, Leg{Account{Kind: AccountReceivable}, 1})); err != nil {
		t.Fatalf("%v: %v", err, err.Cause)
	}
	for name, event := range map[string]EventBody{
		"a slot that is held":             placed(1, held),
		"a slot twice":                    placed(2, free, free),
		"a slot that nobody knows":        placed(1, SlotID{9}),
		"another shape":                   placed(2, free),
		"a wipe that nobody asked for":    &SlotWiped{Host: h.id, Slot: free},
		"a transaction that is not even":  tx(Leg{hold, 1}),
		"more than a hold has":            tx(Leg{hold, -3_600_001}, Leg{Account{Kind: AccountReceivable}, 3_600_001}),
		"from a lot that nobody knows":    tx(Leg{Account{Kind: AccountLot, Ref: GrantID{9}}, -1}, Leg{hold, 1}),
		"a hold of an allocation of none": tx(Leg{Account{Kind: AccountHold, Ref: AllocationID{9}}, -1}, Leg{hold, 1}),
	} {
		if err := s.decides(event); err == nil || err.Code != "invariant.broken" {
			t.Errorf("%s: %v", name, err)
		}
	}
}
