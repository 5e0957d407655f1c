package main

import (
	"fmt"
	"iter"
	"strconv"
	"strings"

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
	{name: "SPINE", wide: true, cell: func(h client.Host) string { return h.Spine }},
	{name: "SLOT MAP", wide: true, cell: func(h client.Host) string { return h.SlotMapDigest }},
	{name: "PROPOSED MAP", wide: true, cell: func(h client.Host) string { return h.ProposedDigest }},
	{name: "ENROLLED", wide: true, cell: func(h client.Host) string { return when(h.EnrolledAt) }},
	{name: "ADMITTED", wide: true, cell: func(h client.Host) string { return when(h.AdmittedAt) }},
	{name: "REPORTED", wide: true, cell: func(h client.Host) string { return when(h.ReportedAt) }},
	{name: "ENROLMENT TOKEN", wide: true, cell: func(h client.Host) string { return h.EnrolmentToken }},
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

var specColumns = []column[client.SlotSpec]{
	{name: "SLOT", cell: func(s client.SlotSpec) string { return itoa(s.Index) }},
	{name: "GPU", cell: func(s client.SlotSpec) string { return device(s.GPU) }},
	{name: "NVME", cell: func(s client.SlotSpec) string { return device(s.NVMe) }},
	{name: "IB VF", cell: func(s client.SlotSpec) string { return device(s.IBVF) }},
	{name: "NUMA", cell: func(s client.SlotSpec) string { return itoa(s.NUMANode) }},
	{name: "THREADS", cell: func(s client.SlotSpec) string { return itoa(len(s.Threads)) }},
	{name: "MEMORY", cell: func(s client.SlotSpec) string { return strconv.FormatUint(s.MemoryMiB, 10) + " MiB" }},
	{name: "ON DISK", cell: func(s client.SlotSpec) string { return s.OnDisk }},
}

func device(d client.Device) string { return strings.TrimSpace(d.Address + " " + d.Serial) }

func (a *app) slotMap() *cobra.Command {
	return &cobra.Command{
		Use: "slot-map HOST", Short: "What a host proposes, with what is on its disks, or what was approved", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := a.hostID(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			ctx, answers := capture(cmd.Context())
			m, err := a.conn.SlotMaps(ctx, id)
			if err != nil {
				return err
			}
			if a.json() {
				return a.writeJSON((*answers)[len(*answers)-1].Body)
			}
			return a.showMaps(m)
		},
	}
}

func (a *app) showMaps(m *client.SlotMaps) error {
	what, digest, at := "proposed", m.ProposalDigest, m.ProposedAt
	shown := m.Proposal
	if shown == nil {
		what, digest, at, shown = "approved", m.ApprovedDigest, m.ApprovedAt, m.Approved
	}
	if shown == nil {
		fmt.Fprintln(a.err, "none: hostd has not proposed a map yet")
		return nil
	}
	err := a.details([][2]string{{what, when(at)}, {"digest", clean(digest)}, {"class", clean(shown.GPUClass)}})
	if err != nil {
		return err
	}
	for _, u := range shown.Unsafe {
		fmt.Fprintf(a.out, "left out: %s: %s\n", clean(u.Address), clean(u.Reason))
	}
	return show(a, shown.Slots, specColumns)
}

func (a *app) approve() *cobra.Command {
	var n client.Approval
	var overrides []string
	var sure bool
	c := &cobra.Command{
		Use: "approve HOST", Short: "Approve the proposed slot map: its disks are wiped first", Args: cobra.ExactArgs(1),
		Long: "Approve the proposed slot map, by its digest. Without --digest it is the proposal of now, which is shown first on a terminal.\nWhat is on the disks is wiped.",
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
				if n.Digest = m.ProposalDigest; !sure && terminal(a.in) && terminal(a.err) {
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
