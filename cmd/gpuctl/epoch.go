package main

import (
	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/client"
)

var epochColumns = []column[client.Epoch]{
	{name: "EPOCH", cell: func(e client.Epoch) string { return itoa(int(e.Epoch)) }},
	{name: "HOSTS AWAITED", cell: func(e client.Epoch) string { return itoa(len(e.AwaitedHosts)) }},
	{name: "HOSTS AHEAD", cell: func(e client.Epoch) string { return itoa(len(e.AheadHosts)) }},
	{name: "UNKNOWN VMS", cell: func(e client.Epoch) string { return itoa(len(e.UnknownVMs)) }},
}

var unknownColumns = []column[client.UnknownVM]{
	{name: "VM", cell: func(v client.UnknownVM) string { return v.VMID }},
	{name: "HOST", cell: func(v client.UnknownVM) string { return v.HostID }},
	{name: "TENANT", cell: func(v client.UnknownVM) string { return v.TenantID }},
	{name: "ALLOCATION", cell: func(v client.UnknownVM) string { return v.AllocationID }},
	{name: "RUNNING", cell: func(v client.UnknownVM) string { return yes(v.Running) }},
}

func (a *app) epoch() *cobra.Command {
	state := &cobra.Command{
		Use: "show", Short: "The site's epoch, and what is left to reconcile in it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return one(a, cmd.Context(), epochColumns, func(ctx cx, c *client.Client) (*client.Epoch, error) { return c.Epoch(ctx) })
		},
	}
	unknown := &cobra.Command{
		Use: "unknown-vms", Short: "VMs that hosts have and the log does not know", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			ctx, answers := capture(cmd.Context())
			e, err := c.Epoch(ctx)
			switch {
			case err != nil:
				return err
			case a.json():
				return a.writeJSON((*answers)[0].Body)
			}
			return show(a, e.UnknownVMs, unknownColumns)
		},
	}
	var reason string
	var sure bool
	destroy := &cobra.Command{
		Use: "destroy-vm HOST VM --reason WORD", Short: "Have a host remove a VM that the log does not know; its slots are wiped", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := a.hostID(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := a.confirm(sure, "Destroy %s and all its data? It cannot be taken back.", clean(args[1])); err != nil {
				return err
			}
			return a.change(cmd, func(ctx cx, c *client.Client) (*client.Changed, error) {
				return c.DestroyUnknownVM(ctx, id, args[1], reason)
			})
		},
	}
	destroy.Flags().StringVar(&reason, "reason", "", "a slug: tenant-agreed")
	destroy.Flags().BoolVarP(&sure, "yes", "y", false, "do not ask")
	_ = destroy.MarkFlagRequired("reason")
	return group("epoch", "What is left to reconcile after a log lost its end", nil, state, unknown, destroy)
}
