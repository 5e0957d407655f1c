package main

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
)

func streamsCommand() *cobra.Command {
	c := &cobra.Command{Use: "streams", Short: "Look at the configuration of a site's streams and put it back"}
	check := &cobra.Command{
		Use: "check", Short: "Compare every stream's configuration with what it must be", Args: cobra.NoArgs,
		Long: "Prints every difference, and exits non-zero if there is one: what makes the site refuse to start and to write. On a running site it connects to it; with --data-dir of a stopped site it opens the files.",
		RunE: func(c *cobra.Command, _ []string) error { return withStreams(c, checkStreams) },
	}
	repair := &cobra.Command{
		Use: "repair", Short: "Put drifted streams back, all but the log and the vault", Args: cobra.NoArgs,
		Long: "Updates the streams whose configuration differs, beside a running site too. The log, the vault and its keys are never touched, because an update can truncate them whatever their flags say: find out what happened to them first. What is missing is made by the next start of the site. Exits non-zero if a difference is left.",
		RunE: func(c *cobra.Command, _ []string) error { return withStreams(c, repairStreams) },
	}
	rebuild := &cobra.Command{
		Use: "rebuild-feed", Short: "Throw the feed away, to be made anew from the log", Args: cobra.NoArgs,
		Long: "For a feed of which gpuaas log verify says that it is damaged. The site that runs, or the next start, fills it; events keep their numbers and cursors stay good.",
		RunE: func(c *cobra.Command, _ []string) error { return withStreams(c, rebuildFeed) },
	}
	for _, sub := range []*cobra.Command{check, repair, rebuild} {
		configFlags(sub.Flags())
		c.AddCommand(sub)
	}
	return c
}

// withStreams connects with the administrator's credential.
func withStreams(c *cobra.Command, f func(context.Context, io.Writer, *nats.Conn, streams.Config) error) error {
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
	admin, err := dial(server.Admin)(nats.Name("streams"))
	if err != nil {
		return fmt.Errorf("connect as administrator: %w", err)
	}
	defer admin.Close()
	ctx, cancel := context.WithTimeout(c.Context(), startTimeout)
	defer cancel()
	return f(ctx, c.OutOrStdout(), admin, streams.Config{Site: names, Replicas: cfg.Replicas})
}

func checkStreams(ctx context.Context, out io.Writer, admin *nats.Conn, c streams.Config) error {
	drifts, err := streams.CheckConfig(ctx, admin, c)
	if err != nil {
		return err
	}
	return sayDrifts(out, drifts, c)
}

func rebuildFeed(ctx context.Context, out io.Writer, admin *nats.Conn, c streams.Config) error {
	if err := streams.RebuildFeed(ctx, admin, c, 1); err != nil {
		return err
	}
	fmt.Fprintf(out, "ok: %s is empty, and is filled from the log\n", c.Site.Feed())
	return nil
}

func repairStreams(ctx context.Context, out io.Writer, admin *nats.Conn, c streams.Config) error {
	before, err := streams.CheckConfig(ctx, admin, c)
	if err != nil {
		return err
	}
	left, err := streams.Repair(ctx, admin, c)
	if err != nil {
		return err
	}
	for _, d := range before {
		if !slices.Contains(left, d) {
			fmt.Fprintf(out, "repaired: stream %s: %s was %s, is %s\n", d.Stream, d.Field, d.Have, d.Want)
		}
	}
	return sayDrifts(out, left, c)
}

func sayDrifts(out io.Writer, drifts []streams.Drift, c streams.Config) error {
	for _, d := range drifts {
		fmt.Fprintln(out, d)
	}
	if len(drifts) > 0 {
		return fmt.Errorf("%d differences: gpuaas streams repair puts back all streams but the log, the vault and its keys; what is missing is made by the next start", len(drifts))
	}
	fmt.Fprintf(out, "ok: the %d streams of site %s are configured as they must be\n", len(c.Site.Streams()), c.Site)
	return nil
}
