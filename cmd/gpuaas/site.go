package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/commands/processes"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
)

// site is one running control plane: everything wired together, nothing decided.
type site struct {
	cfg    config
	names  streams.Names
	secret [32]byte
	log    *slog.Logger
	clock  func() time.Time
	reg    *prometheus.Registry

	nats     *server.Server // nil with an external cluster
	trust    *server.Trust
	natsURL  string
	dial     func(server.Role) streams.Dial
	commits  *streams.Log
	loop     *commands.Loop
	snaps    *commands.Snapshots
	placer   *processes.Placer
	live     *processes.Liveness
	audit    *streams.Audit
	feed     *streams.Feed
	fanout   *streams.Fanout
	vault    *streams.Vault
	requests *streams.Requests
	images   *images
	reads    *readModels

	hostConsumer func(ctx context.Context, host domain.HostID) error

	gate     atomic.Pointer[domain.Error] // why admission is stopped
	gates    sync.Mutex
	why      map[string]*domain.Error
	started  time.Time
	foldedTo uint64 // the commit the log ended at when this process started
	closers  []func()
	listener net.Listener
	children []*child
}

// startTimeout bounds each part of the start-up that waits for another process.
const startTimeout = 30 * time.Second

// openSite makes everything that the loop needs, folds the log, and stops short of
// deciding.
func openSite(ctx context.Context, cfg config, log *slog.Logger) (s *site, err error) {
	s = &site{cfg: cfg, log: log, clock: time.Now, reg: prometheus.NewRegistry(), started: time.Now()}
	opened := s
	defer func() {
		if err != nil {
			opened.close() // s is nil by now
		}
	}()
	if s.names, err = streams.ParseSite(cfg.Site); err != nil {
		return nil, err
	}
	if s.secret, err = siteSecret(cfg.DataDir); err != nil {
		return nil, err
	}
	if err := s.openNATS(ctx); err != nil {
		return nil, err
	}
	if s.commits, err = streams.OpenLog(ctx, streams.LogConfig{Dial: s.dial(server.Runtime), Site: s.names, OnError: func(err error) { log.Warn("log connection", "err", err) }}); err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	s.closers = append(s.closers, s.commits.Close)
	if s.snaps, err = commands.OpenSnapshots(filepath.Join(cfg.DataDir, "snapshots"), log); err != nil {
		return nil, err
	}
	s.images = newImages(cfg.Images)
	return s, s.openStreams()
}

// openNATS starts the embedded server, or uses the cluster it is told of.
func (s *site) openNATS(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if s.cfg.NATSURL != "" {
		s.natsURL = s.cfg.NATSURL
		s.dial = func(r server.Role) streams.Dial {
			return streams.DialCreds(s.natsURL, filepath.Join(s.cfg.NATSCreds, string(r)+".creds"))
		}
		trust, err := server.OpenTrust(s.cfg.NATSCreds, s.cfg.Site)
		if err != nil {
			return err
		}
		s.trust = trust
	} else {
		host, port, err := net.SplitHostPort(s.cfg.NATSListen)
		if err != nil {
			return fmt.Errorf("nats-listen: %w", err)
		}
		n, err := strconv.Atoi(port)
		if err != nil {
			return fmt.Errorf("nats-listen: %w", err)
		}
		s.nats, err = server.Start(ctx, server.Options{Dir: filepath.Join(s.cfg.DataDir, "nats"), Site: s.cfg.Site, Host: host, Port: n, Log: s.log.With("part", "nats")})
		if err != nil {
			return fmt.Errorf("embedded NATS: %w", err)
		}
		s.closers = append(s.closers, s.nats.Shutdown)
		s.natsURL, s.trust, s.dial = s.nats.ClientURL(), s.nats.Trust(), s.nats.Dial
	}
	admin, err := s.dial(server.Admin)(nats.Name("setup"))
	if err != nil {
		return fmt.Errorf("NATS at %s: %w", s.natsURL, err)
	}
	defer admin.Close()
	drifts, err := streams.Setup(ctx, admin, s.streamConfig())
	if err != nil {
		return err
	}
	if err := refuseDrift(drifts); err != nil {
		return err
	}
	return nil
}

func (s *site) streamConfig() streams.Config {
	return streams.Config{Site: s.names, Replicas: s.cfg.Replicas}
}

// refuseDrift names every difference: a site does not start on a stream that is not
// what it should be.
func refuseDrift(drifts []streams.Drift) error {
	var errs []error
	for _, d := range drifts {
		errs = append(errs, errors.New(d.String()))
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("the streams are not configured as they must be; repair them with the nats tool and start again: %w", errors.Join(errs...))
}

func (s *site) openStreams() (err error) {
	if s.audit, err = streams.OpenAudit(s.dial(server.Runtime), s.names); err != nil {
		return err
	}
	s.closers = append(s.closers, s.audit.Close)
	if s.feed, err = streams.OpenFeed(s.dial(server.Runtime), s.names); err != nil {
		return err
	}
	s.closers = append(s.closers, s.feed.Close)
	if s.fanout, err = streams.OpenFanout(s.dial(server.Runtime), s.commits); err != nil {
		return err
	}
	s.closers = append(s.closers, s.fanout.Close)
	if s.vault, err = streams.OpenVault(s.dial(server.Runtime), s.names, derive(s.secret, "vault")); err != nil {
		return err
	}
	s.closers = append(s.closers, s.vault.Close)
	if s.requests, err = streams.OpenRequests(s.dial(server.Responder), s.names); err != nil {
		return err
	}
	s.closers = append(s.closers, s.requests.Close)
	return nil
}

// close undoes what was opened, last first.
func (s *site) close() {
	for i := len(s.closers) - 1; i >= 0; i-- {
		s.closers[i]()
	}
	s.closers = nil
}

// run decides and serves until ctx ends, or until something fails that only a new
// start can repair. ready is called once the site answers.
func (s *site) run(ctx context.Context, ready func(context.Context) error) error {
	// The world is small values that live long, a request is garbage a moment later:
	// collecting less often costs some memory and gives a tenth of the processor back.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(300)
	}
	world, err := commands.Recover(ctx, s.commits, s.snaps, s.log)
	if err != nil {
		return fmt.Errorf("fold the log: %w", err)
	}
	if err := s.refuseLostTail(ctx, world.Head.N); err != nil {
		return err
	}
	s.foldedTo = world.Head.N
	s.log.Info("log folded", "commit", world.Head.N, "events", world.Number, "took", time.Since(s.started).Round(time.Millisecond))
	if err := s.newLoop(ctx, world); err != nil {
		return err
	}
	// Parts that serve stop first; the loop stops when nobody asks any more, and what
	// it answered is durable.
	serving, stopServing := context.WithCancelCause(ctx)
	defer stopServing(nil)
	deciding, stopDeciding := context.WithCancel(context.WithoutCancel(ctx))
	defer stopDeciding()
	var parts, deciders sync.WaitGroup
	done := make(chan struct{})
	part := func(name string, f func(context.Context) error) {
		parts.Go(func() {
			if err := f(serving); err != nil && serving.Err() == nil {
				stopServing(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	deciders.Go(func() {
		if err := s.loop.Run(deciding); err != nil {
			stopServing(fmt.Errorf("decision loop: %w", err))
		}
	})
	deciders.Go(func() { s.snaps.Run(done) })
	s.startParts(part)
	err = s.whenStarted(serving, part, ready)
	if err == nil {
		<-serving.Done()
	}
	if cause := context.Cause(serving); cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	s.stopChildren()
	stopServing(nil)
	parts.Wait()
	stopDeciding()
	close(done)
	deciders.Wait()
	return err
}

// refuseLostTail compares the log with what was made from it: a log that is older
// than its feed or its snapshots (a backup, a disk that lied) must not be written
// to, or two histories would bear the same numbers.
func (s *site) refuseLostTail(ctx context.Context, end uint64) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	const advice = "bring the newest log back before starting this site: nothing was written"
	for _, f := range s.snaps.List() {
		if f.N > end {
			return fmt.Errorf("the log ends at commit %d, but snapshot %s in %s was made after commit %d: %s", end, f.Name, s.snaps.Dir(), f.N, advice)
		}
	}
	shown, err := s.reads.store.Head(ctx)
	if err != nil {
		return fmt.Errorf("read models: %w", err)
	}
	if err := s.commits.Check(ctx, shown); err != nil {
		return fmt.Errorf("the log ends at commit %d, but the read models show commit %d: %w: %s, or drop the database if the log is right", end, shown.N, err, advice)
	}
	last, err := s.feed.Last(ctx)
	if err != nil || last == 0 {
		return err
	}
	events, _, err := s.feed.Page(ctx, last-1, 1)
	if err != nil || len(events) == 0 {
		return err
	}
	if err := s.commits.Check(ctx, events[0].Commit); err != nil {
		return fmt.Errorf("the log ends at commit %d, but the feed holds event %d of commit %d: %w: %s", end, last, events[0].Commit.N, err, advice)
	}
	return nil
}

func (s *site) newLoop(ctx context.Context, world *domain.World) error {
	placements, err := streams.OpenPlacements(s.dial(server.Runtime), s.names)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, placements.Close)
	s.placer = processes.NewPlacer(func(ctx context.Context, host domain.HostID, data []byte) error {
		return placements.Publish(ctx, host, data)
	}, func(err error) bool { return errors.Is(err, streams.ErrStale) }, s.log)
	s.hostConsumer = placements.CreateHostConsumer
	s.loop, err = commands.NewLoop(world, commands.Options{
		Site: s.cfg.Site, Build: build(), Log: s.commits, Publisher: s.placer, Slog: s.log, Metrics: commands.NewMetrics(s.reg),
		Snapshot: s.snaps.Offer, SnapshotEvery: s.cfg.Snapshot, Gate: s.admission,
		Final: func(h domain.Head, state []byte) {
			if err := s.snaps.Save(h, state); err != nil {
				s.log.Warn("snapshot not written", "err", err)
			}
		},
	})
	return err
}

// admission refuses tenants' commands while the site could not keep its promises.
func (s *site) admission() *domain.Error {
	if e := s.gate.Load(); e != nil {
		return e
	}
	if s.reads != nil && s.reads.lag() > s.cfg.MaxLag {
		return domain.Errorf(domain.Unavailable, "read_model.behind", "the site is catching up: try again in a few seconds")
	}
	return nil
}

// startParts begins everything that does not need the loop to be started.
func (s *site) startParts(part func(string, func(context.Context) error)) {
	s.live = &processes.Liveness{Loop: s.loop, Hosts: s.loop.Directory().Hosts, SilentAfter: time.Duration(s.cfg.Silent) * time.Second, Clock: s.clock, Log: s.log}
	part("placements", func(ctx context.Context) error { s.placer.Run(ctx); return nil })
	part("feed", s.fanout.Run)
	part("drift watch", s.watchDrift)
	part("disk watch", s.watchDisk)
	part("database", s.keepDatabase)
	part("read models", func(ctx context.Context) error { return s.reads.projector.Run(ctx) })
	part("api", s.serveAPI)
}

// whenStarted begins what submits commands, once this process is the writer.
func (s *site) whenStarted(ctx context.Context, part func(string, func(context.Context) error), ready func(context.Context) error) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.loop.Started():
	}
	s.log.Info("deciding", "after", time.Since(s.started).Round(time.Millisecond))
	if err := s.bootstrap(ctx); err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	if err := s.placer.OfferAll(ctx, s.loop); err != nil {
		return err
	}
	hostCredentials{s}.revokeRemoved(ctx)
	s.startHostProcesses(part)
	// Whoever reads after "ready" sees what was written before the restart. A database
	// that is away does not keep the site from deciding.
	caughtUp, cancel := context.WithTimeout(ctx, startTimeout)
	if err := s.reads.projector.WaitFor(caughtUp, s.foldedTo); err != nil {
		s.log.Warn("the read models are still catching up", "err", err)
	}
	cancel()
	if ready != nil {
		return ready(ctx)
	}
	return nil
}

func (s *site) deny(d processes.Denied) { s.audit.Record("host", encodeJSON(d)) }

func (s *site) startHostProcesses(part func(string, func(context.Context) error)) {
	reports := &processes.Reports{Loop: s.loop, Keys: s.loop.Directory().Host, Audit: s.deny, Clock: s.clock}
	asked := &processes.HostRequests{Loop: s.loop, Vault: s.vault.Get, Image: s.images.Path, Audit: s.deny}
	part("reports", func(ctx context.Context) error {
		r, err := streams.OpenReports(s.dial(server.Runtime), s.names)
		if err != nil {
			return err
		}
		defer r.Close()
		return r.Consume(ctx, func(m streams.ReportMsg) error { return reports.Handle(ctx, m.Host, m.Data, m.Delivery) })
	})
	part("heartbeats", func(ctx context.Context) error {
		h, err := streams.OpenHeartbeats(s.dial(server.Responder), s.names)
		if err != nil {
			return err
		}
		defer h.Close()
		return h.Listen(ctx, s.live.Heard)
	})
	part("liveness", func(ctx context.Context) error { s.live.Run(ctx); return nil })
	part("images", func(ctx context.Context) error { return s.requests.ServeImages(ctx, asked.ServeImage) })
	part("vault", func(ctx context.Context) error { return s.requests.ServeVault(ctx, asked.ServeVault) })
}

// watchDrift stops admission while a stream is not configured as it must be.
func (s *site) watchDrift(ctx context.Context) error {
	nc, err := s.dial(server.Runtime)(nats.Name("drift watch"))
	if err != nil {
		return err
	}
	defer nc.Close()
	streams.Watch(ctx, nc, s.streamConfig(), 30*time.Second, func(drifts []streams.Drift, err error) {
		if err != nil {
			s.log.Warn("stream configuration not compared", "err", err)
			return
		}
		s.setGate("drift", nil)
		if err := refuseDrift(drifts); err != nil {
			s.log.Error("writing stops", "err", err)
			s.setGate("drift", domain.Errorf(domain.Unavailable, "site.drift", "the site has stopped writing: an operator has to look at it"))
		}
	})
	return nil
}

// watchDisk stops admission before the disk is full: JetStream answers a full disk
// with timeouts, and does not resume by itself.
func (s *site) watchDisk(ctx context.Context) error {
	free := prometheus.NewGauge(prometheus.GaugeOpts{Name: "gpuaas_disk_free_ratio", Help: "Free part of the data directory's disk."})
	s.reg.MustRegister(free)
	t := time.NewTicker(2 * time.Second)
	defer t.Stop()
	for {
		var st syscall.Statfs_t
		if err := syscall.Statfs(s.cfg.DataDir, &st); err == nil && st.Blocks > 0 {
			percent := int(st.Bavail * 100 / st.Blocks)
			free.Set(float64(st.Bavail) / float64(st.Blocks))
			var gate *domain.Error
			if percent < s.cfg.MinFree {
				gate = domain.Errorf(domain.Unavailable, "site.disk_nearly_full", "the site's disk is nearly full: an operator has to make room")
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
	s.gate.Store(nil)
	for _, e := range s.why {
		s.gate.Store(e)
	}
}

func logger(level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log-level: %w", err)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l})), nil
}
