package vm

import (
	"cmp"
	"slices"

	"libvirt.org/go/libvirtxml"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/pci"
)

// The guest's buses, layout 1:
//
//	pcie.0   00:01.0-3  root ports 1 to 4: network, ready port, seed, random numbers
//	         00:02.0    first slot: root port, behind it a switch with GPU and VF
//	         00:02.1    first slot: root port of the NVMe drive
//	         00:03.0    second slot, and so on
//
// When the slots are on several NUMA nodes each node has an expander bus of its own
// (pxb, 00:12.0 for the first node, 00:13.0 for the second), which tells the guest
// the node, and the slots' ports are on it: device 0 for the node's first slot,
// device 1 for its second.
//
// GPU and VF share a switch because software that moves data between the two
// looks at the bus to find out how near they are. Ports do not take hot-plugging:
// nothing is ever plugged into a running VM.
const (
	deviceSlot     = 0x02 // of the first slot's ports on pcie.0
	deviceExpander = 0x12 // of the first node's pxb on pcie.0
	firstBusNumber = 0x20 // of the first pxb: pcie.0 keeps the numbers below
	busesOfSlot    = 5
)

// cell is one NUMA node of the guest and the slots on it, by their position in the
// VM.
type cell struct {
	node  uint8 // the host's
	slots []int
}

// cells are the guest's NUMA nodes in the order of the host's.
func (p *Passthrough) cells() []cell {
	var cells []cell
	for i, s := range p.Slots {
		k := slices.IndexFunc(cells, func(c cell) bool { return c.node == s.NUMANode })
		if k < 0 {
			cells = append(cells, cell{node: s.NUMANode})
			k = len(cells) - 1
		}
		cells[k].slots = append(cells[k].slots, i)
	}
	slices.SortFunc(cells, func(a, b cell) int { return cmp.Compare(a.node, b.node) })
	return cells
}

// buses hands out the indexes of PCI controllers, which are also the names of the
// buses behind them in libvirt's addresses.
type buses struct {
	next        uint
	controllers []libvirtxml.DomainController
	hostdevs    []libvirtxml.DomainHostdev
}

// lay puts the slots' devices onto the guest's buses.
func (p *Passthrough) lay() *buses {
	b := &buses{next: firstSlotPort}
	cells := p.cells()
	number := uint(firstBusNumber)
	for i, c := range cells {
		bus, device := uint(0), uint(deviceSlot)
		if len(cells) > 1 {
			bus, device = b.expander(uint(i), number), 0
			number += 1 + busesOfSlot*uint(len(c.slots))
		}
		for k, position := range c.slots {
			b.slot(&p.Slots[position], bus, device+uint(k), position == 0)
		}
	}
	return b
}

// slot adds the ports and functions of one slot.
func (b *buses) slot(s *domain.SlotSpec, bus, device uint, boot bool) {
	port := b.add(rootPort(b.next, bus, device, 0, true))
	up := b.add(libvirtxml.DomainController{Type: "pci", Model: "pcie-switch-upstream-port", Address: at(port, 0, 0)})
	b.function(s.GPU, b.add(downstreamPort(b.next, up, 0)), false)
	if s.IBVF.Address != "" {
		b.function(s.IBVF, b.add(downstreamPort(b.next, up, 1)), false)
	}
	b.function(s.NVMe, b.add(rootPort(b.next, bus, device, 1, false)), boot)
}

// function passes one function through, behind the port that is alone its own. Its
// option ROM is not shown: the last tenant could have written it.
func (b *buses) function(d domain.Device, port uint, boot bool) {
	a, _ := pci.Parse(d.Address) // validated
	source := address(uint(a.Domain), uint(a.Bus), uint(a.Device), uint(a.Function))
	h := libvirtxml.DomainHostdev{
		Managed:   "no", // bound to vfio-pci by hostd, which knows when
		SubsysPCI: &libvirtxml.DomainHostdevSubsysPCI{Source: &libvirtxml.DomainHostdevSubsysPCISource{Address: source}},
		ROM:       &libvirtxml.DomainROM{Bar: "off"},
		Address:   behind(port),
	}
	if boot {
		h.Boot = &libvirtxml.DomainDeviceBoot{Order: 1}
	}
	b.hostdevs = append(b.hostdevs, h)
}

// expander adds the pxb of the guest's NUMA node i, whose buses are numbered from
// number on.
func (b *buses) expander(i, number uint) uint {
	return b.add(libvirtxml.DomainController{
		Type: "pci", Model: "pcie-expander-bus",
		PCI:     &libvirtxml.DomainControllerPCI{Target: &libvirtxml.DomainControllerPCITarget{BusNr: &number, NUMANode: &i}},
		Address: at(0, deviceExpander+i, 0),
	})
}

func (b *buses) add(c libvirtxml.DomainController) uint {
	c.Index = index(b.next)
	b.controllers = append(b.controllers, c)
	b.next++
	return b.next - 1
}

// rootPort is the root port with that index at bus:device.function. more says that
// the device has further functions.
func rootPort(i, bus, device, function uint, more bool) libvirtxml.DomainController {
	c := libvirtxml.DomainController{
		Type: "pci", Index: index(i), Model: "pcie-root-port",
		PCI:     &libvirtxml.DomainControllerPCI{Target: &libvirtxml.DomainControllerPCITarget{Chassis: index(i), Port: index(i), Hotplug: "off"}},
		Address: at(bus, device, function),
	}
	if more {
		c.Address.PCI.MultiFunction = "on"
	}
	return c
}

func downstreamPort(i, bus, device uint) libvirtxml.DomainController {
	return libvirtxml.DomainController{
		Type: "pci", Model: "pcie-switch-downstream-port",
		PCI:     &libvirtxml.DomainControllerPCI{Target: &libvirtxml.DomainControllerPCITarget{Chassis: index(i), Port: index(i), Hotplug: "off"}},
		Address: at(bus, device, 0),
	}
}

func index(i uint) *uint { return &i }

// behind is the only place on the bus of a port.
func behind(port uint) *libvirtxml.DomainAddress { return at(port, 0, 0) }

func at(bus, device, function uint) *libvirtxml.DomainAddress {
	return &libvirtxml.DomainAddress{PCI: address(0, bus, device, function)}
}

func address(dom, bus, device, function uint) *libvirtxml.DomainAddressPCI {
	return &libvirtxml.DomainAddressPCI{Domain: &dom, Bus: &bus, Slot: &device, Function: &function}
}
