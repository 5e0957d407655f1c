package projections

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/gpuaas/gpuaas/domain"
)

// cache holds rows that the fold changes all the time, as the tables have them (or
// will, when the batch under way is durable). It is only there for speed: what is
// missing is read again, and after any failure a new one begins empty.
type cache struct {
	allocations map[domain.AllocationID]*allocationRow
	slots       map[domain.SlotID]*slotRow
	copied      []byte // what the last COPY sent; the next one writes over it
}

// maxCached bounds each map, and maxCopied the buffer; beyond it everything is dropped
// between two batches.
const (
	maxCached = 200_000
	maxCopied = 4 << 20
)

func newCache() *cache {
	return &cache{allocations: map[domain.AllocationID]*allocationRow{}, slots: map[domain.SlotID]*slotRow{}}
}

// bound keeps the cache within its bounds; no batch may be under way.
func (c *cache) bound() {
	if len(c.allocations) > maxCached {
		clear(c.allocations)
	}
	if len(c.slots) > maxCached {
		clear(c.slots)
	}
	if cap(c.copied) > maxCopied {
		c.copied = nil
	}
}

// settleAllocation drops what will not be asked for again.
func (c *cache) settleAllocation(r *allocationRow) {
	r.mark = clean
	if r.released != 0 {
		delete(c.allocations, r.id)
	}
}

// needs are the rows that a run of commits will change.
type needs struct {
	allocations map[domain.AllocationID]bool
	placed      map[domain.AllocationID]bool // come into being in the run itself
	slots       map[domain.SlotID]bool
	approved    map[domain.SlotID]bool
	started     []*domain.VMStarted // change slots that only the VM's row names
}

// collect notes what an event of the hot kind changes; see the functions that
// project it.
func (n *needs) collect(e domain.EventBody) {
	slots := func(ids []domain.SlotID) {
		for _, id := range ids {
			n.slots[id] = true
		}
	}
	switch e := e.(type) {
	case *domain.MapApproved:
		for i := range e.Slots {
			n.approved[e.Slots[i].ID] = true
		}
	case *domain.MapAmended:
		for i := range e.Slots {
			if id := e.Slots[i].ID; e.Slots[i].Change == "added" {
				n.approved[id] = true
			} else {
				n.slots[id] = true
			}
		}
	case *domain.HostReconciled:
		for i := range e.Slots {
			n.slots[e.Slots[i].Slot] = true
		}
		for i := range e.Boots {
			n.allocations[e.Boots[i].Allocation] = true
		}
	case *domain.SlotRetired:
		n.slots[e.Slot] = true
	case *domain.WipeOwed:
		n.slots[e.Slot] = true
	case *domain.SlotWipeStarted:
		for i := range e.Slots {
			n.slots[e.Slots[i].Slot] = true
		}
	case *domain.SlotWiped:
		n.slots[e.Slot] = true
	case *domain.SlotQuarantined:
		n.slots[e.Slot] = true
	case *domain.SlotCondemned:
		n.slots[e.Slot] = true
	case *domain.AllocationPlaced:
		n.placed[e.ID] = true
		for i := range e.VMs {
			slots(e.VMs[i].Slots)
		}
	case *domain.AllocationStopRequested:
		n.allocations[e.ID] = true
	case *domain.AllocationStartRequested:
		n.allocations[e.ID] = true
	case *domain.AllocationRebootRequested:
		n.allocations[e.ID] = true
	case *domain.AllocationReleasing:
		n.allocations[e.ID] = true
	case *domain.AllocationReleased:
		n.allocations[e.ID] = true
	case *domain.VMStarted:
		n.allocations[e.Allocation] = true
		n.started = append(n.started, e)
	case *domain.VMBillable:
		n.allocations[e.Allocation] = true
	case *domain.VMAlive:
		n.allocations[e.Allocation] = true
	case *domain.VMRunning:
		n.allocations[e.Allocation] = true
	case *domain.VMStopped:
		n.allocations[e.Allocation] = true
	case *domain.VMLost:
		n.allocations[e.Allocation] = true
	case *domain.VMRemoved:
		n.allocations[e.Allocation] = true
	case *domain.VMOverdue:
		n.allocations[e.Allocation] = true
	case *domain.LedgerPosted:
		for i := range e.Legs {
			if a := e.Legs[i].Account; a.Kind == domain.AccountHold {
				n.allocations[domain.AllocationID(a.Ref)] = true
			}
		}
	}
}

// load reads the rows that the commits will change and that are not here yet: at
// most three queries, however many commits.
func (c *cache) load(ctx context.Context, conn *pgx.Conn, commits []delivery) error {
	need := needs{
		allocations: map[domain.AllocationID]bool{}, placed: map[domain.AllocationID]bool{},
		slots: map[domain.SlotID]bool{}, approved: map[domain.SlotID]bool{},
	}
	for _, d := range commits {
		for i := range d.commit.Decisions {
			for _, e := range d.commit.Decisions[i].Events {
				need.collect(e.Body)
			}
		}
	}
	if err := c.loadAllocations(ctx, conn, &need); err != nil {
		return err
	}
	for _, e := range need.started {
		if a := c.allocations[e.Allocation]; a != nil {
			if v := a.vm(e.VM); v != nil {
				for _, s := range v.slots {
					need.slots[s] = true
				}
			}
		}
	}
	return c.loadSlots(ctx, conn, &need)
}

// missing lists the ids that are wanted, not cached and not about to be made.
func missing[K interface {
	comparable
	String() string
}, V any](want, made map[K]bool, have map[K]*V) []string {
	var ids []string
	for id := range want {
		if have[id] == nil && !made[id] {
			ids = append(ids, id.String())
		}
	}
	return ids
}
