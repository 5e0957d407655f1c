package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/client"
)

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

// showMaps shows what waits for approval, else what was approved: everything by
// which an operator decides whether these devices may be wiped and rented.
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
	pairs := [][2]string{
		{what, when(at)},
		{"digest", clean(digest)},
		{"class", clean(shown.GPUClass)},
		{"machine", clean(shown.Firmware)},
		{"kernel", clean(shown.Kernel)},
		{"acs profile", clean(strings.Join(append([]string{shown.ACSProfile}, shown.ACSPorts...), " "))},
		{"features", strings.Join(shown.Features, ", ")},
	}
	if what == "proposed" && m.ApprovedDigest != "" {
		pairs = append(pairs, [2]string{"in force", clean(m.ApprovedDigest)})
	}
	if err := a.details(pairs); err != nil {
		return err
	}
	if err := a.showNodes(shown.Nodes); err != nil {
		return err
	}
	for i := range shown.Slots {
		if err := a.showSpec(&shown.Slots[i]); err != nil {
			return err
		}
	}
	a.showRest(shown)
	if what == "proposed" {
		a.warnOfDisks(shown.Slots)
	}
	return nil
}

func (a *app) showNodes(nodes []client.NUMANode) error {
	if len(nodes) == 0 {
		return nil
	}
	fmt.Fprintln(a.out)
	return table(a.out, nodes, []column[client.NUMANode]{
		{name: "NUMA", cell: func(n client.NUMANode) string { return itoa(n.Node) }},
		{name: "THREADS", cell: func(n client.NUMANode) string { return threads(n.Threads) }},
		{name: "MEMORY", cell: func(n client.NUMANode) string { return mib(n.MemoryMiB) }},
		{name: "HUGEPAGES", cell: func(n client.NUMANode) string {
			if n.Hugepages == 0 {
				return ""
			}
			return fmt.Sprintf("%d of %d KiB", n.Hugepages, n.HugepageKiB)
		}},
	})
}

// showSpec shows a slot: its share of the machine, its devices, and why they belong
// together.
func (a *app) showSpec(s *client.SlotSpec) error {
	fmt.Fprintf(a.out, "\nslot %d: NUMA node %d, threads %s, %s\n", s.Index, s.NUMANode, threads(s.Threads), mib(s.MemoryMiB))
	t := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
	for _, d := range []struct {
		kind   string
		device client.Device
	}{{"gpu", s.GPU}, {"nvme", s.NVMe}, {"vf", s.IBVF}} {
		if d.device.Address != "" {
			showDevice(t, d.kind, &d.device)
		}
	}
	if s.OnDisk != "" {
		on := clean(s.OnDisk)
		if inUse(s.OnDisk) {
			on = "!! " + on + " !!"
		}
		fmt.Fprintf(t, "  on disk\t%s\n", on)
	}
	if s.Why != "" {
		fmt.Fprintf(t, "  why\t%s\n", clean(s.Why))
	}
	return t.Flush()
}

// showDevice writes what names a device and, on the next line, what it is.
func showDevice(t *tabwriter.Writer, kind string, d *client.Device) {
	serial := "serial " + first(d.Serial, "none")
	if d.SerialFrom == "location" {
		serial += " (BY PLACE ONLY: a swap is not noticed)"
	} else if d.SerialFrom != "" {
		serial += " (" + d.SerialFrom + ")"
	}
	fmt.Fprintf(t, "  %s\t%s %s\n", kind, clean(d.Address), clean(serial))
	if about := aboutDevice(d); about != "" {
		fmt.Fprintf(t, "  \t%s\n", clean(about))
	}
}

func aboutDevice(d *client.Device) string {
	var parts []string
	add := func(name, value string) {
		if value != "" {
			parts = append(parts, strings.TrimSpace(name+" "+value))
		}
	}
	number := func(name string, n int) {
		if n != 0 {
			add(name, itoa(n))
		}
	}
	add("", d.Model)
	add("firmware", d.Firmware)
	if d.SizeBytes > 0 {
		add("", bytesOf(d.SizeBytes))
	}
	number("LBA", d.LBABytes)
	number("NVLink module", d.ModuleID)
	add("GUID", d.GUID)
	add("MAC", d.MAC)
	if d.PF != "" {
		add("VF", itoa(d.VFIndex)+" of "+d.PF)
	}
	number("port", d.Port)
	add("below", strings.TrimSpace(d.Switch+" "+d.Root))
	if d.PCIID != "" {
		add("IOMMU group", itoa(d.IOMMUGroup))
	}
	add("reset by", strings.Join(d.Resets, " "))
	for _, f := range d.Functions {
		add("with", f.Address)
	}
	return strings.Join(parts, ", ")
}

// showRest is what is not in a slot: spares, and what may not be rented.
func (a *app) showRest(m *client.SlotMap) {
	if len(m.Spares) > 0 {
		fmt.Fprintln(a.out, "\nspare:")
	}
	for _, s := range m.Spares {
		parts := []string{s.Kind, s.Device.Address, "serial " + first(s.Device.Serial, "none"), "NUMA node " + itoa(s.NUMANode)}
		line := strings.Join(parts, " ")
		if inUse(s.OnDisk) {
			line += ", on disk: " + s.OnDisk
		}
		if s.Why != "" {
			line += ": " + s.Why
		}
		fmt.Fprintln(a.out, "  "+clean(line))
	}
	if len(m.Unsafe) > 0 {
		fmt.Fprintln(a.out, "\nunsafe, and left out:")
	}
	for _, u := range m.Unsafe {
		fmt.Fprintf(a.out, "  %s: %s\n", clean(u.Address), clean(u.Reason))
	}
}

// warnOfDisks says again, last, what an approval destroys.
func (a *app) warnOfDisks(slots []client.SlotSpec) {
	var used []string
	for _, s := range slots {
		if inUse(s.OnDisk) {
			used = append(used, fmt.Sprintf("slot %d, drive %s: %s", s.Index, s.NVMe.Serial, s.OnDisk))
		}
	}
	if len(used) == 0 {
		return
	}
	fmt.Fprintf(a.out, "\n!! %d of %d drives are NOT EMPTY. An approval WIPES them:\n", len(used), len(slots))
	for _, u := range used {
		fmt.Fprintln(a.out, "!!   "+clean(u))
	}
}

// inUse reports whether something was found on a drive, or might be there.
func inUse(onDisk string) bool {
	return onDisk != "" && onDisk != "empty" && onDisk != "not read: the drive is approved"
}

// threads writes hardware threads as ranges: 2-3,66-67.
func threads(list []int) string {
	sorted := slices.Sorted(slices.Values(list))
	var parts []string
	for i := 0; i < len(sorted); {
		end := i
		for end+1 < len(sorted) && sorted[end+1] == sorted[end]+1 {
			end++
		}
		part := itoa(sorted[i])
		if end > i {
			part += "-" + itoa(sorted[end])
		}
		parts = append(parts, part)
		i = end + 1
	}
	return first(strings.Join(parts, ","), "none")
}

func mib(n uint64) string { return strconv.FormatUint(n, 10) + " MiB" }

// bytesOf writes a size in the unit that vendors sell drives in: 10^9.
func bytesOf(n uint64) string {
	for _, u := range []struct {
		name string
		size uint64
	}{{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}} {
		if n >= u.size {
			return fmt.Sprintf("%d.%02d %s", n/u.size, n%u.size*100/u.size, u.name)
		}
	}
	return strconv.FormatUint(n, 10) + " bytes"
}
