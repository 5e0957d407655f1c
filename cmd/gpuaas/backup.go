package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/durable"
	"github.com/gpuaas/gpuaas/projections"
	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
)

const backupName = "site.backup"

func backupCommands() []*cobra.Command {
	var to, from string
	backup := &cobra.Command{
		Use: "backup --to DIR", Short: "Copy log, vault and trust of a site, while it runs", Args: cobra.NoArgs,
		Long: "Writes DIR/site.backup (the log up to where it ends now, the vault with its wrapped keys, a sum) and DIR/trust. Keep site.secret apart: it opens the vault.",
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, _, _, err := loadConfig(c)
			if err != nil {
				return err
			}
			b, err := backUp(c.Context(), cfg, to)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "ok: commit %d %s, %d documents and keys, %d bytes; keep %s apart\n", b.Head.N, b.Head.Hash, b.Documents, b.Bytes, secretName)
			return nil
		},
	}
	backup.Flags().StringVar(&to, "to", "", "an empty directory, or one that does not exist")
	restore := &cobra.Command{
		Use: "restore --from DIR", Short: "Make the streams of a site from a backup", Args: cobra.NoArgs,
		Long: `Fills --data-dir, which must have no site yet, or with --nats-url an external cluster that has
nothing of the site; interrupted, it begins anew when it is asked again. Put site.secret into the
data directory of each process before it starts. If anything has seen more than the backup, see
gpuaas site open-epoch.`,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, _, _, err := loadConfig(c)
			if err != nil {
				return err
			}
			b, err := restore(c.Context(), cfg, from)
			if err != nil {
				return err
			}
			where := cfg.DataDir
			if cfg.NATSURL != "" {
				where = "the cluster"
			}
			fmt.Fprintf(c.OutOrStdout(), "ok: commit %d %s, %d documents and keys in %s\n", b.Head.N, b.Head.Hash, b.Documents, where)
			return nil
		},
	}
	restore.Flags().StringVar(&from, "from", "", "what gpuaas site backup wrote")
	drill := &cobra.Command{
		Use: "drill", Short: "Back a site up while it runs, restore it beside, and compare", Args: cobra.NoArgs,
		Long: "Compares the state that both logs fold to, and the read models made from the copy with that. Works in a directory of its own, and leaves nothing behind.",
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, _, _, err := loadConfig(c)
			if err != nil {
				return err
			}
			return drill(c.Context(), c.OutOrStdout(), cfg)
		},
	}
	for _, sub := range []*cobra.Command{backup, restore, drill} {
		configFlags(sub.Flags())
	}
	_, _ = backup.MarkFlagRequired("to"), restore.MarkFlagRequired("from")
	return []*cobra.Command{backup, restore, drill}
}

// withSite opens the log of a running site, or of a stopped one.
func withSite(ctx context.Context, cfg config, f func(dial func(server.Role) streams.Dial, l *streams.Log) error) error {
	names, err := streams.ParseSite(cfg.Site)
	if err != nil {
		return err
	}
	dial, closeServer, err := dialSite(ctx, cfg)
	if err != nil {
		return err
	}
	defer closeServer()
	l, err := streams.OpenLog(ctx, streams.LogConfig{Dial: dial(server.Runtime), Site: names})
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	defer l.Close()
	return f(dial, l)
}

// backUp appears under its name only when it is whole and on disk.
func backUp(ctx context.Context, cfg config, to string) (b streams.Backed, err error) {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return b, err
	}
	path := filepath.Join(to, backupName)
	if _, err := os.Stat(path); err == nil {
		return b, fmt.Errorf("%s is there already: choose another directory", path)
	}
	trust := filepath.Join(to, "trust")
	if _, err := os.Stat(path + ".part"); err == nil { // of a backup that did not end; its trust, too
		if err := os.RemoveAll(trust); err != nil {
			return b, err
		}
	}
	f, err := os.OpenFile(path+".part", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return b, err
	}
	defer f.Close()
	if err := withSite(ctx, cfg, func(dial func(server.Role) streams.Dial, l *streams.Log) (err error) {
		b, err = streams.Backup(ctx, dial(server.Admin), l, f)
		return err
	}); err != nil {
		return b, err
	}
	if from := filepath.Join(cfg.DataDir, "nats", "trust"); cfg.NATSURL == "" {
		if err := os.CopyFS(trust, os.DirFS(from)); err != nil {
			return b, fmt.Errorf("copy %s: %w", from, err)
		}
	}
	if err := durable.SyncTree(to); err != nil {
		return b, err
	}
	if err := os.Rename(path+".part", path); err != nil {
		return b, err
	}
	return b, durable.SyncDir(to)
}

// restore appears under its name only when it is whole and on disk: half a log would be
// taken for a site.
func restore(ctx context.Context, cfg config, from string) (b streams.Backed, err error) {
	f, err := os.Open(filepath.Join(from, backupName))
	if err != nil {
		return b, err
	}
	defer f.Close()
	if cfg.NATSURL != "" {
		return fill(ctx, cfg, f)
	}
	unlock, err := lockDataDir(cfg.DataDir)
	if err != nil {
		return b, err
	}
	defer unlock()
	dir := filepath.Join(cfg.DataDir, "nats")
	if _, err := os.Stat(dir); err == nil {
		return b, fmt.Errorf("%s is there already: restore into a directory without a site", dir)
	}
	part := cfg
	part.DataDir = filepath.Join(cfg.DataDir, "restoring")
	if err := os.RemoveAll(part.DataDir); err != nil { // of a restore that was killed
		return b, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(part.DataDir)) }()
	whole := filepath.Join(part.DataDir, "nats")
	if err := os.MkdirAll(whole, 0o700); err != nil {
		return b, err
	}
	// A backup of a site on a cluster has no trust: the server makes one.
	if err := os.CopyFS(filepath.Join(whole, "trust"), os.DirFS(filepath.Join(from, "trust"))); err != nil && !errors.Is(err, os.ErrNotExist) {
		return b, err
	}
	if b, err = fill(ctx, part, f); err != nil {
		return b, err
	}
	if err := durable.SyncTree(whole); err != nil {
		return b, err
	}
	if err := os.Rename(whole, dir); err != nil {
		return b, err
	}
	return b, durable.SyncDir(cfg.DataDir)
}

// fill makes the streams of a NATS server that has the site's trust and none of its streams.
func fill(ctx context.Context, cfg config, backup io.Reader) (b streams.Backed, err error) {
	names, err := streams.ParseSite(cfg.Site)
	if err != nil {
		return b, err
	}
	dial, closeServer, err := dialSite(ctx, cfg)
	if err != nil {
		return b, err
	}
	defer closeServer()
	admin, err := dial(server.Admin)(nats.Name("restore"))
	if err != nil {
		return b, fmt.Errorf("connect as administrator: %w", err)
	}
	defer admin.Close()
	return streams.Restore(ctx, admin, dial(server.Runtime), streams.Config{Site: names, Replicas: cfg.Replicas}, backup)
}

// drill compares a site with the copy that its backup makes.
func drill(ctx context.Context, out io.Writer, cfg config) error {
	work, err := os.MkdirTemp("", "gpuaas-drill-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := os.Chmod(work, 0o755); err != nil { // Postgres may run as another user
		return err
	}
	began := time.Now()
	b, err := backUp(ctx, cfg, filepath.Join(work, "backup"))
	if err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	backed := time.Since(began)
	copied := cfg
	copied.DataDir, copied.NATSURL, copied.NATSCreds, copied.DatabaseURL, copied.Replicas = filepath.Join(work, "site"), "", "", "", 1
	began = time.Now()
	if err := os.Mkdir(copied.DataDir, 0o755); err != nil {
		return err
	}
	if r, err := restore(ctx, copied, filepath.Join(work, "backup")); err != nil {
		return fmt.Errorf("restore: %w", err)
	} else if r != b {
		return fmt.Errorf("restored was %+v, backed up %+v", r, b)
	}
	restored := time.Since(began)
	state := func(cfg config) (hash string, err error) {
		err = withSite(ctx, cfg, func(_ func(server.Role) streams.Dial, l *streams.Log) error {
			w, err := foldTo(ctx, l, b.Head)
			if err == nil {
				hash = w.Hash().String()
			}
			return err
		})
		return hash, err
	}
	was, err := state(cfg)
	if err != nil {
		return err
	}
	is, err := state(copied)
	if err != nil {
		return err
	}
	if was != is {
		return fmt.Errorf("at commit %d the site folds to %s, its copy to %s", b.Head.N, was, is)
	}
	rows, err := drillReadModels(ctx, copied, b.Head)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "ok: commit %d, state %s on both sides, %d documents and keys, %d bytes, %d rows of read models as the log has them; backed up in %s, restored in %s\n",
		b.Head.N, is, b.Documents, b.Bytes, rows, backed.Round(time.Millisecond), restored.Round(time.Millisecond))
	return nil
}

// drillReadModels makes read models from the copy and compares them with its log.
func drillReadModels(ctx context.Context, cfg config, to domain.Head) (rows int, err error) {
	log, err := logger(cfg.LogLevel)
	if err != nil {
		return 0, err
	}
	reads, err := openDatabase(ctx, cfg, log)
	if err != nil {
		return 0, err
	}
	defer reads.close()
	err = withSite(ctx, cfg, func(_ func(server.Role) streams.Dial, l *streams.Log) error {
		if err := project(ctx, reads.store.Projector(logSource{l}), to); err != nil {
			return err
		}
		r, err := reads.store.Reconcile(ctx, func(at domain.Head) (projections.Fold, error) { return foldTo(ctx, l, at) })
		if err != nil {
			return err
		}
		if len(r.Findings) > 0 {
			return fmt.Errorf("the read models made from the copy differ from its log: %+v", r.Findings[0])
		}
		for _, n := range r.Rows {
			rows += n
		}
		return nil
	})
	return rows, err
}

// project fills read models that are empty up to a commit.
func project(ctx context.Context, p *projections.Projector, to domain.Head) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for p.Applied().N < to.N { // ends with the projector, or ctx
		select {
		case err := <-ended:
			return err
		case <-look.C:
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		return err // nil: it ended as it was told
	}
	return nil
}
