package projections

import (
	"context"
	"slices"
	"time"
)

const (
	endInterval = time.Second
	maxEnds     = 600 // of the log, not shown yet, that are remembered
)

// Lag is how far the read models are behind the log.
type Lag struct {
	Commits uint64        `json:"commits"`
	Events  uint64        `json:"events"`
	Behind  time.Duration `json:"behind_ns"` // how long ago the log ended, as far as was seen, with a commit that is not shown
	Filling bool          `json:"filling"`   // what was in the log when this process began is not shown yet
}

// Lag looks at the log's end as last seen, at most about a second ago.
func (p *Projector) Lag() Lag {
	p.mu.Lock()
	defer p.mu.Unlock()
	var l Lag
	if p.end.Head.N > p.applied.Head.N {
		l.Commits = p.end.Head.N - p.applied.Head.N
	}
	if p.end.Number > p.applied.Number {
		l.Events = p.end.Number - p.applied.Number
	}
	if len(p.ends) > 0 {
		l.Behind = time.Since(p.ends[0].at)
	}
	l.Filling = p.applied.Head.N < p.start
	return l
}

// seen is the number of the log's last commit, as it was looked at.
type seen struct {
	n  uint64
	at time.Time
}

// watchEnd keeps the lag true while the read models are slower than the log, also
// those that another process fills.
func (p *Projector) watchEnd(ctx context.Context) {
	tick := time.NewTicker(endInterval)
	defer tick.Stop()
	for { // ends with ctx
		if end, err := p.src.End(ctx); err == nil {
			p.saw(end)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// saw notes where the log ends now.
func (p *Projector) saw(end End) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.end == (End{}) {
		p.start = end.Head.N
	}
	p.end = end
	known := p.applied.Head.N
	if n := len(p.ends); n > 0 {
		known = p.ends[n-1].n
	}
	if end.Head.N > known {
		p.ends = append(p.ends, seen{end.Head.N, time.Now()})
	}
	if len(p.ends) > maxEnds {
		p.ends = slices.Delete(p.ends, 1, 2) // not the oldest, which says how far behind they are
	}
}
