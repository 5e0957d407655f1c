package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/client"
)

var knownColumns = []column[client.KnownDevice]{
	{name: "DEVICE", cell: func(d client.KnownDevice) string { return d.Component }},
	{name: "SERIAL", cell: func(d client.KnownDevice) string { return d.ID }},
	{name: "STATE", cell: func(d client.KnownDevice) string { return d.State }},
	{name: "WIPE OWED", cell: func(d client.KnownDevice) string { return yes(d.WipeOwed) }},
	{name: "MODEL", cell: func(d client.KnownDevice) string { return d.Model }},
	{name: "KNOWN BY", cell: func(d client.KnownDevice) string {
		if d.SerialFrom == "location" {
			return "its place only: a swap is not noticed"
		}
		return d.SerialFrom
	}},
}

var placeColumns = []column[client.DevicePlace]{
	{name: "DEVICE", cell: func(p client.DevicePlace) string { return p.Component + " " + p.Serial }},
	{name: "SLOT", cell: func(p client.DevicePlace) string { return p.Slot }},
	{name: "LEASES", cell: func(p client.DevicePlace) string {
		if p.LastGeneration == nil {
			return fmt.Sprintf("%d-", p.Generation)
		}
		return fmt.Sprintf("%d-%d", p.Generation, *p.LastGeneration)
	}},
	{name: "SINCE", cell: func(p client.DevicePlace) string { return when(p.Since) }},
	{name: "UNTIL", cell: func(p client.DevicePlace) string { return when(p.Until) }},
	{name: "WHY", cell: func(p client.DevicePlace) string { return p.Cause }},
	{name: "REPLACED", cell: func(p client.DevicePlace) string { return p.Replaced }},
	{name: "REPLACED BY", cell: func(p client.DevicePlace) string { return p.ReplacedBy }},
}

// servedLease is a line of the table of leases: a wipe of one, or one without.
type servedLease struct {
	*client.DeviceLease
	wipe *client.DeviceWipe
	more bool // another wipe of the lease that stands above
}

// once is what stands in the first line of a lease only.
func once(cell func(*client.DeviceLease) string) func(servedLease) string {
	return func(s servedLease) string {
		if s.more {
			return ""
		}
		return cell(s.DeviceLease)
	}
}

var servedColumns = []column[servedLease]{
	{name: "DEVICE", cell: once(func(l *client.DeviceLease) string { return l.Component })},
	{name: "SLOT", cell: once(func(l *client.DeviceLease) string { return l.Slot })},
	{name: "LEASE", cell: once(func(l *client.DeviceLease) string { return itoa(int(l.Generation)) })},
	{name: "TENANT", cell: once(func(l *client.DeviceLease) string { return first(l.TenantID, "nobody") })},
	{name: "ALLOCATION", cell: once(func(l *client.DeviceLease) string { return l.AllocationID })},
	{name: "STARTED", cell: once(func(l *client.DeviceLease) string { return when(l.StartedAt) })},
	{name: "ENDED", cell: once(func(l *client.DeviceLease) string { return when(l.EndedAt) })},
	{name: "WIPE", cell: func(s servedLease) string {
		if s.wipe == nil {
			return "not yet"
		}
		return strings.TrimSpace(strings.Join([]string{s.wipe.Result, s.wipe.Component, s.wipe.Reason}, " "))
	}},
	{name: "THIS DEVICE", cell: func(s servedLease) string {
		if s.wipe == nil || s.wipe.Device == nil {
			return ""
		}
		return s.wipe.Device.Result
	}},
	{name: "METHOD", cell: func(s servedLease) string {
		if s.wipe == nil || s.wipe.Device == nil {
			return ""
		}
		return s.wipe.Device.Method
	}},
	{name: "RECORDED", cell: func(s servedLease) string {
		if s.wipe == nil {
			return ""
		}
		return when(s.wipe.RecordedAt)
	}},
}

func (a *app) devices() *cobra.Command {
	var evidence bool
	c := &cobra.Command{
		Use: "show SERIAL", Short: "Where a device was, whom it served, how it was wiped", Args: cobra.ExactArgs(1),
		Long: "Shows the history of a serial number: of a GPU, a drive, a virtual function, or of all virtual functions of a physical one.",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			var options []client.ListOption
			if evidence {
				options = append(options, client.WithReports())
			}
			ctx, answers := capture(cmd.Context())
			d, err := c.Device(ctx, args[0], options...)
			if err != nil {
				return err
			}
			if a.json() {
				return a.writeDevice(*answers)
			}
			return a.showDevice(d, evidence)
		},
	}
	c.Flags().BoolVar(&evidence, "evidence", false, "with the evidence of every wipe, and the host's signature")
	return group("devices", "GPUs, drives and virtual functions, by serial number", []string{"device"}, c)
}

// writeDevice writes the pages as one history, its leases as the site wrote them.
func (a *app) writeDevice(answers []*client.Answer) error {
	if len(answers) == 1 {
		return a.writeJSON(answers[0].Body)
	}
	items := []json.RawMessage{}
	for _, r := range answers {
		var p client.Page[json.RawMessage]
		if err := json.Unmarshal(r.Body, &p); err != nil {
			return err
		}
		items = append(items, p.Items...)
	}
	last := struct {
		Serial  json.RawMessage   `json:"serial"`
		Devices json.RawMessage   `json:"devices"`
		Places  json.RawMessage   `json:"places"`
		Duties  json.RawMessage   `json:"wipe_duties"`
		Cut     bool              `json:"cut,omitempty"`
		Items   []json.RawMessage `json:"items"`
	}{}
	if err := json.Unmarshal(answers[len(answers)-1].Body, &last); err != nil {
		return err
	}
	last.Items = items
	b, err := json.Marshal(last)
	if err != nil {
		return err
	}
	return a.writeJSON(b)
}

func (a *app) showDevice(d *client.DeviceHistory, evidence bool) error {
	var lines []servedLease
	for i := range d.Items {
		l := &d.Items[i]
		if len(l.Wipes) == 0 {
			lines = append(lines, servedLease{l, nil, false})
		}
		for k := range l.Wipes {
			lines = append(lines, servedLease{l, &l.Wipes[k], k > 0})
		}
	}
	if err := table(a.out, d.Devices, knownColumns); err != nil {
		return err
	}
	if d.Cut {
		fmt.Fprintln(a.err, "gpuctl: only the newest 500 places and wipe duties are shown")
	}
	if err := section(a, d.Places, placeColumns); err != nil {
		return err
	}
	if err := section(a, lines, servedColumns); err != nil {
		return err
	}
	if err := section(a, d.Duties, all(dutyColumns)); err != nil || !evidence {
		return err
	}
	for _, s := range lines {
		if s.wipe == nil {
			continue
		}
		w := s.wipe
		e := &client.Evidence{Result: w.Result, Component: w.Component, Reason: w.Reason, StartedAt: w.StartedAt, EndedAt: w.EndedAt, Nonce: w.Nonce, Sequence: w.Sequence, Position: w.Position, RecordedAt: w.RecordedAt}
		if w.Device != nil {
			e.Devices = []client.DeviceErasure{*w.Device}
		}
		if err := a.showEvidence(&client.Lease{SlotID: s.SlotID, Generation: s.Generation, HostID: s.HostID, Report: w.Report}, e); err != nil {
			return err
		}
	}
	return nil
}

// section is a table below another, if there is something in it.
func section[T any](a *app, items []T, columns []column[T]) error {
	if len(items) == 0 {
		return nil
	}
	fmt.Fprintln(a.out)
	return table(a.out, items, columns)
}

// all are columns that stand in a table too where only a single thing has them.
func all[T any](columns []column[T]) []column[T] {
	out := slices.Clone(columns)
	for i := range out {
		out[i].wide = false
	}
	return out
}
