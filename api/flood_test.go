package api

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestFlood: one tenant asks as fast as it can, on many connections, and another's p99
// stays within three times what the same asking costs while the first tenant is quiet.
// It prints figures, and so is no part of the short tests.
func TestFlood(t *testing.T) {
	if !*hostileLong {
		t.Skip("make test-long")
	}
	w := newTestWorld(t)
	const connections, asked = 64, 1500
	launch := `{"sku":"gpu-1x","image":"tiny","dry_run":true}`
	ask := func(x *tenant, i int) *answer {
		switch i % 3 {
		case 0:
			return w.do(x.owner, "POST", "/v1/tenants/"+x.id+"/projects", fmt.Sprintf(`{"name":"NOT %d"}`, i)) // refused by the loop's turn, writes nothing
		case 1:
			return w.do(x.owner, "POST", "/v1/projects/"+x.project+"/allocations", launch)
		}
		return w.do(x.owner, "GET", "/v1/projects/"+x.project+"/allocations", "")
	}
	measure := func() time.Duration {
		took := make([]time.Duration, 0, asked)
		for i := range asked {
			at := time.Now()
			if a := ask(w.other, i); a.status >= 429 {
				t.Fatalf("the quiet tenant: %d %s", a.status, a.body)
			}
			took = append(took, time.Since(at))
		}
		slices.Sort(took)
		return took[len(took)*99/100]
	}
	quiet := measure()
	var flood atomic.Int64
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for c := range connections {
		wg.Go(func() {
			for i := c; ; i++ { // ends with stop
				select {
				case <-stop:
					return
				default:
				}
				ask(w.acme, i)
				flood.Add(1)
			}
		})
	}
	at := time.Now()
	busy := measure()
	rate := float64(flood.Load()) / time.Since(at).Seconds()
	close(stop)
	wg.Wait()
	t.Logf("p99 of a tenant's requests: %v alone, %v (%.1f times) while another tenant asked %.0f times a second on %d connections; aim 3 times",
		quiet.Round(time.Microsecond), busy.Round(time.Microsecond), float64(busy)/float64(quiet), rate, connections)
}
