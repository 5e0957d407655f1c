package commands_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/domain/domaintest"
)

// TestPoison: a command and a question that panic, and a deadline that is refused for
// ever, are refused or parked, audited and counted once each; what others ask in the
// same commits is answered; nothing of them is in the log, which is decided again as
// it was; and the next start goes on.
func TestPoison(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var audited []commands.Poison
	log, reg, hands := &gatedLog{}, prometheus.NewRegistry(), new(clock)
	l, err := commands.NewLoop(domain.NewWorld(), commands.Options{Site: "test1", Log: log, Clock: hands.now, Metrics: commands.NewMetrics(reg), Poisoned: func(p commands.Poison) {
		mu.Lock()
		defer mu.Unlock()
		audited = append(audited, p)
	}})
	if err != nil {
		t.Fatal(err)
	}
	ticks := 0
	l.RefuseTicks(func(k *domain.Tick) *domain.Error { // the first deadline is broken
		if ticks++; ticks <= 2 && k.Park == "" {
			return domain.Errorf(domain.Internal, "invariant.broken", "for the test")
		}
		return nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	<-l.Started()
	submit := submitTo(t, l)
	admin := domaintest.Admin(submit, "admin")
	domaintest.SKUs(submit, admin, 1)
	domaintest.NewHost(submit, admin, "h", "r", 8)
	bad, good := domaintest.NewTenant(submit, admin, "bad", "bad", 1e9), domaintest.NewTenant(submit, admin, "good", "good", 1e9)

	// A command without a body's fields: its decision reads them.
	poison := command(bad.Key, (*domain.CreateAllocation)(nil))
	gate := make(chan struct{})
	log.set(gate, nil) // all of it goes into the same groups
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			switch i % 4 {
			case 0:
				if r := l.Submit(ctx, poison); r.Err == nil || r.Err.Code != "internal" || r.Err.Kind != domain.Internal || r.Err.Retryable || r.Err.Message != "internal error" {
					t.Errorf("poison: %+v", r.Err)
				}
			case 1:
				if _, err := l.Query(ctx, bad.Key, func(*domain.World, domain.Time) { panic("in a question") }); err == nil || err.Code != "internal" || err.Retryable {
					t.Errorf("a question that panics: %+v", err)
				}
			case 2:
				if r := l.Submit(ctx, command(good.Key, &domain.CreateAllocation{Project: good.Project, SKUName: "gpu-1x", Count: 1, Expires: domain.TimeOf(time.Now().Add(time.Minute))})); r.Err != nil {
					t.Errorf("another tenant's command: %v", r.Err)
				}
			default:
				if _, err := l.Query(ctx, good.Key, func(*domain.World, domain.Time) {}); err != nil {
					t.Errorf("another tenant's question: %v", err)
				}
			}
		})
	}
	close(gate)
	wg.Wait()
	hands.forward(time.Minute)
	released := func() (n int) {
		if _, err := l.Query(ctx, domain.System, func(w *domain.World, _ domain.Time) { n = w.Count().SlotStates["wiping"] }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	eventually(t, "the other deadlines", func() bool { return released() == 4 }) // of five
	cancel()
	if err := <-done; err != nil {
		t.Fatalf("the loop ended: %v", err)
	}
	counts := map[string]int{}
	for _, p := range audited {
		counts[p.What+" "+p.Code]++
		if p.What == "allocation.create" && (p.KeyID != bad.Key.Key.String() || p.Command != poison.ID) || p.Why == "" {
			t.Errorf("%+v", p)
		}
	}
	if len(counts) != 3 || counts["allocation.create internal"] != 5 || counts["question internal"] != 5 || counts["tick timer.parked"] != 1 {
		t.Errorf("audited: %v", counts)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counted := 0.0
	for _, f := range families {
		if f.GetName() == "gpuaas_poison_total" {
			counted = f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	if counted != 11 {
		t.Errorf("counted: %v", counted)
	}
	if _, err := commands.Verify(context.Background(), &log.log); err != nil {
		t.Errorf("decided again: %v", err)
	}
	w := domain.NewWorld()
	for _, b := range log.log.commits {
		if err := commands.Fold(w, b); err != nil {
			t.Fatal(err)
		}
	}
	next, err := commands.NewLoop(w, commands.Options{Site: "test1", Log: log, Clock: hands.now})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithCancel(context.Background())
	go func() { done <- next.Run(ctx) }()
	<-next.Started()
	if r := next.Submit(ctx, command(good.Key, &domain.CreateAllocation{Project: good.Project, SKUName: "gpu-1x", Count: 1})); r.Err != nil {
		t.Errorf("after the next start: %v", r.Err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
