package processes_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/commands/processes"
	"github.com/gpuaas/gpuaas/domain"
)

// A host that falls silent is silent since it was last heard. One that was not heard
// since this process began is silent since the last moment that is proven: not since
// the start, or the tenants there would pay for an outage of the control plane.
func TestSilentSinceTheLastProof(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	heard, unheard := r.newHost("heard"), r.newHost("unheard")
	var mu sync.Mutex
	now := time.Now()
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	forward := func(d time.Duration) { mu.Lock(); defer mu.Unlock(); now = now.Add(d) }
	known := domain.TimeOf(now.Add(-time.Hour))
	asked := 0
	live := &processes.Liveness{
		Loop: r.loop, Hosts: r.loop.Directory().Hosts, SilentAfter: 300 * time.Millisecond, Clock: clock, Log: slog.New(slog.DiscardHandler),
		Proven: func(_ context.Context, h domain.HostID) (domain.Time, error) {
			if h != unheard.id {
				t.Errorf("host %s was heard", h)
			}
			if asked++; asked == 1 {
				return 0, errors.New("the feed is away")
			}
			return known, nil
		},
	}
	since := func(h *host) (at domain.Time) {
		r.see(func(w *domain.World) {
			w.Identities(func(domain.APIKey) {}, func(domain.Member) {}, func(x *domain.Host) {
				if x.ID == h.id {
					at = x.Silent
				}
			})
		})
		return at
	}
	r.background(live.Run)
	live.Heard(heard.id, &domain.Heartbeat{Host: heard.id, Version: "v1", Drift: "a problem", Backlog: 3})
	last := domain.TimeOf(clock())
	// The loop decides by its own clock: a moment before now is what it is told.
	forward(200 * time.Millisecond)
	if n, backlog := live.Problems(); n != 1 || backlog != 3 {
		t.Errorf("%d hosts with a problem, %d reports wait", n, backlog)
	}
	r.eventually("both are silent", func() bool {
		forward(5 * time.Millisecond)
		return since(heard) != 0 && since(unheard) != 0
	})
	if got := since(heard); got != last {
		t.Errorf("the one that was heard is silent since %s, heard at %s", got, last)
	}
	if got := since(unheard); got != known {
		t.Errorf("the one that was not heard is silent since %s, proven until %s", got, known)
	}
	r.eventually("both are counted", func() bool { return live.SilentHosts() == 2 })
	live.Heard(unheard.id, &domain.Heartbeat{Host: unheard.id})
	r.eventually("it is back", func() bool {
		live.Heard(unheard.id, &domain.Heartbeat{Host: unheard.id})
		return since(unheard) == 0
	})
	if at, hb := live.Last(heard.id); at != last || hb.Version != "v1" {
		t.Errorf("last heartbeat at %s: %+v", at, hb)
	}
	for _, h := range []*host{heard, unheard} {
		r.submit(r.admin, &domain.RemoveHost{Host: h.id})
	}
	r.eventually("removed hosts are forgotten", func() bool { return live.SilentHosts() == 0 })
}

// A log that has lost its end may have gone on beyond what a host has seen. The commit
// that the host follows tells: one that the log does not reach, or has another of.
func TestHostsThatFollowALostCommit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	hosts := map[string]*host{}
	for _, name := range []string{"well", "forked", "beyond", "silent-about-it", "without-hash", "outrun", "by-another"} {
		hosts[name] = r.newHost(name)
	}
	well, forked := domain.Head{N: 1, Hash: domain.Digest{1}}, domain.Head{N: 2, Hash: domain.Digest{9}}
	var mu sync.Mutex
	asked := 0
	live := &processes.Liveness{
		Loop: r.loop, Hosts: r.loop.Directory().Hosts, SilentAfter: time.Minute, Clock: time.Now, Log: slog.New(slog.DiscardHandler),
		Holds: func(_ context.Context, h domain.Head) (bool, error) {
			mu.Lock()
			defer mu.Unlock()
			if asked++; asked == 1 {
				return false, errors.New("the log is away")
			}
			return h == well, nil
		},
	}
	for name, from := range map[string]domain.Head{"well": well, "forked": forked, "beyond": {N: 1e6}, "silent-about-it": {}, "without-hash": {N: 2}} {
		live.Heard(hosts[name].id, &domain.Heartbeat{Host: hosts[name].id, Epoch: 1, From: from})
	}
	live.Heard(hosts["outrun"].id, &domain.Heartbeat{Host: hosts["outrun"].id, Epoch: 1, From: well, Outrun: well})
	live.Heard(hosts["by-another"].id, &domain.Heartbeat{Host: hosts["by-another"].id, Epoch: 1, From: well, Outrun: forked})
	r.background(live.Run)
	ahead := func(name string) (is bool) {
		r.see(func(w *domain.World) {
			w.Identities(func(domain.APIKey) {}, func(domain.Member) {}, func(x *domain.Host) { is = is || x.ID == hosts[name].id && x.Ahead })
		})
		return is
	}
	r.eventually("all are noticed", func() bool { return ahead("forked") && ahead("beyond") && ahead("outrun") })
	r.eventually("all were asked about", func() bool { mu.Lock(); defer mu.Unlock(); return asked >= 3 })
	if ahead("well") || ahead("silent-about-it") || ahead("without-hash") || ahead("by-another") {
		t.Error("a host that follows the log is ahead of it")
	}
}

// A host that takes no step while the log is ahead of it is reminded, also one that does
// not hear that its reports came; one that moves, or is where the log is, is not.
func TestHostsThatAreBehind(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	names := []string{"there", "behind", "unheard", "moves"}
	hosts := map[string]*host{}
	for _, name := range names {
		hosts[name] = r.newHost(name)
	}
	var mu sync.Mutex
	reminded, looks := map[domain.HostID]int{}, uint64(0)
	live := &processes.Liveness{
		Loop: r.loop, Hosts: r.loop.Directory().Hosts, SilentAfter: time.Minute, LookAt: time.Millisecond, Clock: time.Now, Log: slog.New(slog.DiscardHandler),
	}
	generation := map[string]uint64{}
	r.see(func(w *domain.World) {
		for _, name := range names {
			x, _ := w.PlacementOf(hosts[name].id)
			generation[name] = x.Desired.Generation
		}
	})
	beat := func(name string, generation, backlog uint64) {
		live.Heard(hosts[name].id, &domain.Heartbeat{Host: hosts[name].id, Epoch: 1, Generation: generation, Backlog: backlog})
	}
	live.Remind = func(_ context.Context, ids []domain.HostID) {
		mu.Lock()
		defer mu.Unlock()
		for _, id := range ids {
			reminded[id]++
		}
		looks++
		beat("moves", generation["moves"], looks) // another step between any two looks
	}
	beat("there", generation["there"], 0)
	beat("behind", generation["behind"]-1, 0)
	beat("unheard", generation["unheard"], 3)
	r.background(live.Run)
	r.eventually("they are reminded, again and again", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return reminded[hosts["behind"].id] > 2 && reminded[hosts["unheard"].id] > 2
	})
	mu.Lock()
	defer mu.Unlock()
	if reminded[hosts["there"].id] > 0 || reminded[hosts["moves"].id] > 0 {
		t.Errorf("reminded: %v", reminded)
	}
}
