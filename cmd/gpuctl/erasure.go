package main

import (
	"crypto/ed25519"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"

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

// erasure shows the proof for an allocation.
func (a *app) erasure() *cobra.Command {
	return &cobra.Command{
		Use: "erasure NAME", Short: "The proof that nothing of it is left: each device's erasure, with the host's signature", Args: cobra.ExactArgs(1),
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
			e, err := c.SignedErasure(ctx, id)
			if err != nil {
				return err
			}
			if a.json() {
				return a.writeJSON((*answers)[len(*answers)-1].Body)
			}
			if err := a.details([][2]string{{"erased", first(yes(e.Erased), "no")}}); err != nil {
				return err
			}
			return a.showLeases(e.Items)
		},
	}
}

// slotErasure shows the proofs of a slot's wipes, the newest first.
func (a *app) slotErasure() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "erasure SLOT", Short: "The proof of a slot's last wipe: each device's erasure, with the host's signature", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := a.slotID(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			ctx, answers := capture(cmd.Context())
			leases, err := a.conn.SignedSlotLeases(ctx, id)
			if err != nil {
				return err
			}
			if a.json() {
				return a.writeJSON((*answers)[len(*answers)-1].Body)
			}
			if !all {
				leases = lastWiped(leases)
			}
			return a.showLeases(leases)
		},
	}
	c.Flags().BoolVarP(&all, "all", "a", false, "of all its wipes")
	return c
}

func lastWiped(leases []client.Lease) []client.Lease {
	for i := range leases {
		if len(leases[i].Evidence) > 0 {
			return leases[i : i+1]
		}
	}
	return nil
}

// showLeases shows a table of leases, and under it the evidence of each.
func (a *app) showLeases(leases []client.Lease) error {
	if err := show(a, leases, leaseColumns); err != nil {
		return err
	}
	for i := range leases {
		e, err := leases[i].Proof()
		if err != nil {
			return fmt.Errorf("the evidence of %s: %w", clean(leases[i].SlotID), err)
		}
		if e == nil {
			continue
		}
		if err := a.showEvidence(&leases[i], e); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) showEvidence(l *client.Lease, e *client.Evidence) error {
	fmt.Fprintf(a.out, "\n%s, lease %d: %s\n", clean(l.SlotID), l.Generation, clean(strings.TrimSpace(e.Result+" "+e.Component+" "+e.Reason)))
	t := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(t, "  %s\t%s\n", name, clean(value))
		}
	}
	line("host", l.HostID)
	line("nonce", e.Nonce)
	line("began", when(e.StartedAt))
	line("ended", when(e.EndedAt))
	if e.Sequence > 0 {
		line("recorded", fmt.Sprintf("commit %d, decision %d", e.Sequence, e.Position))
	}
	line("at", when(e.RecordedAt))
	line("signature", signature(l.Report))
	if err := t.Flush(); err != nil {
		return err
	}
	for i := range e.Devices {
		if err := a.showErasure(&e.Devices[i]); err != nil {
			return err
		}
	}
	return nil
}

// signature says whether the report is signed with the key that the site names. The
// signature speaks of the report: -o json has all three.
func signature(r *client.SignedReport) string {
	switch {
	case r == nil:
		return ""
	case len(r.PublicKey) != ed25519.PublicKeySize:
		return "the host's key is not known"
	case !ed25519.Verify(r.PublicKey, r.Bytes, r.Signature):
		return fmt.Sprintf("WRONG: not made with the host's key ed25519:%x", r.PublicKey)
	}
	return fmt.Sprintf("good, by ed25519:%x", r.PublicKey)
}

func (a *app) showErasure(d *client.DeviceErasure) error {
	result := d.Result
	if d.Result != "verified" {
		result = strings.ToUpper(d.Result)
	}
	fmt.Fprintf(a.out, "  %s %s: %s\n", clean(d.Component), clean(first(d.Serial, "-")), clean(strings.TrimSpace(result+" "+d.Reason)))
	t := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(t, "    %s\t%s\n", name, clean(value))
		}
	}
	line("method", d.Method)
	line("detail", d.Detail)
	line("repair", d.Scope)
	if d.Planted > 0 || d.Gone > 0 {
		line("canaries", fmt.Sprintf("%d planted, %d gone", d.Planted, d.Gone))
	}
	if d.BytesRead > 0 || d.SizeBytes > 0 {
		line("read back", readBack(d))
	}
	line("sample", d.Sample)
	if d.Approved != "" && d.Approved != d.Firmware {
		line("firmware", d.Firmware+", approved was "+d.Approved)
	} else {
		line("firmware", d.Firmware)
	}
	if d.Fresh {
		line("baseline", d.Baseline+", taken in this wipe: the host had never seen the device")
	} else {
		line("baseline", d.Baseline)
	}
	line("began", when(d.StartedAt))
	line("ended", when(d.EndedAt))
	for i, entry := range d.Log {
		line(map[bool]string{true: "log"}[i == 0], entry)
	}
	return t.Flush()
}

func readBack(d *client.DeviceErasure) string {
	s := strconv.FormatUint(d.BytesRead, 10)
	if d.SizeBytes > 0 { // not every host says it
		s += " of " + strconv.FormatUint(d.SizeBytes, 10)
	}
	if s += " bytes"; d.Coverage != "" {
		s += " (" + d.Coverage + ")"
	}
	return s
}
