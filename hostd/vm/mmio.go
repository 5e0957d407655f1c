package vm

import (
	"cmp"
	"math/bits"
	"slices"

	"github.com/gpuaas/gpuaas/domain"
)

// Limits of the window for 64-bit BARs. OVMF's own is 32 GiB, and it takes a
// request for up to 16 TiB (OvmfPkg/Library/PlatformInitLib/MemDetect.c).
const (
	minMMIO64MiB = 32 << 10
	maxMMIO64MiB = 16 << 20
	maxBARBytes  = 1 << 43
)

// window is a range of addresses something needs: size bytes that begin at a
// multiple of align.
type window struct{ size, align uint64 }

// pack puts windows one after the other, those of the largest alignment first, as
// firmware does, into one that a bridge can open: bridges work in steps of 1 MiB
// (PCI-to-PCI bridge architecture specification, section 3.2.5).
func pack(ws []window) window {
	slices.SortStableFunc(ws, func(a, b window) int { return cmp.Compare(b.align, a.align) })
	all := window{align: 1 << 20}
	for _, w := range ws {
		all.size = roundUp(all.size, w.align) + w.size
		all.align = max(all.align, w.align)
	}
	all.size = roundUp(all.size, 1<<20)
	return all
}

func roundUp(n, to uint64) uint64 { return (n + to - 1) / to * to }

// MMIO64MiB is the size of the window that the 64-bit BARs of the slots' functions
// need in the guest, each slot behind the ports that the layout gives it. It is a
// power of two, because the firmware begins the window at a multiple of its size.
func MMIO64MiB(slots []domain.SlotSpec) uint64 {
	function := func(d domain.Device) window {
		var ws []window
		for _, bar := range d.BARs {
			if bar.Wide && !bar.IO {
				ws = append(ws, window{bar.SizeBytes, bar.SizeBytes})
			}
		}
		return pack(ws)
	}
	var ports []window
	for _, s := range slots {
		ports = append(ports, pack([]window{function(s.GPU), function(s.IBVF)}), function(s.NVMe))
	}
	mib := max(pack(ports).size>>20, minMMIO64MiB)
	if bits.OnesCount64(mib) != 1 {
		mib = 1 << bits.Len64(mib)
	}
	return mib
}
