package main_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/time/rate"
)

var (
	soakLong = flag.Bool("soak.long", false, "a site under half of its load for a long time")
	soakFor  = flag.Duration("soak.for", time.Hour, "how long; its memory is judged from 40 minutes on")
)

const (
	soakHosts   = 16
	soakSlots   = 8  // a host
	soakRenters = 32 // with one allocation each
	soakTenants = 8
	soakParts   = 10 // of the time: what is judged is the least in each, when garbage and snapshots are not there
)

// What is kept of each command by design, until a time that an hour does not reach: a
// VM that ended until its billing period is closed (a late price may change what it
// cost), an Idempotency-Key for a day, at most 100,000 of a tenant. In bytes, with the
// spare room of what grows by doubling.
const (
	keptOfEnded = 64
	keptOfKey   = 256
)

// TestSoak has a site of real programs work at half of what it can do, and its memory,
// its goroutines and its files stay what they are. Every command id is forgotten after
// 16 minutes, so the first 30 are not judged.
func TestSoak(t *testing.T) {
	if !*soakLong {
		t.Skip("make test-long")
	}
	k := newSoak(t)
	most := k.work(min(*soakFor/20, 30*time.Second), rate.Inf)
	t.Logf("at most %.0f commands a second", most)
	stop := k.watch(*soakFor / (20 * soakParts))
	got := k.work(*soakFor, rate.Limit(most/2))
	parts := stop()
	t.Logf("%.0f commands a second", got)
	for i, p := range parts {
		t.Logf("part %d: %v", i+1, p)
	}
	k.comesToRest()
	if *soakFor < 40*time.Minute {
		t.Log("not judged: too short")
		return
	}
	k.judge(parts[soakParts/2], parts[len(parts)-1])
}

// TestSoakSlice: what a short load opened is closed when it has gone, and the site
// still agrees with its log.
func TestSoakSlice(t *testing.T) {
	t.Parallel()
	k := newSoak(t)
	k.work(3*time.Second, rate.Inf)
	k.comesToRest()
}

// soak is a site and those who use it.
type soak struct {
	*site
	t       *testing.T
	hostd   int // its process
	tenants []tenant
	idle    usage // before anybody came

	commands, ended, keys atomic.Int64

	mu  sync.Mutex
	bad []string
}

func newSoak(t *testing.T) *soak {
	t.Helper()
	k := &soak{t: t, site: dev(t, soakHosts, soakSlots)}
	k.client = newClient(nil)
	k.client.Transport.(*http.Transport).MaxIdleConnsPerHost = 2 * soakRenters
	var err error
	if k.hostd, err = k.child("hostd run"); err != nil {
		t.Fatal(err)
	}
	for i := range soakTenants {
		k.tenants = append(k.tenants, k.newTenant(fmt.Sprintf("soak-%d", i), 1e12))
	}
	k.work(100*time.Millisecond, rate.Inf) // connections, caches, what is made once
	k.client.CloseIdleConnections()
	k.idle = k.usage()
	return k
}

// work has all renters at work, together at most so many commands a second, and
// returns how many they made.
func (k *soak) work(d time.Duration, pace rate.Limit) float64 {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), d)
	defer cancel()
	limiter := rate.NewLimiter(pace, soakRenters)
	began, before := time.Now(), k.commands.Load()
	var wg sync.WaitGroup
	for i := range soakRenters {
		wg.Go(func() { k.rent(ctx, limiter, k.tenants[i%soakTenants]) })
	}
	wg.Go(func() { k.look(ctx) })
	wg.Wait()
	if len(k.bad) > 0 {
		k.t.Fatalf("%d answers were wrong, the first: %v\n%s", len(k.bad), k.bad[0], k.out.tail())
	}
	return float64(k.commands.Load()-before) / time.Since(began).Seconds()
}

// rent launches, looks, stops and starts, and releases, one allocation after another;
// the last one, too, ends.
func (k *soak) rent(ctx context.Context, pace *rate.Limiter, te tenant) {
	for n := 0; pace.Wait(ctx) == nil; n++ {
		var key []string
		if n%10 == 0 {
			key = []string{"Idempotency-Key", fmt.Sprint(te.id, k.keys.Add(1))}
		}
		a := k.asks(te, 201, "POST", "/v1/projects/"+te.project+"/allocations", obj{"sku": "gpu-1x"}, key...)
		if a == nil {
			continue
		}
		var made allocation
		a.into(k.t, &made)
		path := "/v1/allocations/" + made.ID
		k.untilState(te, path, "running", a.seq)
		if n%4 == 0 && pace.Wait(ctx) == nil && k.asks(te, 202, "POST", path+"/stop", nil) != nil {
			k.untilState(te, path, "stopped", 0)
			k.asks(te, 202, "POST", path+"/start", nil)
			k.untilState(te, path, "running", 0)
		}
		k.sees(te.caller, 200, path+"/console")
		k.sees(te.caller, 200, "/v1/projects/"+te.project+"/allocations?limit=20")
		k.sees(te.caller, 200, "/v1/tenants/"+te.id+"/balance")
		k.sees(k.tenants[(n+1)%soakTenants].caller, 404, path+"x")
		k.sees(caller{k.site, "gpk_nobody"}, 401, path)
		_ = pace.Wait(ctx) // at the end it is released, too
		k.asks(te, 202, "DELETE", path, nil)
		k.ended.Add(1)
	}
}

// look follows events, for a moment at a time: each tenant goes on where it ended.
func (k *soak) look(ctx context.Context) {
	last := make([]string, soakTenants)
	for i := 0; ctx.Err() == nil; i = (i + 1) % soakTenants {
		te := k.tenants[i]
		short, cancel := context.WithTimeout(ctx, time.Second)
		req, err := http.NewRequestWithContext(short, http.MethodGet, k.address()+"/v1/events", nil)
		if err != nil {
			k.t.Error(err)
		}
		req.Header.Set("Authorization", "Bearer "+te.key)
		req.Header.Set("Accept", "text/event-stream")
		if last[i] != "" {
			req.Header.Set("Last-Event-ID", last[i])
		}
		if res, err := k.client.Do(req); err == nil {
			for lines := bufio.NewScanner(res.Body); lines.Scan(); { // ends with the moment
				if id, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
					last[i] = id
				}
			}
			res.Body.Close()
		} else if short.Err() == nil {
			k.complain("events: %v", err)
		}
		cancel()
	}
}

func (k *soak) complain(format string, args ...any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.bad = append(k.bad, fmt.Sprintf(format, args...))
}

// asks makes a command; nil: there was no room for it.
func (k *soak) asks(te tenant, status int, method, path string, body any, headers ...string) *answer {
	a, err := te.ask(method, path, body, headers...)
	k.commands.Add(1)
	switch {
	case err != nil:
		k.complain("%s %s: %v", method, path, err)
	case a.status == status:
		return a
	case a.code != "capacity.exhausted":
		k.complain("%s %s: %d %s", method, path, a.status, a.body)
	}
	return nil
}

func (k *soak) sees(by caller, status int, path string) {
	if a, err := by.ask("GET", path, nil); err != nil {
		k.complain("GET %s: %v", path, err)
	} else if a.status != status {
		k.complain("GET %s: %d %s", path, a.status, a.body)
	}
}

func (k *soak) untilState(te tenant, path, state string, seq uint64) {
	var now allocation
	for deadline := time.Now().Add(limit); now.State != state; time.Sleep(pollEvery) {
		a, err := te.ask("GET", fmt.Sprintf("%s?at_least=%d", path, seq), nil)
		switch {
		case err != nil:
			k.complain("GET %s: %v", path, err)
			return
		case a.status != 200 || time.Now().After(deadline):
			k.complain("%s to be %s: %d %s", path, state, a.status, a.body)
			return
		}
		a.into(k.t, &now)
	}
}

// usage is what the site's processes hold.
type usage struct {
	commands, ended, keys int64
	heap, resident, hostd float64 // MiB: what lives in the control plane's heap, what it has, what hostd has
	goroutines, files     float64
}

func (u usage) String() string {
	return fmt.Sprintf("%d commands, %d VMs ended; heap %.0f MiB, resident %.0f, hostd %.0f; %.0f goroutines, %.0f files", u.commands, u.ended, u.heap, u.resident, u.hostd, u.goroutines, u.files)
}

func (k *soak) usage() usage {
	const mib = 1 << 20
	return usage{
		commands: k.commands.Load(), ended: k.ended.Load(), keys: k.keys.Load(),
		heap:       k.metric(k.t, "go_memstats_next_gc_bytes") / (1 + k.metric(k.t, "go_gc_gogc_percent")/100) / mib, // what the last collection left
		resident:   k.metric(k.t, "process_resident_memory_bytes") / mib,
		hostd:      residentKiB(k.t, k.hostd) / 1024,
		goroutines: k.metric(k.t, "go_goroutines"),
		files:      k.metric(k.t, "process_open_fds"),
	}
}

func (u usage) least(v usage) usage {
	return usage{
		commands: max(u.commands, v.commands), ended: max(u.ended, v.ended), keys: max(u.keys, v.keys),
		heap: min(u.heap, v.heap), resident: min(u.resident, v.resident), hostd: min(u.hostd, v.hostd),
		goroutines: min(u.goroutines, v.goroutines), files: min(u.files, v.files),
	}
}

// watch looks every so often until stop, which returns the least of each part.
func (k *soak) watch(every time.Duration) (stop func() []usage) {
	var parts []usage
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-over:
				return
			case <-tick.C:
			}
			if now := k.usage(); n%20 == 0 {
				parts = append(parts, now)
				k.t.Log(now)
			} else {
				parts[len(parts)-1] = parts[len(parts)-1].least(now)
			}
		}
	}()
	return func() []usage { close(over); <-done; return parts[:min(len(parts), soakParts)] }
}

// judge compares two parts of the time: what is more than is kept by design of what
// came between them may be a twentieth, which is the noise of it.
func (k *soak) judge(from, to usage) {
	k.t.Helper()
	kept := (keptOfEnded*float64(to.ended-from.ended) + keptOfKey*float64(to.keys-from.keys)) / (1 << 20)
	for _, m := range []struct {
		what     string
		from, to float64
	}{
		{"MiB of heap", from.heap + kept, to.heap},
		{"MiB resident", from.resident + 2*kept, to.resident},
		{"MiB of hostd", from.hostd, to.hostd},
		{"goroutines", from.goroutines, to.goroutines},
		{"files", from.files, to.files},
	} {
		k.t.Logf("%s: %.1f allowed, %.1f there", m.what, m.from*1.05, m.to)
		if m.to > m.from*1.05 {
			k.t.Errorf("%s grew from %.1f (with what is kept by design) to %.1f", m.what, m.from, m.to)
		}
	}
}

// comesToRest: nobody asks any more. Slots are free, connections are closed, and log,
// read models and decisions agree.
func (k *soak) comesToRest() {
	k.t.Helper()
	op := k.operator()
	eventually(k.t, limit, "all slots to be available", func() error {
		for _, sl := range list[slot](op, "/v1/slots") {
			if sl.State != "available" {
				return fmt.Errorf("%s is %s", sl.ID, sl.State)
			}
		}
		return nil
	})
	eventually(k.t, limit, "what was opened to be closed", func() error {
		now := k.usage()
		k.client.CloseIdleConnections()
		if now.goroutines > k.idle.goroutines+10 || now.files > k.idle.files+10 {
			return fmt.Errorf("%v; before anybody came: %v", now, k.idle)
		}
		return nil
	})
	k.interrupt()
	for _, args := range [][]string{{"log", "verify"}, {"projections", "reconcile"}} {
		if out, text, code := toolWithin(k.t, time.Hour, append(args, "--data-dir", k.dir)...); code != 0 {
			k.t.Errorf("gpuaas %v: %s%s", args, out, text)
		}
	}
	size := int64(0)
	err := filepath.WalkDir(k.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && !d.IsDir() {
			size += info.Size()
		}
		return err
	})
	if err != nil {
		k.t.Error(err)
	}
	k.t.Logf("%d commands, %d VMs ended, %d MiB of files: %d bytes a command", k.commands.Load(), k.ended.Load(), size>>20, size/k.commands.Load())
}
