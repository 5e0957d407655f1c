package commands_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/domain/domaintest"
)

// memoryLog is a log in memory.
type memoryLog struct{ commits [][]byte }

func (m *memoryLog) Append(_ context.Context, seq uint64, b []byte) (uint64, error) {
	m.commits = append(m.commits, append([]byte(nil), b...))
	return seq + 1, nil
}
func (m *memoryLog) Seq(n uint64) uint64 { return n }

func (m *memoryLog) Read(_ context.Context, from uint64, fn func(uint64, []byte) error) error {
	for i := max(from, 1); i <= uint64(len(m.commits)); i++ {
		if err := fn(i, m.commits[i-1]); err != nil {
			return err
		}
	}
	return nil
}
func (m *memoryLog) Check(context.Context, domain.Head) error { return nil }

// filled decides a day's work straight through a core, without goroutines: hosts
// with 8 slots, launches, boots and releases.
func filled(b *testing.B, hosts int, launches int) (*memoryLog, *domain.World) {
	log := &memoryLog{}
	w := domain.NewWorld()
	core := commands.NewCore(w)
	now := domain.TimeOf(time.Now())
	flush := func() {
		if c := core.Close(); c.Commit != nil {
			log.commits = append(log.commits, append([]byte(nil), c.Commit...))
		}
	}
	submit := func(a domain.Actor, body domain.CommandBody) []domain.EventBody {
		if core.Full() {
			flush()
		}
		c := command(a, body)
		c.Entropy = domain.Entropy(domain.DigestOf(c.ID[:]))
		r := core.Decide(now, c)
		if r.Err != nil {
			b.Fatalf("%s: %v", body.CommandType(), r.Err)
		}
		return r.Events
	}
	submit(domain.System, &domain.StartWriter{Site: "bench", LogicLevel: 1})
	admin := domaintest.Admin(submit, "admin")
	domaintest.SKUs(submit, admin, 2_490_000)
	var tenants []domaintest.Tenant
	for i := range 100 {
		tenants = append(tenants, domaintest.NewTenant(submit, admin, fmt.Sprintf("t%d", i), fmt.Sprintf("s%d", i), 1e15))
	}
	for i := range hosts {
		domaintest.NewHost(submit, admin, fmt.Sprintf("h%d", i), fmt.Sprintf("r%d", i/32), 8)
	}
	flush()
	for i := range launches {
		t := tenants[i%len(tenants)]
		submit(t.Key, &domain.CreateAllocation{Project: t.Project, SKUName: "gpu-1x", Count: 1})
	}
	flush()
	return log, w
}

// BenchmarkFold applies a log of launches, decoded beside the apply.
func BenchmarkFold(b *testing.B) {
	log, want := filled(b, 12500, 100_000)
	fleet := 0
	for i, c := range log.commits { // the launches only: the fleet is the world they are folded onto
		d, err := domain.DecodeCommitEvents(c)
		if err != nil {
			b.Fatal(err)
		}
		if len(d.Decisions) > 0 && d.Decisions[0].Events[0].Body.EventType() == "allocation.placed" {
			fleet = i
			break
		}
	}
	base := domain.NewWorld()
	if err := commands.FoldLog(b.Context(), &memoryLog{log.commits[:fleet]}, base); err != nil {
		b.Fatal(err)
	}
	state, before := base.Encode(), base.Number
	events, bytes := want.Number-before, 0
	for _, c := range log.commits[fleet:] {
		bytes += len(c)
	}
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		w, err := domain.DecodeWorld(state)
		if err != nil {
			b.Fatal(err)
		}
		runtime.GC()
		b.StartTimer()
		if err := commands.FoldLog(b.Context(), log, w); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if w.Hash() != want.Hash() {
			b.Fatal("another world")
		}
	}
	b.ReportMetric(float64(events)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64(bytes)/float64(events), "B/event")
	at := time.Now() // the limit: what one core needs for the chain's hashes alone
	for _, c := range log.commits[fleet:] {
		sha256.Sum256(c)
	}
	b.ReportMetric(float64(events)/time.Since(at).Seconds(), "sha256-events/s")
}

// BenchmarkStart reads a snapshot of a million slots and a tail.
func BenchmarkStart(b *testing.B) {
	log, want := filled(b, 125_000, 0)
	snaps, err := commands.OpenSnapshots(b.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	at := time.Now()
	state := want.Encode()
	b.ReportMetric(float64(time.Since(at).Milliseconds()), "encode-ms")
	if err := snaps.Save(want.Head, state); err != nil {
		b.Fatal(err)
	}
	slots := want.Count().Slots
	encode := time.Since(at)
	b.ResetTimer()
	var w *domain.World
	for range b.N {
		if w, err = commands.Recover(b.Context(), log, snaps, nil, slog.New(slog.DiscardHandler)); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	var with, without runtime.MemStats
	state, want, log = nil, nil, nil            //nolint:ineffassign,wastedassign // let go, for what is measured
	w.Begin(w.At.Add(2 * domain.CommandWindow)) // the ids of the commands that made the fleet are no part of it
	runtime.GC()
	runtime.ReadMemStats(&with)
	runtime.KeepAlive(w)
	w = nil //nolint:wastedassign // let go
	runtime.GC()
	runtime.ReadMemStats(&without)
	b.ReportMetric(float64(with.HeapAlloc-without.HeapAlloc)/float64(slots), "B/slot")
	b.ReportMetric(float64(encode.Milliseconds()), "encode+save-ms")
}
