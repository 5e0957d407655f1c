package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/api"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
)

func serveCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "serve", Short: "Run the control plane of a site", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, _, _, err := loadConfig(c)
			if err != nil {
				return err
			}
			return serve(c.Context(), cfg, func(_ context.Context, s *site) error {
				fmt.Fprintf(c.OutOrStdout(), "ready %s key %s\n", s.url(), filepath.Join(cfg.DataDir, "admin.key"))
				return nil
			})
		},
	}
	configFlags(c.Flags())
	return c
}

// serve runs a site until ctx ends; ready is called once it answers.
func serve(ctx context.Context, cfg config, ready func(context.Context, *site) error) (err error) {
	defer func() {
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			err = nil // told to end before it answered
		}
	}()
	log, err := logger(cfg.LogLevel)
	if err != nil {
		return err
	}
	if err := cfg.refusePlain(); err != nil {
		return err
	}
	apiCert, err := openCertificate("tls", cfg.TLSCert, cfg.TLSKey, log)
	if err != nil {
		return err
	}
	unlock, err := lockDataDir(cfg.DataDir)
	if err != nil {
		return err
	}
	defer unlock()
	f, err := openFront(cfg.Listen, apiCert, cfg.MaxConns, log)
	if err != nil {
		return err
	}
	defer f.close()
	s, err := openSite(ctx, cfg, f, log)
	if err != nil {
		return err
	}
	defer s.close()
	for name, text := range map[string]string{natsName: s.natsURL, natsCAName: s.natsCA} {
		if err := writeFile(filepath.Join(cfg.DataDir, name), []byte(text+"\n")); err != nil {
			return err
		}
	}
	if err := s.openReadModels(ctx); err != nil {
		return err
	}
	return s.run(ctx, func(ctx context.Context) error { return ready(ctx, s) })
}

// url is where the API is.
func (s *site) url() string { return s.front.url() }

// serveAPI answers until ctx ends, and then what is under way.
func (s *site) serveAPI(ctx context.Context) error {
	s.registerMetrics()
	cursors := derive(s.secret, "read cursors")
	srv, handler := api.New(api.Options{
		Site: s.cfg.Site, Region: s.cfg.Region, Vendor: s.cfg.CRNPrefix, Secret: derive(s.secret, "api"),
		Decider: s.member, Callers: s.member, Writers: s.member, Folded: s.member, PeerTLS: s.peerTLS, History: history{s.commits},
		Reads: s.reads.store.Reader(cursors[:]), Wait: s.reads.projector,
		Feed: feed{s.feed, s.names}, Vault: s.vault, Audit: audit{s.audit}, Consoles: consoles{s.requests},
		Hosts: hostCredentials{s}, Heartbeats: s.live, Images: s.images, NATSURL: s.natsURL, NATSCA: s.natsCA, Ready: s.notReady, Role: s.member.role, Version: build(),
		Registry: s.reg, Slog: s.log.With("part", "api"), Clock: s.clock, Processors: s.processors,
	})
	return s.front.serve(ctx, handler, srv.Close)
}

// stalled is how long an append may take before the site says so.
const stalled = 5 * time.Second

// A site whose read models are further behind does not serve: by events, more than a rush
// leaves to be shown after it, or by time.
const (
	staleEvents = 1_000_000
	staleAfter  = 30 * time.Second
)

// notReady says what keeps the site from serving.
func (s *site) notReady(context.Context) (why []string) {
	if s.leaving.Load() {
		why = append(why, "this process is about to end")
	}
	if l := s.member.writer(); l != nil {
		select {
		case <-l.Started():
			if err := l.Err(); err != nil {
				why = append(why, "the decision loop has ended")
			}
			if l.Waits() > stalled {
				why = append(why, "the log does not take what is decided")
			}
		default:
			why = append(why, "the writer's term has not begun")
		}
	}
	if e := s.gate.Load(); e != nil {
		why = append(why, e.Message)
	}
	if s.reads.down.Load() {
		why = append(why, "Postgres does not answer; it is tried again")
	}
	switch lag := s.reads.projector.Lag(); {
	case lag.Filling:
		why = append(why, fmt.Sprintf("the read models are filled from the log: %d events are left", lag.Events))
	case lag.Events > min(staleEvents, s.cfg.MaxLag), lag.Behind > staleAfter:
		why = append(why, fmt.Sprintf("the read models are %d events behind, for %d seconds", lag.Events, lag.Behind/time.Second))
	}
	return why
}

func (s *site) registerMetrics() {
	gauge := func(name, help string, f func() float64) {
		s.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
	}
	gauge("gpuaas_queue_commands", "Commands that wait for their decision.", func() float64 {
		if l := s.member.writer(); l != nil {
			return float64(l.QueueLen())
		}
		return 0
	})
	gauge("gpuaas_writer", "1 in the process that decides, 0 in one that stands by.", func() float64 {
		if s.member.writer() != nil {
			return 1
		}
		return 0
	})
	gauge("gpuaas_standbys", "Processes that stand by, as the one that decides knows them.", func() float64 {
		if s.member.writer() == nil {
			return 0
		}
		return float64(len(s.peers.standing()))
	})
	gauge("gpuaas_standby_commit", "The commit that a standby has folded; 0 in the process that decides.", func() float64 {
		l, standby, _, _ := s.member.part()
		if l != nil {
			return 0
		}
		return float64(standby.Head().N)
	})
	gauge("gpuaas_placements_backlog", "Hosts whose placement waits to be published.", func() float64 { return float64(s.placer.Backlog()) })
	gauge("gpuaas_feed_position", "Number of the newest event in the feed.", func() float64 { return float64(s.fanout.Position()) })
	gauge("gpuaas_hosts", "Admitted hosts.", func() float64 { return float64(len(s.member.hosts())) })
	gauge("gpuaas_hosts_silent", "Hosts without heartbeats.", func() float64 { return float64(s.live.SilentHosts()) })
	gauge("gpuaas_hosts_problem", "Hosts whose last heartbeat names a problem.", func() float64 { n, _ := s.live.Problems(); return float64(n) })
	gauge("gpuaas_hosts_backlog_reports", "Reports in the hosts' journals that the site has not acknowledged.", func() float64 { _, n := s.live.Problems(); return float64(n) })
	gauge("gpuaas_start_seconds", "When this process started, Unix time.", func() float64 { return float64(s.started.Unix()) })
	gauge("gpuaas_tls_ends_seconds", "When the first of the site's certificates ends, Unix time; 0 without TLS.", func() float64 {
		first := s.front.cert.ends()
		if nats := s.natsCert.ends(); first.IsZero() || !nats.IsZero() && nats.Before(first) {
			first = nats
		}
		if first.IsZero() {
			return 0
		}
		return float64(first.Unix())
	})
	s.reg.MustRegister(fleetCollector{s})
}

// fleetCollector counts slots by state.
type fleetCollector struct{ s *site }

var slotsDesc = prometheus.NewDesc("gpuaas_slots", "Slots, by state.", []string{"state"}, nil)

// Describe implements prometheus.Collector.
func (fleetCollector) Describe(ch chan<- *prometheus.Desc) { ch <- slotsDesc }

// Collect implements prometheus.Collector.
func (f fleetCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var c domain.Counts
	if _, err := f.s.member.Query(ctx, domain.System, func(w *domain.World, _ domain.Time) { c = w.Count() }); err != nil {
		return
	}
	for state, n := range c.SlotStates {
		ch <- prometheus.MustNewConstMetric(slotsDesc, prometheus.GaugeValue, float64(n), state)
	}
}

func encodeJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		return []byte(`{}`)
	}
	return b
}

// The rest of this file makes streams look as api wants them.

type feed struct {
	f     *streams.Feed
	names streams.Names
}

// filters are those of the feed's subjects; ok is false if nothing can match.
func (f feed) filters(x api.FeedFilter) (filters []string, ok bool) {
	switch {
	case len(x.Types) > 0:
		filters = f.names.TypeEvents(x.Tenant, x.Host, x.Types)
		return filters, len(filters) > 0
	case !x.Tenant.IsZero():
		return f.names.OwnerEvents(x.Tenant), true
	case !x.Host.IsZero():
		return f.names.HostEvents(x.Host), true
	}
	return nil, true
}

// feedError is a cursor that can never be used again; everything else may pass.
func feedError(err error) error {
	if !errors.Is(err, streams.ErrTrimmed) {
		return err
	}
	e := domain.Errorf(domain.Invalid, "cursor.gone", "the feed was built anew and no longer has what follows this cursor: begin without one, or with latest")
	e.Cause = err
	return e
}

func feedEvent(e streams.FeedEvent) api.FeedEvent {
	return api.FeedEvent{Number: e.Number, Commit: e.Commit.N, Type: e.Type, Resource: e.Resource, At: e.At, Data: e.Data}
}

// Page implements api.Follower.
func (f feed) Page(ctx context.Context, after uint64, limit int, x api.FeedFilter) ([]api.FeedEvent, uint64, error) {
	filters, ok := f.filters(x)
	if !ok {
		return nil, after, nil
	}
	events, next, err := f.f.Page(ctx, after, limit, filters...)
	out := make([]api.FeedEvent, len(events))
	for i, e := range events {
		out[i] = feedEvent(e)
	}
	return out, next, feedError(err)
}

// Subscribe implements api.Follower.
func (f feed) Subscribe(ctx context.Context, after uint64, x api.FeedFilter, fn func(api.FeedEvent) error) error {
	filters, ok := f.filters(x)
	if !ok {
		<-ctx.Done()
		return ctx.Err()
	}
	return feedError(f.f.Subscribe(ctx, after, filters, func(e streams.FeedEvent) error { return fn(feedEvent(e)) }, nil))
}

// Last implements api.Follower.
func (f feed) Last(ctx context.Context) (number, commit uint64, err error) {
	number, head, err := f.f.Head(ctx)
	return number, head.N, err
}

type audit struct{ a *streams.Audit }

// Record implements api.Audit.
func (a audit) Record(kind string, data []byte) bool { return a.a.Record(kind, data) }

// Page implements api.Audit.
func (a audit) Page(ctx context.Context, after uint64, limit int, kinds ...string) ([]api.AuditRecord, uint64, error) {
	records, next, err := a.a.Page(ctx, after, limit, kinds...)
	out := make([]api.AuditRecord, len(records))
	for i, r := range records {
		out[i] = api.AuditRecord{Cursor: r.Cursor, Kind: r.Kind, At: r.At, Data: r.Data}
	}
	return out, next, err
}

type consoles struct{ r *streams.Requests }

// Read implements api.Consoles.
func (c consoles) Read(ctx context.Context, host domain.HostID, vm domain.VMID, offset int64, limit int) ([]byte, int64, error) {
	reply, err := c.r.Console(ctx, host, encodeJSON(map[string]any{"vm_id": vm, "offset": offset, "max": limit}))
	if err != nil {
		return nil, 0, err
	}
	var out struct {
		Data []byte `json:"data"`
		Next int64  `json:"next"`
	}
	if err := json.Unmarshal(reply, &out); err != nil {
		return nil, 0, fmt.Errorf("console answer of host %s: %w", host, err)
	}
	return out.Data, out.Next, nil
}

type hostCredentials struct{ s *site }

// Issue implements api.HostCredentials.
func (h hostCredentials) Issue(host domain.HostID, natsPublicKey string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := h.s.hostConsumer(ctx, host); err != nil {
		return "", err
	}
	return h.s.trust.HostCredential(host, natsPublicKey)
}

// Revoke implements api.HostCredentials.
func (h hostCredentials) Revoke(ctx context.Context, _ domain.HostID, natsPublicKey string) error {
	return h.revoke(ctx, natsPublicKey)
}

func (h hostCredentials) revoke(ctx context.Context, keys ...string) error {
	system, err := h.s.dial(server.System)(nats.Name("revoke"))
	if err != nil {
		return fmt.Errorf("connect to revoke: %w", err)
	}
	defer system.Close()
	return h.s.trust.Revoke(ctx, system, keys...)
}

// revokeRemoved revokes again what belongs to hosts that were removed: the process
// may have ended between the one and the other, or another one has removed them and
// this one's copy of the trust does not know. All at once, so that none is good again
// in between.
func (h hostCredentials) revokeRemoved(ctx context.Context) {
	var keys []string
	if _, err := h.s.loop.Query(ctx, domain.System, func(w *domain.World, _ domain.Time) { keys = w.RemovedHostKeys() }); err != nil || len(keys) == 0 {
		return // none, or the site stops
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := h.revoke(ctx, keys...); err != nil {
		h.s.log.Error("the credentials of removed hosts could not be revoked: repeat DELETE /v1/hosts/{h}", "hosts", len(keys), "err", err)
	}
}

type history struct{ log *streams.Log }

// Decision implements api.History.
func (h history) Decision(ctx context.Context, pos domain.Position) (domain.Decision, domain.Time, error) {
	b, err := h.log.Commit(ctx, pos.N)
	if err != nil {
		return domain.Decision{}, 0, err
	}
	c, err := domain.DecodeCommit(b)
	if err != nil || int(pos.Index) >= len(c.Decisions) {
		return domain.Decision{}, 0, fmt.Errorf("commit %d has no decision %d: %w", pos.N, pos.Index, err)
	}
	return c.Decisions[pos.Index], c.At, nil
}
