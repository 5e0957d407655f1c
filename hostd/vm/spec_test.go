package vm

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gpuaas/gpuaas/domain"
)

var update = flag.Bool("update", false, "write the golden files anew")

func spec() *Spec {
	return &Spec{
		Name: "vm_1", UUID: "5e0b1d3c-2f1f-4b52-9f3e-0d6d7f0f0001", MemoryMiB: 512, CPUs: 2,
		Firmware: "/fw/code.fd", FirmwareVars: "/fw/vars.fd", NVRAM: "/vms/nvram.fd",
		Drives:       []Drive{{Path: "/drives/a,b.raw", Serial: "S0"}, {Path: "/drives/1.raw", Serial: "S1"}},
		Accelerators: 2, Seed: "/vms/seed.iso", Bridge: "gbr0", Tap: "gtap0", MAC: "02:00:00:00:00:10",
		ConsoleLog: "/vms/console.log", ReadySocket: "/run/ready",
	}
}

// golden are the domains whose XML is in testdata, and whether libvirt 9 can read
// it.
func golden() map[string]struct {
	spec *Spec
	old  bool // libvirt 9 has no words for it
} {
	type g = struct {
		spec *Spec
		old  bool
	}
	kvm := spec()
	kvm.KVM = true

	one := realHost(1, 1)
	one.SecureBoot, one.VTPM = true, true
	one.Firmware, one.FirmwareVars = "/fw/secboot.fd", "/fw/vars.ms.fd"

	emuhost := realHost(1, 1)
	emuhost.KVM = false
	p := emuhost.Passthrough
	p.Slots[0].MemoryMiB, p.Slots[0].Threads = 64, []uint16{1}
	p.Cores, p.HostThreads, p.HugepageKiB, p.LockMemory = [][]uint16{{0}, {1}}, []uint16{0}, nil, false
	p.Slots[0].GPU.BARs, p.Slots[0].IBVF.BARs = nil, nil
	p.Pins = NewPins("pc-q35-7.2", MMIO64MiB(p.Slots))
	direct := *emuhost
	direct.Firmware, direct.FirmwareVars, direct.NVRAM, direct.Kernel = "", "", "", "/img/bare.elf"

	snp, tdx := realHost(1, 1), realHost(1, 1)
	snp.Passthrough.Confidential, tdx.Passthrough.Confidential = SEVSNP, TDX
	return map[string]g{
		"emulated": {spec: spec()}, "kvm": {spec: kvm},
		"passthrough-1": {spec: one}, "passthrough-8": {spec: realHost(8, 2)},
		"emuhost-firmware": {spec: emuhost}, "emuhost-direct": {spec: &direct},
		"confidential-snp": {spec: snp, old: true}, "confidential-tdx": {spec: tdx, old: true},
	}
}

// wide are 64-bit BARs of these sizes.
func wide(sizes ...uint64) (bars []domain.BAR) {
	for i, size := range sizes {
		bars = append(bars, domain.BAR{Index: uint8(2 * i), SizeBytes: size, Wide: true, Prefetchable: true})
	}
	return bars
}

// realHost is a VM with slots of a DGX-like host: two threads a core, 1 GiB pages, GPUs
// with BARs of 128 GiB.
func realHost(slots, nodes int) *Spec {
	s := &Spec{
		Name: "vm_1", UUID: "5e0b1d3c-2f1f-4b52-9f3e-0d6d7f0f0001", KVM: true,
		Owner:    &Owner{Tenant: "ten_1", Allocation: "alloc_1"},
		Firmware: "/fw/code.fd", FirmwareVars: "/fw/vars.fd", NVRAM: "/vms/nvram.fd",
		Seed: "/vms/seed.iso", Tap: "gtap0", MAC: "02:00:00:00:00:10",
		ConsoleLog: "/vms/console.log", ReadySocket: "/run/ready",
	}
	p := &Passthrough{
		HostThreads: []uint16{0, 100},
		HugepageKiB: map[uint8]uint32{0: 1 << 20, 1: 1 << 20}, LockMemory: true, User: User{70000, 70000},
	}
	for i := range slots {
		node := i * nodes / slots
		bus := 0x10*(node+1) + 4*i
		slot := domain.SlotSpec{
			Index:    uint32(i),
			GPU:      domain.Device{Address: fmt.Sprintf("0000:%02x:00.0", bus), Serial: fmt.Sprintf("GPU%d", i)},
			NVMe:     domain.Device{Address: fmt.Sprintf("0000:%02x:00.0", bus+1), Serial: fmt.Sprintf("NVME%d", i)},
			IBVF:     domain.Device{Address: fmt.Sprintf("0000:%02x:00.1", bus+2), Serial: fmt.Sprintf("VF%d", i)},
			NUMANode: uint8(node), MemoryMiB: 128 << 10,
		}
		for c := range 4 {
			core := []uint16{uint16(1 + 4*i + c), uint16(101 + 4*i + c)}
			p.Cores = append(p.Cores, core)
			slot.Threads = append(slot.Threads, core...)
		}
		slot.GPU.BARs, slot.IBVF.BARs, slot.NVMe.BARs = wide(16<<20, 128<<30, 32<<20), wide(1<<20), wide(16<<10)
		p.Slots = append(p.Slots, slot)
	}
	p.Pins = NewPins("pc-q35-7.2", MMIO64MiB(p.Slots))
	s.Passthrough = p
	return s
}

func TestXML(t *testing.T) {
	t.Parallel()
	for name, g := range golden() {
		got, err := g.spec.XML()
		if err != nil {
			t.Fatal(err)
		}
		path := "testdata/" + name + ".xml"
		if *update {
			if err := os.WriteFile(path, []byte(got+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got+"\n"); diff != "" {
			t.Errorf("%s (go test -update writes it anew):\n%s", path, diff)
		}
	}
}

func TestXMLRefuses(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]func(*Spec){
		"no drive":          func(s *Spec) { s.Drives = nil },
		"nine drives":       func(s *Spec) { s.Drives = make([]Drive, 9) },
		"long serial":       func(s *Spec) { s.Drives[0].Serial = "123456789012345678901" },
		"serial of options": func(s *Spec) { s.Drives[0].Serial = "S0,addr=3" },
		"no memory":         func(s *Spec) { s.MemoryMiB = 0 },
		"no name":           func(s *Spec) { s.Name = "" },
		"nine accelerators": func(s *Spec) { s.Accelerators = 9 },
	} {
		s := spec()
		edit(s)
		if xml, err := s.XML(); err == nil {
			t.Errorf("%s: %s", name, xml)
		}
	}
}
