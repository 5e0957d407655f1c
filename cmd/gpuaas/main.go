// Command gpuaas is the control plane of a site.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := root().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "gpuaas:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	c := &cobra.Command{
		Use: "gpuaas", Short: "The control plane of a GPU cloud site",
		SilenceUsage: true, SilenceErrors: true,
	}
	c.AddCommand(devCommand(), serveCommand(), logCommand(), streamsCommand(), natsCommand(), projectionsCommand(), siteCommand(), configCommand(),
		&cobra.Command{Use: "version", Short: "Print the build", Args: cobra.NoArgs, Run: func(c *cobra.Command, _ []string) {
			fmt.Fprintln(c.OutOrStdout(), build())
		}})
	return c
}

// build names this build: the module's version or the commit it was made from.
func build() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value[:min(12, len(s.Value))]
		}
	}
	return info.Main.Version
}
