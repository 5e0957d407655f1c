package processes

import (
	"context"
	"log/slog"
	"maps"
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
	// Proven is the last moment at which what is durable shows the host alive. It is
	// asked for a host that was not heard since the start: what ran there is not billed
	// for the time in which nobody listened.
	Proven func(ctx context.Context, host domain.HostID) (domain.Time, error)

	mu   sync.Mutex
	seen map[domain.HostID]*beat
}

type beat struct {
	last   time.Time   // heard, or waited for since
	heard  domain.Time // last heartbeat, zero if none since the start
	silent bool
	state  domain.Heartbeat

	epoch      uint32 // of the pair that was compared with the log
	generation uint64
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

// Problems counts the hosts whose last heartbeat named something that an operator
// has to look at, and the reports that wait on hosts for the site's acknowledgement.
func (l *Liveness) Problems() (hosts int, backlog uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.seen {
		if b.state.Drift != "" {
			hosts++
		}
		backlog += b.state.Backlog
	}
	return hosts, backlog
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

// Run checks until ctx ends. At the start every host has the full time to be heard,
// also one that was heard by this process while it stood by.
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
			l.noteAhead(ctx)
		}
	}
}

// noteAhead says which hosts have seen placements that this log never made: it has lost
// its end. Each pair is compared once.
func (l *Liveness) noteAhead(ctx context.Context) {
	var news []domain.Heartbeat
	l.mu.Lock()
	for id, b := range l.seen {
		if hb := &b.state; b.heard != 0 && (hb.Epoch != b.epoch || hb.Generation != b.generation) {
			b.epoch, b.generation = hb.Epoch, hb.Generation
			news = append(news, domain.Heartbeat{Host: id, Epoch: hb.Epoch, Generation: hb.Generation})
		}
	}
	l.mu.Unlock()
	if len(news) == 0 {
		return
	}
	var ahead []domain.Heartbeat
	_, _ = l.Loop.Query(ctx, domain.System, func(w *domain.World, _ domain.Time) {
		for _, hb := range news {
			if w.AheadOf(hb.Host, hb.Epoch, hb.Generation) {
				ahead = append(ahead, hb)
			}
		}
	})
	for _, hb := range ahead {
		cmd := &domain.Command{Actor: domain.System, Body: &domain.NoteHostAhead{Host: hb.Host, Epoch: hb.Epoch, Generation: hb.Generation}}
		cmd.ID = commands.NewCommandID(l.Clock(), domain.Entropy(domain.DigestOf(hb.Host[:])))
		sub, cancel := context.WithTimeout(ctx, 5*time.Second)
		r := l.Loop.Submit(sub, cmd)
		cancel()
		if r.Err == nil {
			l.Log.Error("a host has seen placements that this log never made: the log has lost its end; stop the site and see gpuaas site open-epoch", "host", hb.Host, "epoch", hb.Epoch, "generation", hb.Generation)
			continue
		}
		l.mu.Lock()
		if b := l.seen[hb.Host]; b != nil {
			b.generation = 0 // asked again
		}
		l.mu.Unlock()
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
				b := l.get(h.ID, now)
				b.last, b.silent = now, h.Silent != 0
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
	l.forgetOthers(hosts)
	for _, id := range hosts {
		b := l.get(id, now)
		late := now.Sub(b.last) > l.SilentAfter
		switch {
		case late && !b.silent:
			changes = append(changes, change{id, domain.HostSilent, b.heard})
		case !late && b.silent && b.heard != 0:
			changes = append(changes, change{id, domain.HostInTouch, 0})
		}
	}
	l.mu.Unlock()
	for _, c := range changes {
		if c.act == domain.HostSilent && c.since == 0 {
			proven, err := l.proven(ctx, c.host, now)
			if err != nil {
				l.Log.Warn("the last sign of a silent host is not known, will ask again", "host", c.host, "err", err)
				continue
			}
			c.since = proven
		}
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
		if b := l.seen[c.host]; b != nil {
			b.silent = c.act == domain.HostSilent
		}
		l.mu.Unlock()
	}
}

// forgetOthers drops the hosts that were taken out of the site.
func (l *Liveness) forgetOthers(hosts []domain.HostID) {
	if len(l.seen) <= len(hosts) {
		return
	}
	admitted := make(map[domain.HostID]bool, len(hosts))
	for _, id := range hosts {
		admitted[id] = true
	}
	maps.DeleteFunc(l.seen, func(id domain.HostID, _ *beat) bool { return !admitted[id] })
}

// proven is a moment that is never 0: that would be "now" to the domain.
func (l *Liveness) proven(ctx context.Context, host domain.HostID, now time.Time) (domain.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	at, err := l.Proven(ctx, host)
	return max(1, min(at, domain.TimeOf(now))), err
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
