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
	// Holds says whether the log has the commit that a host follows, and not another one of
	// its number. It is asked once a host, and again after a silence: a log loses its end
	// only while nobody writes.
	Holds func(ctx context.Context, h domain.Head) (bool, error)
	// Remind is told of hosts that have been behind the log without a step since the last
	// look: what was published for them may be lost, or they may not have heard of it.
	Remind func(ctx context.Context, hosts []domain.HostID)
	LookAt time.Duration // how often, default 10 s

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
	follows    [3]domain.Head // the commits that were compared, too: that it follows, that it refused, that it was outrun by

	looked step // at the last look whether it is behind the log
}

// step is how far a host is.
type step struct {
	journal             domain.JournalID
	epoch               uint32
	generation, backlog uint64
}

// Heard notes a heartbeat.
func (l *Liveness) Heard(host domain.HostID, hb *domain.Heartbeat) {
	now := l.Clock()
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.get(host, now)
	b.last, b.heard, b.state = now, domain.TimeOf(now), *hb
	if b.silent {
		b.follows = [3]domain.Head{}
	}
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
	if l.LookAt == 0 {
		l.LookAt = 10 * time.Second
	}
	period := max(l.SilentAfter/15, 20*time.Millisecond)
	t := time.NewTicker(period)
	defer t.Stop()
	looked := time.Now()
	for learned := l.learn(ctx); ; { // ends with ctx
		idle := time.Now()
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if stood := time.Since(idle); stood > 5*period {
				l.pardon(stood)
			}
			if !learned { // the site was busy: a silent host that is back would stay silent
				learned = l.learn(ctx)
				continue
			}
			l.check(ctx)
			l.noteAhead(ctx)
			if l.Remind != nil && time.Since(looked) >= l.LookAt {
				looked = time.Now()
				l.remind(ctx)
			}
		}
	}
}

// pardon gives every host the time in which this process itself stood still: what they
// sent meanwhile is on its way to Heard.
func (l *Liveness) pardon(stood time.Duration) {
	l.Log.Warn("this process stood still: hosts have so much longer to be heard", "for", stood)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.seen {
		b.last = b.last.Add(stood)
	}
}

// compared bounds the commits that are looked for in one turn.
const compared = 256

// noteAhead says which hosts have seen placements that this log never made: it has lost
// its end. Each pair is compared once. A log that has lost its end may have gone on
// beyond what a host has seen: then only the commit tells.
func (l *Liveness) noteAhead(ctx context.Context) {
	var news []domain.Heartbeat
	l.mu.Lock()
	asked := 0
	for id, b := range l.seen {
		hb := &b.state
		n := domain.Heartbeat{Host: id, Epoch: hb.Epoch, Generation: hb.Generation}
		if b.heard != 0 && b.follows[0].N == 0 && asked < compared {
			asked++
			n.From, b.follows[0] = hb.From, hb.From
		}
		if b.heard != 0 && b.follows[1] != hb.Refused {
			n.Refused, b.follows[1] = hb.Refused, hb.Refused
		}
		if b.heard != 0 && b.follows[2] != hb.Outrun {
			n.Outrun, b.follows[2] = hb.Outrun, hb.Outrun
		}
		if b.heard != 0 && (n.From.N != 0 || n.Refused.N != 0 || n.Outrun.N != 0 || hb.Epoch != b.epoch || hb.Generation != b.generation) {
			b.epoch, b.generation = hb.Epoch, hb.Generation
			news = append(news, n)
		}
	}
	l.mu.Unlock()
	if len(news) == 0 {
		return
	}
	again := func(host domain.HostID) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if b := l.seen[host]; b != nil {
			b.generation, b.follows = 0, [3]domain.Head{}
		}
	}
	var ahead []domain.NoteHostAhead
	var ask []domain.Heartbeat
	_, err := l.Loop.Query(ctx, domain.System, func(w *domain.World, _ domain.Time) {
		for _, hb := range news {
			forked := hb.Epoch >= w.Epoch && max(hb.From.N, hb.Refused.N) > w.Head.N
			switch {
			case forked || w.AheadOf(hb.Host, hb.Epoch, hb.Generation):
				ahead = append(ahead, domain.NoteHostAhead{Host: hb.Host, Epoch: hb.Epoch, Generation: hb.Generation, Forked: forked})
			case hb.Epoch >= w.Epoch && l.Holds != nil:
				ask = append(ask, hb)
			}
		}
	})
	if err != nil { // not compared
		for _, hb := range news {
			again(hb.Host)
		}
		return
	}
	for _, hb := range ask {
		for i, h := range []domain.Head{hb.From, hb.Refused, hb.Outrun} {
			if h.N == 0 || h.Hash.IsZero() { // early builds published placements without it
				continue
			}
			held, err := l.Holds(ctx, h)
			if err != nil {
				again(hb.Host)
			} else if outrun := i == 2; held == outrun { // of this log, and had lost its end: not of one that is gone
				ahead = append(ahead, domain.NoteHostAhead{Host: hb.Host, Epoch: hb.Epoch, Generation: hb.Generation, Forked: true})
			}
		}
	}
	for _, hb := range ahead {
		cmd := &domain.Command{Actor: domain.System, Body: &hb}
		cmd.ID = commands.NewCommandID(l.Clock(), domain.Entropy(domain.DigestOf(hb.Host[:])))
		sub, cancel := context.WithTimeout(ctx, 5*time.Second)
		r := l.Loop.Submit(sub, cmd)
		cancel()
		if r.Err == nil {
			l.Log.Error("a host has seen placements that this log never made: the log has lost its end; stop the site and see gpuaas site open-epoch", "host", hb.Host, "epoch", hb.Epoch, "generation", hb.Generation)
			continue
		}
		again(hb.Host)
	}
}

// remind looks which hosts are behind, and were so at the last look, without a step.
func (l *Liveness) remind(ctx context.Context) {
	still := map[domain.HostID]step{}
	l.mu.Lock()
	for id, b := range l.seen {
		if b.heard == 0 || b.silent || b.state.Refused.N != 0 { // the last one executes nothing, whatever it hears
			continue
		}
		now := step{b.state.Journal, b.state.Epoch, b.state.Generation, b.state.Backlog}
		if now == b.looked {
			still[id] = now
		}
		b.looked = now
	}
	l.mu.Unlock()
	var behind []domain.HostID
	if _, err := l.Loop.Query(ctx, domain.System, func(w *domain.World, _ domain.Time) {
		for id, at := range still {
			if w.Behind(id, at.epoch, at.generation, at.backlog) {
				behind = append(behind, id)
			}
		}
	}); err != nil || len(behind) == 0 {
		return
	}
	l.Log.Warn("hosts do not follow what is placed, or do not hear that their reports came: it is looked whether their placements are there", "hosts", len(behind), "one", behind[0])
	l.Remind(ctx, behind)
}

// learn asks the world which hosts are silent already; false: it did not answer.
func (l *Liveness) learn(ctx context.Context) bool {
	now := l.Clock()
	_, err := l.Loop.Query(ctx, domain.System, func(w *domain.World, _ domain.Time) {
		l.mu.Lock()
		defer l.mu.Unlock()
		w.Identities(func(domain.APIKey) {}, func(domain.Member) {}, func(h *domain.Host) {
			if h.NATSKey != "" {
				b := l.get(h.ID, now)
				b.last, b.silent = now, h.Silent != 0
			}
		})
	})
	return err == nil
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
