package domain

import (
	"fmt"
	"testing"
)

// corrects proposes and approves, and returns what follows.
func (s *site) corrects(second Actor, m *ProposeCorrection) []EventBody {
	s.t.Helper()
	c := s.must(s.admin, m)[0].(*CorrectionProposed)
	return s.must(second, &ApproveCorrection{Correction: c.ID})
}

func TestCorrectionNeedsTwoOperators(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	second, user := s.second()
	h := s.host("h1", 1, "r")
	s.must(System, &NoteHostAhead{Host: h.id, Epoch: 1, Generation: 99})
	m := &ProposeCorrection{Field: FieldHostAhead, Resource: h.id.String(), Before: "true", After: "false", Reason: "ticket-1"}
	refused := func(code string, change func(*ProposeCorrection)) {
		t.Helper()
		m := *m
		change(&m)
		s.refused(s.admin, &m, code)
	}
	refused("correction.before_differs", func(m *ProposeCorrection) { m.Before = "false" })
	refused("correction.after", func(m *ProposeCorrection) { m.After = "true" })
	refused("correction.field", func(m *ProposeCorrection) { m.Field = "host.name" })
	refused("host.not_found", func(m *ProposeCorrection) { m.Resource = HostID{5}.String() })
	refused("host.not_found", func(m *ProposeCorrection) { m.Resource = "h1" })
	refused("word.invalid", func(m *ProposeCorrection) { m.Reason = "" })
	s.refused(System, m, "auth.platform_only")

	c := s.must(s.admin, m)[0].(*CorrectionProposed)
	if !s.w.hosts.get(h.id).Ahead || len(s.w.Corrections(s.now)) != 1 {
		t.Fatal("a proposal alone corrects")
	}
	s.refused(s.admin, &ApproveCorrection{Correction: c.ID}, "correction.same_operator")
	s.refused(second, &ApproveCorrection{Correction: CorrectionID{4}}, "correction.not_found")
	done := s.must(second, &ApproveCorrection{Correction: c.ID})[0].(*WorldCorrected)
	if s.w.hosts.get(h.id).Ahead || done.Before != "true" || done.After != "false" || done.By == done.Approved || done.Approved != user {
		t.Errorf("%+v", done)
	}
	s.refused(second, &ApproveCorrection{Correction: c.ID}, "correction.not_found")
	refused("correction.before_differs", func(*ProposeCorrection) {})

	// What is there when it is approved counts, not when it was proposed.
	s.must(System, &NoteHostAhead{Host: h.id, Epoch: 1, Generation: 99})
	first, again := s.must(s.admin, m)[0].(*CorrectionProposed), s.must(second, m)[0].(*CorrectionProposed)
	s.must(second, &ApproveCorrection{Correction: first.ID})
	s.refused(s.admin, &ApproveCorrection{Correction: again.ID}, "correction.before_differs")
	s.must(s.admin, &ApproveCorrection{Correction: again.ID, Withdraw: true})

	// Nobody approves in time; the next proposal forgets it.
	s.must(System, &NoteHostAhead{Host: h.id, Epoch: 1, Generation: 99})
	late := s.must(s.admin, m)[0].(*CorrectionProposed)
	s.now = s.now.Add(25 * Hour)
	s.refused(second, &ApproveCorrection{Correction: late.ID}, "correction.expired")
	s.must(s.admin, m)
	s.refused(second, &ApproveCorrection{Correction: late.ID}, "correction.not_found")
	for range maxCorrections - 1 {
		s.must(s.admin, m)
	}
	s.refused(s.admin, m, "correction.too_many")
	s.replays()
}

// Money moves by a posting that sums to zero; the tenant's next bill burns what is there.
func TestCorrectedMoney(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	second, _ := s.second()
	f := s.tenant("acme", 1000)
	grant := s.w.grants.row(s.w.tenants.get(f.id).grants[0])
	m := &ProposeCorrection{Field: FieldGrantBalance, Resource: grant.ID.String(), Before: "1000", After: "400", Reason: "ticket-2"}
	for _, after := range []string{"-1", "1001", "0400", "x", "1000"} {
		wrong := *m
		wrong.After = after
		if _, err := s.try(s.admin, &wrong); err == nil || err.Code != "correction.after" && err.Code != "correction.nothing" {
			t.Errorf("to %s: %v", after, err)
		}
	}
	e := s.corrects(second, m)
	if p := ofType[*LedgerPosted](e); len(p) != 1 || p[0].Kind != TxAdjustment || grant.Balance != 400 || s.account(AccountContraRevenue) != 600 {
		t.Errorf("%+v", e)
	}
	s.refused(s.admin, m, "correction.before_differs")
	m.Before, m.After = "400", "1000"
	s.corrects(second, m)
	if grant.Balance != 1000 || s.account(AccountContraRevenue) != 0 {
		t.Errorf("%d", grant.Balance)
	}

	// A debt that was none is forgiven.
	t1 := s.w.tenants.get(f.id)
	s.must(s.admin, &ProposeCorrection{Field: FieldReceivable, Resource: f.id.String(), Before: "0", After: "-50", Reason: "ticket-3"})
	for _, c := range s.w.Corrections(s.now) {
		s.must(second, &ApproveCorrection{Correction: c.ID})
	}
	if t1.Receivable != -50 {
		t.Errorf("receivable %d", t1.Receivable)
	}
	s.corrects(second, &ProposeCorrection{Field: FieldReceivable, Resource: f.id.String(), Before: fmt.Sprint(-50), After: "0", Reason: "ticket-3"})
	if t1.Receivable != 0 {
		t.Errorf("receivable %d", t1.Receivable)
	}
	s.replays()
}

// What no report will ever end is ended; what lives is left alone, and no slot becomes
// available but by a wipe.
func TestCorrectedStates(t *testing.T) {
	t.Parallel()
	s, second, h, f := newRented(t, 2)
	id := s.launch(f, "a", "gpu-1x", 1)
	h.boot()
	slot := s.w.slots.row(s.w.vms.row(s.w.allocations.get(id).vms[0]).slots[0])
	state := func(before string) *ProposeCorrection {
		return &ProposeCorrection{Field: FieldAllocationState, Resource: id.String(), Before: before, After: "released", Reason: "ticket-4"}
	}
	s.refused(s.admin, state("running"), "correction.in_use")
	s.refused(s.admin, &ProposeCorrection{Field: FieldSlotState, Resource: slot.ID.String(), Before: "active", After: "quarantined", Reason: "x"}, "correction.in_use")
	s.refused(s.admin, &ProposeCorrection{Field: FieldSlotState, Resource: slot.ID.String(), Before: "active", After: "available", Reason: "x"}, "correction.after")
	s.must(f.key, &ActOnAllocation{Allocation: id, Action: ActionRelease})
	s.corrects(second, state("releasing"))
	if s.w.allocations.get(id) != nil || slot.State != SlotIsWiping {
		t.Errorf("slot %s", slot.State)
	}
	s.corrects(second, &ProposeCorrection{Field: FieldSlotState, Resource: slot.ID.String(), Before: "wiping", After: "quarantined", Reason: "ticket-5"})
	if slot.State != SlotIsQuarantined || !slot.Dirty {
		t.Errorf("slot %s", slot.State)
	}
	s.replays()
}
