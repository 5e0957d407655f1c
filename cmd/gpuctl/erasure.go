package main

import (
	"iter"

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
	return ofAllocation(a, "erasure NAME", "The proof that nothing of it is left; -o json has the evidence", leaseColumns, (*client.Client).Erasure)
}

var reasonColumns = []column[client.HostReason]{
	{name: "HOST", cell: func(r client.HostReason) string { return r.HostID }},
	{name: "WHY", cell: func(r client.HostReason) string { return r.Reason }},
}

func (a *app) explain() *cobra.Command {
	return ofAllocation(a, "explain NAME", "Why it is on its host, and on no other", reasonColumns, (*client.Client).Explain)
}

// ofAllocation is a command that shows a short list that belongs to an allocation.
func ofAllocation[T any](a *app, use, short string, columns []column[T], request func(*client.Client, cx, string) ([]T, error)) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := a.allocationID(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return many(a, cmd.Context(), 0, columns, func(ctx cx, c *client.Client) (iter.Seq2[T, error], error) {
				items, err := request(c, ctx, id)
				return each(items), err
			})
		},
	}
}
