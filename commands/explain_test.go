package commands_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/domain/domaintest"
)

// TestExplain: every launch of the log is explained on the fleet of its moment, which
// is not the fleet of the end: hosts came later, and slots were used and freed.
func TestExplain(t *testing.T) {
	t.Parallel()
	core, now := commands.NewCore(domain.NewWorld()), domain.TimeOf(time.Now())
	var log [][]byte
	submit := func(a domain.Actor, body domain.CommandBody) []domain.EventBody {
		c := command(a, body)
		c.Entropy = domain.Entropy(domain.DigestOf(c.ID[:]))
		now = now.Add(domain.Millisecond)
		r := core.Decide(now, c)
		if r.Err != nil {
			t.Fatalf("%s: %v", body.CommandType(), r.Err)
		}
		return r.Events
	}
	flush := func() {
		if closed := core.Close(); closed.Commit != nil {
			log = append(log, bytes.Clone(closed.Commit))
		}
	}
	launch := func(te domaintest.Tenant, sku string, count uint32) *domain.AllocationPlaced {
		return submit(te.Key, &domain.CreateAllocation{Project: te.Project, SKUName: sku, Count: count})[0].(*domain.AllocationPlaced)
	}
	submit(domain.System, &domain.StartWriter{Site: "site1", LogicLevel: domain.LogicLevel})
	admin := domaintest.Admin(submit, "admin")
	domaintest.SKUs(submit, admin, 1_000_000)
	te := domaintest.NewTenant(submit, admin, "acme", "secret", 1_000_000_000)
	domaintest.NewHost(submit, admin, "h1", "r1", 4)
	flush()
	first := launch(te, "gpu-1x", 1) // beside another launch in its commit
	second := launch(te, "gpu-1x", 3)
	flush()
	domaintest.NewHost(submit, admin, "h2", "r2", 4)
	third := launch(te, "gpu-1x", 2)
	submit(te.Key, &domain.ActOnAllocation{Allocation: second.ID, Action: domain.ActionRelease})
	flush()

	for _, tt := range []struct {
		placed *domain.AllocationPlaced
		want   []string // of each host
	}{
		{first, []string{"chosen"}},
		{second, []string{"chosen"}},
		{third, []string{"too few free slots", "chosen"}},
	} {
		e, err := commands.Explain(t.Context(), &memoryLog{commits: log}, tt.placed.ID)
		if err != nil {
			t.Fatal(err)
		}
		if len(e.Hosts) != len(tt.want) || len(e.VMs) != len(tt.placed.VMs) || e.N == 0 {
			t.Fatalf("%+v", e)
		}
		for i, h := range e.Hosts {
			if h.Reason != tt.want[i] {
				t.Errorf("host %d: %q, want %q", i, h.Reason, tt.want[i])
			}
		}
	}
	if _, err := commands.Explain(t.Context(), &memoryLog{commits: log}, domain.AllocationID{9}); err == nil {
		t.Error("what was never launched is explained")
	}
}
