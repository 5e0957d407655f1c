package discovery_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/discovery"
	"github.com/gpuaas/gpuaas/hostd/pci"
	"github.com/gpuaas/gpuaas/hostd/pci/pcitest"
)

// host is a machine made of files.
type host struct {
	t testing.TB
	*pcitest.Tree
	proc  string
	state string
	disks disks
	group int
	nvmes int
	bus   map[string]int // next bus below a root
}

// disks are the block devices' contents and users.
type disks map[string]string

func (d disks) Busy(name, _ string) (bool, error) { return d[name] == "busy", nil }

func (d disks) Identify(_ context.Context, name, _ string) (string, error) {
	if what, ok := d[name]; ok {
		return what, nil
	}
	return "empty", nil
}

func newHost(t testing.TB, nodes, cores, memoryMiB int) *host {
	h := &host{t: t, Tree: pcitest.New(t), proc: pcitest.TempDir(t), state: pcitest.TempDir(t), disks: disks{}, bus: map[string]int{}}
	h.Proc("sys/kernel/random/boot_id", "boot-1\n")
	h.Proc("sys/kernel/osrelease", "6.1.0-28-amd64\n")
	h.Proc("self/mountinfo", "1 0 0:2 / / rw - rootfs rootfs rw\n")
	h.Proc("swaps", "Filename Type Size Used Priority\n")
	h.Write("class/dmi/id/bios_version", "5.33\n")
	total := nodes * cores
	h.Write("devices/system/cpu/online", fmt.Sprintf("0-%d\n", 2*total-1))
	for n := range nodes {
		dir := fmt.Sprintf("devices/system/node/node%d", n)
		h.Write(dir+"/cpulist", fmt.Sprintf("%d-%d,%d-%d\n", n*cores, (n+1)*cores-1, total+n*cores, total+(n+1)*cores-1))
		h.Write(dir+"/meminfo", fmt.Sprintf("Node %d MemTotal:       %d kB\nNode %d MemFree: 1 kB\n", n, memoryMiB<<10, n))
		for c := n * cores; c < (n+1)*cores; c++ {
			for _, thread := range []int{c, c + total} {
				h.Write(fmt.Sprintf("devices/system/cpu/cpu%d/topology/thread_siblings_list", thread), fmt.Sprintf("%d,%d\n", c, c+total))
			}
		}
	}
	return h
}

// Proc writes a file of procfs.
func (h *host) Proc(name, content string) {
	h.t.Helper()
	p := filepath.Join(h.proc, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) config() discovery.Config {
	return discovery.Config{Host: "host-7", Sys: h.Dir, Proc: h.proc, Dev: "/nonexistent", StateDir: h.state, Disks: h.disks}
}

func (h *host) discover(c discovery.Config) *domain.SlotMap {
	h.t.Helper()
	d, err := discovery.New(c)
	if err != nil {
		h.t.Fatal(err)
	}
	m, err := d.Discover(context.Background())
	if err != nil {
		h.t.Fatal(err)
	}
	return m
}

func (h *host) nextGroup() int { h.group++; return h.group }

// port adds a root or switch port, isolating, in a group of its own.
func (h *host) port(address, parent string, typ pci.PortType, node int) {
	f := pcitest.Function{Address: address, Parent: parent, Class: pcitest.ClassBridge, IDs: "8086:352a", Type: typ, ACS: pcitest.FullACS, Node: node, Group: h.nextGroup(), Driver: "pcieport"}
	if typ == pci.UpstreamPort {
		f.ACS, f.IDs = 0, "1000:c030"
	}
	h.Add(f)
}

// slotPort adds a root port with nothing below, and returns where a device goes.
func (h *host) slotPort(root, node int) (parent, address string) {
	key := fmt.Sprint(root)
	if h.bus[key] == 0 {
		h.bus[key] = root
	}
	n := h.bus[key] - root + 1
	h.bus[key]++
	parent = fmt.Sprintf("0000:%02x:%02x.0", root, n)
	h.port(parent, "", pci.RootPort, node)
	return parent, fmt.Sprintf("0000:%02x:00.0", h.bus[key])
}

func (h *host) gpu(address, parent string, node int, serial uint64) {
	h.Add(pcitest.Function{
		Address: address, Parent: parent, IDs: "10de:2330", Subsystem: "10de:16c1", Class: pcitest.Class3D, Node: node, Group: h.nextGroup(),
		Driver: "vfio-pci", Resets: "flr bus", BARs: []uint64{16 << 20, 128 << 30, 32 << 20}, Serial: serial,
	})
}

// nvme adds a drive bound to nvme, with one namespace of 512-byte blocks.
func (h *host) nvme(address, parent string, node int, serial string) (block string) {
	n := h.nvmes
	h.nvmes++
	h.Add(pcitest.Function{Address: address, Parent: parent, IDs: "144d:a824", Class: pcitest.ClassNVMe, Node: node, Group: h.nextGroup(), Driver: "nvme", Resets: "flr bus"})
	dir := fmt.Sprintf("%s/nvme/nvme%d", h.Path(address), n)
	h.Write(dir+"/serial", serial+"      \n")
	h.Write(dir+"/model", "SAMSUNG MZWLJ3T8HBLS-00007              \n")
	h.Write(dir+"/firmware_rev", "EPK9CB5Q\n")
	h.Write(dir+"/state", "live\n")
	block = fmt.Sprintf("nvme%dn1", n)
	h.block(dir, block, 259, n*16)
	return block
}

func (h *host) block(dir, name string, major, minor int) {
	at := dir + "/" + name
	h.Write(at+"/dev", fmt.Sprintf("%d:%d\n", major, minor))
	h.Write(at+"/size", "7501476528\n")
	h.Write(at+"/queue/logical_block_size", "512\n")
	h.Mkdir(at + "/holders")
	h.Mkdir(at + "/slaves")
	h.Link("class/block/"+name, at)
	h.Link(fmt.Sprintf("dev/block/%d:%d", major, minor), at)
}

// nic adds an InfiniBand function with n VFs.
func (h *host) nic(address, parent string, node int, guid string, n int) {
	h.Add(pcitest.Function{Address: address, Parent: parent, IDs: "15b3:1021", Class: pcitest.ClassIB, Node: node, Group: h.nextGroup(), Driver: "mlx5_core", Resets: "flr", TotalVFs: 16})
	dir := h.Path(address) + "/infiniband/mlx5_x"
	h.Write(dir+"/node_guid", guid+"\n")
	h.Write(dir+"/fw_ver", "28.39.1002\n")
	h.Write(dir+"/ports/1/link_layer", "InfiniBand\n")
	h.Write(dir+"/ports/1/pkeys/0", "0xffff\n")
	h.Write(dir+"/ports/1/pkeys/1", "0x8012\n")
	h.Write(dir+"/ports/1/pkeys/2", "0x0000\n")
	for i := range n {
		h.AddVF(address, pcitest.Function{Address: address[:len(address)-1] + fmt.Sprint(i+1), IDs: "15b3:101e", Class: pcitest.ClassIB, Node: node, Group: h.nextGroup(), Resets: "flr"})
		h.Write(fmt.Sprintf("%s/sriov/%d/node", h.Path(address), i), fmt.Sprintf("%s%x\n", guid[:len(guid)-1], i+1))
	}
}

// hgx is an eight-way H100 server: two sockets of 56 cores, four PCIe switches, each
// with two GPUs, two drives and two InfiniBand ports of two VFs.
func hgx(t testing.TB) *host {
	h := newHost(t, 2, 56, 1<<20)
	for sw := range 4 {
		node, root := sw/2, 0x10+0x20*sw
		at := func(bus, dev int) string { return fmt.Sprintf("0000:%02x:%02x.0", root+bus, dev) }
		h.port(at(0, 1), "", pci.RootPort, node)
		h.port(at(1, 0), at(0, 1), pci.UpstreamPort, node)
		for i := range 6 {
			h.port(at(2, i), at(1, 0), pci.DownstreamPort, node)
			n := 2*sw + i/3
			switch i % 3 {
			case 0:
				h.gpu(at(3+i, 0), at(2, i), node, 0x48b02d0000000000+uint64(n))
			case 1:
				h.nvme(at(3+i, 0), at(2, i), node, fmt.Sprintf("S6GNNE0W10000%d", n))
			case 2:
				h.nic(at(3+i, 0), at(2, i), node, fmt.Sprintf("b8ce:f603:00a1:%02x00", n), 2)
			}
		}
	}
	return h
}

func gpuAt(n int) string  { return fmt.Sprintf("0000:%02x:00.0", 0x10+0x20*(n/2)+3+3*(n%2)) }
func nvmeAt(n int) string { return fmt.Sprintf("0000:%02x:00.0", 0x10+0x20*(n/2)+4+3*(n%2)) }
func nicAt(n int) string  { return fmt.Sprintf("0000:%02x:00.0", 0x10+0x20*(n/2)+5+3*(n%2)) }

// unsafe is why a device is not proposed, "" if it is not listed.
func unsafe(m *domain.SlotMap, address string) string {
	for _, u := range m.Unsafe {
		if u.Address == address {
			return u.Reason
		}
	}
	return ""
}

// proposed are the addresses in slots and spares.
func proposed(m *domain.SlotMap) string {
	var b strings.Builder
	for _, s := range m.Slots {
		fmt.Fprintln(&b, s.GPU.Address, s.NVMe.Address, s.IBVF.Address)
	}
	for _, s := range m.Spares {
		fmt.Fprintln(&b, s.Device.Address)
	}
	return b.String()
}

func funcOf(address, parent string, n int, class uint32) pcitest.Function {
	return pcitest.Function{Address: address[:len(address)-1] + fmt.Sprint(n), Parent: parent, IDs: "10de:22ba", Class: class, Node: -1}
}

// partition adds a partition to a disk.
func (h *host) partition(block string, n int) string {
	disk, err := h.Open().Tree.Link("class/block/" + block)
	if err != nil {
		h.t.Fatal(err)
	}
	name := fmt.Sprintf("%sp%d", block, n)
	var major, minor int
	b, err := os.ReadFile(filepath.Join(h.Dir, disk, "dev"))
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := fmt.Sscanf(string(b), "%d:%d", &major, &minor); err != nil {
		h.t.Fatal(err)
	}
	h.Write(disk+"/"+name+"/dev", fmt.Sprintf("%d:%d\n", major, minor+n))
	h.Mkdir(disk + "/" + name + "/holders")
	h.Link("class/block/"+name, disk+"/"+name)
	h.Link(fmt.Sprintf("dev/block/%d:%d", major, minor+n), disk+"/"+name)
	return name
}

func prove(fn func(address string) (discovery.Facts, error)) func(context.Context, pci.Address) (discovery.Facts, error) {
	return func(_ context.Context, a pci.Address) (discovery.Facts, error) { return fn(a.String()) }
}
