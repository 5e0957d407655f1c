package main

import (
	"iter"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/client"
)

var reasonColumns = []column[client.HostReason]{
	{name: "HOST", cell: func(r client.HostReason) string { return r.HostID }},
	{name: "WHY", cell: func(r client.HostReason) string { return r.Reason }},
}

func (a *app) explain() *cobra.Command {
	return plainList(a, "explain NAME", "Why it is on its host, and on no other; for those who run the site", cobra.ExactArgs(1), reasonColumns,
		func(ctx cx, c *client.Client, args []string) (iter.Seq2[client.HostReason, error], error) {
			id, err := a.allocationID(quiet(ctx), args[0])
			if err != nil {
				return nil, err
			}
			reasons, err := c.ExplainAllocation(ctx, id)
			return each(reasons), err
		})
}

func (a *app) explainSKU() *cobra.Command {
	return plainList(a, "explain SKU", "Where a VM of it would go now, and why not elsewhere", cobra.ExactArgs(1), reasonColumns,
		func(ctx cx, c *client.Client, args []string) (iter.Seq2[client.HostReason, error], error) {
			reasons, err := c.ExplainPlacement(ctx, args[0])
			return each(reasons), err
		})
}
