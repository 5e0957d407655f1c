package main

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams"
)

// A standby says hello to the writer all the time. So the writer knows who stands
// by, and a standby whether a process that writes is still connected: the server
// itself answers at once when nobody listens any more.

const (
	helloPeriod = 100 * time.Millisecond
	helloWait   = 250 * time.Millisecond // what was asked as the writer died is never answered
	// goneAfter is for how long nobody may listen before the writer is taken for gone:
	// longer than a client takes to find another server of the cluster.
	goneAfter = 500 * time.Millisecond
	// peerAfter is when a standby that says nothing counts no more.
	peerAfter = 3 * time.Second
)

// hello is what processes tell each other.
type hello struct {
	Name       string `json:"name"`
	Build      string `json:"build"`
	LogicLevel uint32 `json:"logic_level"` // the highest it can fold and decide at
	Commit     uint64 `json:"commit"`      // folded
}

// peers is what a process knows of the others. As a standby it counts for how long
// nobody listened; as the writer it knows who stands by.
type peers struct {
	mu     sync.Mutex
	holder string    // of the claim
	absent time.Time // since when nobody listens under this holder; zero: somebody does
	asked  time.Time // when that was found last: a process that stood still itself did not ask
	seen   map[string]peer
}

type peer struct {
	hello
	at time.Time
}

func (s *site) hello() hello {
	h := hello{Name: s.member.name, Build: build(), LogicLevel: commands.LogicLevel}
	if l, standby, _, _ := s.member.part(); l == nil {
		h.Commit = standby.Head().N
	}
	return h
}

// greet says hello to the writer until ctx ends.
func (s *site) greet(ctx context.Context) error {
	tick := time.NewTicker(helloPeriod)
	defer tick.Stop()
	for { // ends with ctx
		one, cancel := context.WithTimeout(ctx, helloWait)
		_, err := s.requests.Command(one, encodeJSON(s.hello()))
		cancel()
		s.peers.heard(err, time.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// heard notes what came of a hello. That no answer came in time says nothing.
func (p *peers) heard(err error, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !errors.Is(err, streams.ErrNoHandler) {
		p.absent = time.Time{}
	} else if p.absent.IsZero() {
		p.absent = now
	}
	p.asked = now
}

// gone reports whether the holder of the claim surely is not there any more. A new
// one has its time to begin to listen; open-epoch never does.
func (p *peers) gone(h streams.Holder) bool {
	if h.Name == epochOpener {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if h.Name != p.holder {
		p.holder, p.absent = h.Name, time.Time{}
	}
	return !p.absent.IsZero() && p.asked.Sub(p.absent) > goneAfter
}

// serveHellos answers the standbys, as the writer.
func (s *site) serveHellos(ctx context.Context) error {
	return s.requests.ServeCommands(ctx, func(_ context.Context, b []byte) ([]byte, error) {
		var h hello
		if err := json.Unmarshal(b, &h); err != nil || h.Name == "" {
			return nil, domain.Errorf(domain.Invalid, "request.malformed", "want who stands by, as JSON")
		}
		s.peers.note(h, time.Now())
		return encodeJSON(s.hello()), nil
	})
}

// maxPeers bounds the standbys that are known.
const maxPeers = 64

func (p *peers) note(h hello, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen == nil {
		p.seen = map[string]peer{}
	}
	for name, x := range p.seen {
		if now.Sub(x.at) > peerAfter {
			delete(p.seen, name)
		}
	}
	if _, known := p.seen[h.Name]; known || len(p.seen) < maxPeers {
		p.seen[h.Name] = peer{h, now}
	}
}

// standing are the standbys that said hello a moment ago.
func (p *peers) standing() (out []hello) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.seen {
		if time.Since(x.at) <= peerAfter {
			out = append(out, x.hello)
		}
	}
	return out
}

// levelWait is for how long every standby has to know a logic level before the log is
// raised to it: longer than a process takes to be started again with another build.
const levelWait = 15 * time.Second

// raiseLevel raises the log to the logic level of this build once no standby is left
// that could not fold it.
func (s *site) raiseLevel(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for since := time.Now(); ; { // ends with ctx, or at the level
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		var level uint32
		if _, err := s.loop.Query(ctx, domain.System, func(w *domain.World, _ domain.Time) { level = w.LogicLevel }); err != nil {
			continue
		}
		if level >= commands.LogicLevel {
			return nil
		}
		for _, h := range s.peers.standing() {
			if h.LogicLevel < commands.LogicLevel {
				since = time.Now()
			}
		}
		if time.Since(since) < levelWait {
			continue
		}
		r := s.submit(ctx, &domain.StartWriter{Site: s.cfg.Site, Build: build(), LogicLevel: commands.LogicLevel, Running: true})
		if r.Err == nil {
			s.log.Info("the log is at a new logic level", "from", level, "to", commands.LogicLevel)
		}
	}
}
