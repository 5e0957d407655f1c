package commands

import (
	"context"
	"sync"

	"github.com/gpuaas/gpuaas/domain"
)

// The queue is bounded and fair: every lane (a tenant, or the platform's people)
// takes its turn, so that one tenant's flood delays that tenant. What the site
// itself asks (host reports, liveness, metrics) has a lane of its own, which goes
// first and whose room nobody else can take.

// The bounds. A lane's overflow is that caller's 429, that of all lanes is 503.
const (
	maxLane   = 1024
	maxQueued = 16384 // in the lanes of tenants and people
)

type item struct {
	ctx   context.Context
	cmd   *domain.Command
	query func(w *domain.World, at domain.Time)
	reply chan Reply // buffered, 1

	mu   sync.Mutex // held by a question that runs
	left bool       // nobody waits any more
}

// leave keeps a question from running after who asked has gone: what it would write to
// is theirs.
func (it *item) leave() {
	it.mu.Lock()
	defer it.mu.Unlock()
	it.left = true
}

type lane struct{ items []*item }

type queue struct {
	mu     sync.Mutex
	system lane
	lanes  map[domain.TenantID]*lane
	turn   []domain.TenantID // lanes with items, next first
	n      int               // in lanes
	closed bool
	wake   chan struct{} // buffered, 1
}

func newQueue() *queue {
	return &queue{lanes: map[domain.TenantID]*lane{}, wake: make(chan struct{}, 1)}
}

// push adds it to a lane.
func (q *queue) push(it *item, system bool, tenant domain.TenantID) *domain.Error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return errStopping()
	}
	if !system && q.n >= maxQueued || system && len(q.system.items) >= maxLane {
		return domain.Errorf(domain.Unavailable, "queue.full", "the site is busy: try again in a second")
	}
	l := &q.system
	if !system {
		if l = q.lanes[tenant]; l == nil {
			l = &lane{} // a lane is there as long as it has items, and then it has its turn
			q.lanes[tenant] = l
			q.turn = append(q.turn, tenant)
		}
	}
	if len(l.items) >= maxLane {
		return domain.Errorf(domain.Exhausted, "queue.lane_full", "too many requests at once: try again in a second")
	}
	l.items = append(l.items, it)
	if !system {
		q.n++
	}
	if q.n+len(q.system.items) == 1 {
		q.rouse()
	}
	return nil
}

// rouse wakes the loop.
func (q *queue) rouse() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// pop takes up to limit items, the system's lane first, then one of each lane in
// turn.
func (q *queue) pop(limit int) (into []*item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(into) < limit && len(q.system.items) > 0 {
		into = append(into, shift(&q.system))
	}
	for len(into) < limit && len(q.turn) > 0 {
		tenant := q.turn[0]
		q.turn = q.turn[1:]
		l := q.lanes[tenant]
		into = append(into, shift(l))
		q.n--
		if len(l.items) > 0 {
			q.turn = append(q.turn, tenant)
		} else {
			delete(q.lanes, tenant)
		}
	}
	return into
}

func shift(l *lane) *item {
	it := l.items[0]
	l.items[0] = nil
	l.items = l.items[1:]
	return it
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.n + len(q.system.items)
}

// refuse takes nothing more.
func (q *queue) refuse() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
}

// close refuses what comes and returns what waits.
func (q *queue) close() (rest []*item) {
	q.refuse()
	return q.pop(maxQueued + maxLane)
}

func errStopping() *domain.Error {
	return domain.Errorf(domain.Unavailable, "site.stopping", "this process is stopping: try again")
}
