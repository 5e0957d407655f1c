package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams"
)

func logExplain() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "explain ALLOCATION", Short: "Why an allocation was placed where it was, and on no other host", Args: cobra.ExactArgs(1),
		Long: "Folds the log up to the launch of the allocation, live or long released, places it again on the fleet of that moment, and says of every host why it was chosen or not. On a running site it connects to it; with --data-dir of a stopped site it opens the files.",
		RunE: func(c *cobra.Command, args []string) error {
			var id domain.AllocationID
			if err := id.UnmarshalText([]byte(args[0])); err != nil {
				return fmt.Errorf("not the id of an allocation: %w", err)
			}
			return withLog(c, func(ctx context.Context, l *streams.Log) error {
				e, err := commands.Explain(ctx, l, id)
				if err != nil {
					return err
				}
				if asJSON {
					return json.NewEncoder(c.OutOrStdout()).Encode(e)
				}
				return printExplained(c.OutOrStdout(), &e)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printExplained(out io.Writer, e *commands.Explained) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "allocation %s, %d VMs, launched in commit %d at %s\n", e.Allocation, len(e.VMs), e.N, e.At)
	fmt.Fprintln(t, "HOST\tVMS\tWHY")
	for _, h := range e.Hosts {
		fmt.Fprintf(t, "%s\t%d\t%s\n", h.Host, h.VMs, h.Reason)
	}
	return t.Flush()
}
