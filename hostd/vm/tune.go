package vm

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// guestPhysBits is how wide an emulated processor's addresses are when the window
// for 64-bit BARs does not fit below the usual 40 bits.
const guestPhysBits = 46

// passThrough adds what only a VM with real slots has.
func (s *Spec) passThrough(doc *document) {
	p, d := s.Passthrough, &doc.Domain
	d.OS.Type.Machine = p.Pins.Machine
	d.Features.VMPort = &libvirtxml.DomainFeatureState{State: "off"}
	p.processors(d, s.KVM)
	p.memory(d)
	if s.Kernel == "" {
		p.aperture(d, s.KVM)
	}
	b := p.lay()
	d.Devices.Controllers = append(d.Devices.Controllers, b.controllers...)
	d.Devices.Hostdevs = b.hostdevs
	if p.User.UID != 0 {
		label := fmt.Sprintf("+%d:+%d", p.User.UID, p.User.GID)
		d.SecLabel = []libvirtxml.DomainSecLabel{{Type: "static", Model: "dac", Relabel: "yes", Label: label}}
	}
	p.Confidential.launch(doc)
}

// processors pins each virtual CPU to one hardware thread, siblings to siblings,
// and shows the guest the same NUMA nodes, cores and threads.
func (p *Passthrough) processors(d *libvirtxml.Domain, kvm bool) {
	d.CPUTune = &libvirtxml.DomainCPUTune{EmulatorPin: &libvirtxml.DomainCPUTuneEmulatorPin{CPUSet: set(p.HostThreads)}}
	d.CPU.Numa = &libvirtxml.DomainNuma{}
	d.NUMATune = &libvirtxml.DomainNUMATune{}
	var nodes []uint16
	var sizes []int
	width := 1
	for i, c := range p.cells() {
		first := len(d.CPUTune.VCPUPin)
		memory := uint64(0)
		for _, k := range c.slots {
			memory += p.Slots[k].MemoryMiB
			for _, core := range p.Cores {
				if !slices.Contains(p.Slots[k].Threads, core[0]) {
					continue
				}
				width = len(core)
				for _, t := range core {
					d.CPUTune.VCPUPin = append(d.CPUTune.VCPUPin, libvirtxml.DomainCPUTuneVCPUPin{
						VCPU: uint(len(d.CPUTune.VCPUPin)), CPUSet: strconv.Itoa(int(t)),
					})
				}
			}
		}
		last := len(d.CPUTune.VCPUPin) - 1
		d.CPU.Numa.Cell = append(d.CPU.Numa.Cell, libvirtxml.DomainCell{
			ID: index(uint(i)), CPUs: fmt.Sprintf("%d-%d", first, last), Memory: uint(memory), Unit: "MiB",
		})
		d.NUMATune.MemNodes = append(d.NUMATune.MemNodes, libvirtxml.DomainNUMATuneMemNode{
			CellID: uint(i), Mode: "strict", Nodeset: strconv.Itoa(int(c.node)),
		})
		nodes = append(nodes, uint16(c.node))
		sizes = append(sizes, last+1-first)
		d.Memory.Value += uint(memory)
	}
	d.NUMATune.Memory = &libvirtxml.DomainNUMATuneMemory{Mode: "strict", Nodeset: set(nodes)}
	total := len(d.CPUTune.VCPUPin)
	d.VCPU.Value = uint(total)
	sockets := 1
	if slices.Min(sizes) == slices.Max(sizes) { // one socket a node, where a socket can have the same everywhere
		sockets = len(sizes)
	}
	d.CPU.Topology = &libvirtxml.DomainCPUTopology{Sockets: sockets, Dies: 1, Cores: total / sockets / width, Threads: width}
	if !kvm {
		return
	}
	d.CPU.Migratable = "off" // it never moves; so it may have all of this processor
	d.CPU.Cache = &libvirtxml.DomainCPUCache{Mode: "passthrough"}
	// A hypervisor inside the guest is the host kernel's most intricate code: not offered.
	d.CPU.Features = []libvirtxml.DomainCPUFeature{{Policy: "disable", Name: "vmx"}, {Policy: "disable", Name: "svm"}}
	if p.AMD && width > 1 {
		d.CPU.Features = append(d.CPU.Features, libvirtxml.DomainCPUFeature{Policy: "require", Name: "topoext"})
	}
}

// memory takes each node's share from that node's huge pages, all of it before the
// guest starts, from files without names: nothing of it is left behind by a crash.
func (p *Passthrough) memory(d *libvirtxml.Domain) {
	m := &libvirtxml.DomainMemoryBacking{
		MemoryNosharepages: &libvirtxml.DomainMemoryNosharepages{}, // what is shared can be timed
		MemorySource:       &libvirtxml.DomainMemorySource{Type: "memfd"},
	}
	if p.LockMemory {
		m.MemoryLocked = &libvirtxml.DomainMemoryLocked{}
	}
	for i, c := range p.cells() {
		if kib := p.HugepageKiB[c.node]; kib != 0 {
			if m.MemoryHugePages == nil {
				m.MemoryHugePages = &libvirtxml.DomainMemoryHugepages{}
				m.MemoryAllocation = &libvirtxml.DomainMemoryAllocation{Mode: "immediate"}
			}
			m.MemoryHugePages.Hugepages = append(m.MemoryHugePages.Hugepages, libvirtxml.DomainMemoryHugepage{
				Size: uint(kib), Unit: "KiB", Nodeset: strconv.Itoa(i),
			})
		}
	}
	d.MemoryBacking = m
}

// aperture tells firmware and chipset how much address space the 64-bit BARs need
// (OVMF's X-PciMmio64Mb), and gives the processor addresses wide enough for it.
func (p *Passthrough) aperture(d *libvirtxml.Domain, kvm bool) {
	if kvm {
		d.CPU.MaxPhysAddr = &libvirtxml.DomainCPUMaxPhysAddr{Mode: "passthrough"}
	}
	if p.Pins.MMIO64MiB == minMMIO64MiB {
		return // what firmware and chipset do by themselves
	}
	if !kvm {
		d.CPU.MaxPhysAddr = &libvirtxml.DomainCPUMaxPhysAddr{Mode: "emulate", Bits: guestPhysBits}
	}
	for i := range d.Devices.Controllers {
		if c := &d.Devices.Controllers[i]; c.Model == "pcie-root" {
			c.PCI = &libvirtxml.DomainControllerPCI{Hole64: &libvirtxml.DomainControllerPCIHole64{Size: p.Pins.MMIO64MiB << 10, Unit: "KiB"}}
		}
	}
	d.QEMUCommandline = &libvirtxml.DomainQEMUCommandline{Args: []libvirtxml.DomainQEMUCommandlineArg{
		{Value: "-fw_cfg"}, {Value: fmt.Sprintf("name=opt/ovmf/X-PciMmio64Mb,string=%d", p.Pins.MMIO64MiB)},
	}}
}

// set renders a set of numbers for libvirt.
func set(numbers []uint16) string {
	var words []string
	for _, n := range slices.Compact(slices.Sorted(slices.Values(numbers))) {
		words = append(words, strconv.Itoa(int(n)))
	}
	return strings.Join(words, ",")
}
