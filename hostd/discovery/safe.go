package discovery

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/gpuaas/gpuaas/hostd/pci"
)

// hotReset is VFIO's reset of a whole bus, before a VM gets the device: no method of
// the kernel's list, and nothing that a wipe can use.
const hotReset = "hot"

// judge says what speaks against a device as PCI has it. Everything is said, not
// only the first.
func (l *look) judge(c *candidate) {
	if c.pci.Dead {
		c.against("it does not answer: it has fallen off the bus, or has no power")
	}
	if c.pci.NumVFs > 0 {
		c.against("it has %d virtual functions of its own: what they are used for is not known", c.pci.NumVFs)
	}
	l.judgeGroup(c, c.pci)
	for _, o := range c.own {
		l.judgeGroup(c, o)
	}
	l.judgePath(c)
	l.judgeReset(c)
	switch {
	case c.node < 0:
		c.against("the firmware does not say on which NUMA node it is")
	case !slices.ContainsFunc(l.nodes, func(n *node) bool { return n.id == c.node }):
		c.against("NUMA node %d has no processors or no memory", c.node)
	}
}

// judgeGroup wants an IOMMU group with nobody else in it: who shares a group can
// reach the memory of the others. Bridges above the device may be in it; whether
// they isolate is another question.
func (l *look) judgeGroup(c *candidate, d *pci.Device) {
	if !d.Grouped {
		c.against("%s is in no IOMMU group: switch the IOMMU on (in the firmware, and with intel_iommu=on or amd_iommu=on)", d.Address)
		return
	}
	var foreign []string
	members := append(slices.Clone(d.Members), l.claims[d.Group]...) // either side may say it
	slices.SortFunc(members, pci.Address.Compare)
	for _, m := range slices.Compact(members) {
		switch p := l.devices[m]; {
		case m == c.pci.Address, slices.ContainsFunc(c.own, func(o *pci.Device) bool { return o.Address == m }):
		case p != nil && p.Bridge() && slices.Contains(c.pci.Above, m):
		default:
			foreign = append(foreign, m.String())
		}
	}
	if n := len(foreign); n > 4 {
		foreign = append(foreign[:4], fmt.Sprintf("%d more", n-4))
	}
	if len(foreign) > 0 {
		c.against("its IOMMU group %d has other members: %s", d.Group, strings.Join(foreign, ", "))
	}
}

// judgePath wants every port that others hang below to keep them apart: the root
// port and a switch's downstream ports. What cannot be read does not isolate.
func (l *look) judgePath(c *candidate) {
	for _, a := range c.pci.Above {
		p := l.devices[a]
		switch {
		case p != nil && p.Type == pci.UpstreamPort: // has one device below it, the switch
		case p != nil && (p.Type == pci.RootPort || p.Type == pci.DownstreamPort) && p.ACS.Isolates():
		case p != nil && anyMatches(l.c.ACS.Ports, p.IDs()):
			c.approx = append(c.approx, a)
		case p == nil:
			c.against("the bridge %s above it cannot be read", a)
		case p.Type == pci.NotExpress || !p.ACS.Known:
			c.against("the bridge %s above it cannot be shown to isolate: its PCIe capabilities are not readable", a)
		default:
			c.against("the port %s above it (%s) does not isolate: no ACS, or not switched on; an ACS profile can vouch for it", a, p.IDs())
		}
	}
}

// judgeReset wants a way to take a tenant's state out of the device: the one that its
// wipe will use. A drive is erased by its own commands and then reset by its
// controller, so that for it VFIO's reset is enough.
func (l *look) judgeReset(c *candidate) {
	if slices.ContainsFunc(c.pci.Resets, func(r string) bool { return slices.Contains(pci.ClearingResets, r) }) {
		return
	}
	if c.kind == kindNVMe && slices.ContainsFunc(c.pci.Resets, func(r string) bool { return r != "pm" }) {
		return
	}
	if c.kind == kindNVMe && l.privateBus(c) {
		c.dev.Resets = append(slices.Clone(c.dev.Resets), hotReset)
		return
	}
	c.against("it has no reset after which nothing of a tenant is left in it: the kernel offers %s, wanted is one of %s",
		cmp.Or(strings.Join(c.pci.Resets, " "), "none"), strings.Join(pci.ClearingResets, ", "))
}

// privateBus reports whether the device is alone below the bridge above it, with
// nothing below the device.
func (l *look) privateBus(c *candidate) bool {
	above := c.pci.Above
	if len(above) == 0 {
		return false
	}
	for _, o := range l.broken { // could be anywhere
		if strings.HasPrefix(o.Address, busOf(c.pci.Address)) {
			return false
		}
	}
	for _, o := range l.devices {
		if !o.Address.SameDevice(c.pci.Address) && slices.Contains(o.Above, above[len(above)-1]) {
			return false
		}
	}
	return true
}

// busOf is an address up to its bus: "0000:17:".
func busOf(a pci.Address) string { s := a.String(); return s[:strings.LastIndexByte(s, ':')+1] }

// judgeSerials refuses devices that cannot be told apart.
func (l *look) judgeSerials() {
	seen := map[string]*candidate{}
	for _, c := range l.found {
		s := c.dev.Serial
		if s == "" {
			continue
		}
		if first := seen[s]; first != nil {
			c.against("it has the serial number of %s", first.pci.Address)
			first.against("%s has its serial number", c.pci.Address)
			continue
		}
		seen[s] = c
	}
}
