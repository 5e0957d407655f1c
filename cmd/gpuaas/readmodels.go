package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/projections"
	"github.com/gpuaas/gpuaas/projections/pglocal"
	"github.com/gpuaas/gpuaas/streams"
)

// readModels are the Postgres side of a site.
type readModels struct {
	servers   []*pglocal.Server // ours, the running one last; or the outside one; none before it was reached
	options   pglocal.Options
	down      atomic.Bool // it was not reached yet, or ours has ended and is not back yet
	reached   bool        // by the start
	usable    chan struct{}
	store     *projections.Store
	projector *projections.Projector
}

// openReadModels connects to the database, or runs one in the data directory. One
// that does not answer is no reason not to start: nothing is decided from tables.
func (s *site) openReadModels(ctx context.Context) (err error) {
	if s.reads, err = newReadModels(s.cfg, s.log); err != nil {
		return err
	}
	s.closers = append(s.closers, s.reads.close)
	s.reads.projector = s.reads.store.Projector(logSource{s.commits})
	s.reg.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "gpuaas_projector_lag_seconds", Help: "How long ago the log ended, as far as was seen, with a commit that the read models do not show yet."},
			func() float64 { return s.reads.projector.Lag().Behind.Seconds() }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "gpuaas_projector_lag_events", Help: "Events in the log that the read models do not show yet."},
			func() float64 { return float64(s.reads.lag()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "gpuaas_projector_commit", Help: "The commit the read models show."},
			func() float64 { return float64(s.reads.projector.Applied().N) }))
	patience := 2 * startTimeout
	if s.cfg.DatabaseURL != "" {
		patience = startPatience
	}
	if err := s.reachReadModels(ctx, patience); err != nil {
		if ctx.Err() != nil || !s.reads.worthRetrying(err) {
			return err
		}
		s.log.Error("the site starts without its read models", "err", err)
	}
	return nil
}

// startPatience is how long a start waits for a database of somebody else.
const startPatience = 10 * time.Second

func newReadModels(cfg config, log *slog.Logger) (r *readModels, err error) {
	r = &readModels{usable: make(chan struct{}), options: pglocal.Options{DatabaseURL: cfg.DatabaseURL, DataDir: filepath.Join(cfg.DataDir, "postgres"), Settings: []string{"max_connections=60", "shared_buffers=256MB"}}}
	r.down.Store(true)
	r.store, err = projections.New(projections.Config{Site: cfg.Site, CRNPrefix: cfg.CRNPrefix, Region: cfg.Region, Log: log.With("part", "read models")})
	return r, err
}

// openDatabase connects, or fails: for the tools.
func openDatabase(ctx context.Context, cfg config, log *slog.Logger) (*readModels, error) {
	r, err := newReadModels(cfg, log)
	if err != nil {
		return nil, err
	}
	if err := r.connect(ctx, 2*startTimeout); err != nil {
		r.close()
		return nil, err
	}
	r.store.Use()
	return r, nil
}

// reachReadModels connects, and says where others find the database.
func (s *site) reachReadModels(ctx context.Context, patience time.Duration) error {
	if err := s.reads.connect(ctx, patience); err != nil {
		return err
	}
	s.reads.reached = true
	return writeFile(filepath.Join(s.cfg.DataDir, databaseName), []byte(s.reads.url()+"\n"))
}

// useReadModels lets reads begin, if the database is not ahead of the log.
func (s *site) useReadModels(ctx context.Context) error {
	if err := s.refuseAhead(ctx); err != nil {
		return err
	}
	s.reads.store.Use()
	s.reads.down.Store(false)
	close(s.reads.usable)
	return nil
}

// errNoServer: a Postgres of our own does not start.
var errNoServer = errors.New("postgres")

// connect starts a Postgres of our own, if it does not run yet, and connects.
func (r *readModels) connect(ctx context.Context, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if len(r.servers) == 0 {
		_, err := os.Stat(r.options.DataDir)
		first := err != nil
		server, err := pglocal.Start(ctx, r.options)
		if err != nil && (first || r.options.DatabaseURL != "") { // it never worked: somebody is there to read it
			return fmt.Errorf("postgres: %w", err)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errNoServer, err)
		}
		r.servers = append(r.servers, server)
	}
	address := r.options.DatabaseURL
	if address == "" {
		var err error
		if address, err = r.servers[0].CreateDatabase(ctx, databaseOfSite); err != nil {
			return fmt.Errorf("%w: %w", errNoServer, err)
		}
	}
	if err := r.store.Connect(ctx, address); err != nil {
		return fmt.Errorf("read models: %w", err)
	}
	return nil
}

// worthRetrying reports whether the database may be there later.
func (r *readModels) worthRetrying(err error) bool {
	return errors.Is(err, errNoServer) || projections.Transient(err)
}

func (r *readModels) close() {
	r.store.Close()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for i := len(r.servers) - 1; i >= 0; i-- { // the first one made the socket's directory
		_ = r.servers[i].Stop(ctx)
	}
}

// databaseOfSite is the database's name in a Postgres of our own.
const databaseOfSite = "gpuaas"

// url is how others connect to the database.
func (r *readModels) url() string { return r.servers[0].URL("") }

// project keeps the read models up to date, once there is a database.
func (s *site) project(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.reads.usable:
	}
	return s.reads.projector.Run(ctx)
}

// keepDatabase reaches a database that was away at the start, and starts a Postgres
// of our own again when it has ended. Until it is there reads are refused; commands
// are not, since nothing is decided from tables.
func (s *site) keepDatabase(ctx context.Context) error {
	r := s.reads
	for pause := childPause; r.down.Load(); pause = min(2*pause, childPauseMax) { // ends with ctx, success or an error that lasts
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		err := s.reachReadModels(ctx, 2*startTimeout)
		if err == nil {
			err = s.useReadModels(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the site ends
		case err == nil:
			s.log.Info("Postgres is there")
		case !r.worthRetrying(err):
			return err
		default:
			s.log.Error("Postgres does not answer", "err", err)
		}
	}
	for { // ends with ctx
		select {
		case <-ctx.Done():
			return nil
		case <-r.servers[len(r.servers)-1].Done(): // never, of an outside one
		}
		r.down.Store(true)
		s.log.Error("Postgres has ended, it will be started again")
		if !s.restartDatabase(ctx) {
			return nil
		}
		r.down.Store(false)
		s.log.Info("Postgres is back")
	}
}

// restartDatabase is false when ctx ended first.
func (s *site) restartDatabase(ctx context.Context) bool {
	r, again := s.reads, s.reads.options
	if u, err := url.Parse(r.url()); err == nil {
		again.SocketDir = u.Query().Get("host") // where everyone looks for it
	}
	for pause := childPause; ; pause = min(2*pause, childPauseMax) { // ends with ctx or success
		server, err := pglocal.Start(ctx, again)
		if err == nil {
			r.servers = append(r.servers[:1], server)
			return true
		}
		s.log.Error("Postgres does not start", "err", err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}

// lag is how many events the read models are behind.
func (r *readModels) lag() uint64 { return r.projector.Lag().Events }

// logSource is the log as the projector reads it.
type logSource struct{ log *streams.Log }

// Follow implements projections.Source.
func (l logSource) Follow(ctx context.Context, after domain.Head, fn func(*domain.Commit, domain.Head) error) error {
	chain := streams.Chain{Head: after}
	return l.log.Follow(ctx, l.log.Seq(after.N+1), after, func(seq uint64, b []byte) error {
		if err := chain.Next(b); err != nil {
			return err
		}
		c, err := domain.DecodeCommit(b)
		if err != nil {
			return fmt.Errorf("message %d: %w", seq, err)
		}
		return fn(c, chain.Head)
	})
}

// Newest implements projections.Source.
func (l logSource) Newest(ctx context.Context) (uint64, error) { return l.log.Newest(ctx) }

// End implements projections.Source.
func (l logSource) End(ctx context.Context) (projections.End, error) {
	_, b, err := l.log.Last(ctx)
	if err != nil || b == nil {
		return projections.End{}, err
	}
	c, err := domain.DecodeCommitEvents(b)
	if err != nil {
		return projections.End{}, err
	}
	end := projections.End{Head: domain.Head{N: c.N, Hash: sha256.Sum256(b)}}
	if last := c.Decisions[len(c.Decisions)-1].Events; len(last) > 0 {
		end.Number = last[len(last)-1].Number
	}
	return end, nil
}
