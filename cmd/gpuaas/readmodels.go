package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/url"
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
	servers   []*pglocal.Server // ours, the running one last; or the outside one
	options   pglocal.Options
	down      atomic.Bool // ours has ended, and is not back yet
	store     *projections.Store
	projector *projections.Projector
}

// openReadModels connects to the database, or runs one in the data directory.
func (s *site) openReadModels(ctx context.Context) (err error) {
	s.reads, err = openDatabase(ctx, s.cfg, s)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, s.reads.close)
	s.reads.projector = s.reads.store.Projector(logSource{s.commits})
	s.reg.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "gpuaas_projector_lag_events", Help: "Events in the log that the read models do not show yet."},
			func() float64 { return float64(s.reads.lag()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "gpuaas_projector_commit", Help: "The commit the read models show."},
			func() float64 { return float64(s.reads.projector.Applied().N) }))
	return nil
}

func openDatabase(ctx context.Context, cfg config, s *site) (r *readModels, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*startTimeout)
	defer cancel()
	r = &readModels{options: pglocal.Options{DatabaseURL: cfg.DatabaseURL, DataDir: filepath.Join(cfg.DataDir, "postgres"), Settings: []string{"max_connections=60", "shared_buffers=256MB"}}}
	server, err := pglocal.Start(ctx, r.options)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	r.servers = append(r.servers, server)
	address := cfg.DatabaseURL
	if address == "" {
		if address, err = server.CreateDatabase(ctx, databaseOfSite); err != nil {
			r.close()
			return nil, fmt.Errorf("postgres: %w", err)
		}
	}
	if r.store, err = projections.Open(ctx, projections.Config{URL: address, Site: cfg.Site, CRNPrefix: cfg.CRNPrefix, Region: cfg.Region, Log: s.log.With("part", "read models")}); err != nil {
		r.close()
		return nil, fmt.Errorf("read models: %w", err)
	}
	return r, nil
}

func (r *readModels) close() {
	if r.store != nil {
		r.store.Close()
	}
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

// keepDatabase starts a Postgres of our own again when it has ended. Until it is
// back reads are refused; commands are not, since nothing is decided from tables.
func (s *site) keepDatabase(ctx context.Context) error {
	r := s.reads
	for { // ends with ctx
		select {
		case <-ctx.Done():
			return nil
		case <-r.servers[len(r.servers)-1].Done(): // never, of an outside one
		}
		r.down.Store(true)
		s.log.Error("Postgres has ended, it will be started again")
		again := r.options
		if u, err := url.Parse(r.url()); err == nil {
			again.SocketDir = u.Query().Get("host") // where everyone looks for it
		}
		for pause := childPause; ; pause = min(2*pause, childPauseMax) { // ends with ctx or success
			server, err := pglocal.Start(ctx, again)
			if err == nil {
				r.servers = append(r.servers[:1], server)
				break
			}
			s.log.Error("Postgres does not start", "err", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(pause):
			}
		}
		r.down.Store(false)
		s.log.Info("Postgres is back")
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
