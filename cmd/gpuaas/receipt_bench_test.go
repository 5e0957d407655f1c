package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/api/loadtest"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/domain/domaintest"
	"github.com/gpuaas/gpuaas/streams/hostlink"
)

// BenchmarkReceipt measures the way of an accepted command to the host it concerns:
// from before a rewipe of a slot is submitted until the placement that asks for the
// wipe is in the host daemon's hands, over a socket with a host's own credential.
// "quiet" has nothing else to do; "busy" launches on the rest of the fleet over 32
// connections meanwhile.
func BenchmarkReceipt(b *testing.B) {
	s, stop := benchSite(b)
	defer stop()
	ctx := context.Background()
	submit := func(a domain.Actor, body domain.CommandBody) []domain.EventBody {
		r := s.loop.Submit(ctx, benchCommand(a, body))
		if r.Err != nil {
			b.Fatalf("%s: %v", body.CommandType(), r.Err)
		}
		return r.Events
	}
	admin := domaintest.Admin(submit, "bench admin")
	domaintest.SKUs(submit, admin, devPrice)
	tenant := domaintest.NewTenant(submit, admin, "t", "gpk_receipt", 1e15)
	const hosts = 5000
	host := domaintest.NewHost(submit, admin, "h", "r", 1)
	var slot domain.SlotID
	if _, err := s.loop.Query(ctx, domain.System, func(w *domain.World, _ domain.Time) {
		w.Slots(func(id domain.SlotID, _ domain.SlotState, _ uint32) { slot = id })
	}); err != nil {
		b.Fatal(err)
	}
	submit(admin, &domain.QuarantineSlot{Slot: slot, Reason: "bench"})
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			for i := w; i < hosts; i += 64 {
				domaintest.NewHost(submit, admin, fmt.Sprintf("h%d", i), fmt.Sprintf("r%d", i/32), 8)
			}
		})
	}
	wg.Wait()
	s.drain(b)
	receipts := s.receive(b, host.ID)

	measure := func(name string, n int, until <-chan struct{}) {
		var took []time.Duration
		for i := range n {
			select {
			case <-until:
				n = i
			default:
			}
			if i >= n {
				break
			}
			sent := time.Now()
			submit(admin, &domain.RewipeSlot{Slot: slot})
			took = append(took, awaitReceipt(b, receipts, func(d *domain.Desired) bool { return len(d.Wipes) == 1 }).Sub(sent))
			submit(admin, &domain.QuarantineSlot{Slot: slot, Reason: "bench"})
			awaitReceipt(b, receipts, func(d *domain.Desired) bool { return len(d.Wipes) == 0 })
		}
		slices.Sort(took)
		b.ReportMetric(took[len(took)/2].Seconds()*1000, name+"-p50-ms")
		b.ReportMetric(took[(len(took)-1)*99/100].Seconds()*1000, name+"-p99-ms")
		b.ReportMetric(float64(len(took)), name+"-commands")
	}
	measure("quiet", 1000, nil)
	body := `{"sku":"gpu-1x","image":"tiny"}`
	launch := [][]byte{fmt.Appendf(nil, "POST /v1/projects/%s/allocations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer gpk_receipt\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", tenant.Project, len(body), body)}
	over := make(chan struct{})
	var burst loadtest.Result
	go func() {
		defer close(over)
		burst = loadtest.Run(b, s.front.listener.Addr().String(), launch, 32, 8*hosts-100, 10*time.Second)
	}()
	measure("busy", 1<<20, over)
	<-over
	b.ReportMetric(burst.Rate(), "busy-launches/s")
}

// receipt is a placement in a host's hands.
type receipt struct {
	placement *domain.Placement
	at        time.Time
}

// receive follows a host's placements with a credential of its own, over a socket.
func (s *site) receive(b *testing.B, host domain.HostID) <-chan receipt {
	b.Helper()
	seed, public, err := hostlink.NewKey()
	if err != nil {
		b.Fatal(err)
	}
	sign, err := hostlink.SignWith(seed)
	if err != nil {
		b.Fatal(err)
	}
	jwt, err := s.trust.HostCredential(host, public)
	if err != nil {
		b.Fatal(err)
	}
	if err := s.hostConsumer(context.Background(), host); err != nil {
		b.Fatal(err)
	}
	link, err := hostlink.Connect(hostlink.Options{URL: s.natsURL, JWT: jwt, Sign: sign, Site: s.cfg.Site, Host: host})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	out, done := make(chan receipt, 1024), make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_ = link.Placements(ctx, func(p *domain.Placement) error { // a line that breaks is made again, as the daemon does
				select {
				case out <- receipt{p, time.Now()}:
				case <-ctx.Done():
				}
				return ctx.Err()
			})
		}
	}()
	b.Cleanup(func() { cancel(); <-done; link.Close() })
	return out
}

func awaitReceipt(b *testing.B, receipts <-chan receipt, ok func(*domain.Desired) bool) time.Time {
	late := time.NewTimer(10 * time.Second)
	defer late.Stop()
	for { // ends with the placement, or late
		select {
		case r := <-receipts:
			if ok(&r.placement.Desired) {
				return r.at
			}
		case <-late.C:
			b.Fatal("the placement did not come")
		}
	}
}
