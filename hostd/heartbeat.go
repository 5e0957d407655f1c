package hostd

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/plan"
)

// status is what the loop last knew, for heartbeats.
type status struct {
	mu       sync.Mutex
	executed uint64
	vms      uint32
	drift    string
	from     domain.Head
	refused  domain.Head
	outrun   domain.Head
	outrunIn uint32 // the epoch in which that was
}

// rest is a turn in which nothing could be planned.
func (s *status) rest(drift string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drift = clip(drift)
}

// follow is the commit that what is desired follows from: of another desired state, or a
// later one of the same. It reports whether it is not an earlier one.
func (s *status) follow(from domain.Head, other bool) (news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	news = other || from.N >= s.from.N
	if other || from.N > s.from.N {
		s.from = from
	}
	s.refused, s.outrun = domain.Head{}, domain.Head{}
	return news
}

// following is the commit that is followed.
func (s *status) following() domain.Head {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.from
}

// refuse is the commit of another content of what is followed.
func (s *status) refuse(from domain.Head) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused.N == 0 { // what comes after it is refused for it
		s.refused = from
	}
}

// outruns is the commit of what a log told that had lost its end.
func (s *status) outruns(from domain.Head, epoch uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outrun, s.outrunIn = from, epoch
}

// observe is a turn with a plan; settled if it had nothing left to do.
func (s *status) observe(d *domain.Desired, state plan.State, settled bool) {
	running := uint32(0)
	for _, v := range state.VMs {
		if v.Running {
			running++
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vms, s.drift = running, clip(plan.Drift(d, state))
	if settled {
		s.executed = d.Generation
	}
}

// beat sends a heartbeat at a fixed pace, each host at its own moment of the pace,
// so that a thousand hosts that start together do not beat together. It ends with
// ctx.
func (a *Agent) beat(ctx context.Context) {
	pace := a.o.Limits.Heartbeat
	digest := domain.DigestOf(a.o.Host[:])
	if sleep(ctx, time.Duration(binary.BigEndian.Uint64(digest[:])%uint64(pace))) != nil {
		return
	}
	ticks := time.NewTicker(pace)
	defer ticks.Stop()
	for ctx.Err() == nil {
		if err := a.o.Link.Heartbeat(domain.EncodeHeartbeat(a.heartbeat())); err != nil {
			a.o.Log.Debug("heartbeat not sent", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-ticks.C:
		}
	}
}

func (a *Agent) heartbeat() *domain.Heartbeat {
	seen := a.fence.Seen()
	a.status.mu.Lock()
	defer a.status.mu.Unlock()
	h := &domain.Heartbeat{
		Host: a.o.Host, Journal: a.journal.ID(), At: a.now(), Epoch: seen.Epoch, Generation: seen.Generation,
		Executed: a.status.executed, Backlog: uint64(a.journal.Backlog()), VMs: a.status.vms, Version: a.o.Version, Drift: a.status.drift,
		From: a.status.from, Refused: a.status.refused,
	}
	if a.status.outrunIn == seen.Epoch { // not any more when the next epoch was admitted
		h.Outrun = a.status.outrun
	}
	return h
}
