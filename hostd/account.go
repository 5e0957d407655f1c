package hostd

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/journal"
	"github.com/gpuaas/gpuaas/hostd/plan"
)

// A new site epoch was opened on a log that had lost its end. The host changes
// nothing: it lets what it is doing end, says what it holds, and waits for a
// placement that was made in that knowledge.

func beforeKey(epoch uint32) string { return fmt.Sprintf("before/%d/", epoch) }

func holdingsKey(d *domain.Desired) string {
	return fmt.Sprintf("holdings/%d/%d/", d.Epoch, d.Generation)
}

// accounting is what has to be remembered when an epoch asks for an account: what was
// seen before it.
func (a *Agent) accounting(d *domain.Desired, before journal.Seen) journal.Change {
	if before.Epoch == d.Epoch {
		return journal.Change{}
	}
	return journal.Change{Set: map[string]string{beforeKey(d.Epoch): fmt.Sprintf("%d %d", before.Epoch, before.Generation)}}
}

// changing reports whether a chain runs that changes what the host holds. A wipe may take
// a day, and a slot that is being wiped holds nothing that a lease is about: it is used
// until then, and what comes of the wipe is judged when it comes.
func (a *Agent) changing() bool {
	for c := range a.chains {
		if c.steps[0].Op != plan.Wipe {
			return true
		}
	}
	return false
}

// account says what the host holds, once each time that it is asked and when nothing is
// changing: an epoch may have been opened twice, by a log that lost the first. What it
// reported before is forgotten: the log may have, too.
func (a *Agent) account(ctx context.Context) (time.Duration, error) {
	a.status.rest("a new site epoch: waits for the first placement of it")
	key := holdingsKey(a.desired)
	if _, said := a.journal.Fact(key); said || a.changing() {
		return a.nextLook(), nil
	}
	observing, cancel := context.WithTimeout(ctx, observeTimeout)
	observed, err := a.o.Machine.Observe(observing)
	cancel()
	if err != nil {
		a.o.Log.Warn("cannot observe the machine", "err", err)
		return a.o.Limits.Backoff, nil
	}
	m := a.approved
	var facts map[string]string
	if m == nil {
		m, facts = &domain.SlotMap{}, a.journal.Facts("")
	} else if facts, err = a.adopt(observed); err != nil {
		return a.o.Limits.Replan, full(err)
	}
	state := remember(facts, m, observed)
	r := &domain.HoldingsReport{}
	_, _ = fmt.Sscan(facts[beforeKey(a.desired.Epoch)], &r.Epoch, &r.Generation)
	if a.approved != nil {
		r.SlotMap = a.approved.Digest()
	}
	held := map[domain.VMID]*domain.HeldVM{}
	for id, slots := range state.Known {
		held[id] = &domain.HeldVM{VM: id, Slots: slots}
	}
	for _, o := range state.VMs {
		held[o.VM] = &domain.HeldVM{VM: o.VM, Slots: o.Slots, Boot: o.Boot, Running: o.Running}
	}
	change := journal.Change{Set: map[string]string{key: ""}, Drop: reported(facts)}
	for id, v := range held {
		if allocation, tenant, ok := strings.Cut(facts[vmKey(id)+"of"], " "); ok {
			_ = v.Allocation.UnmarshalText([]byte(allocation)) // zero: not remembered
			_ = v.Tenant.UnmarshalText([]byte(tenant))
		}
		r.VMs = append(r.VMs, *v)
	}
	slices.SortFunc(r.VMs, func(x, y domain.HeldVM) int { return bytes.Compare(x.VM[:], y.VM[:]) })
	for i := range m.Slots {
		index := m.Slots[i].Index
		s := domain.HeldSlot{Index: index}
		_, s.Dirty = state.Dirty[index]
		s.Generation, _ = parseBoot(facts[slotGenerationKey(index)])
		_ = s.Slot.UnmarshalText([]byte(facts[slotIDKey(index)])) // zero: never placed
		r.Slots = append(r.Slots, s)
	}
	if err := a.report(domain.Report{Kind: domain.ReportInventory, Holdings: r}, change); err != nil {
		return a.o.Limits.Replan, full(err)
	}
	return a.nextLook(), nil
}
