package main

import (
	"iter"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/client"
)

var dutyColumns = []column[client.WipeDuty]{
	{name: "STATE", cell: func(d client.WipeDuty) string { return d.State }},
	{name: "DEVICE", cell: func(d client.WipeDuty) string { return d.Component }},
	{name: "SERIAL", cell: func(d client.WipeDuty) string { return d.Serial }},
	{name: "CAUSE", cell: func(d client.WipeDuty) string { return d.Cause }},
	{name: "SINCE", cell: func(d client.WipeDuty) string { return when(d.Since) }},
	{name: "ID", cell: func(d client.WipeDuty) string { return d.ID }},
	{name: "LEFT SLOT", wide: true, cell: func(d client.WipeDuty) string { return d.SlotID }},
	{name: "FOUND IN", wide: true, cell: func(d client.WipeDuty) string { return d.FoundSlotID }},
	{name: "REPORTED BY", wide: true, cell: func(d client.WipeDuty) string { return d.ReportedBy }},
	{name: "CONFIRMED BY", wide: true, cell: func(d client.WipeDuty) string { return d.ConfirmedBy }},
	{name: "EVIDENCE", wide: true, cell: func(d client.WipeDuty) string { return d.Evidence }},
	{name: "BASELINE", wide: true, cell: func(d client.WipeDuty) string {
		if d.Fresh {
			return "taken there"
		}
		return ""
	}},
}

var dutyStates = []string{"owed", "destruction_reported", "destroyed", "discharged"}

func (a *app) wipeDuties() *cobra.Command {
	var state, evidence string
	var sure bool
	list := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "Devices that left their slots unwiped", Args: cobra.NoArgs}
	list.Flags().StringVar(&state, "state", "", "only those in this state: "+strings.Join(dutyStates, ", "))
	listing(a, list, dutyColumns, func(ctx cx, c *client.Client, o ...client.ListOption) (iter.Seq2[client.WipeDuty, error], error) {
		return c.WipeDuties(ctx, state, o...), oneOf("--state", state, dutyStates)
	})
	destroyed := &cobra.Command{
		Use: "destroyed DUTY --evidence WORD", Short: "Your word that the device is destroyed; another operator has to say so too", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.confirm(sure, "Is the device of %s destroyed? It cannot be taken back.", clean(args[0])); err != nil {
				return err
			}
			return a.change(cmd, func(ctx cx, c *client.Client) (*client.Changed, error) {
				return c.ReportDestroyed(ctx, args[0], evidence)
			})
		},
	}
	destroyed.Flags().StringVar(&evidence, "evidence", "", "where it can be looked up: certificate-2026-117")
	destroyed.Flags().BoolVarP(&sure, "yes", "y", false, "do not ask")
	_ = destroyed.MarkFlagRequired("evidence")
	return group("wipe-duties", "Devices that left their slots before they were wiped", []string{"wipe-duty"}, list, destroyed)
}
