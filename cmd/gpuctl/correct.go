package main

import (
	"iter"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/client"
)

var correctionColumns = []column[client.Correction]{
	{name: "ID", cell: func(r client.Correction) string { return r.ID }},
	{name: "FIELD", cell: func(r client.Correction) string { return r.Field }},
	{name: "OF", cell: func(r client.Correction) string { return r.ResourceID }},
	{name: "BEFORE", cell: func(r client.Correction) string { return r.Before }},
	{name: "AFTER", cell: func(r client.Correction) string { return r.After }},
	{name: "REASON", cell: func(r client.Correction) string { return r.Reason }},
	{name: "PROPOSED BY", cell: func(r client.Correction) string { return r.ProposedBy }},
	{name: "UNTIL", cell: func(r client.Correction) string { return when(r.ExpiresAt) }},
}

func (a *app) corrections() *cobra.Command {
	list := plainList(a, "list", "Those that wait for another operator", cobra.NoArgs, correctionColumns, func(ctx cx, c *client.Client, _ []string) (iter.Seq2[client.Correction, error], error) {
		all, err := c.Corrections(ctx)
		return func(yield func(client.Correction, error) bool) {
			for _, r := range all {
				if !yield(r, nil) {
					return
				}
			}
		}, err
	})
	var n client.NewCorrection
	propose := &cobra.Command{
		Use: "propose FIELD RESOURCE", Short: "Propose to repair a field; another operator has to approve", Args: cobra.ExactArgs(2),
		Long: "The fields are slot.state (to quarantined), allocation.state (to released, of one on its way out), grant.balance_micros and tenant.receivable_micros (by a posting), host.ahead (to false).",
		RunE: func(cmd *cobra.Command, args []string) error {
			n.Field, n.ResourceID = args[0], args[1]
			return one(a, cmd.Context(), correctionColumns, func(ctx cx, c *client.Client) (*client.Correction, error) { return c.ProposeCorrection(ctx, n) })
		},
	}
	propose.Flags().StringVar(&n.Before, "before", "", "what is there; anything else is refused")
	propose.Flags().StringVar(&n.After, "after", "", "what it should be")
	propose.Flags().StringVar(&n.Reason, "reason", "", "one word: ticket-4711")
	for _, name := range []string{"before", "after", "reason"} {
		_ = propose.MarkFlagRequired(name)
	}
	var sure bool
	approve := &cobra.Command{
		Use: "approve CORRECTION", Short: "Approve another operator's correction", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.confirm(sure, "Correct the world as %s says?", clean(args[0])); err != nil {
				return err
			}
			return a.change(cmd, func(ctx cx, c *client.Client) (*client.Changed, error) { return c.ApproveCorrection(ctx, args[0]) })
		},
	}
	approve.Flags().BoolVarP(&sure, "yes", "y", false, "do not ask")
	withdraw := &cobra.Command{
		Use: "withdraw CORRECTION", Short: "Take a proposed correction back", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.change(cmd, func(ctx cx, c *client.Client) (*client.Changed, error) { return c.WithdrawCorrection(ctx, args[0]) })
		},
	}
	return group("corrections", "Repairs of what is wrong in the world, by two operators", []string{"correction"}, list, propose, approve, withdraw)
}
