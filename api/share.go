package api

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

// What is scarce at the edge, the processors and the connections to the read models,
// is taken in turns, and whose turn it is goes round the lanes: a tenant is one, a
// person of the site's own, and an address without a good key. Who floods waits for
// itself. A request has a turn while it is decoded, checked and encoded, and none while
// it waits for its body, for the loop, for a host, or for its caller to read.
//
// A lane that is alone has all turns. Beside another one it has as many to work as there
// are processors, which keeps them busy, and to read half as many, because Postgres may
// live on the same ones: who asks little finds one free.

// The bounds.
const (
	maxUnderWay  = 16384            // requests under way; more: 503
	maxLane      = 1024             // of one lane; more: 429
	turnPatience = 10 * time.Second // to wait for a turn; longer: 503
	laneMemory   = time.Second      // a lane stays so long after its last request
	// refusalPause is the time before a refusal is said: a caller who asks again at
	// once keeps itself busy, not the site. maxLate bounds those that wait for it.
	refusalPause = time.Second
	maxLate      = 8192
	refusalRead  = 100 * time.Millisecond // for what of its body is still to come, before net/http answers
)

// Why a request was refused at the edge; a label.
const (
	whyLane = "lane"
	whyFull = "site"
	whyTurn = "turn"
)

// laneKey says whose lane it is; one of its fields is set.
type laneKey struct {
	tenant domain.TenantID
	user   domain.UserID
	from   netip.Prefix
}

type lane struct {
	key      laneKey
	underWay int
	last     time.Time // a request began
	places   [2]place  // by turns.kind
}

// place is where a lane stands with one kind of turn.
type place struct {
	used    int
	waiting []chan struct{}
	queued  bool // in turns.order
}

// turns are all turns of one kind.
type turns struct {
	kind   int
	all    int
	beside int // that a lane may have beside another one
	free   int
	order  []*lane // with somebody who waits, next first
}

type shares struct {
	mu          sync.Mutex
	lanes       map[laneKey]*lane
	underWay    int
	late        int
	swept       time.Time
	work, reads turns
}

// newShares has work for the processors, and a turn for each connection to the read
// models.
func newShares(processors, connections int) *shares {
	work := 2 * processors
	return &shares{
		lanes: map[laneKey]*lane{},
		work:  turns{kind: 0, all: work, free: work, beside: max(1, work/2)},
		reads: turns{kind: 1, all: connections, free: connections, beside: max(1, min(connections, processors)/2)},
	}
}

// enter lets a request in, or refuses it before anything was done for it.
func (s *shares) enter(k laneKey, now time.Time) (*lane, *domain.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep(now)
	if s.underWay >= maxUnderWay {
		return nil, errBusy()
	}
	l := s.lanes[k]
	if l == nil {
		l = &lane{key: k}
		s.lanes[k] = l
	}
	if l.underWay >= maxLane {
		return nil, errLane()
	}
	l.underWay++
	l.last = now
	s.underWay++
	return l, nil
}

func (s *shares) leave(l *lane) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.underWay--
	s.underWay--
}

// sweep forgets lanes that nobody used for a while.
func (s *shares) sweep(now time.Time) {
	if now.Sub(s.swept) < laneMemory/4 {
		return
	}
	s.swept = now
	for k, l := range s.lanes {
		if l.underWay == 0 && now.Sub(l.last) > laneMemory {
			delete(s.lanes, k)
		}
	}
}

// take waits for a turn; false: none came before ctx ended or patience did.
func (s *shares) take(ctx context.Context, t *turns, l *lane) bool {
	s.mu.Lock()
	p := &l.places[t.kind]
	if t.free > 0 && len(p.waiting) == 0 && p.used < s.most(t) {
		t.free--
		p.used++
		s.mu.Unlock()
		return true
	}
	turn := make(chan struct{})
	p.waiting = append(p.waiting, turn)
	if !p.queued {
		p.queued = true
		t.order = append(t.order, l)
	}
	s.mu.Unlock()
	patience := time.NewTimer(turnPatience)
	defer patience.Stop()
	select {
	case <-turn:
		return true
	case <-ctx.Done():
	case <-patience.C:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(p.waiting, turn); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
		return false
	}
	return true // it came meanwhile
}

// most is how many turns a lane may have.
func (s *shares) most(t *turns) int {
	if len(s.lanes) <= 1 {
		return t.all
	}
	return t.beside
}

// give gives a turn back, for the next who waits.
func (s *shares) give(t *turns, l *lane) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.places[t.kind].used--
	t.free++
	most := s.most(t)
	for passed := 0; t.free > 0 && passed < len(t.order); passed++ { // ends after a round in which nobody got one
		next := t.order[0]
		t.order = t.order[1:]
		p := &next.places[t.kind]
		if len(p.waiting) > 0 && p.used < most {
			close(p.waiting[0])
			p.waiting = p.waiting[1:]
			p.used++
			t.free--
			passed = -1
		}
		if p.queued = len(p.waiting) > 0; p.queued {
			t.order = append(t.order, next)
		}
	}
}

// enter finds a request's lane and lets it in. A refusal is said after a while.
func (s *Server) enter(w http.ResponseWriter, r *http.Request, key laneKey) (*lane, *domain.Error) {
	l, err := s.shares.enter(key, time.Now())
	if err == nil {
		return l, nil
	}
	why := whyFull
	if err.Kind == domain.Exhausted {
		why = whyLane
	}
	s.metrics.refused.WithLabelValues(why).Inc()
	s.hesitate(r.Context())
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(refusalRead)) // a recorder in a test has none
	return nil, err
}

// hesitate waits before a refusal is said, if not too many do.
func (s *Server) hesitate(ctx context.Context) {
	if !s.shares.addLate(1) {
		return
	}
	defer s.shares.addLate(-1)
	pause := time.NewTimer(refusalPause)
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-ctx.Done():
	case <-s.stop:
	}
}

func (s *shares) addLate(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.late+n > maxLate {
		return false
	}
	s.late += n
	return true
}

func errLane() *domain.Error {
	return domain.Errorf(domain.Exhausted, "queue.lane_full", "too many requests at once: try again in a second")
}

func errBusy() *domain.Error {
	return domain.Errorf(domain.Unavailable, "queue.full", "the site is busy: try again in a second")
}

// laneOf finds whose request it is, and the digest of the key in it.
func (s *Server) laneOf(r *http.Request, at domain.Time) (laneKey, domain.Digest) {
	secret, ok := secretOf(r.Header.Get("Authorization"))
	if ok {
		if c, ok := s.o.Callers.Caller(secret, at); ok {
			if !c.Member.Tenant.IsZero() {
				return laneKey{tenant: c.Member.Tenant}, secret
			}
			return laneKey{user: c.Member.ID}, secret
		}
	}
	return laneKey{from: sourceOf(r.RemoteAddr)}, secret
}

// work takes a turn at the processors; false: none came in time.
func (c *call) work() bool {
	if !c.working && c.lane != nil {
		c.working = c.s.shares.take(c.ctx(), &c.s.shares.work, c.lane)
	}
	return c.working
}

// rest gives the turn back: what comes next is waiting.
func (c *call) rest() {
	if c.working {
		c.working = false
		c.s.shares.give(&c.s.shares.work, c.lane)
	}
}

// readTurn is a turn at a connection to the read models.
func (s *Server) readTurn(ctx context.Context) (done func(), err error) {
	c := callOf(ctx)
	if c == nil || c.lane == nil {
		return func() {}, nil
	}
	if !s.shares.take(ctx, &s.shares.reads, c.lane) {
		return nil, errBusy()
	}
	return func() { s.shares.give(&s.shares.reads, c.lane) }, nil
}

// restingWriter ends the turn of a call with its answer's first byte: its caller may
// be slow to read it.
type restingWriter struct {
	http.ResponseWriter
	c *call
}

func (w *restingWriter) Write(b []byte) (int, error) {
	w.c.rest()
	return w.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (w *restingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
