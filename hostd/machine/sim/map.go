package sim

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/gpuaas/gpuaas/domain"
)

// The stand-in hardware: an eight-way H100 server, two sockets of 56 cores.
const (
	GPUClass        = "h100-sxm5-80gb"
	nodes           = 2
	coresPerNode    = 56
	memoryMiB       = 1 << 20 // per node: 1 TiB
	reserveCores    = 4       // per node, for the host itself
	reserveMiB      = 64 << 10
	driveBytes      = 3_840_755_982_336
	gpuBytes        = 80 << 30
	threadsOfSocket = coresPerNode * nodes // sibling of thread n is n + threadsOfSocket
)

// slotMap is the hardware of the host with this seed.
func slotMap(seed string, slots int) *domain.SlotMap {
	m := &domain.SlotMap{GPUClass: GPUClass, Features: domain.SecureBoot | domain.VTPM}
	for n := range nodes {
		m.Nodes = append(m.Nodes, domain.NUMANode{Node: uint8(n), Threads: threads(n*coresPerNode, coresPerNode), MemoryMiB: memoryMiB})
	}
	perNode := max(1, (slots+nodes-1)/nodes)
	cores := (coresPerNode - reserveCores) / perNode
	memory := uint64(memoryMiB-reserveMiB) / uint64(perNode) &^ 1023 // whole GiB: hugepages
	for i := range slots {
		node, on := i/perNode, i%perNode
		m.Slots = append(m.Slots, domain.SlotSpec{
			Index:       uint32(i),
			GPU:         domain.Device{Address: address(node, 0x10+i, 0), Serial: fmt.Sprintf("165%010d", number(seed, "gpu", i)%1e10), Model: "NVIDIA H100 80GB HBM3", SizeBytes: gpuBytes},
			NVMe:        domain.Device{Address: address(node, 0x40+i, 0), Serial: fmt.Sprintf("S6GNNE0W%06X", number(seed, "nvme", i)&0xffffff), Model: "SAMSUNG MZWLJ3T8HBLS-00007", SizeBytes: driveBytes},
			IBVF:        domain.Device{Address: address(node, 0x70+i, 1), Serial: guid(seed, i), Model: "ConnectX-7 Virtual Function"},
			NUMANode:    uint8(node),
			IOMMUGroups: []uint32{uint32(40 + 3*i), uint32(41 + 3*i), uint32(42 + 3*i)},
			Threads:     threads(node*coresPerNode+reserveCores+on*cores, cores),
			MemoryMiB:   memory,
			OnDisk:      "empty",
		})
	}
	return m
}

// threads lists n whole cores from core first on, each with its sibling.
func threads(first, n int) []uint16 {
	out := make([]uint16, 0, 2*n)
	for c := first; c < first+n; c++ {
		out = append(out, uint16(c))
	}
	for c := first; c < first+n; c++ {
		out = append(out, uint16(c+threadsOfSocket))
	}
	return out
}

func address(node, bus, function int) string {
	return fmt.Sprintf("%04x:%02x:00.%d", node, bus, function)
}

// number is what makes two hosts differ: the same for the same seed, for ever.
func number(seed, what string, i int) uint64 {
	h := sha256.Sum256(fmt.Appendf(nil, "%s/%s/%d", seed, what, i))
	return binary.BigEndian.Uint64(h[:])
}

func guid(seed string, i int) string {
	n := number(seed, "ib_vf", i)
	return fmt.Sprintf("%04x:%04x:%04x:%04x", n>>48, n>>32&0xffff, n>>16&0xffff, n&0xffff)
}
