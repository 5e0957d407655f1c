package projections

import (
	"errors"
	"fmt"
	"testing"

	"github.com/gpuaas/gpuaas/domain"
)

// foldOf folds what Reconcile compares in the dumbest way there is.
type foldOf struct{ l *memoryLog }

func (f foldOf) events(fn func(domain.EventBody)) {
	for _, d := range f.l.commits {
		for _, dec := range d.commit.Decisions {
			for _, e := range dec.Events {
				fn(e.Body)
			}
		}
	}
}

func (f foldOf) Slots(yield func(domain.SlotID, domain.SlotState, uint32)) {
	state, generation, ofVM := map[domain.SlotID]domain.SlotState{}, map[domain.SlotID]uint32{}, map[domain.VMID][]domain.SlotID{}
	f.events(func(e domain.EventBody) {
		switch e := e.(type) {
		case *domain.SlotWipeStarted:
			for _, s := range e.Slots {
				state[s.Slot] = domain.SlotIsWiping
			}
		case *domain.SlotWiped:
			state[e.Slot] = domain.SlotIsAvailable
		case *domain.SlotQuarantined:
			state[e.Slot] = domain.SlotIsQuarantined
		case *domain.SlotRetired:
			state[e.Slot] = domain.SlotIsRetired
		case *domain.MapAmended:
			for _, s := range e.Slots {
				if s.Change == "replaced" {
					generation[s.ID]++
				}
			}
		case *domain.SlotReserved:
			for _, s := range e.Slots {
				state[s] = domain.SlotIsReserved
				generation[s]++
			}
			ofVM[e.VM] = e.Slots
		case *domain.VMStarted:
			for _, s := range ofVM[e.VM] {
				state[s] = domain.SlotIsActive
			}
		}
	})
	for id, s := range state {
		yield(id, s, generation[id])
	}
}

func (f foldOf) Devices(yield func(domain.SlotID, [3]uint64)) {
	devices := map[domain.SlotID][3]uint64{}
	in := func(id domain.SlotID, s *domain.SlotSpec) {
		devices[id] = [3]uint64{domain.DeviceKey("gpu", s.GPU.Serial), domain.DeviceKey("nvme", s.NVMe.Serial), domain.DeviceKey("ib_vf", s.IBVF.Serial)}
	}
	f.events(func(e domain.EventBody) {
		switch e := e.(type) {
		case *domain.MapApproved:
			for i := range e.Slots {
				in(e.Slots[i].ID, &e.Slots[i].Spec)
			}
		case *domain.MapAmended:
			for i := range e.Slots {
				in(e.Slots[i].ID, &e.Slots[i].Spec)
			}
		case *domain.SlotRetired:
			delete(devices, e.Slot)
		}
	})
	for id, keys := range devices {
		yield(id, keys)
	}
}

func (f foldOf) Allocations(yield func(domain.AllocationID, domain.AllocationState)) {
	live := map[domain.AllocationID]domain.AllocationState{}
	f.events(func(e domain.EventBody) {
		switch e := e.(type) {
		case *domain.AllocationPlaced:
			live[e.ID] = domain.Provisioning
		case *domain.VMRunning:
			live[e.Allocation] = domain.Running
		case *domain.AllocationReleasing:
			live[e.ID] = domain.Releasing
			if e.Failed {
				live[e.ID] = domain.Failed
			}
		case *domain.AllocationReleased:
			delete(live, e.ID)
		}
	})
	for id, s := range live {
		yield(id, s)
	}
}

func (f foldOf) Balances(yield func(domain.TenantID, domain.Account, domain.Currency, domain.Micros)) {
	f.events(func(e domain.EventBody) {
		if e, ok := e.(*domain.LedgerPosted); ok {
			for _, l := range e.Legs {
				tenant := e.Tenant
				if !l.Account.Kind.OfTenant() {
					tenant = domain.TenantID{}
				}
				yield(tenant, l.Account, e.Currency, l.Amount)
			}
		}
	})
}

func TestReconcile(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	story(s)
	url := newDatabase(t)
	store := openStore(t, url)
	p, _ := run(t, store, s)
	waitFor(t, p, s.w.Head.N)
	foldAt := func(at domain.Head) (Fold, error) {
		if at != s.w.Head {
			return nil, fmt.Errorf("the read models show commit %d, want %d", at.N, s.w.Head.N)
		}
		return foldOf{s.memoryLog}, nil
	}
	report, err := store.Reconcile(t.Context(), foldAt)
	if err != nil || len(report.Findings) != 0 || report.Rows["slots"] != 10 || report.Rows["device_places"] != 8 || report.Rows["balances"] == 0 || report.Rows["allocations"] == 0 {
		t.Fatalf("%+v: %v", report, err)
	}
	query(t, url, `UPDATE slots SET state = 'available' WHERE state = 'quarantined'`)
	query(t, url, `UPDATE balances SET amount_micros = amount_micros + 1 WHERE account LIKE 'revenue:%'`)
	query(t, url, `DELETE FROM allocations WHERE id = (SELECT id FROM allocations WHERE released_at IS NULL LIMIT 1)`)
	query(t, url, `UPDATE device_places SET serial = 'another' WHERE serial = 'h1-nvme0'`)
	query(t, url, `UPDATE device_places SET until = since WHERE serial = 'h2-gpu3'`)
	spoiled, err := store.Reconcile(t.Context(), foldAt)
	if err != nil {
		t.Fatal(err)
	}
	classes := map[string]int{}
	for _, f := range spoiled.Findings {
		classes[f.Class+" "+f.Table]++
	}
	want(t, "findings", fmt.Sprint(classes), "map[read_model_drift allocations:1 read_model_drift balances:1 read_model_drift device_places:2 read_model_drift slots:1 unbalanced balances of ledger_entries:1]")
	if spoiled.Digests["slots"] == report.Digests["slots"] {
		t.Error("the digest does not see the difference")
	}
	refused := errors.New("another log")
	if _, err := store.Reconcile(t.Context(), func(domain.Head) (Fold, error) { return nil, refused }); !errors.Is(err, refused) {
		t.Error(err)
	}
}
