package discovery

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/pci"
)

// Bounds of what is proposed: a report of an inventory is at most 48 KiB, and the
// decision that records it, which holds it twice, 64 KiB.
const (
	mapMax     = 28 << 10 // bytes of the encoded report
	unsafeMax  = 64       // entries
	sparesMax  = 64       // of GPUs and drives
	spareVFMax = 2        // of one port: there may be hundreds
	reasonMax  = 400      // characters
)

// propose makes the map of the devices against which nothing speaks.
func (l *look) propose() (*domain.SlotMap, error) {
	m := &domain.SlotMap{ACSProfile: l.c.ACS.Name, ACSPorts: l.c.ACS.Ports, Features: l.c.Features}
	m.Kernel, _ = l.proc.Text("sys/kernel/osrelease")
	m.Kernel = tidy(m.Kernel, 64)
	m.Firmware = l.machineFirmware()
	for _, n := range l.nodes {
		threads := slices.Concat(n.cores...)
		slices.Sort(threads)
		m.Nodes = append(m.Nodes, domain.NUMANode{Node: uint8(n.id), Threads: threads, MemoryMiB: n.memoryMiB, HugepageKiB: n.hugepageKiB, Hugepages: n.hugepages})
	}
	gpus, drives, vfs := l.safe()
	m.GPUClass = l.class(gpus)
	var others []spare
	gpus = slices.DeleteFunc(gpus, func(c *candidate) bool {
		if name := c.gpu.name(c.pci); name != m.GPUClass {
			others = append(others, spare{c, fmt.Sprintf("it is a %s: all slots of a host are of one class, here %s", name, m.GPUClass)})
			return true
		}
		return false
	})
	p := l.pair(gpus, drives, l.oneKind(vfs))
	p.shape()
	for i, s := range p.slots {
		m.Slots = append(m.Slots, l.spec(i, s))
	}
	m.Spares = l.spares(append(others, p.spares...), p)
	m.Unsafe = l.unsafe()
	return m, l.check(m)
}

// safe are the candidates with nothing against them.
func (l *look) safe() (gpus, drives, vfs []*candidate) {
	for _, c := range l.found {
		if len(c.bad) > 0 || c.dev.Serial == "" {
			continue
		}
		switch c.kind {
		case kindGPU:
			gpus = append(gpus, c)
		case kindNVMe:
			drives = append(drives, c)
		case kindVF:
			vfs = append(vfs, c)
		}
	}
	return gpus, drives, vfs
}

// class is the class that the host's slots have: the approved one if it is still
// there, else the most frequent.
func (l *look) class(gpus []*candidate) string {
	count := map[string]int{}
	for _, c := range gpus {
		count[c.gpu.name(c.pci)]++
	}
	if m := l.c.Approved(); m != nil && count[m.GPUClass] > 0 {
		return m.GPUClass
	}
	best := ""
	for name, n := range count {
		if best == "" || cmp.Or(cmp.Compare(n, count[best]), cmp.Compare(best, name)) > 0 {
			best = name
		}
	}
	return best
}

// oneKind keeps the InfiniBand VFs if there are any, else the Ethernet ones.
func (l *look) oneKind(vfs []*candidate) []*candidate {
	anyIB := slices.ContainsFunc(vfs, func(c *candidate) bool { return !c.ether })
	return slices.DeleteFunc(vfs, func(c *candidate) bool { return anyIB && c.ether })
}

func (l *look) spec(i int, s *slot) domain.SlotSpec {
	out := domain.SlotSpec{
		Index: uint32(i), GPU: s.gpu.dev, NVMe: s.nvme.dev, NUMANode: uint8(s.node.id), Threads: s.threads, MemoryMiB: s.memoryMiB, OnDisk: s.nvme.onDisk,
	}
	if s.vf != nil {
		out.IBVF = s.vf.dev
	}
	why := append(slices.Clone(s.why), fmt.Sprintf("%d threads and %d MiB of NUMA node %d", len(s.threads), s.memoryMiB, s.node.id))
	for _, c := range s.devices() {
		out.IOMMUGroups = append(out.IOMMUGroups, c.pci.Group)
		for _, o := range c.own {
			out.IOMMUGroups = append(out.IOMMUGroups, o.Group)
		}
		if c.dev.SerialFrom == domain.SerialOfLocation {
			why = append(why, fmt.Sprintf("the %s has no serial number and is known by its place only: a swap is not noticed", c.kind))
		}
		why = append(why, c.notes...)
		if len(c.approx) > 0 {
			why = append(why, fmt.Sprintf("ACS profile %s vouches for port %s", l.c.ACS.Name, c.approx[0]))
		}
	}
	slices.Sort(out.IOMMUGroups)
	out.IOMMUGroups = slices.Compact(out.IOMMUGroups)
	out.Why = tidy(strings.Join(why, "; "), reasonMax)
	return out
}

// spares lists what is left over: of VFs those that are approved, so that they are
// found, and the first of each port.
func (l *look) spares(list []spare, p *pairing) []domain.SpareDevice {
	var out []domain.SpareDevice
	add := func(c *candidate, why string) {
		out = append(out, domain.SpareDevice{Kind: c.kind, Device: c.dev, NUMANode: uint8(c.node), OnDisk: c.onDisk, Why: why})
	}
	for _, c := range p.drives {
		list = append(list, spare{c, "no GPU is left for it"})
	}
	for _, s := range list[:min(len(list), sparesMax)] {
		add(s.c, s.why)
	}
	approved := map[string]bool{}
	if m := l.c.Approved(); m != nil {
		for i := range m.Slots {
			approved[m.Slots[i].IBVF.Serial] = true
		}
	}
	shown := map[pci.Address]int{}
	slices.SortStableFunc(p.vfs, byPlace)
	for _, c := range p.vfs {
		if shown[c.pf]++; (shown[c.pf] <= spareVFMax || approved[c.dev.Serial]) && len(out) < 2*sparesMax {
			add(c, "no GPU is left for it")
		}
	}
	return out
}

// unsafe lists what is not proposed, with every reason; VFs of one port that have
// the same are listed once.
func (l *look) unsafe() []domain.UnsafeDevice {
	var out []domain.UnsafeDevice
	more := map[string]int{}
	at := map[string]int{}
	for _, c := range l.found {
		if len(c.bad) == 0 {
			continue
		}
		reason := strings.Join(c.bad, "; ")
		if key := c.group + " " + reason; c.kind == kindVF {
			if _, again := at[key]; again {
				more[key]++
				out[at[key]].Reason = fmt.Sprintf("%s: %s (and %d more of %s)", c.kind, tidy(reason, reasonMax), more[key], c.group)
				continue
			}
			at[key] = len(out)
		}
		what := c.kind
		if c.dev.Serial != "" && c.kind != kindVF {
			what += " " + c.dev.Serial
		}
		out = append(out, domain.UnsafeDevice{Address: c.dev.Address, Reason: what + ": " + tidy(reason, reasonMax)})
	}
	return append(out, l.broken...)
}

// machineFirmware names the machine's BIOS.
func (l *look) machineFirmware() string {
	var out []string
	for _, name := range []string{"sys_vendor", "product_name", "bios_version"} {
		if s, err := l.sys.Tree.Text("class/dmi/id/" + name); err == nil && s != "" {
			out = append(out, s)
		}
	}
	return tidy(strings.Join(out, " "), 128)
}

// check makes sure that the map can be reported, and that the site would take it.
func (l *look) check(m *domain.SlotMap) error {
	size := func() int {
		return len(domain.EncodeReport(&domain.Report{Kind: domain.ReportInventory, Inventory: m}))
	}
	all := m.Unsafe
	m.Unsafe = firstOf(all, unsafeMax)
	for size() > mapMax && len(m.Spares) > 0 {
		m.Spares = m.Spares[:len(m.Spares)-1]
	}
	for n := min(len(all), unsafeMax); size() > mapMax && n > 0; n-- {
		m.Unsafe = firstOf(all, n-1)
	}
	if n := size(); n > mapMax {
		return fmt.Errorf("discovery: the slot map has %d bytes, more than the %d that can be reported: limit the slots", n, mapMax)
	}
	if len(m.Slots) == 0 {
		return nil
	}
	if err := m.Check(); err != nil {
		return fmt.Errorf("discovery: %w", err)
	}
	return nil
}

// firstOf keeps the first n, and says how many there are besides.
func firstOf(all []domain.UnsafeDevice, n int) []domain.UnsafeDevice {
	if len(all) <= n {
		return all
	}
	return append(slices.Clone(all[:n]), domain.UnsafeDevice{Address: "...", Reason: fmt.Sprintf("%d more devices", len(all)-n)})
}
