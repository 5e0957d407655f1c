package main

import (
	"fmt"
	"iter"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/client"
)

var hostColumns = []column[client.Host]{
	{name: "NAME", cell: func(h client.Host) string { return h.Name }},
	{name: "STATE", cell: func(h client.Host) string { return h.State }},
	{name: "CLASS", cell: func(h client.Host) string { return h.GPUClass }},
	{name: "FREE", cell: func(h client.Host) string { return itoa(h.SlotsAvailable) + "/" + itoa(h.Slots) }},
	{name: "IN USE", cell: func(h client.Host) string { return itoa(h.SlotsInUse) }},
	{name: "RACK", cell: func(h client.Host) string { return h.Rack }},
	{name: "LEAF", wide: true, cell: func(h client.Host) string { return h.Leaf }},
	{name: "SILENT SINCE", cell: func(h client.Host) string { return when(h.SilentSince) }},
	{name: "ID", cell: func(h client.Host) string { return h.ID }},
	{name: "PROBLEM", cell: func(h client.Host) string { return health(h).Problem }},
	{name: "SPINE", wide: true, cell: func(h client.Host) string { return h.Spine }},
	{name: "SLOT MAP", wide: true, cell: func(h client.Host) string { return h.SlotMapDigest }},
	{name: "PROPOSED MAP", wide: true, cell: func(h client.Host) string { return h.ProposedDigest }},
	{name: "ENROLLED", wide: true, cell: func(h client.Host) string { return when(h.EnrolledAt) }},
	{name: "ADMITTED", wide: true, cell: func(h client.Host) string { return when(h.AdmittedAt) }},
	{name: "REPORTED", wide: true, cell: func(h client.Host) string { return when(h.ReportedAt) }},
	{name: "HEARD", wide: true, cell: func(h client.Host) string { return when(health(h).LastHeartbeatAt) }},
	{name: "HOSTD", wide: true, cell: func(h client.Host) string { return health(h).Version }},
	{name: "EXECUTED", wide: true, cell: func(h client.Host) string {
		if h.Health == nil {
			return ""
		}
		return fmt.Sprintf("%d of %d", h.Health.ExecutedGeneration, h.Health.Generation)
	}},
	{name: "ENROLMENT TOKEN", wide: true, cell: func(h client.Host) string { return h.EnrolmentToken }},
}

// health is empty where the host was not heard.
func health(h client.Host) client.HostHealth {
	if h.Health == nil {
		return client.HostHealth{}
	}
	return *h.Health
}

func (a *app) hosts() *cobra.Command {
	var n client.NewHost
	add := &cobra.Command{
		Use: "add NAME", Aliases: []string{"create"}, Short: "Enrol a host; hostd exchanges the token for its credential", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			n.Name = args[0]
			return one(a, cmd.Context(), hostColumns, func(ctx cx, c *client.Client) (*client.Host, error) { return c.CreateHost(ctx, n) })
		},
	}
	add.Flags().StringVar(&n.Rack, "rack", "", "where it stands")
	add.Flags().StringVar(&n.Leaf, "leaf", "", "its leaf switch")
	add.Flags().StringVar(&n.Spine, "spine", "", "its spine switch")
	get := &cobra.Command{
		Use: "get HOST", Short: "Show one", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := a.hostID(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return one(a, cmd.Context(), hostColumns, func(ctx cx, c *client.Client) (*client.Host, error) { return c.Host(ctx, id) })
		},
	}
	list := listCommand(a, "The fleet", hostColumns, func(ctx cx, c *client.Client, o ...client.ListOption) (iter.Seq2[client.Host, error], error) {
		return c.Hosts(ctx, o...), nil
	})
	var sure bool
	remove := &cobra.Command{
		Use: "remove HOST", Short: "Take a host out of the site; its slots have to be retired", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := a.hostID(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := a.confirm(sure, "Remove %s? Its credential is revoked.", clean(args[0])); err != nil {
				return err
			}
			return a.change(cmd, func(ctx cx, c *client.Client) (*client.Changed, error) { return c.RemoveHost(ctx, id) })
		},
	}
	remove.Flags().BoolVarP(&sure, "yes", "y", false, "do not ask")
	return group("hosts", "Servers with GPUs", []string{"host"}, add, list, get, a.slotMap(), a.approve(), remove,
		a.hostAction("cordon HOST", "No new VMs on it", client.Cordon, ""),
		a.hostAction("uncordon HOST", "End cordon and drain", client.Uncordon, ""),
		a.hostAction("drain HOST", "No new VMs; what runs is left to end", client.Drain, ""),
		a.hostAction("confirm-power-off HOST", "Your word that nothing runs on a silent host any more: its VMs have failed", client.ConfirmPowerOff,
			"Is %s without power? If anything still runs on it, two tenants may get the same address."))
}

// hostAction is a command that acts on a host; what needs an operator's word asks.
func (a *app) hostAction(use, short string, do client.HostAction, question string) *cobra.Command {
	var sure bool
	c := &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := a.hostID(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if question != "" {
				if err := a.confirm(sure, question, clean(args[0])); err != nil {
					return err
				}
			}
			return a.change(cmd, func(ctx cx, c *client.Client) (*client.Changed, error) { return c.ActOnHost(ctx, id, do) })
		},
	}
	if question != "" {
		c.Flags().BoolVarP(&sure, "yes", "y", false, "do not ask")
	}
	return c
}
