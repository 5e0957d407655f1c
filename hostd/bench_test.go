package hostd_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd"
	"github.com/gpuaas/gpuaas/hostd/machine/sim"
)

// BenchmarkFleet is a thousand simulated hosts of eight slots in one process: every
// slot approved, wiped and rented, until every guest is ready. The site is a
// stand-in, so that only the hosts are measured; rss-MiB is the whole process, the
// stand-in and what is not collected yet included.
func BenchmarkFleet(b *testing.B) {
	const hosts, slots = 1000, 8
	for b.Loop() {
		before := memory()
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		sites := make([]*site, hosts)
		dir := b.TempDir()
		start := time.Now()
		for i := range sites {
			key := ed25519.NewKeyFromSeed(make([]byte, 32))
			sites[i] = newSite(b, domain.HostID{byte(i >> 8), byte(i), 1}, key.Public().(ed25519.PublicKey))
			home := filepath.Join(dir, fmt.Sprint(i))
			if err := os.Mkdir(home, 0o700); err != nil {
				b.Fatal(err)
			}
			m, err := sim.New(sim.Options{Seed: fmt.Sprint(i), Slots: slots, State: filepath.Join(home, "sim.json")})
			if err != nil {
				b.Fatal(err)
			}
			defer m.Close()
			a, err := hostd.New(hostd.Options{Host: sites[i].host, Site: "dev", Dir: home, Machine: m, Link: sites[i], Signer: key, NoSync: true})
			if err != nil {
				b.Fatal(err)
			}
			wg.Go(func() {
				if err := a.Run(ctx); err != nil {
					b.Error(err)
				}
			})
		}
		each(b, sites, func(s *site) { s.place(func(*domain.Desired) {}) }, func(s *site) bool { return s.proposal() != nil })
		each(b, sites, func(s *site) {
			m := s.proposal()
			s.place(func(d *domain.Desired) {
				d.SlotMap = m.Digest()
				for i := range uint32(slots) {
					d.Wipes = append(d.Wipes, domain.PlacedWipe{Lease: lease(i, 0), Attempt: 1, Policy: domain.WipeAuto})
				}
			})
		}, func(s *site) bool { return s.count("wiped") == slots })
		each(b, sites, func(s *site) {
			s.place(func(d *domain.Desired) {
				d.Wipes = nil
				for i := range uint32(slots) {
					d.VMs = append(d.VMs, vm(byte(i+1), i))
				}
			})
		}, func(s *site) bool { return s.count("ready") == slots })
		b.ReportMetric(time.Since(start).Seconds()/hosts*1000, "ms/host")
		for _, s := range sites {
			s.mu.Lock()
			s.reports, s.beats = nil, nil // the site's memory is not the host's
			clear(s.seen)
			s.mu.Unlock()
		}
		b.ReportMetric(resident(b), "rss-MiB")
		held := float64(memory() - before)
		b.ReportMetric(held/hosts/1024, "KiB/host")
		b.ReportMetric(held/(1<<20), "held-MiB")
		b.ReportMetric(1024, "aim-MiB")
		cancel()
		wg.Wait()
	}
}

// each does something at every site, then waits until all have what should follow.
func each(b *testing.B, sites []*site, do func(*site), until func(*site) bool) {
	for _, s := range sites {
		do(s)
	}
	deadline := time.Now().Add(2 * time.Minute)
	for _, s := range sites {
		for !until(s) {
			if time.Now().After(deadline) {
				b.Fatalf("a host did not get there: %v", s.said())
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// memory is what the process holds after collecting, stacks included.
func memory() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// resident is how much memory the process has, in MiB.
func resident(b *testing.B) float64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Fatal(err)
	}
	var size, pages float64
	if _, err := fmt.Sscan(string(text), &size, &pages); err != nil {
		b.Fatal(err)
	}
	return pages * float64(os.Getpagesize()) / (1 << 20)
}
