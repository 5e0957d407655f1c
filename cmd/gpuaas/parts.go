package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/commands/processes"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
)

func (s *site) openPlacements() error {
	placements, err := streams.OpenPlacements(s.dial(server.Runtime), s.names)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, placements.Close)
	s.placer = processes.NewPlacer(func(ctx context.Context, host domain.HostID, data []byte) error {
		return placements.Publish(ctx, host, data)
	}, func(err error) bool { return errors.Is(err, streams.ErrStale) }, s.log)
	s.hostConsumer = placements.CreateHostConsumer
	s.remind = func(ctx context.Context, hosts []domain.HostID) {
		for _, id := range hosts {
			placements.Forget(id)
		}
		if err := s.placer.OfferAgain(ctx, s.member, hosts); err != nil && ctx.Err() == nil {
			s.log.Warn("placements are not looked at, will be tried again", "err", err)
		}
	}
	return nil
}

func (s *site) newLoop(world *domain.World) (err error) {
	s.loop, err = commands.NewLoop(world, commands.Options{
		Site: s.cfg.Site, Build: build(), Log: s.commits, Publisher: s.placer, Slog: s.log, Metrics: commands.NewMetrics(s.reg),
		Snapshot: s.snaps.Offer, SnapshotEvery: s.cfg.Snapshot, Gate: s.admission, Live: s.claimed, KeepLevel: s.nats == nil, Alone: s.nats != nil,
		Poisoned: func(p commands.Poison) { s.audit.Record("poison", encodeJSON(p)) },
		Final: func(h domain.Head, state []byte) {
			s.release() // the next writer need not wait for a file
			if err := s.snaps.Save(h, state); err != nil {
				s.log.Warn("snapshot not written", "err", err)
			}
		},
	})
	return err
}

// startParts begins what every process of a site does.
func (s *site) startParts(part partFunc) {
	s.live = &processes.Liveness{Loop: s.member, Hosts: s.member.hosts, SilentAfter: time.Duration(s.cfg.Silent) * time.Second, Clock: s.clock, Log: s.log, Proven: s.proven, Holds: s.holds, Remind: s.remind}
	part("drift watch", s.watchDrift)
	part("disk watch", s.watchDisk)
	part("audit watch", s.followAudit)
	part("database", s.keepDatabase)
	part("read models", s.project)
	part("heartbeats", func(ctx context.Context) error {
		h, err := streams.OpenHeartbeats(s.dial(server.Responder), s.names)
		if err != nil {
			return err
		}
		defer h.Close()
		return h.Listen(ctx, s.live.Heard)
	})
	part("api", s.serveAPI)
}

// startWriterParts begins what only the writer does and does not need its term to
// have begun.
func (s *site) startWriterParts(part partFunc) {
	part("placements", func(ctx context.Context) error { s.placer.Run(ctx); return nil })
	part("feed", s.fanout.Run)
}

// whenStarted begins what submits commands, once this process is the writer.
func (s *site) whenStarted(ctx context.Context, part partFunc, ready func(context.Context) error) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.loop.Started():
	}
	s.member.take()
	s.log.Info("deciding", "after", time.Since(s.started).Round(time.Millisecond))
	if err := s.bootstrap(ctx); err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	if err := s.placer.OfferAll(ctx, s.loop); err != nil {
		return err
	}
	s.startHostProcesses(part)
	hostCredentials{s}.revokeRemoved(ctx)
	part("logic level", s.raiseLevel)
	if err := s.registerImages(ctx); err != nil {
		return err
	}
	// Whoever reads after "ready" sees what was written before the restart. A database
	// that is away does not keep the site from deciding.
	caughtUp, cancel := context.WithTimeout(ctx, startTimeout)
	if s.reads.down.Load() {
		s.log.Warn("the site is ready without its read models")
	} else if err := s.reads.projector.WaitFor(caughtUp, s.foldedTo); err != nil {
		s.log.Warn("the read models are still catching up", "err", err)
	}
	cancel()
	select {
	case <-ctx.Done():
		return nil
	case <-s.front.serving:
	}
	return ready(ctx)
}

func (s *site) deny(d processes.Denied) { s.audit.Record("host", encodeJSON(d)) }

func (s *site) startHostProcesses(part partFunc) {
	reports := &processes.Reports{Loop: s.loop, Keys: s.loop.Directory().Host, Audit: s.deny, Clock: s.clock}
	s.reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "gpuaas_reports_parked_total", Help: "Host reports that were recorded without being judged, because that failed inside: a bug, alarm on any."},
		func() float64 { return float64(reports.Parked()) }))
	asked := &processes.HostRequests{Loop: s.loop, Vault: s.vault.Get, Image: s.images.Path, Audit: s.deny, Clock: s.clock}
	part("reports", func(ctx context.Context) error {
		r, err := streams.OpenReports(s.dial(server.Runtime), s.names)
		if err != nil {
			return err
		}
		defer r.Close()
		return r.Consume(ctx, func(m streams.ReportMsg) error { return reports.Handle(ctx, m.Host, m.Data, m.Delivery) })
	})
	part("liveness", func(ctx context.Context) error { s.live.Run(ctx); return nil })
	part("images", func(ctx context.Context) error { return s.requests.ServeImages(ctx, asked.ServeImage) })
	part("image sweep", s.sweepImages)
	part("vault", func(ctx context.Context) error { return s.requests.ServeVault(ctx, asked.ServeVault) })
}
