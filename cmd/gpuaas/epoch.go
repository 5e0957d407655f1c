package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
)

// epochRequest is what the operators ask for.
type epochRequest struct {
	epoch  uint32
	commit uint64
	reason string
	keys   []string // files
}

func siteCommand() *cobra.Command {
	c := &cobra.Command{Use: "site", Short: "Back up, restore, and go on after a loss"}
	var r epochRequest
	open := &cobra.Command{
		Use: "open-epoch", Short: "Go on with a log that has lost its end, with two operators' approval", Args: cobra.NoArgs,
		Long: `Opens the next epoch of a stopped site whose log ends before what was made from it:
snapshots, feed, read models, placements, or hosts that have seen more. Bring a newer
log back instead, if there is one: what was acknowledged after the end is gone.

Each of two operators gives an API key of their own in a file. The keys are checked
against the log that is left. --commit is the last commit of that log, as the refusal
to start names it; --epoch is the number of the epoch to open.

Written is one commit, site.epoch_opened. Snapshots that know more are removed, the
feed and the read models are made anew from the log. The next start asks every host
what it holds before it places anything there. See docs/operations.md.
Asked again after an interruption, it finishes what is left to do.`,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, _, _, err := loadConfig(c)
			if err != nil {
				return err
			}
			return openEpoch(c.Context(), c.OutOrStdout(), cfg, r)
		},
	}
	f := open.Flags()
	configFlags(f)
	f.Uint32Var(&r.epoch, "epoch", 0, "the epoch to open")
	f.Uint64Var(&r.commit, "commit", 0, "the last commit of the log that is left")
	f.StringVar(&r.reason, "reason", "", "why, one word: restored-backup, lost-disk")
	f.StringSliceVar(&r.keys, "key-file", nil, "file with an operator's API key; twice, of two operators")
	for _, name := range []string{"epoch", "commit", "reason", "key-file"} {
		_ = open.MarkFlagRequired(name) // they exist
	}
	c.AddCommand(append(backupCommands(), open)...)
	return c
}

// lostTail is a log that may have lost its end, and what was made from it.
type lostTail struct {
	cfg    config
	names  streams.Names
	out    io.Writer
	log    *slog.Logger
	commit *streams.Log
	feed   *streams.Feed
	placed *streams.Placements
	snaps  *commands.Snapshots
	reads  *readModels // nil: none, or they do not answer
	admin  *nats.Conn
	world  *domain.World

	feedless bool // an earlier attempt ended when it had thrown the feed away
}

func openEpoch(ctx context.Context, out io.Writer, cfg config, r epochRequest) (err error) {
	t := lostTail{cfg: cfg, out: out}
	if t.log, err = logger(cfg.LogLevel); err != nil {
		return err
	}
	if t.names, err = streams.ParseSite(cfg.Site); err != nil {
		return err
	}
	if _, runs := runningFile(cfg.DataDir, natsName); runs {
		return errors.New("the site runs: stop it first")
	}
	dial, closeServer, err := dialSite(ctx, cfg)
	if err != nil {
		return err
	}
	defer closeServer()
	if cfg.NATSURL != "" {
		done, err := alone(ctx, cfg, t.names, dial)
		if err != nil {
			return err
		}
		defer done()
	}
	closeAll, err := t.open(ctx, dial)
	defer closeAll()
	if err != nil {
		return err
	}
	if t.world, err = commands.Recover(ctx, t.commit, t.snaps, nil, t.log); err != nil {
		return fmt.Errorf("fold the log: %w", err)
	}
	signs, err := t.signs(ctx)
	if err != nil {
		return err
	}
	opened, err := t.openedLast(ctx, r.epoch)
	if err != nil {
		return err
	}
	if !opened {
		if err := t.write(ctx, r, signs); err != nil {
			return err
		}
	}
	if err := t.clear(ctx, signs); err != nil {
		return fmt.Errorf("epoch %d is open, and what was made from the lost end is not all gone: ask again: %w", r.epoch, err)
	}
	_, awaited, _, _ := t.world.EpochState()
	fmt.Fprintf(out, "ok: epoch %d of site %s begins with commit %d; %d hosts will be asked what they hold: start the site\n", t.world.Epoch, t.world.Site, t.world.Head.N, len(awaited))
	return nil
}

// epochOpener is who holds the claim while an epoch is opened.
const epochOpener = "gpuaas site open-epoch"

// claimPatience is how long the claim may take beyond the time in which it runs out.
const claimPatience = 3 * time.Second

// alone takes the claim of a site on an external cluster, whose processes may run on any
// machine: none of them decides before done.
func alone(ctx context.Context, cfg config, names streams.Names, dial func(server.Role) streams.Dial) (done func(), err error) {
	ttl := time.Duration(cfg.ClaimMS) * time.Millisecond
	claim, err := streams.OpenClaim(streams.ClaimOptions{Dial: dial(server.Runtime), Site: names, Me: streams.Holder{Name: epochOpener}, TTL: ttl})
	if err != nil {
		return nil, err
	}
	patience, cancel := context.WithTimeout(ctx, claimPatience+2*ttl) // a claim that is not renewed has run out by then
	defer cancel()
	if err := claim.Acquire(patience); err != nil {
		holder := claim.Holder()
		claim.Close()
		if holder.Name != "" {
			return nil, fmt.Errorf("the site runs, process %s decides (%s): stop every process of it first", holder.Name, holder.URL)
		}
		return nil, fmt.Errorf("the writer claim: %w", err)
	}
	keeping, stop := context.WithCancel(ctx)
	go claim.Keep(keeping) //nolint:errcheck // the append's sequence is what keeps another writer out
	return func() {
		stop()
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), ttl)
		defer cancel()
		_ = claim.Release(release) // or it runs out
		claim.Close()
	}, nil
}

// open connects to what is compared. The function returned closes what was opened.
func (t *lostTail) open(ctx context.Context, dial func(server.Role) streams.Dial) (closeAll func(), err error) {
	var closers []func()
	closeAll = func() {
		for i := len(closers) - 1; i >= 0; i-- {
			closers[i]()
		}
	}
	if t.commit, err = streams.OpenLog(ctx, streams.LogConfig{Dial: dial(server.Runtime), Site: t.names}); err != nil {
		return closeAll, fmt.Errorf("open the log: %w", err)
	}
	closers = append(closers, t.commit.Close)
	if t.feed, err = streams.OpenFeed(dial(server.Runtime), t.names); err != nil {
		return closeAll, err
	}
	closers = append(closers, t.feed.Close)
	if t.placed, err = streams.OpenPlacements(dial(server.Runtime), t.names); err != nil {
		return closeAll, err
	}
	closers = append(closers, t.placed.Close)
	if t.snaps, err = commands.OpenSnapshots(filepath.Join(t.cfg.DataDir, "snapshots"), t.log); err != nil {
		return closeAll, err
	}
	if t.admin, err = dial(server.Admin)(nats.Name("open-epoch")); err != nil {
		return closeAll, fmt.Errorf("connect as administrator: %w", err)
	}
	closers = append(closers, t.admin.Close)
	if _, err := os.Stat(filepath.Join(t.cfg.DataDir, "postgres")); err != nil && t.cfg.DatabaseURL == "" {
		return closeAll, nil // no read models were ever made here
	}
	reads, err := openDatabase(ctx, t.cfg, t.log)
	if err != nil {
		t.log.Warn("the read models do not answer, and are not compared", "err", err)
		return closeAll, nil
	}
	closers, t.reads = append(closers, reads.close), reads
	return closeAll, nil
}

// maxPlacementSigns bounds the hosts whose placements are named as signs.
const maxPlacementSigns = 16

// signs are what knows of more than the log, or of another one.
func (t *lostTail) signs(ctx context.Context) (signs []domain.LostSign, err error) {
	// Each check says whether the log holds the head.
	look := func(source, name string, h domain.Head, epoch uint32) error {
		err := t.commit.Check(ctx, h)
		if errors.Is(err, streams.ErrLostTail) || errors.Is(err, streams.ErrForked) {
			signs = append(signs, domain.LostSign{Source: source, Name: name, Commit: h.N, Hash: h.Hash, Epoch: epoch})
			return nil
		}
		return err
	}
	for _, f := range t.snaps.List() {
		if f.N > t.world.Head.N {
			signs = append(signs, domain.LostSign{Source: "snapshot", Name: f.Name, Commit: f.N})
		}
	}
	event, head, err := t.feed.Head(ctx)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		t.feedless = true
	} else if err != nil {
		return nil, err
	} else if err := look("feed", fmt.Sprintf("event %d", event), head, 0); err != nil {
		return nil, err
	}
	if t.reads != nil {
		shown, err := t.reads.store.Head(ctx)
		if err != nil {
			return nil, fmt.Errorf("read models: %w", err)
		}
		if err := look("read_models", "", shown, 0); err != nil {
			return nil, err
		}
	}
	hosts, err := t.placed.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	before := len(signs)
	for _, host := range hosts {
		b, err := t.placed.Last(ctx, host)
		if err != nil {
			return nil, err
		}
		p, err := domain.DecodePlacement(b)
		if err != nil {
			return nil, fmt.Errorf("placement of %s: %w", host, err)
		}
		if p.Desired.Epoch > t.world.Epoch || len(signs)-before < maxPlacementSigns {
			if err := look("placement", host.String(), p.From, p.Desired.Epoch); err != nil {
				return nil, err
			}
		}
	}
	_, _, ahead, _ := t.world.EpochState()
	for i, host := range ahead {
		if i < maxPlacementSigns {
			signs = append(signs, domain.LostSign{Source: "host", Name: host.String(), Epoch: t.world.AheadEpoch(host)})
		}
	}
	for _, s := range signs {
		fmt.Fprintf(t.out, "%s %s knows commit %d, the log ends at %d\n", strings.ReplaceAll(s.Source, "_", " "), s.Name, s.Commit, t.world.Head.N)
	}
	return signs, nil
}

// openedLast reports whether the last commit of the log opened the epoch: what is asked
// for again is to finish.
func (t *lostTail) openedLast(ctx context.Context, epoch uint32) (bool, error) {
	_, data, err := t.commit.Last(ctx)
	if err != nil || data == nil || t.world.Epoch != epoch {
		return false, err
	}
	c, err := domain.DecodeCommit(data)
	if err != nil {
		return false, err
	}
	for _, d := range c.Decisions {
		for _, e := range d.Events {
			if opened, ok := e.Body.(*domain.EpochOpened); ok && opened.Epoch == epoch {
				return true, nil
			}
		}
	}
	return false, nil
}

// write decides, and appends the one commit.
func (t *lostTail) write(ctx context.Context, r epochRequest, signs []domain.LostSign) error {
	end := t.world.Head
	if r.commit != end.N {
		return fmt.Errorf("the log ends at commit %d, not at %d: nothing was written", end.N, r.commit)
	}
	if t.world.LogicLevel > commands.LogicLevel {
		return fmt.Errorf("the log is at logic level %d, this build decides up to %d: upgrade it", t.world.LogicLevel, commands.LogicLevel)
	}
	m := &domain.OpenEpoch{Epoch: r.epoch, Survived: end, SurvivedAt: t.world.At, Reason: r.reason, Lost: signs}
	for _, path := range r.keys {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		key, ok := t.world.KeyByHash(domain.DigestOf([]byte(strings.TrimSpace(string(b)))))
		if !ok {
			return fmt.Errorf("%s is not a key that the log knows up to commit %d: nothing was written", path, end.N)
		}
		m.Approved = append(m.Approved, key.ID)
	}
	core := commands.NewCore(t.world)
	now := time.Now()
	cmd := &domain.Command{Actor: domain.System, Body: m}
	if _, err := rand.Read(cmd.Entropy[:]); err != nil {
		return err
	}
	cmd.ID = commands.NewCommandID(now, cmd.Entropy)
	if reply := core.Decide(domain.TimeOf(now), cmd); reply.Err != nil {
		return fmt.Errorf("%s: %s: nothing was written", reply.Err.Code, reply.Err.Message)
	}
	closed := core.Close()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if _, err := t.commit.Append(ctx, t.commit.Seq(end.N), closed.Commit); err != nil {
		return fmt.Errorf("append the epoch: %w", err)
	}
	return nil
}

// clear removes what was made from the lost end, and makes anew what can be.
func (t *lostTail) clear(ctx context.Context, signs []domain.LostSign) error {
	anew := func() error {
		return streams.RebuildFeed(ctx, t.admin, streams.Config{Site: t.names, Replicas: t.cfg.Replicas}, 1)
	}
	if t.feedless {
		if err := anew(); err != nil {
			return err
		}
	}
	for _, s := range signs {
		switch s.Source {
		case "snapshot":
			if err := os.Remove(filepath.Join(t.snaps.Dir(), s.Name)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		case "feed":
			if err := anew(); err != nil {
				return err
			}
		case "read_models":
			if err := rebuildReadModels(ctx, t.out, t.commit, t.reads.store); err != nil {
				return err
			}
		}
	}
	return nil
}
