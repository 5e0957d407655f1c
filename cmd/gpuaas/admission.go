package main

import (
	"context"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
)

// errDiskNearlyFull refuses what would make the log longer without end.
var errDiskNearlyFull = domain.Errorf(domain.Unavailable, "site.disk_nearly_full", "the site's disk is nearly full: an operator has to make room; stop and release still work")

// admission refuses tenants' commands while the site could not keep its promises. Little
// room is enough for what only ends something: who cannot release pays on.
func (s *site) admission(b domain.CommandBody) *domain.Error {
	if e := s.gate.Load(); e != nil && (e != errDiskNearlyFull || !domain.OnlyEnds(b)) {
		return e
	}
	if s.reads != nil && s.reads.lag() > s.cfg.MaxLag {
		return domain.Errorf(domain.Unavailable, "read_model.behind", "the site is catching up: try again in a few seconds")
	}
	return nil
}

// driftPeriod is the pause between two comparisons of the streams.
const driftPeriod = 10 * time.Second

// watchDrift stops all writing while a stream is not configured as it must be: the
// tenants', the hosts' and the site's own. Reads go on.
func (s *site) watchDrift(ctx context.Context) error {
	nc, err := s.dial(server.Runtime)(nats.Name("drift watch"))
	if err != nil {
		return err
	}
	defer nc.Close()
	streams.Watch(ctx, nc, s.streamConfig(), driftPeriod, func(drifts []streams.Drift, err error) {
		if err != nil {
			s.log.Warn("stream configuration not compared", "err", err)
			return
		}
		var why *domain.Error
		if err := refuseDrift(drifts); err != nil {
			s.log.Error("writing stops", "err", err)
			why = domain.Errorf(domain.Unavailable, "site.drift", "the site has stopped writing: its streams are not configured as they must be, an operator has to look at it")
		}
		s.setGate("drift", why)
		s.member.hold(why)
	})
	return nil
}

// watchDisk stops admission before the disk is full: JetStream answers a full disk
// with timeouts, and does not resume by itself. When there is room again all goes on.
func (s *site) watchDisk(ctx context.Context) error {
	free := prometheus.NewGauge(prometheus.GaugeOpts{Name: "gpuaas_disk_free_ratio", Help: "Free part of the data directory's disk."})
	s.reg.MustRegister(free)
	t := time.NewTicker(2 * time.Second)
	defer t.Stop()
	for {
		var st syscall.Statfs_t
		// Of what we could use, as df counts: blocks that are kept for others are not ours.
		if err := syscall.Statfs(s.cfg.DataDir, &st); err == nil && st.Blocks-st.Bfree+st.Bavail > 0 {
			usable := st.Blocks - st.Bfree + st.Bavail
			percent := int(st.Bavail * 100 / usable)
			free.Set(float64(st.Bavail) / float64(usable))
			var gate *domain.Error
			if percent < s.cfg.MinFree {
				gate = errDiskNearlyFull
			}
			if gate == nil {
				s.unstick(ctx)
			}
			s.setGate("disk", gate)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// unstick starts the embedded NATS server again when streams of it met a full disk: it
// would not write them any more. It is asked before admission goes on.
func (s *site) unstick(ctx context.Context) {
	if s.nats == nil {
		return // an operator's cluster, with a supervisor of its own
	}
	stuck := s.nats.Stuck()
	if len(stuck) == 0 {
		return
	}
	s.log.Warn("the embedded NATS server is started again: it does not write any more what met a full disk", "streams", stuck)
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := s.nats.Restart(ctx); err != nil {
		s.log.Error("the embedded NATS server does not start again", "err", err)
	}
}

// setGate opens or closes admission for one reason; another reason's is left alone.
func (s *site) setGate(reason string, e *domain.Error) {
	s.gates.Lock()
	defer s.gates.Unlock()
	if s.why == nil {
		s.why = map[string]*domain.Error{}
	}
	if had := s.why[reason]; (had == nil) != (e == nil) && e != nil {
		s.log.Error("admission stops", "reason", reason, "message", e.Message)
	} else if had != nil && e == nil {
		s.log.Info("admission goes on", "reason", reason)
	}
	delete(s.why, reason)
	if e != nil {
		s.why[reason] = e
	}
	var any *domain.Error
	for _, e := range s.why {
		any = e
	}
	s.gate.Store(any) // once: what is closed does not open in between
}
