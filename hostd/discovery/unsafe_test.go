package discovery_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/discovery"
	"github.com/gpuaas/gpuaas/hostd/pci"
	"github.com/gpuaas/gpuaas/hostd/pci/attr"
	"github.com/gpuaas/gpuaas/hostd/pci/pcitest"
)

// Each of these makes a device of the HGX server's first slot unsafe: it is listed
// with the reason, and is in no slot and no spare.
func TestUnsafe(t *testing.T) {
	t.Parallel()
	gpu, nvme, nic := gpuAt(0), nvmeAt(0), nicAt(0)
	vf := nic[:11] + "1"
	blockDir := func(h *host) string { return h.Path(nvme) + "/nvme/nvme0/nvme0n1" }
	for _, c := range []struct {
		name, device, say string
		do                func(h *host)
	}{
		{"two devices in one group", gpu, "other members: " + nvme, func(h *host) { h.SetGroup(gpu, 6) }},
		{"the other of them", nvme, "other members: " + gpu, func(h *host) { h.SetGroup(gpu, 6) }},
		{"VFs in one group", vf, "other members: " + nic, func(h *host) { h.SetGroup(vf, 8) }},
		{"a bridge of others in the group", gpu, "other members: 0000:12:05.0", func(h *host) { h.Link("kernel/iommu_groups/4/devices/0000:12:05.0", h.Path("0000:12:05.0")) }},
		{"only the other side says so", gpu, "other members: 0000:12:05.0", func(h *host) {
			h.Link("kernel/iommu_groups/4/devices/0000:12:05.0", h.Path("0000:12:05.0"))
			h.SetGroup("0000:12:05.0", 4)
		}},
		{"no IOMMU", gpu, "no IOMMU group", func(h *host) { h.Remove(h.Path(gpu) + "/iommu_group") }},
		{"switch port without ACS", gpu, "the port 0000:12:00.0", func(h *host) { h.config0("0000:12:00.0", 4096, 0) }},
		{"root port without ACS", vf, "the port 0000:10:01.0", func(h *host) { h.rootPort(0) }},
		{"not root, ACS not readable", nvme, "not readable", func(h *host) { h.truncate("0000:12:01.0", 256) }},
		{"bridge that cannot be read", nvme, "the bridge 0000:12:01.0 above it cannot be read", func(h *host) { h.Write(h.Path("0000:12:01.0")+"/class", "what\n") }},
		{"no reset", vf, "no reset", func(h *host) { h.Remove(h.Path(vf) + "/reset_method") }},
		{"reset by power state only, bus its own", gpu, "no reset after which nothing of a tenant is left in it: the kernel offers pm", func(h *host) { h.Write(h.Path(gpu)+"/reset_method", "pm\n") }},
		{"the board's own reset", gpu, "no reset", func(h *host) { h.Write(h.Path(gpu)+"/reset_method", "device_specific acpi\n") }},
		{"reset by power state only, bus shared", nvme, "no reset", func(h *host) {
			h.Write(h.Path(nvme)+"/reset_method", "pm\n")
			h.Add(pcitest.Function{Address: nvme[:8] + "05.0", Parent: "0000:12:01.0", IDs: "1234:1", Group: 900})
		}},
		{"no NUMA node", gpu, "does not say on which NUMA node", func(h *host) { h.Write(h.Path(gpu)+"/numa_node", "-1\n") }},
		{"negative NUMA node", gpu, "does not say on which NUMA node", func(h *host) { h.Write(h.Path(gpu)+"/numa_node", "-7\n") }},
		{"NUMA node of memory", gpu, "NUMA node 3 has no processors", func(h *host) { h.Write(h.Path(gpu)+"/numa_node", "3\n") }},
		{"garbage NUMA node", gpu, "cannot be read", func(h *host) { h.Write(h.Path(gpu)+"/numa_node", "9999999999999999999999\n") }},
		{"fallen off the bus", gpu, "does not answer", func(h *host) { h.Write(h.Path(gpu)+"/config", strings.Repeat("\xff", 4096)) }},
		{"no serial", gpu, "nothing identifies it", func(h *host) { h.config0(gpu, 4096, 0) }},
		{"one serial number for two", gpu, "nothing identifies it", func(h *host) {
			h.Write(h.Path(gpu)+"/config", h.read(h.Path(gpuAt(3))+"/config"))
		}},
		{"drives with one serial", nvme, "has its serial number", func(h *host) { h.Write(h.Path(nvmeAt(5))+"/nvme/nvme5/serial", "S6GNNE0W100000\n") }},
		{"serial with control characters", nvme, "not a line of printable text", func(h *host) { h.Write(h.Path(nvme)+"/nvme/nvme0/serial", "S6\x1b[2J\n") }},
		{"empty serial", nvme, "serial number cannot be read", func(h *host) { h.Write(h.Path(nvme)+"/nvme/nvme0/serial", "   \n") }},
		{"endless serial", nvme, "serial number is no text", func(h *host) { h.Write(h.Path(nvme)+"/nvme/nvme0/serial", strings.Repeat("S", 200)) }},
		{"huge serial", nvme, "larger than", func(h *host) { h.Write(h.Path(nvme)+"/nvme/nvme0/serial", strings.Repeat("S", attr.FileMax+1)) }},
		{"serial is a loop", nvme, "symbolic links", func(h *host) {
			h.Remove(h.Path(nvme) + "/nvme/nvme0/serial")
			if err := os.Symlink("serial", h.Dir+"/"+h.Path(nvme)+"/nvme/nvme0/serial"); err != nil {
				t.Error(err)
			}
		}},
		{"dead controller", nvme, "its controller is dead", func(h *host) { h.Write(h.Path(nvme)+"/nvme/nvme0/state", "dead\n") }},
		{"4K blocks", nvme, "blocks are of 4096 bytes", func(h *host) { h.Write(blockDir(h)+"/queue/logical_block_size", "4096\n") }},
		{"no medium", nvme, "no capacity", func(h *host) { h.Write(blockDir(h)+"/size", "0\n") }},
		{"no namespace", nvme, "no namespace", func(h *host) { h.Remove(blockDir(h)) }},
		{"two namespaces", nvme, "2 namespaces", func(h *host) { h.block(h.Path(nvme)+"/nvme/nvme0", "nvme0n2", 259, 900) }},
		{"two controllers of one subsystem", nvme, "1 other controllers", func(h *host) {
			h.Link("class/nvme-subsystem/nvme-subsys0/nvme0", h.Path(nvme)+"/nvme/nvme0")
			h.Link("class/nvme-subsystem/nvme-subsys0/nvme9", h.Path(nvmeAt(1))+"/nvme/nvme1")
		}},
		{"own VFs", nvme, "virtual functions of its own", func(h *host) {
			h.AddVF(nvme, pcitest.Function{Address: nvme[:11] + "1", IDs: "144d:a824", Class: pcitest.ClassNVMe, Group: 901})
		}},
		{"mounted", nvme, "it is mounted (nvme0n1)", func(h *host) { h.Proc("self/mountinfo", "26 1 259:0 / /mnt rw shared:1 - ext4 /dev/nvme0n1 rw\n") }},
		{"mounted by name", nvme, "it is mounted (nvme0n1p2)", func(h *host) {
			h.partition("nvme0n1", 2)
			h.Proc("self/mountinfo", "26 1 0:44 / /mnt rw - btrfs /dev/nvme0n1p2 rw\n")
		}},
		{"root file system on LVM", nvme, "own file system / (nvme0n1p3)", func(h *host) {
			p := h.partition("nvme0n1", 3)
			h.mapper("dm-0", 253, "LVM-abc", p)
			h.Proc("self/mountinfo", "26 1 253:0 / / rw - ext4 /dev/mapper/vg-root rw\n")
		}},
		{"swap", nvme, "the host swaps to it", func(h *host) { h.Proc("swaps", "Filename Type\n/dev/nvme0n1 partition 1 0 -2\n") }},
		{"LVM", nvme, "LVM volume dm-0 holds it", func(h *host) { h.mapper("dm-0", 253, "LVM-abc", "nvme0n1") }},
		{"RAID on a partition", nvme, "RAID array md127 holds it (nvme0n1p1)", func(h *host) { h.mapper("md127", 9, "", h.partition("nvme0n1", 1)) }},
		{"multipath", nvme, "multipath device dm-1 holds it", func(h *host) { h.mapper("dm-1", 253, "mpath-x", "nvme0n1") }},
		{"in use by something unseen", nvme, "something on the host has it in use", func(h *host) { h.disks["nvme0n1"] = "busy" }},
		{"baseboard's function", vf, "belongs to the baseboard", func(h *host) { h.Write(h.Path(nic)+"/vpd", "\x90\x0a\x00V3\x07SW_MNG1\x78") }},
		{"VF's interface up", vf, "interface is up", func(h *host) { h.Write(h.Path(vf)+"/net/ib5/flags", "0x1003\n") }},
		{"VF's interface bonded", vf, "part of another one", func(h *host) { h.Link(h.Path(vf)+"/net/ib5/master", "class/net/bond0") }},
		{"PF without identity", vf, "no GUID, MAC or serial", func(h *host) { h.Write(h.Path(nic)+"/infiniband/mlx5_x/node_guid", "0000:0000:0000:0000\n") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := hgx(t)
			c.do(h)
			m := h.discover(h.config())
			if why := unsafe(m, c.device); !strings.Contains(why, c.say) {
				t.Errorf("%s: %q, want %q\nall: %v", c.device, why, c.say, m.Unsafe)
			}
			if strings.Contains(proposed(m), c.device) {
				t.Errorf("%s is proposed", c.device)
			}
			if len(m.Slots) < 5 {
				t.Errorf("only %d slots are left", len(m.Slots))
			}
			for _, u := range m.Unsafe {
				if !attr.Printable(u.Reason) || len(u.Reason) > 600 {
					t.Errorf("reason %q", u.Reason)
				}
			}
		})
	}
}

// config0 gives a function a config space of n bytes with this ACS, and no serial.
func (h *host) config0(address string, n int, acs uint16) {
	f := pcitest.Function{Address: address, ACS: acs, ConfigSize: n, Type: pci.DownstreamPort}
	h.Write(h.Path(address)+"/config", string(f.Config()))
}

func (h *host) truncate(address string, n int) {
	h.Write(h.Path(address)+"/config", h.read(h.Path(address) + "/config")[:n])
}

func (h *host) rootPort(acs uint16) {
	f := pcitest.Function{ACS: acs, Type: pci.RootPort}
	h.Write(h.Path("0000:10:01.0")+"/config", string(f.Config()))
}

func (h *host) read(name string) string {
	b, err := os.ReadFile(h.Dir + "/" + name)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(b)
}

// mapper adds a virtual block device that stands on another.
func (h *host) mapper(name string, major int, uuid, below string) {
	h.block("devices/virtual/block", name, major, 0)
	if uuid != "" {
		h.Write("devices/virtual/block/"+name+"/dm/uuid", uuid+"\n")
	}
	real, err := h.Open().Tree.Link("class/block/" + below)
	if err != nil {
		h.t.Fatal(err)
	}
	h.Link("devices/virtual/block/"+name+"/slaves/"+below, real)
	h.Link(real+"/holders/"+name, "devices/virtual/block/"+name)
}

// What is wrong with the host as a whole is an error, not a map.
func TestHostThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, say string
		do        func(h *host)
	}{
		{"no PCI", "no such file", func(h *host) { h.Remove("bus") }},
		{"no processors", "no such file", func(h *host) { h.Remove("devices/system/cpu/online") }},
		{"garbage processors", "no list of processors", func(h *host) { h.Write("devices/system/cpu/online", "0-4294967295\n") }},
		{"processors upside down", "no list of processors", func(h *host) { h.Write("devices/system/cpu/online", "9-3\n") }},
		{"no memory", "no MemTotal", func(h *host) { h.Write("devices/system/node/node0/meminfo", "nothing\n") }},
		{"garbage memory", "no number of kB", func(h *host) { h.Write("devices/system/node/node0/meminfo", "Node 0 MemTotal: much kB\n") }},
		{"a node too many", "NUMA node 256", func(h *host) { h.Mkdir("devices/system/node/node256") }},
		{"mounts unreadable", "which disks are mounted", func(h *host) { h.Proc("self/mountinfo", strings.Repeat("x", attr.FileMax+1)) }},
		{"name among devices", "no address", func(h *host) { h.Mkdir("bus/pci/devices/eth0") }},
		{"all cores torn", "no NUMA node has processors", func(h *host) {
			for i := range 16 {
				h.Write(fmt.Sprintf("devices/system/cpu/cpu%d/topology/thread_siblings_list", i), fmt.Sprintf("%d,%d\n", i, (i+1)%16))
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := desktop(t)
			c.do(h)
			d, err := discovery.New(h.config())
			if err != nil {
				t.Fatal(err)
			}
			if m, err := d.Discover(context.Background()); err == nil || !strings.Contains(err.Error(), c.say) {
				t.Errorf("%+v, %v; want an error with %q", m, err, c.say)
			}
		})
	}
	h := desktop(t)
	d, _ := discovery.New(h.config())
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := d.Discover(ctx); err == nil {
		t.Error("a look goes on after its end")
	}
}

// Thousands of devices: bounded, and quick enough for a look every few minutes.
func TestManyDevices(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 2,600 devices")
	}
	t.Parallel()
	h := hgx(t)
	for i := range 10 {
		for j := range 250 {
			h.Add(pcitest.Function{Address: fmt.Sprintf("%04x:%02x:%02x.%d", 0x100+i, 1, j/8, j%8), IDs: "144d:a824", Class: pcitest.ClassNVMe, Group: 1000 + 250*i + j, Resets: "flr"})
		}
	}
	m := h.discover(h.config())
	if len(m.Slots) != 8 || len(m.Unsafe) != 65 || !strings.Contains(m.Unsafe[64].Reason, "2436 more devices") {
		t.Errorf("%d slots, %d unsafe, %+v", len(m.Slots), len(m.Unsafe), m.Unsafe[len(m.Unsafe)-1])
	}
	if n := len(domain.EncodeReport(&domain.Report{Inventory: m})); n > 28<<10 {
		t.Errorf("the report has %d bytes", n)
	}
	for i := range 1600 {
		h.Link(fmt.Sprintf("bus/pci/devices/2000:%02x:%02x.%d", i>>8, i>>3&31, i&7), "devices")
	}
	d, _ := discovery.New(h.config())
	if _, err := d.Discover(context.Background()); err == nil || !strings.Contains(err.Error(), "at most 4096") {
		t.Errorf("more devices than any machine has: %v", err)
	}
}

// withSerial gives a function a Device Serial Number.
func (h *host) withSerial(address string, n uint64) {
	f := pcitest.Function{Serial: n}
	h.Write(h.Path(address)+"/config", string(f.Config()))
}
