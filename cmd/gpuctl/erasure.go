package main

import (
	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/client"
)

var leaseColumns = []column[client.Lease]{
	{name: "SLOT", cell: func(l client.Lease) string { return l.SlotID }},
	{name: "LEASE", cell: func(l client.Lease) string { return itoa(int(l.Generation)) }},
	{name: "STARTED", cell: func(l client.Lease) string { return when(l.StartedAt) }},
	{name: "ENDED", cell: func(l client.Lease) string { return when(l.EndedAt) }},
	{name: "WIPE", cell: func(l client.Lease) string { return first(l.WipeResult, "not yet") }},
	{name: "WIPED", cell: func(l client.Lease) string { return when(l.WipedAt) }},
}

// erasure shows that nothing is left; the evidence itself is in -o json.
func (a *app) erasure() *cobra.Command {
	return &cobra.Command{
		Use: "erasure NAME", Short: "The proof that nothing of it is left; -o json has the evidence", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := a.allocationID(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			ctx, answers := capture(cmd.Context())
			e, err := c.Erasure(ctx, id)
			if err != nil {
				return err
			}
			if a.json() {
				return a.writeJSON((*answers)[len(*answers)-1].Body)
			}
			if err := a.details([][2]string{{"erased", first(yes(e.Erased), "no")}}); err != nil {
				return err
			}
			return show(a, e.Items, leaseColumns)
		},
	}
}
