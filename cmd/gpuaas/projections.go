package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/projections"
	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
)

func projectionsCommand() *cobra.Command {
	c := &cobra.Command{Use: "projections", Short: "Work on the read models"}
	rebuild := &cobra.Command{
		Use: "rebuild", Short: "Build the read models anew from the log, beside the live ones, and swap", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return withReadModels(c, rebuildReadModels) },
	}
	reconcile := &cobra.Command{
		Use: "reconcile", Short: "Compare the read models with the fold of the log", Args: cobra.NoArgs,
		Long: "Folds the log up to the commit that the read models show and compares slots, their devices, allocations and balances with it, row by row, and the ledger with itself. Every difference is printed, and makes the exit code non-zero. It changes nothing, and works beside a running site.",
		RunE: func(c *cobra.Command, _ []string) error { return withReadModels(c, reconcileReadModels) },
	}
	for _, sub := range []*cobra.Command{rebuild, reconcile} {
		configFlags(sub.Flags())
		c.AddCommand(sub)
	}
	return c
}

// withReadModels opens log and database of a running site, or the files of a
// stopped one.
func withReadModels(c *cobra.Command, f func(context.Context, io.Writer, *streams.Log, *projections.Store) error) error {
	cfg, _, _, err := loadConfig(c)
	if err != nil {
		return err
	}
	log, err := logger(cfg.LogLevel)
	if err != nil {
		return err
	}
	names, err := streams.ParseSite(cfg.Site)
	if err != nil {
		return err
	}
	if cfg.DatabaseURL == "" {
		if url, ok := runningFile(cfg.DataDir, databaseName); ok {
			cfg.DatabaseURL = url
		}
	}
	dial, closeServer, err := dialSite(c.Context(), cfg)
	if err != nil {
		return err
	}
	defer closeServer()
	l, err := streams.OpenLog(c.Context(), streams.LogConfig{Dial: dial(server.Runtime), Site: names})
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	defer l.Close()
	r, err := openDatabase(c.Context(), cfg, log)
	if err != nil {
		return err
	}
	defer r.close()
	return f(c.Context(), c.OutOrStdout(), l, r.store)
}

func rebuildReadModels(ctx context.Context, out io.Writer, l *streams.Log, store *projections.Store) error {
	done, err := store.Rebuild(ctx, logSource{l})
	if err != nil {
		return err
	}
	if done.N == 0 {
		return errors.New("the log is empty: nothing to build")
	}
	fmt.Fprintf(out, "ok: the read models show commit %d %s\n", done.N, done.Hash)
	return nil
}

func reconcileReadModels(ctx context.Context, out io.Writer, l *streams.Log, store *projections.Store) error {
	r, err := store.Reconcile(ctx, func(at domain.Head) (projections.Fold, error) { return foldTo(ctx, l, at) })
	if err != nil {
		return err
	}
	for _, f := range r.Findings {
		fmt.Fprintf(out, "%s: %s: %s: the read model has %s, the log %s\n", f.Class, f.Table, f.Key, orNone(f.ReadModel), orNone(f.Fold))
	}
	if n := len(r.Findings); n > 0 {
		more := ""
		if r.Truncated {
			more = " and more"
		}
		return fmt.Errorf("the read models differ from the log at commit %d: %d findings%s; nothing is decided from them: run gpuaas projections rebuild, and keep this output, because it is a bug", r.Head.N, n, more)
	}
	fmt.Fprintf(out, "ok: commit %d %s: %d slots, %d allocations and %d balances are as the log has them, the devices of %d slots too, %d currencies sum to zero\n",
		r.Head.N, r.Head.Hash, r.Rows["slots"], r.Rows["allocations"], r.Rows["balances"], r.Rows["device_places"], r.Rows["ledger_entries"])
	return nil
}

func orNone(s string) string {
	if s == "" {
		return "no such row"
	}
	return s
}

// foldTo is the world after commit at, which the log has to hold.
func foldTo(ctx context.Context, l *streams.Log, at domain.Head) (*domain.World, error) {
	if at.N == 0 {
		return nil, errors.New("the read models show no commit yet: start the site, or run gpuaas projections rebuild")
	}
	if err := l.Check(ctx, at); err != nil {
		return nil, fmt.Errorf("the read models show commit %d %s: %w", at.N, at.Hash, err)
	}
	w := domain.NewWorld()
	if err := commands.FoldLog(ctx, upTo{l, l.Seq(at.N)}, w); err != nil {
		return nil, fmt.Errorf("fold the log: %w", err)
	}
	if w.Head != at {
		return nil, fmt.Errorf("the fold ends at commit %d %s, the read models show commit %d %s", w.Head.N, w.Head.Hash, at.N, at.Hash)
	}
	return w, nil
}

// upTo is a log that ends with message last.
type upTo struct {
	*streams.Log
	last uint64
}

// Read implements commands.LogReader.
func (u upTo) Read(ctx context.Context, from uint64, fn func(uint64, []byte) error) error {
	err := u.Log.Read(ctx, from, func(seq uint64, b []byte) error {
		if seq > u.last {
			return errStop
		}
		return fn(seq, b)
	})
	if errors.Is(err, errStop) { // a failure would cut the fold off, which is behind
		return nil
	}
	return err
}
