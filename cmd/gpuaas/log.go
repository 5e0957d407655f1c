package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
)

func logCommand() *cobra.Command {
	c := &cobra.Command{Use: "log", Short: "Read and verify the log of a site"}
	var from, to uint64
	verify := &cobra.Command{
		Use: "verify", Short: "Check the hash chain, decide every command again and compare", Args: cobra.NoArgs,
		Long: "Reads the whole log, checks numbers and the hash chain, decides every recorded command again and compares what follows, byte for byte, with what was recorded. On a running site it connects to it; with --data-dir of a stopped site it opens the files.",
		RunE: func(c *cobra.Command, _ []string) error {
			return withLog(c, func(ctx context.Context, l *streams.Log) error {
				v, err := commands.Verify(ctx, l)
				if err != nil {
					return err
				}
				fmt.Fprintf(c.OutOrStdout(), "ok: %d commits, %d decisions executed again with equal results, %d events\nhead %d %s\nstate %s\n", v.Head.N, v.Decisions, v.Events, v.Head.N, v.Head.Hash, v.State)
				return nil
			})
		},
	}
	export := &cobra.Command{
		Use: "export", Short: "Print commits as JSON, one a line", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return withLog(c, func(ctx context.Context, l *streams.Log) error {
				enc := json.NewEncoder(c.OutOrStdout())
				return l.Read(ctx, l.Seq(max(from, 1)), func(seq uint64, b []byte) error {
					commit, err := domain.DecodeCommit(b)
					if err != nil {
						return fmt.Errorf("message %d: %w", seq, err)
					}
					if to != 0 && commit.N > to {
						return errStop
					}
					return enc.Encode(commit)
				})
			})
		},
	}
	export.Flags().Uint64Var(&from, "from", 1, "first commit")
	export.Flags().Uint64Var(&to, "to", 0, "last commit; 0: the newest")
	for _, sub := range []*cobra.Command{verify, export, logExplain()} {
		configFlags(sub.Flags())
		c.AddCommand(sub)
	}
	return c
}

var errStop = fmt.Errorf("end of the range")

// withLog opens the log of a running site, whose address and credentials are in
// the data directory, or the files of a stopped one.
func withLog(c *cobra.Command, f func(context.Context, *streams.Log) error) error {
	cfg, _, _, err := loadConfig(c)
	if err != nil {
		return err
	}
	names, err := streams.ParseSite(cfg.Site)
	if err != nil {
		return err
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
	if err := f(c.Context(), l); err != nil && !errors.Is(err, errStop) {
		return err
	}
	return nil
}
