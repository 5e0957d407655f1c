package projections

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/gpuaas/gpuaas/domain"
)

// A batch is what a run of commits does to the tables. Events of what changes
// rarely (tenants, catalog, hosts) become one statement each, in their order. What
// changes all the time is folded in Go first, and each row is written once,
// however many events it saw.
type batch struct {
	rows *cache
	err  error // the first thing that cannot be: drift, an unknown event
	stmt pgx.Batch

	newAllocations []*allocationRow
	allocations    []*allocationRow
	newVMs         []*vmRow
	vms            []*vmRow
	newSlots       []*slotRow
	slots          []*slotRow
	newLeases      []*leaseRow
	leaseEnds      []*leaseRow
	evidence       map[leaseKey]*leaseRow
	entries        []*entryRow
	balances       map[balanceKey]*balanceRow
	reports        map[domain.HostID]*reportRow
	audit          []*auditRow

	events int
	to     position
}

// position is where the tables are: what the checkpoint row says.
type position struct {
	Head   domain.Head
	Number uint64      // last event's
	At     domain.Time // last commit's
}

// at is the event under the fold.
type at struct {
	At       domain.Time
	N        uint64
	Position int // of the decision in its commit
	Number   uint64
}

func newBatch(rows *cache) *batch {
	return &batch{
		rows: rows, evidence: map[leaseKey]*leaseRow{}, balances: map[balanceKey]*balanceRow{},
		reports: map[domain.HostID]*reportRow{},
	}
}

// exec queues a statement that must hit `want` rows; -1 says any number.
func (b *batch) exec(want int64, sql string, args ...any) {
	q := b.stmt.Queue(sql, storableArgs(args)...)
	if want >= 0 {
		q.Exec(expect(&b.err, sql, want))
	}
}

func (b *batch) fail(format string, args ...any) {
	if b.err == nil {
		b.err = fmt.Errorf("%w: "+format, append([]any{ErrDrift}, args...)...)
	}
}

// fold makes the commit part of the batch. The rows it needs must be in the cache.
func (b *batch) fold(c *domain.Commit, head domain.Head) {
	x := at{At: c.At, N: c.N}
	for i := range c.Decisions {
		d := &c.Decisions[i]
		x.Position = i
		for k := range d.Events {
			x.Number = d.Events[k].Number
			b.project(&x, d.Events[k].Body)
			b.to.Number = x.Number
		}
		b.events += len(d.Events)
		b.record(&x, i, d)
	}
	b.to.Head, b.to.At = head, c.At
}

// write writes everything that was folded, in an order in which each statement finds
// what it needs: new rows first.
func (b *batch) write(ctx context.Context, tx pgx.Tx) error {
	err := errors.Join(
		slotInserts.insert(ctx, tx, b, b.newSlots),
		allocationInserts.insert(ctx, tx, b, b.newAllocations),
		vmInserts.insert(ctx, tx, b, b.newVMs),
		leaseInserts.insert(ctx, tx, b, b.newLeases),
		entryInserts.insert(ctx, tx, b, b.entries),
		auditInserts.insert(ctx, tx, b, b.audit),
	)
	if err != nil {
		return err
	}
	slotUpdates.queue(b, b.slots)
	allocationUpdates.queue(b, b.allocations)
	vmUpdates.queue(b, b.vms)
	leaseEnds.queue(b, b.leaseEnds)
	leaseEvidence.queue(b, values(b.evidence))
	balanceAdds.queue(b, values(b.balances))
	reportUpdates.queue(b, values(b.reports))
	return tx.SendBatch(ctx, &b.stmt).Close()
}

func values[K comparable, V any](m map[K]V) []V {
	out := make([]V, 0, len(m))
	for _, v := range m {
		out = append(out, v)
	}
	return out
}

// settle ends a batch that is durable: its rows are clean again.
func (b *batch) settle() {
	for _, r := range b.newAllocations {
		b.rows.settleAllocation(r)
	}
	for _, r := range b.allocations {
		b.rows.settleAllocation(r)
	}
	for _, rows := range [][]*vmRow{b.newVMs, b.vms} {
		for _, r := range rows {
			r.mark = clean
		}
	}
	for _, rows := range [][]*slotRow{b.newSlots, b.slots} {
		for _, r := range rows {
			r.mark, r.spec = clean, ""
		}
	}
}

// mark says what a batch has to do with a row.
type mark uint8

const (
	clean mark = iota
	fresh      // insert it
	dirty      // update it
)
