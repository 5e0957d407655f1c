package commands_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/domain/domaintest"
	"github.com/gpuaas/gpuaas/streams/streamstest"
)

// running is a loop on a log with a fleet.
type running struct {
	*commands.Loop
	tenants []domaintest.Tenant
	stop    func()
}

func submitTo(t testing.TB, l *commands.Loop) domaintest.Submit {
	return func(a domain.Actor, b domain.CommandBody) []domain.EventBody {
		r := l.Submit(context.Background(), command(a, b))
		if r.Err != nil {
			t.Errorf("%s: %v", b.CommandType(), r.Err)
			t.FailNow()
		}
		return r.Events
	}
}

var counter atomic.Uint64

func command(a domain.Actor, b domain.CommandBody) *domain.Command {
	n := counter.Add(1)
	e := domain.Entropy(domain.DigestOf(fmt.Appendf(nil, "%d", n)))
	return &domain.Command{ID: commands.NewCommandID(time.Now(), e), Actor: a, Body: b}
}

func start(t testing.TB, log commands.Log, tenants, hosts, perRack int) *running {
	t.Helper()
	l, err := commands.NewLoop(domain.NewWorld(), commands.Options{Site: "test1", Build: "test", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	<-l.Started()
	r := &running{Loop: l, stop: func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}}
	submit := submitTo(t, l)
	admin := domaintest.Admin(submit, "admin")
	domaintest.SKUs(submit, admin, 2_490_000)
	for i := range tenants {
		r.tenants = append(r.tenants, domaintest.NewTenant(submit, admin, fmt.Sprintf("t%d", i), fmt.Sprintf("secret %d", i), 1e15))
	}
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			for i := w; i < hosts; i += 64 {
				domaintest.NewHost(submit, admin, fmt.Sprintf("h%d", i), fmt.Sprintf("r%d", i/perRack), 8)
			}
		})
	}
	wg.Wait()
	return r
}

// BenchmarkLoop decides allocations on a log with one replica and sync always. Its
// limit stands beside it: an fdatasync of as many bytes as a commit has.
func BenchmarkLoop(b *testing.B) {
	b.Run("fdatasync", func(b *testing.B) {
		f, err := os.Create(filepath.Join(b.TempDir(), "f"))
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		buf := make([]byte, 16<<10)
		for b.Loop() {
			if _, err := f.Write(buf); err != nil {
				b.Fatal(err)
			}
			if err := f.Sync(); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, c := range []struct {
		name       string
		submitters int
		sku        string
		count      uint32
		hosts      int
	}{
		{"1slot/1", 1, "gpu-1x", 1, 12500},
		{"1slot/64", 64, "gpu-1x", 1, 12500},
		{"1slot/512", 512, "gpu-1x", 1, 12500},
		{"gang8x8/64", 64, "gpu-8x", 8, 12500},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := start(b, streamstest.New(b, 1).Log(), 16, c.hosts, 32)
			defer r.stop()
			var refused atomic.Int64
			runtime.GC() // what the fleet left behind is not the decisions'
			b.ResetTimer()
			var wg sync.WaitGroup
			var n atomic.Int64
			for w := range c.submitters {
				wg.Go(func() {
					t := r.tenants[w%len(r.tenants)]
					for n.Add(1) <= int64(b.N) {
						reply := r.Submit(context.Background(), command(t.Key, &domain.CreateAllocation{Project: t.Project, SKUName: c.sku, Count: c.count}))
						if reply.Err != nil {
							if reply.Err.Code != "capacity.exhausted" {
								b.Errorf("%v", reply.Err)
								return
							}
							refused.Add(1)
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "decisions/s")
			b.ReportMetric(float64(refused.Load()), "refused")
		})
	}
}
