package projections

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/gpuaas/gpuaas/domain"
)

// load is a log of launches: allocation.placed, slot.reserved, ledger.posted with
// two legs, 64 decisions a commit, over a fleet of `slots` slots.
func load(launches, slots int) *memoryLog {
	l := newLog()
	at := domain.TimeOf(time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC))
	id := func(kind byte, i int) (id [16]byte) {
		// Spread like the real ones, which come out of a hash.
		d := domain.DigestOf(binary.BigEndian.AppendUint64([]byte{kind}, uint64(i)))
		copy(id[:], d[:])
		return id
	}
	var head domain.Head
	number := uint64(0)
	add := func(decisions ...[]domain.EventBody) {
		c := &domain.Commit{N: head.N + 1, At: at, Prev: head.Hash}
		at = at.Add(10)
		for i, events := range decisions {
			d := domain.Decision{Command: domain.Command{ID: id('c', int(head.N)<<8|i), Actor: domain.System, Body: &domain.Tick{}}}
			for _, e := range events {
				number++
				d.Events = append(d.Events, domain.Event{Number: number, Body: e})
			}
			c.Decisions = append(c.Decisions, d)
		}
		head = l.append(c)
	}
	const tenants = 100
	sku := domain.SKUID(id('k', 0))
	add([]domain.EventBody{&domain.SKUCreated{ID: sku, Name: "h100", Shape: 1}})
	for i := range tenants {
		add([]domain.EventBody{
			&domain.TenantCreated{ID: id('t', i), Name: fmt.Sprint("t", i), Currency: "USD"},
			&domain.ProjectCreated{ID: id('p', i), Tenant: id('t', i), Name: "p"},
		})
	}
	for h := range (slots + 7) / 8 {
		m := &domain.MapApproved{Host: id('h', h), GPUClass: "h100"}
		for i := range 8 {
			m.Slots = append(m.Slots, domain.ApprovedSlot{ID: id('s', 8*h+i), Policy: domain.WipeAuto, Spec: domain.SlotSpec{
				Index: uint32(i), GPU: domain.Device{Serial: fmt.Sprint("g", h, i)}, NVMe: domain.Device{Serial: fmt.Sprint("n", h, i)}, Threads: make([]uint16, 24), MemoryMiB: 1 << 17,
			}})
		}
		add([]domain.EventBody{&domain.HostEnrolled{ID: m.Host, Name: fmt.Sprint("h", h), Rack: "r"}, m})
	}
	var group [][]domain.EventBody
	for i := range launches {
		t, slot := i%tenants, i%slots
		place := domain.VMPlaced{VM: id('v', i), Host: id('h', slot/8), Slots: []domain.SlotID{id('s', slot)}}
		a := domain.AllocationID(id('a', i))
		group = append(group, []domain.EventBody{
			&domain.AllocationPlaced{ID: a, Tenant: id('t', t), Project: id('p', t), Name: fmt.Sprint("job-", i), SKU: sku, Shape: 1, Image: "tiny", User: id('u', t), LockedRate: -1, VMs: []domain.VMPlaced{place}, Deadline: at},
			&domain.SlotReserved{Host: place.Host, Allocation: a, VM: place.VM, Slots: place.Slots},
			&domain.LedgerPosted{Tx: id('x', i), Tenant: id('t', t), Currency: "USD", Kind: domain.TxHold, Effective: at, Allocation: a, Legs: []domain.Leg{
				{Account: domain.Account{Kind: domain.AccountLot, Ref: id('g', t)}, Amount: -2_000_000},
				{Account: domain.Account{Kind: domain.AccountHold, Ref: a}, Amount: 2_000_000},
			}},
		})
		if len(group) == 64 || i == launches-1 {
			add(group...)
			group = nil
		}
	}
	return l
}

// decoding delivers the log as a reader of the stream would: decoded beside the
// projector.
type decoding struct {
	*memoryLog
	raw [][]byte
}

func newDecoding(l *memoryLog) *decoding {
	d := &decoding{memoryLog: l}
	for _, c := range l.commits {
		d.raw = append(d.raw, domain.EncodeCommit(c.commit))
	}
	return d
}

func (l *decoding) Follow(ctx context.Context, after domain.Head, fn func(*domain.Commit, domain.Head) error) error {
	for _, b := range l.raw[after.N:] {
		c, err := domain.DecodeCommit(b)
		if err != nil {
			return err
		}
		if err := fn(c, domain.Head{N: c.N, Hash: domain.DigestOf(b)}); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return ctx.Err()
}

// BenchmarkProject is the whole way from a commit's bytes to durable rows. Events
// per second is the figure to watch: 25,000 is the floor on two cores.
func BenchmarkProject(b *testing.B) {
	const launches = 100_000
	for _, batch := range []int{1000, 4000, 12000} {
		l := newDecoding(load(launches, 20_000))
		b.Run(fmt.Sprint("batch=", batch), func(b *testing.B) {
			for b.Loop() {
				store := openStore(b, newDatabase(b))
				p := store.Projector(l)
				p.batch = batch
				began := time.Now()
				stop := start(b, p)
				waitFor(b, p, l.end.Head.N)
				took := time.Since(began)
				stop()
				b.ReportMetric(float64(l.end.Number)/took.Seconds(), "events/s")
			}
		})
	}
}

// BenchmarkCopy is the yardstick beside it: COPY of the same rows into the same
// tables, without a fold.
func BenchmarkCopy(b *testing.B) {
	l := load(100_000, 20_000)
	url := newDatabase(b)
	store := openStore(b, url)
	p, stop := run(b, store, l)
	waitFor(b, p, l.end.Head.N)
	stop()
	conn, err := pgx.Connect(b.Context(), url)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close(context.Background())
	tables := []string{"allocations", "vms", "leases", "ledger_entries", "audit", "slots"}
	rows, columns := map[string][][]any{}, map[string][]string{}
	total := 0
	for _, t := range tables {
		names, err := conn.Query(b.Context(), `SELECT attname::text FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''`, "rm_1."+t)
		if err != nil {
			b.Fatal(err)
		}
		if columns[t], err = pgx.CollectRows(names, pgx.RowTo[string]); err != nil {
			b.Fatal(err)
		}
		r, err := conn.Query(b.Context(), `SELECT `+strings.Join(columns[t], ", ")+` FROM rm_1.`+t)
		if err != nil {
			b.Fatal(err)
		}
		for r.Next() {
			v, err := r.Values()
			if err != nil {
				b.Fatal(err)
			}
			rows[t] = append(rows[t], v)
		}
		total += len(rows[t])
	}
	for b.Loop() {
		for _, t := range tables {
			if _, err := conn.Exec(b.Context(), `TRUNCATE rm_1.`+t); err != nil {
				b.Fatal(err)
			}
		}
		began := time.Now()
		for _, t := range tables {
			for i := 0; i < len(rows[t]); i += 4000 {
				if _, err := conn.CopyFrom(b.Context(), pgx.Identifier{"rm_1", t}, columns[t], pgx.CopyFromRows(rows[t][i:min(i+4000, len(rows[t]))])); err != nil {
					b.Fatal(err)
				}
			}
		}
		b.ReportMetric(float64(total)/time.Since(began).Seconds(), "rows/s")
	}
}

// BenchmarkRead is one allocation by its id, as a tenant: authorization, snapshot,
// row-level security and the row.
func BenchmarkRead(b *testing.B) {
	s := newSite(b)
	ten, _ := story(s)
	store := openStore(b, newDatabase(b))
	p, _ := run(b, store, s)
	waitFor(b, p, s.w.Head.N)
	r, scope := store.Reader(nil), Scope{User: ten.owner, Tenant: ten.id}
	page, err := r.Allocations(b.Context(), scope, ten.project, AllocationFilter{}, ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	var id domain.AllocationID
	_ = id.UnmarshalText([]byte(page.Items[0].ID))
	for b.Loop() {
		if _, _, err := r.Allocation(b.Context(), scope, id); err != nil {
			b.Fatal(err)
		}
	}
}
