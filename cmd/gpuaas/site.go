package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gpuaas/gpuaas/cmd/gpuaas/imagestore"
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

	processors int // of the machine

	nats     *server.Server // nil with an external cluster
	trust    *server.Trust
	natsURL  string // what hosts are told
	natsCA   string // who signed its certificate, PEM; "": whom a machine trusts anyway
	dial     func(server.Role) streams.Dial
	commits  *streams.Log
	loop     *commands.Loop // nil until this process writes: the writer's parts only
	snaps    *commands.Snapshots
	placer   *processes.Placer
	live     *processes.Liveness
	audit    *streams.Audit
	feed     *streams.Feed
	fanout   *streams.Fanout
	vault    *streams.Vault
	requests *streams.Requests
	images   *imagestore.Store
	reads    *readModels
	member   *member        // this process's part in the site
	claim    *streams.Claim // on being the writer
	peers    peers

	hostConsumer func(ctx context.Context, host domain.HostID) error
	remind       func(ctx context.Context, hosts []domain.HostID) // looks whether their placements are there

	gate      atomic.Pointer[domain.Error] // why admission is stopped
	leaving   atomic.Bool                  // told to end, and about to
	gates     sync.Mutex
	why       map[string]*domain.Error
	started   time.Time
	foldedTo  uint64      // the commit the log ended at when this process began to write
	provenAll domain.Time // until when the term before it shows the hosts alive; 0: not known
	closers   []func()
	front     *front
	natsCert  *certificate // nil: plain TCP, or an external cluster
	peerTLS   *tls.Config  // how the site's other processes are asked
	children  []*child
}

// startTimeout bounds each part of the start-up that waits for another process.
const startTimeout = 30 * time.Second

// openSite makes everything that the loop needs, folds the log, and stops short of
// deciding.
func openSite(ctx context.Context, cfg config, f *front, log *slog.Logger) (s *site, err error) {
	s = &site{cfg: cfg, log: log, clock: time.Now, front: f, reg: f.reg, started: time.Now()}
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
	if s.peerTLS, err = peerTLS(cfg.PeerCA); err != nil {
		return nil, err
	}
	if err := s.openNATS(ctx); err != nil {
		return nil, err
	}
	opening, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := patiently(opening, func() (err error) {
		s.commits, err = streams.OpenLog(opening, streams.LogConfig{Dial: s.dial(server.Runtime), Site: s.names, OnError: func(err error) { log.Warn("log connection", "err", err) }})
		return err
	}); err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	s.closers = append(s.closers, s.commits.Close)
	if s.snaps, err = commands.OpenSnapshots(filepath.Join(cfg.DataDir, "snapshots"), log); err != nil {
		return nil, err
	}
	store := cfg.ImageStore
	if store == "" {
		store = filepath.Join(cfg.DataDir, "images")
	}
	if s.images, err = imagestore.Open(store, s.clock); err != nil {
		return nil, err
	}
	if err := s.openStreams(); err != nil {
		return nil, err
	}
	if err := s.openPlacements(); err != nil {
		return nil, err
	}
	return s, patiently(opening, func() error { return s.refuseWrongSecret(opening) })
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

// moreProcessors is how many goroutines may run beyond one a processor. One that waits for
// a disk keeps its place for a while, and the log's does so at each commit: meanwhile the
// processor works for another one.
const moreProcessors = 2

// useProcessors has as many goroutines run, unless the environment says how many, and
// returns how many processors the machine or the container has.
func useProcessors() int {
	if os.Getenv("GOMAXPROCS") != "" {
		return runtime.GOMAXPROCS(0)
	}
	runtime.SetDefaultGOMAXPROCS()
	processors := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(processors + moreProcessors)
	return processors
}

// run decides and serves until ctx ends, or until something fails that only a new
// start can repair. ready is called once the site answers.
func (s *site) run(ctx context.Context, ready func(context.Context) error) error {
	// The world is small values that live long, a request is garbage a moment later:
	// collecting less often costs some memory and gives a fifth of the processor back, and more.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(300)
	}
	s.processors = useProcessors()
	end, err := logSource{s.commits}.End(ctx)
	if err != nil {
		s.log.Warn("where the log ends cannot be read", "err", err) // the fold says why
	}
	progress := commands.NewFoldProgress(s.reg, end.Head.N)
	s.front.fold.Store(progress)
	var world *domain.World
	if err := patiently(ctx, func() (err error) {
		world, err = commands.Recover(ctx, s.commits, s.snaps, progress, s.log)
		return err
	}); err != nil {
		return fmt.Errorf("fold the log: %w", err)
	}
	if err := s.refuseLostTail(ctx, world.Head.N); err != nil {
		return err
	}
	s.log.Info("log folded", "commit", world.Head.N, "events", world.Number, "took", progress.Took().Round(time.Millisecond))
	if err := s.become(world); err != nil {
		return err
	}
	// What serves goes on while the writer hands over, and stops last.
	noticed, cancel := s.noticed(ctx)
	defer cancel()
	working, fail := context.WithCancelCause(noticed)
	defer fail(nil)
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	var parts, snapshots sync.WaitGroup
	part := func(name string, f func(context.Context) error) {
		parts.Go(func() {
			if err := f(serving); err != nil && serving.Err() == nil {
				fail(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	done := make(chan struct{})
	snapshots.Go(func() { s.snaps.Run(done) })
	s.startParts(part)
	var said sync.Once
	err = s.turn(working, fail, part, func(ctx context.Context) (err error) {
		said.Do(func() {
			if ready != nil {
				err = ready(ctx)
			}
		})
		return err
	})
	switch cause := context.Cause(working); cause {
	case nil:
	case context.Canceled: //nolint:errorlint // itself, a failure may wrap it: told to end, and what that cut short is no failure
		err = nil
	default:
		err = cause
	}
	stopServing()
	parts.Wait()
	close(done)
	snapshots.Wait()
	return err
}

// noticed ends leave-notice-seconds after ctx. In between this process works as ever but
// says that it is not ready: who sends it requests sees that before it stops answering.
func (s *site) noticed(ctx context.Context) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		defer cancel()
		s.leaving.Store(true)
		select {
		case <-time.After(time.Duration(s.cfg.LeaveNotice) * time.Second):
		case <-out.Done(): // something failed
		}
	})
	return out, func() { stop(); cancel() }
}

// partFunc starts a part of the site that runs until its context ends. Its error
// ends the process.
type partFunc = func(name string, f func(context.Context) error)

func logger(level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log-level: %w", err)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l})), nil
}
