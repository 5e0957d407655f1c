package emuhost

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// Topology is what hangs on which bus of the host.
type Topology struct {
	Nodes int // NUMA nodes, each with half of the memory and of the cores when there are two; zero is one
	Cores int // of the host; zero is two
	Ports []Port
}

// Port is a PCIe root port and what is behind it.
type Port struct {
	Name string // of the first device, in [Host.Unplug]; the others are Name.1, Name.2, ...
	Node int    // NUMA node, when there are several
	// Shared puts the devices behind a PCIe-to-PCI bridge, as devices of their own in
	// one IOMMU group. Otherwise they are functions of one device.
	Shared  bool
	Devices []Device
}

// Device is one function of a [Topology].
type Device interface {
	// arguments are QEMU's, for the device id at "bus=..,addr=..".
	arguments(h *Host, id, at string) ([]string, error)
}

// GPU is a stand-in with registers and DMA, QEMU's edu (1234:11e8, class 00ff).
type GPU struct{}

// BigGPU is a stand-in with a large BAR, QEMU's ivshmem (1af4:1110, class 0500). Its
// memory is the BAR: what a tenant writes there stays until the host is switched off.
type BigGPU struct{ MiB int }

// Display is a display controller, QEMU's bochs-display (1234:1111, class 0380).
type Display struct{}

// Audio is a sound controller as GPUs have one (8086:293e, class 0403).
type Audio struct{}

// NVMe is a drive, kept in a sparse file of Options.Dir that is named by its serial.
type NVMe struct {
	Serial     string
	MiB        int
	BlockBytes int  // logical block; zero is 512
	VFs        int  // SR-IOV: what the controller can be divided into
	Fails      bool // all writes, zeroing and format end in a media error
	// Fill writes what is on the drive before its first boot: a used drive.
	Fill func(f *os.File) error
}

// Disk is a virtio drive with a cache that a power cut loses. What the host writes and
// flushes is recorded, and [OpenRecord] reads it.
type Disk struct {
	File string // of this machine, raw; its folder gets the record, File + ".writes"
}

// NIC is a network card with seven virtual functions, QEMU's igb (8086:10c9).
type NIC struct{ MAC string }

// Default is a host with two GPUs, two drives and a network card, each alone behind
// its port.
func Default() Topology {
	return Topology{Ports: []Port{
		{Name: "gpu0", Devices: []Device{GPU{}}},
		{Name: "gpu1", Devices: []Device{BigGPU{MiB: 256}}},
		{Name: "nvme0", Devices: []Device{NVMe{Serial: "NVMESLOT0", MiB: 1024}}},
		{Name: "nvme1", Devices: []Device{NVMe{Serial: "NVMESLOT1", MiB: 1024, VFs: 2}}},
		{Name: "nic0", Devices: []Device{NIC{MAC: "52:54:00:aa:00:01"}}},
	}}
}

// Faulty is a host with two NUMA nodes and what must not be let to a tenant: a drive
// that cannot be erased, and two GPUs in one IOMMU group. Beside them are a GPU
// with a sound function, a good one, and a good drive.
func Faulty() Topology {
	return Topology{Nodes: 2, Ports: []Port{
		{Name: "gpu0", Node: 0, Devices: []Device{GPU{}, Audio{}}},
		{Name: "gpu1", Node: 1, Devices: []Device{GPU{}}},
		{Name: "nvme0", Node: 0, Devices: []Device{NVMe{Serial: "NVMESLOT0", MiB: 256}}},
		{Name: "nvme1", Node: 1, Devices: []Device{NVMe{Serial: "NVMEBAD", MiB: 64, Fails: true}}},
		{Name: "shared", Shared: true, Devices: []Device{GPU{}, GPU{}}},
		{Name: "nic0", Node: 1, Devices: []Device{NIC{MAC: "52:54:00:aa:00:01"}}},
	}}
}

func (t *Topology) validate() error {
	if t.Nodes < 0 || t.Nodes > 2 {
		return errors.New("emuhost: a host has one NUMA node or two")
	}
	if t.Cores == 0 {
		t.Cores = 2
	}
	if t.Cores < 0 || t.Cores > 8 || t.Nodes == 2 && t.Cores%2 != 0 {
		return errors.New("emuhost: a host has up to eight cores, as many on each NUMA node")
	}
	names, serials := map[string]bool{}, map[string]bool{}
	for _, p := range t.Ports {
		if p.Name == "" || names[p.Name] || strings.ContainsAny(p.Name, ",= ") {
			return fmt.Errorf("emuhost: port name %q is empty, taken or has a character that QEMU needs", p.Name)
		}
		names[p.Name] = true
		if p.Node < 0 || p.Node >= max(1, t.Nodes) {
			return fmt.Errorf("emuhost: port %s is on node %d of %d", p.Name, p.Node, max(1, t.Nodes))
		}
		if len(p.Devices) == 0 || len(p.Devices) > 8 {
			return fmt.Errorf("emuhost: port %s has %d devices: one to eight", p.Name, len(p.Devices))
		}
		for _, d := range p.Devices {
			n, ok := d.(NVMe)
			if !ok {
				continue
			}
			if n.Serial == "" || serials[n.Serial] || strings.ContainsAny(n.Serial, ",=/ ") || len(n.Serial) > 20 {
				return fmt.Errorf("emuhost: serial %q is empty, taken, too long or has a character that QEMU or a file name needs", n.Serial)
			}
			serials[n.Serial] = true
			if n.MiB < 1 {
				return fmt.Errorf("emuhost: drive %s has %d MiB", n.Serial, n.MiB)
			}
		}
	}
	return nil
}
