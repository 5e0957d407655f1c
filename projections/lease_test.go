package projections

import (
	"fmt"
	"testing"

	"github.com/gpuaas/gpuaas/domain"
)

// A certificate is of the allocation's own leases, however often its slots were let.
func TestCertificateOfSlotsLetAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h1", 2)
	h.wipe()
	ten, sku := s.tenant("acme"), s.sku("h100-2", 2)
	var placed []*domain.AllocationPlaced
	for i := range 3 {
		a := s.launch(ten, sku, fmt.Sprintf("job-%d", i))
		h.vm(domain.ReportStarted, a.VMs[0].VM, 1)
		s.system(&domain.ActOnAllocation{Allocation: a.ID, Action: domain.ActionRelease})
		h.vm(domain.ReportRemoved, a.VMs[0].VM, 1)
		h.wipe()
		placed = append(placed, a)
	}
	store := openStore(t, newDatabase(t))
	p, _ := run(t, store, s)
	waitFor(t, p, s.w.Head.N)
	r := store.Reader([]byte("key"))
	for i, a := range placed {
		proof := must[[]Lease](t)(r.Erasure(t.Context(), Scope{User: ten.owner, Tenant: ten.id}, a.ID))
		if len(proof) != 2 || proof[0].SlotID == proof[1].SlotID {
			t.Fatalf("allocation %d: %+v", i, proof)
		}
		for _, l := range proof {
			if l.VMID != a.VMs[0].VM.String() || int(l.Generation) != i+1 || l.Result != "verified" {
				t.Errorf("allocation %d: %+v", i, l)
			}
		}
	}
}
