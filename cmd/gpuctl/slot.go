package main

import (
	"iter"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/client"
)

var slotColumns = []column[client.Slot]{
	{name: "SLOT", cell: func(s client.Slot) string { return s.Name }},
	{name: "STATE", cell: func(s client.Slot) string { return s.State }},
	{name: "CLASS", cell: func(s client.Slot) string { return s.GPUClass }},
	{name: "LEASE", cell: func(s client.Slot) string { return itoa(int(s.Generation)) }},
	{name: "ALLOCATION", cell: func(s client.Slot) string { return s.AllocationID }},
	{name: "WRONG", cell: func(s client.Slot) string {
		return strings.TrimSpace(strings.Join([]string{s.Component, s.RepairScope, s.Reason}, " "))
	}},
	{name: "ID", cell: func(s client.Slot) string { return s.ID }},
	{name: "GPU", wide: true, cell: func(s client.Slot) string { return deviceLine(&s.GPU) }},
	{name: "NVME", wide: true, cell: func(s client.Slot) string { return deviceLine(&s.NVMe) }},
	{name: "VF", wide: true, cell: func(s client.Slot) string { return deviceLine(&s.IBVF) }},
	{name: "NUMA NODE", wide: true, cell: func(s client.Slot) string { return itoa(s.NUMANode) }},
	{name: "WIPE POLICY", wide: true, cell: func(s client.Slot) string { return s.WipePolicy }},
	{name: "HOST", wide: true, cell: func(s client.Slot) string { return s.HostID }},
	{name: "CHANGED", wide: true, cell: func(s client.Slot) string { return when(s.ChangedAt) }},
}

// deviceLine is a device in a line: where it is, which one, and what.
func deviceLine(d *client.Device) string {
	return strings.Join(strings.Fields(d.Address+" "+d.Serial+" "+d.Model), " ")
}

var slotStates = []string{"proposed", "wiping", "available", "reserved", "active", "quarantined", "retired", "cordoned"}

func (a *app) slots() *cobra.Command {
	var host, state, reason string
	var sure bool
	list := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "The fleet's slots", Args: cobra.NoArgs}
	list.Flags().StringVar(&host, "host", "", "only this host's")
	list.Flags().StringVar(&state, "state", "", "only those in this state, or in one of several: wiping,quarantined")
	listing(a, list, slotColumns, func(ctx cx, c *client.Client, o ...client.ListOption) (iter.Seq2[client.Slot, error], error) {
		id, err := "", oneOf("--state", state, slotStates)
		if err != nil {
			return nil, err
		}
		if host != "" {
			if id, err = a.hostID(quiet(ctx), host); err != nil {
				return nil, err
			}
		}
		return c.Slots(ctx, id, state, o...), nil
	})
	quarantine := &cobra.Command{
		Use: "quarantine SLOT --reason WORD", Short: "Take a slot out of service; one in use after its lease", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := a.slotID(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.change(cmd, func(ctx cx, c *client.Client) (*client.Changed, error) { return c.QuarantineSlot(ctx, id, reason) })
		},
	}
	quarantine.Flags().StringVar(&reason, "reason", "", "why, as a word: fan-noise")
	_ = quarantine.MarkFlagRequired("reason")
	rewipe := &cobra.Command{
		Use: "rewipe SLOT", Short: "Send a quarantined slot through another wipe", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := a.slotID(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.change(cmd, func(ctx cx, c *client.Client) (*client.Changed, error) { return c.RewipeSlot(ctx, id) })
		},
	}
	retire := &cobra.Command{
		Use: "retire SLOT --reason WORD", Short: "Take a slot out for ever", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := a.slotID(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := a.confirm(sure, "Retire %s? It never comes back.", clean(args[0])); err != nil {
				return err
			}
			return a.change(cmd, func(ctx cx, c *client.Client) (*client.Changed, error) { return c.RetireSlot(ctx, id, reason) })
		},
	}
	retire.Flags().StringVar(&reason, "reason", "", "why, as a word: worn-out")
	retire.Flags().BoolVarP(&sure, "yes", "y", false, "do not ask")
	_ = retire.MarkFlagRequired("reason")
	leases := plainList(a, "leases SLOT", "A slot's history: who had it, and each wipe; -o json has the evidence", cobra.ExactArgs(1), leaseColumns,
		func(ctx cx, c *client.Client, args []string) (iter.Seq2[client.Lease, error], error) {
			id, err := a.slotID(quiet(ctx), args[0])
			if err != nil {
				return nil, err
			}
			leases, err := c.SlotLeases(ctx, id)
			return each(leases), err
		})
	return group("slots", "A GPU with its drive and its network each; SLOT is an id or HOST/INDEX", []string{"slot"}, list,
		getCommand(a, "get SLOT", "Show a slot: its devices, and what is wrong", slotColumns, a.slotID, (*client.Client).Slot), quarantine, rewipe, retire, leases, a.slotErasure())
}
