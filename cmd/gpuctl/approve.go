package main

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/client"
)

func (a *app) approve() *cobra.Command {
	var n client.Approval
	var overrides []string
	var sure bool
	c := &cobra.Command{
		Use: "approve HOST", Short: "Approve the proposed slot map: its disks are wiped first", Args: cobra.ExactArgs(1),
		Long: "Approve the proposed slot map, by its digest. Without --digest it is the proposal of now, which is shown first on a terminal;\nelsewhere that takes --yes. What is on the disks is wiped.",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if n.Slots, err = parseOverrides(overrides); err != nil {
				return err
			}
			id, err := a.hostID(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if n.Digest == "" {
				m, err := a.conn.SlotMaps(cmd.Context(), id)
				if err != nil {
					return err
				}
				if m.ProposalDigest == "" {
					return &failure{exitConflict, "there is nothing to approve", "start hostd on the host, or see gpuctl hosts slot-map"}
				}
				if n.Digest = m.ProposalDigest; !sure {
					if !terminal(a.in) || !terminal(a.err) {
						return usage("give --digest of the map that was looked at, or --yes for the one of now, whatever is on its disks")
					}
					if err := a.showMaps(m); err != nil {
						return err
					}
				}
			}
			if err := a.confirm(sure, "Approve %s? What is on its disks is wiped.", clean(n.Digest)); err != nil {
				return err
			}
			columns := []column[client.ApprovedMap]{
				{name: "HOST", cell: func(m client.ApprovedMap) string { return m.ID }},
				{name: "STATE", cell: func(m client.ApprovedMap) string { return m.State }},
				{name: "DIGEST", cell: func(m client.ApprovedMap) string { return m.Digest }},
				{name: "NEW SLOTS", cell: func(m client.ApprovedMap) string { return itoa(len(m.Slots)) }},
			}
			return one(a, cmd.Context(), columns, func(ctx cx, c *client.Client) (*client.ApprovedMap, error) { return c.ApproveSlotMap(ctx, id, n) })
		},
	}
	c.Flags().StringVar(&n.WipePolicy, "wipe-policy", "auto", "of every slot: auto, sanitize, format, overwrite")
	c.Flags().StringVar(&n.Digest, "digest", "", "of the map that was looked at")
	c.Flags().StringArrayVar(&overrides, "slot", nil, "a slot's own policy: 3=overwrite; may be repeated")
	c.Flags().BoolVarP(&sure, "yes", "y", false, "do not ask")
	return c
}

func parseOverrides(words []string) ([]client.SlotOverride, error) {
	var out []client.SlotOverride
	for _, w := range words {
		index, policy, ok := strings.Cut(w, "=")
		n, err := strconv.Atoi(index)
		if !ok || err != nil || n < 0 || policy == "" {
			return nil, usage("--slot %q: want INDEX=POLICY: 3=overwrite", clean(w))
		}
		out = append(out, client.SlotOverride{Index: n, WipePolicy: policy})
	}
	return out, nil
}
