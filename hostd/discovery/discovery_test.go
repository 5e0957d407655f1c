package discovery_test

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/discovery"
)

func TestHGX(t *testing.T) {
	t.Parallel()
	h := hgx(t)
	m := h.discover(h.config())
	if len(m.Slots) != 8 || len(m.Unsafe) != 0 || m.GPUClass != "h100-sxm5-80gb" || m.ACSProfile != "strict" || m.Kernel != "6.1.0-28-amd64" || m.Firmware != "5.33" {
		t.Fatalf("%d slots, class %q, unsafe %v", len(m.Slots), m.GPUClass, m.Unsafe)
	}
	for i, s := range m.Slots {
		if s.GPU.Address != gpuAt(i) || s.NVMe.Address != nvmeAt(i) || s.IBVF.Address != nicAt(i)[:11]+"1" || int(s.NUMANode) != i/4 {
			t.Errorf("slot %d: %s %s %s on node %d", i, s.GPU.Address, s.NVMe.Address, s.IBVF.Address, s.NUMANode)
		}
		if s.NVMe.Switch != s.GPU.Switch || s.IBVF.Switch != s.GPU.Switch || s.GPU.Switch == "" {
			t.Errorf("slot %d is not below one switch", i)
		}
		if want := "drive below the same PCIe switch; VF below the same PCIe switch; 26 threads and 253952 MiB of NUMA node " + fmt.Sprint(i/4); s.Why != want {
			t.Errorf("slot %d: why %q, want %q", i, s.Why, want)
		}
		if len(s.IOMMUGroups) != 3 || s.OnDisk != "empty" {
			t.Errorf("slot %d: groups %v, on disk %q", i, s.IOMMUGroups, s.OnDisk)
		}
	}
	s := m.Slots[0]
	want := domain.SlotSpec{
		GPU: domain.Device{
			Address: "0000:13:00.0", Serial: "48-b0-2d-00-00-00-00-00", PCISerial: "48-b0-2d-00-00-00-00-00", SerialFrom: domain.SerialOfPCI, Model: "NVIDIA H100 80GB HBM3",
			SizeBytes: 80 << 30, PCIID: "10de:2330", Subsystem: "10de:16c1", Resets: []string{"flr", "bus"}, IOMMUGroup: 4, Root: "pci0000:10", Switch: "0000:11:00.0",
			BARs: []domain.BAR{
				{Index: 0, SizeBytes: 16 << 20, Wide: true, Prefetchable: true},
				{Index: 2, SizeBytes: 128 << 30, Wide: true, Prefetchable: true},
				{Index: 4, SizeBytes: 32 << 20, Wide: true, Prefetchable: true},
			},
		},
		NVMe: domain.Device{
			Address: "0000:14:00.0", Serial: "S6GNNE0W100000", SerialFrom: domain.SerialOfDevice, Model: "SAMSUNG MZWLJ3T8HBLS-00007", SizeBytes: 3_840_755_982_336,
			Firmware: "EPK9CB5Q", PCIID: "144d:a824", Subsystem: "0000:0000", LBABytes: 512, Resets: []string{"flr", "bus"}, IOMMUGroup: 6, Root: "pci0000:10", Switch: "0000:11:00.0",
		},
		IBVF: domain.Device{
			Address: "0000:15:00.1", Serial: "b8ce:f603:00a1:0000/vf0", SerialFrom: domain.SerialOfPF, Model: "network controller 15b3:1021 virtual function", Firmware: "28.39.1002",
			PCIID: "15b3:101e", Subsystem: "0000:0000", GUID: "b8ce:f603:00a1:0001", Port: 1, PKeys: []uint16{0xffff, 0x8012}, PF: "0000:15:00.0", Resets: []string{"flr"},
			IOMMUGroup: 9, Root: "pci0000:10", Switch: "0000:11:00.0",
		},
		IOMMUGroups: []uint32{4, 6, 9}, Threads: s.Threads, MemoryMiB: 248 << 10, OnDisk: "empty", Why: s.Why,
	}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Error(diff)
	}
	// Whole cores, and the first three of each node stay with the host.
	if slices.Contains(s.Threads, 2) || !slices.Contains(s.Threads, 3) || !slices.Contains(s.Threads, 112+3) {
		t.Errorf("threads %v", s.Threads)
	}
	if again := h.discover(h.config()); again.Digest() != m.Digest() {
		t.Errorf("the same hardware is another map:\n%s", cmp.Diff(m, again))
	}
	b, err := json.Marshal(m)
	back := new(domain.SlotMap)
	if err != nil || json.Unmarshal(b, back) != nil || back.Digest() != m.Digest() {
		t.Error("the map is another one after JSON, in which hosts keep it")
	}
	if n := len(domain.EncodeReport(&domain.Report{Inventory: m})); n > 24<<10 {
		t.Errorf("the report has %d bytes", n)
	}
}

// desktop is a GPU with audio and USB in one group, and two drives on root ports of
// their own; one of them has the system.
func desktop(t testing.TB) *host {
	h := newHost(t, 1, 8, 32<<10)
	parent, gpu := h.slotPort(0, -1)
	h.gpu(gpu, parent, -1, 0)
	h.Bind(gpu, "nvidia")
	h.Proc("driver/nvidia/gpus/"+gpu+"/information", "Model: \t\t NVIDIA H100 PCIe\nGPU UUID: \t GPU-5a1c\nVideo BIOS: \t 96.00.61\n")
	for i, class := range []uint32{0x040300, 0x0c0330} {
		f := funcOf(gpu, parent, i+1, class)
		f.Group = h.group
		h.Add(f)
	}
	for i, serial := range []string{"SYSTEM", "SPARE"} {
		parent, nvme := h.slotPort(0, -1)
		block := h.nvme(nvme, parent, -1, serial)
		if i == 0 {
			h.partition(block, 1)
			h.Proc("self/mountinfo", "26 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n")
		}
	}
	return h
}

func TestDesktop(t *testing.T) {
	t.Parallel()
	h := desktop(t)
	m := h.discover(h.config())
	if len(m.Slots) != 1 {
		t.Fatalf("%+v", m)
	}
	s := m.Slots[0]
	if s.GPU.Serial != "GPU-5a1c" || s.GPU.UUID != "GPU-5a1c" || s.GPU.Firmware != "96.00.61" || s.GPU.Model != "NVIDIA H100 PCIe" || s.NVMe.Serial != "SPARE" || s.IBVF.Serial != "" {
		t.Errorf("%+v", s)
	}
	if len(s.GPU.Functions) != 2 || s.GPU.Functions[0].Class != "040300" || s.GPU.Functions[1].Address != s.GPU.Address[:11]+"2" || len(s.IOMMUGroups) != 2 {
		t.Errorf("functions %+v, groups %v", s.GPU.Functions, s.IOMMUGroups)
	}
	if why := unsafe(m, "0000:02:00.0"); !strings.Contains(why, "own file system / (nvme0n1p1)") {
		t.Errorf("the system's drive: %q", why)
	}

	// Bound to vfio-pci in the same boot, all is known as it was.
	for _, a := range []string{"0000:01:00.0", "0000:03:00.0"} {
		h.Bind(a, "vfio-pci")
		h.Remove(h.Path(a) + "/nvme")
	}
	again := h.discover(h.config())
	if len(again.Slots) != 1 || !cmp.Equal(again.Slots[0].GPU, s.GPU) || !cmp.Equal(again.Slots[0].NVMe, s.NVMe) {
		t.Errorf("bound: %s", cmp.Diff(m, again))
	}

	// In another boot nothing proves that it is the same hardware.
	h.Proc("sys/kernel/random/boot_id", "boot-2\n")
	c := h.config()
	if m := h.discover(c); len(m.Slots) != 0 || !strings.Contains(unsafe(m, "0000:03:00.0"), "serial number cannot be read while it is bound to vfio-pci") || !strings.Contains(unsafe(m, "0000:01:00.0"), "nothing identifies it") {
		t.Errorf("unproved: %+v %v", m.Slots, m.Unsafe)
	}
	asked := 0
	c.Prove = prove(func(a string) (discovery.Facts, error) {
		asked++
		if a == "0000:01:00.0" {
			return discovery.Facts{Serial: "GPU-5a1c", UUID: "GPU-5a1c", Firmware: "96.00.61", Model: "NVIDIA H100 PCIe"}, nil
		}
		return discovery.Facts{Serial: "OTHER", Model: "SAMSUNG MZWLJ3T8HBLS-00007", Firmware: "EPK9CB5Q", SizeBytes: 1 << 40, LBABytes: 512}, nil
	})
	if m := h.discover(c); len(m.Slots) != 1 || m.Slots[0].NVMe.Serial != "OTHER" || m.Slots[0].GPU.Serial != "GPU-5a1c" {
		t.Errorf("proved: %+v %v", m.Slots, m.Unsafe)
	}
	if h.discover(c); asked != 2 {
		t.Errorf("proved %d times, want each device once a boot", asked)
	}

	// A device that came anew has another inode, whatever it looks like.
	at := h.Path("0000:03:00.0")
	if err := os.Rename(h.Dir+"/"+at, h.Dir+"/"+at+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(h.Dir+"/"+at, os.DirFS(h.Dir+"/"+at+".old")); err != nil {
		t.Fatal(err)
	}
	h.Remove(at + ".old")
	c.Prove = nil
	if m := h.discover(c); unsafe(m, "0000:03:00.0") == "" {
		t.Error("a drive that was plugged anew is taken for the one before")
	}
}
