package processes

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
)

// Liveness listens to heartbeats and says, by a command, when a host falls silent
// and when it is back. Heartbeats themselves are not kept. A silent host is not a
// dead host: nothing of it is used again until it is back or an operator confirms
// that it is off.
type Liveness struct {
	Loop        Loop
	Hosts       func() []domain.HostID // the admitted hosts
	SilentAfter time.Duration          // default 15 s
	Clock       func() time.Time
	Log         *slog.Logger

	mu   sync.Mutex
	seen map[domain.HostID]*beat
}

type beat struct {
	last   time.Time
	heard  domain.Time // last heartbeat, zero if none since the start
	silent bool
	state  domain.Heartbeat
}

// Heard notes a heartbeat.
func (l *Liveness) Heard(host domain.HostID, hb *domain.Heartbeat) {
	now := l.Clock()
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.get(host, now)
	b.last, b.heard, b.state = now, domain.TimeOf(now), *hb
}

func (l *Liveness) get(host domain.HostID, now time.Time) *beat {
	if l.seen == nil {
		l.seen = map[domain.HostID]*beat{}
	}
	b := l.seen[host]
	if b == nil {
		b = &beat{last: now}
		l.seen[host] = b
	}
	return b
}

// Last is a host's last heartbeat, zero if none was heard since the start.
func (l *Liveness) Last(host domain.HostID) (domain.Time, domain.Heartbeat) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.seen[host]; b != nil {
		return b.heard, b.state
	}
	return 0, domain.Heartbeat{}
}

// Run checks until ctx ends. At the start every host has the full time to be heard.
func (l *Liveness) Run(ctx context.Context) {
	if l.SilentAfter == 0 {
		l.SilentAfter = 15 * time.Second
	}
	l.learn(ctx)
	t := time.NewTicker(max(l.SilentAfter/15, 20*time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			l.check(ctx)
		}
	}
}

// learn asks the world which hosts are silent already.
func (l *Liveness) learn(ctx context.Context) {
	now := l.Clock()
	_, _ = l.Loop.Query(ctx, domain.System, func(w *domain.World, _ domain.Time) {
		l.mu.Lock()
		defer l.mu.Unlock()
		w.Identities(func(domain.APIKey) {}, func(domain.Member) {}, func(h *domain.Host) {
			if h.NATSKey != "" {
				l.get(h.ID, now).silent = h.Silent != 0
			}
		})
	})
}

func (l *Liveness) check(ctx context.Context) {
	now := l.Clock()
	type change struct {
		host  domain.HostID
		act   domain.HostAction
		since domain.Time
	}
	var changes []change
	hosts := l.Hosts()
	l.mu.Lock()
	for _, id := range hosts {
		b := l.get(id, now)
		late := now.Sub(b.last) > l.SilentAfter
		switch {
		case late && !b.silent:
			changes = append(changes, change{id, domain.HostSilent, domain.TimeOf(b.last)})
		case !late && b.silent && b.heard != 0:
			changes = append(changes, change{id, domain.HostInTouch, 0})
		}
	}
	l.mu.Unlock()
	for _, c := range changes {
		cmd := &domain.Command{Actor: domain.System, Body: &domain.ActOnHost{Host: c.host, Action: c.act, Since: c.since}}
		cmd.ID = commands.NewCommandID(now, domain.Entropy(domain.DigestOf(c.host[:])))
		sub, cancel := context.WithTimeout(ctx, 5*time.Second)
		r := l.Loop.Submit(sub, cmd)
		cancel()
		if r.Err != nil {
			continue // tried again at the next check
		}
		l.Log.Info("host "+c.act.String(), "host", c.host)
		l.mu.Lock()
		l.seen[c.host].silent = c.act == domain.HostSilent
		l.mu.Unlock()
	}
}

// SilentHosts counts the hosts that are silent now.
func (l *Liveness) SilentHosts() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.seen {
		if b.silent {
			n++
		}
	}
	return n
}
