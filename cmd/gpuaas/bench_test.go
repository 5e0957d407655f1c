package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/gpuaas/gpuaas/api/loadtest"
	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/domain/domaintest"
)

// BenchmarkREST launches 1-GPU allocations over 128 connections on a whole site in
// this process: embedded JetStream with sync always, feed, projector into Postgres,
// a fleet of 100,000 slots. Every answer comes after its fsync. The limit beside it
// is echo's hello under the same load in the same minute, before the burst and when its
// lag is drained, so that it has the machine alone; load generator, server and Postgres
// share it. No slot may have been given away twice, and the read models must agree with
// the world.
func BenchmarkREST(b *testing.B) {
	const hosts, connections = 12_500, 128
	s, stop := benchSite(b)
	defer stop()
	submit := func(a domain.Actor, body domain.CommandBody) []domain.EventBody {
		r := s.loop.Submit(context.Background(), benchCommand(a, body))
		if r.Err != nil {
			b.Fatalf("%s: %v", body.CommandType(), r.Err)
		}
		return r.Events
	}
	admin := domaintest.Admin(submit, "bench admin")
	domaintest.SKUs(submit, admin, devPrice)
	var requests [][]byte
	for i := range 16 {
		secret := fmt.Sprintf("gpk_bench%d", i)
		t := domaintest.NewTenant(submit, admin, fmt.Sprintf("t%d", i), secret, 1e15)
		body := `{"sku":"gpu-1x","image":"tiny"}`
		requests = append(requests, fmt.Appendf(nil, "POST /v1/projects/%s/allocations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", t.Project, secret, len(body), body))
	}
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			for i := w; i < hosts; i += 64 {
				domaintest.NewHost(submit, admin, fmt.Sprintf("h%d", i), fmt.Sprintf("r%d", i/32), 8)
			}
		})
	}
	wg.Wait()
	drained := s.drain(b)
	hello := echo.New()
	hello.POST("/hello", func(c echo.Context) error { return c.String(200, "hello") })
	h := httptest.NewServer(hello)
	defer h.Close()
	greet := [][]byte{[]byte("POST /hello HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")}
	addr := s.front.listener.Addr().String()

	one := loadtest.Run(b, addr, requests, 1, 2000, time.Minute)
	before := loadtest.Run(b, h.Listener.Addr().String(), greet, connections, 1<<40, 3*time.Second)
	appends0, seconds0 := s.histogram(b, "gpuaas_append_seconds")
	burst := loadtest.Run(b, addr, requests, connections, 90_000, 30*time.Second)
	appends, seconds := s.histogram(b, "gpuaas_append_seconds")
	b.ReportMetric((seconds-seconds0)/(appends-appends0)*1000, "append-ms")
	b.ReportMetric(float64(len(burst.Took))/(appends-appends0), "decisions/commit")
	lag := s.reads.lag()
	took := s.drain(b)
	after := loadtest.Run(b, h.Listener.Addr().String(), greet, connections, 1<<40, 3*time.Second)
	limit := (before.Rate() + after.Rate()) / 2
	b.ReportMetric(burst.Rate(), "launches/s")
	b.ReportMetric(limit, "hellos/s")
	b.ReportMetric(burst.Rate()/limit, "ratio")
	b.ReportMetric(burst.Percentile(99).Seconds()*1000, "p99-ms")
	b.ReportMetric(one.Percentile(50).Seconds()*1000, "one-client-p50-ms")
	b.ReportMetric(one.Percentile(99).Seconds()*1000, "one-client-p99-ms")
	b.ReportMetric(float64(lag), "lag-events")
	b.ReportMetric(took.Seconds(), "drain-s")
	b.ReportMetric(drained.Seconds(), "fleet-drain-s")
	if _, err := s.loop.Query(context.Background(), domain.System, func(w *domain.World, _ domain.Time) {
		if err := w.CheckAll(); err != nil { // no slot twice among the rest
			b.Error(err)
		}
		if n := w.Count().Allocations; n != len(one.Took)+len(burst.Took) {
			b.Errorf("%d allocations live, %d answered", n, len(one.Took)+len(burst.Took))
		}
	}); err != nil {
		b.Fatal(err)
	}
}

// histogram reads a histogram's count and sum.
func (s *site) histogram(b *testing.B, name string) (count, sum float64) {
	b.Helper()
	families, err := s.reg.Gather()
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			h := f.GetMetric()[0].GetHistogram()
			return float64(h.GetSampleCount()), h.GetSampleSum()
		}
	}
	b.Fatalf("no metric %s", name)
	return 0, 0
}

// benchSite runs a site in this process, without hosts.
func benchSite(b *testing.B) (*site, func()) {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cfg := config{Site: "bench", Region: "local", CRNPrefix: "core42:aicloud", DataDir: b.TempDir(), NATSListen: "127.0.0.1:0", Replicas: 1, MinFree: 1, MaxLag: 2_000_000, Silent: 3600, Snapshot: 1 << 40}
	f, err := openFront("127.0.0.1:0", nil, 1<<14, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	s, err := openSite(ctx, cfg, f, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	if err := s.openReadModels(ctx); err != nil {
		b.Fatal(err)
	}
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- s.run(ctx, func(context.Context) error { close(ready); return nil }) }()
	select {
	case <-ready:
	case err := <-done:
		b.Fatal(err)
	}
	return s, func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
		s.close()
		f.close()
	}
}

// drain waits until the read models show everything.
func (s *site) drain(b *testing.B) time.Duration {
	b.Helper()
	start := time.Now()
	n, err := s.loop.Query(context.Background(), domain.System, func(*domain.World, domain.Time) {})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if err := s.reads.projector.WaitFor(ctx, n); err != nil {
		b.Fatal(err)
	}
	return time.Since(start)
}

var benchCount atomic.Uint64

func benchCommand(a domain.Actor, body domain.CommandBody) *domain.Command {
	e := domain.Entropy(domain.DigestOf(strconv.AppendUint(nil, benchCount.Add(1), 10)))
	return &domain.Command{ID: commands.NewCommandID(time.Now(), e), Actor: a, Body: body}
}
