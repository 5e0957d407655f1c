package discovery_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/discovery"
	"github.com/gpuaas/gpuaas/hostd/pci"
	"github.com/gpuaas/gpuaas/hostd/pci/pcitest"
)

// lines is a map in short: what is paired, left over, unsafe.
func lines(m *domain.SlotMap) string {
	var b strings.Builder
	for _, s := range m.Slots {
		fmt.Fprintf(&b, "slot %d: %s %s %s node %d, %d threads, %d MiB\n", s.Index, s.GPU.Serial, s.NVMe.Serial, s.IBVF.Serial, s.NUMANode, len(s.Threads), s.MemoryMiB)
	}
	for _, s := range m.Spares {
		fmt.Fprintf(&b, "spare %s %s: %s\n", s.Kind, s.Device.Serial, s.Why)
	}
	for _, u := range m.Unsafe {
		fmt.Fprintf(&b, "unsafe %s\n", u.Address)
	}
	return b.String()
}

// When a device vanishes, what is approved stays together, at its place with its
// cores; a spare drive is proposed where one is missing.
func TestApprovedStaysTogether(t *testing.T) {
	t.Parallel()
	h := hgx(t)
	parent, spare := h.slotPort(0x90, 1)
	h.nvme(spare, parent, 1, "SPARE")
	before := h.discover(h.config())
	if len(before.Slots) != 8 || len(before.Spares) == 0 || before.Spares[0].Device.Serial != "SPARE" || before.Spares[0].NUMANode != 1 || before.Spares[0].OnDisk != "empty" {
		t.Fatal(lines(before))
	}
	c := h.config()
	c.Approved = func() *domain.SlotMap { return before }
	same := h.discover(c)
	for i := range same.Slots { // what is approved is not read, and why is said in other words
		if same.Slots[i].OnDisk != "not read: the drive is approved" || !strings.HasPrefix(same.Slots[i].Why, "drive as approved, below the same PCIe switch; VF as approved") {
			t.Errorf("slot %d: %q, why %q", i, same.Slots[i].OnDisk, same.Slots[i].Why)
		}
	}
	if lines(same) != lines(before) {
		t.Errorf("nothing changed:\n%s", cmp.Diff(lines(before), lines(same)))
	}
	h.Remove("bus/pci/devices/" + gpuAt(2)) // a GPU
	h.Remove("kernel/iommu_groups/17/devices/" + gpuAt(2))
	h.Remove("bus/pci/devices/" + nvmeAt(5)) // another slot's drive
	after := h.discover(c)
	if len(after.Slots) != 7 {
		t.Fatal(lines(after))
	}
	byGPU := map[string]domain.SlotSpec{}
	for _, s := range after.Slots {
		byGPU[s.GPU.Serial] = s
	}
	for i, s := range before.Slots {
		got, there := byGPU[s.GPU.Serial]
		if i == 2 {
			if there {
				t.Error("the GPU is not gone")
			}
			continue
		}
		drive := s.NVMe.Serial
		if i == 5 {
			drive = "SPARE"
		}
		if got.NVMe.Serial != drive || got.IBVF.Serial != s.IBVF.Serial || !cmp.Equal(got.Threads, s.Threads) || got.MemoryMiB != s.MemoryMiB {
			t.Errorf("slot %d became %s %s", i, got.NVMe.Serial, got.IBVF.Serial)
		}
	}
	if !strings.Contains(lines(after), "spare nvme S6GNNE0W100002: no GPU is left for it") {
		t.Error(lines(after))
	}
}

// Buses are numbered anew: the same slots in the same order.
// TestReadOnly is a look on a host where no daemon was ever: it writes nothing.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	h := hgx(t)
	want := h.discover(h.config())
	c := h.config()
	c.StateDir, c.ReadOnly = filepath.Join(h.state, "none"), true
	if diff := cmp.Diff(want, h.discover(c)); diff != "" {
		t.Error(diff)
	}
	if _, err := os.Stat(c.StateDir); err == nil {
		t.Error("it made its folder")
	}
}

func TestRenumberedBuses(t *testing.T) {
	t.Parallel()
	build := func(shift int) *host {
		h := newHost(t, 1, 8, 8<<10)
		h.bus["0"] = shift // the devices' buses; the ports stay where they are on theirs
		for i := range 2 {
			n := i + 1
			port := fmt.Sprintf("0000:00:%02x.0", n)
			h.port(port, "", 4, 0)
			h.gpu(fmt.Sprintf("0000:%02x:00.0", (shift+7*n)%251), port, 0, uint64(n))
			port = fmt.Sprintf("0000:00:%02x.0", n+8)
			h.port(port, "", 4, 0)
			h.nvme(fmt.Sprintf("0000:%02x:00.0", (shift+11*n+100)%251), port, 0, fmt.Sprintf("D%d", n))
		}
		return h
	}
	a, b := build(3), build(140)
	if x, y := lines(a.discover(a.config())), lines(b.discover(b.config())); x != y || !strings.Contains(x, "slot 1: 00-00-00-00-00-00-00-02 D2") {
		t.Errorf("%s\n%s", x, y)
	}
}

func TestPairing(t *testing.T) {
	t.Parallel()
	gpuNode := func(h *host, root, node, serial int) {
		p, a := h.slotPort(root, node)
		h.gpu(a, p, node, uint64(serial))
	}
	drive := func(h *host, root, node int, serial string) {
		p, a := h.slotPort(root, node)
		h.nvme(a, p, node, serial)
	}
	for _, c := range []struct {
		name  string
		build func() *host
		set   func(c *discovery.Config)
		want  string
	}{
		{"the other node's drive rather than none, the near one to whom it is near", func() *host {
			h := newHost(t, 2, 4, 8<<10)
			gpuNode(h, 0x20, 1, 2)
			gpuNode(h, 0, 0, 1)
			drive(h, 0x20, 1, "A")
			drive(h, 0x40, 1, "B")
			return h
		}, nil, `
			slot 0: 00-00-00-00-00-00-00-01 B  node 0, 6 threads, 7168 MiB
			slot 1: 00-00-00-00-00-00-00-02 A  node 1, 6 threads, 7168 MiB`},
		{"more GPUs than cores", func() *host {
			h := newHost(t, 1, 2, 8<<10)
			for i := range 3 {
				gpuNode(h, 0, 0, i+1)
				drive(h, 0, 0, fmt.Sprint("D", i))
			}
			return h
		}, nil, `
			slot 0: 00-00-00-00-00-00-00-01 D0  node 0, 2 threads, 7168 MiB
			spare gpu 00-00-00-00-00-00-00-02: NUMA node 0 has no cores or no memory left for another slot
			spare gpu 00-00-00-00-00-00-00-03: NUMA node 0 has no cores or no memory left for another slot
			spare nvme D1: no GPU is left for it
			spare nvme D2: no GPU is left for it`},
		{"hugepages are what slots are made of", func() *host {
			h := newHost(t, 1, 4, 64<<10)
			gpuNode(h, 0, 0, 1)
			gpuNode(h, 0, 0, 2)
			drive(h, 0, 0, "D1")
			drive(h, 0, 0, "D2")
			h.Write("devices/system/node/node0/hugepages/hugepages-1048576kB/nr_hugepages", "49\n")
			h.Write("devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages", "100\n")
			return h
		}, func(c *discovery.Config) { c.Reserve = discovery.Reserve{Cores: 2} }, `
			slot 0: 00-00-00-00-00-00-00-01 D1  node 0, 2 threads, 24576 MiB
			slot 1: 00-00-00-00-00-00-00-02 D2  node 0, 2 threads, 24576 MiB`},
		{"GPUs of two classes: the more frequent", func() *host {
			h := newHost(t, 1, 4, 8<<10)
			gpuNode(h, 0, 0, 1)
			gpuNode(h, 0, 0, 2)
			p, a := h.slotPort(0, 0)
			h.Add(pcitest.Function{Address: a, Parent: p, IDs: "10de:20b2", Class: pcitest.Class3D, Group: 77, Resets: "flr", Serial: 9})
			drive(h, 0, 0, "D1")
			return h
		}, nil, `
			slot 0: 00-00-00-00-00-00-00-01 D1  node 0, 6 threads, 7168 MiB
			spare gpu 00-00-00-00-00-00-00-09: it is a a100-sxm4-80gb: all slots of a host are of one class, here h100-sxm5-80gb
			spare gpu 00-00-00-00-00-00-00-02: no drive is left for it`},
		{"fewer VFs than GPUs", func() *host {
			h := small(t)
			h.Remove("bus/pci/devices/" + "0000:23:00.1")
			h.Remove("bus/pci/devices/" + "0000:23:00.2")
			h.Remove("bus/pci/devices/" + "0000:03:00.2")
			return h
		}, nil, `
			slot 0: 48-b0-2d-00-00-00-00-00 DRIVE0 b8ce:f603:00a1:0000/vf0 node 0, 6 threads, 7168 MiB
			spare gpu 48-b0-2d-00-00-00-00-01: no virtual function is left for it
			spare nvme DRIVE1: no GPU is left for it`},
		{"VFs are wanted and there are none", func() *host { return small(t) }, func(c *discovery.Config) { c.VF = discovery.VFEthernet }, `
			spare gpu 48-b0-2d-00-00-00-00-00: no virtual function is left for it
			spare gpu 48-b0-2d-00-00-00-00-01: no virtual function is left for it
			spare nvme DRIVE0: no GPU is left for it
			spare nvme DRIVE1: no GPU is left for it`},
		{"no VFs wanted, one slot at most", func() *host { return small(t) }, func(c *discovery.Config) { c.VF, c.SlotsMax = discovery.VFNone, 1 }, `
			slot 0: 48-b0-2d-00-00-00-00-00 DRIVE0  node 0, 6 threads, 7168 MiB
			spare gpu 48-b0-2d-00-00-00-00-01: the host has more GPUs than 1 slots
			spare nvme DRIVE1: no GPU is left for it`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := c.build()
			conf := h.config()
			if c.set != nil {
				c.set(&conf)
			}
			if got, want := lines(h.discover(conf)), strings.ReplaceAll(strings.TrimSpace(c.want), "\t", "")+"\n"; got != want {
				t.Errorf("%s", cmp.Diff(want, got))
			}
		})
	}
}

// Two GPUs and two ports equally near: one port for each, not two functions of one.
func TestPortsAreShared(t *testing.T) {
	t.Parallel()
	h := hgx(t)
	seen := map[string]bool{}
	for _, s := range h.discover(h.config()).Slots {
		if seen[s.IBVF.PF] {
			t.Errorf("port %s has two slots", s.IBVF.PF)
		}
		seen[s.IBVF.PF] = true
	}
}

// Stand-ins have no serial at all: they are known by place where the operator says
// so, and the map says so too. Ethernet VFs are known by their port's own MAC.
func TestStandIns(t *testing.T) {
	t.Parallel()
	h := newHost(t, 1, 4, 4<<10)
	parent, a := h.slotPort(0, -1)
	h.Add(pcitest.Function{Address: a, Parent: parent, IDs: "1234:11e8", Subsystem: "1af4:1100", Class: 0x00ff00, Node: -1, Group: 50, Multi: true, Resets: "af_flr pm"})
	h.Add(pcitest.Function{Address: a[:11] + "1", Parent: parent, IDs: "1234:11e8", Class: 0x00ff00, Node: -1, Group: 50, Multi: true})
	parent, b := h.slotPort(0, -1)
	block := h.nvme(b, parent, -1, "NVMESLOT0")
	at := h.Path(b) + "/nvme/nvme0" // native multipath: the path is hidden, the head is the subsystem's
	h.Remove(at + "/" + block)
	h.Mkdir(at + "/nvme0c0n1")
	h.block("devices/virtual/nvme-subsystem/nvme-subsys0", "nvme0n1", 259, 0)
	h.Link("class/nvme-subsystem/nvme-subsys0/nvme0", at)
	parent, nic := h.slotPort(0, -1)
	h.Add(pcitest.Function{Address: nic, Parent: parent, IDs: "8086:10c9", Class: pcitest.ClassNIC, Node: -1, Group: 60, Driver: "igb", TotalVFs: 8})
	h.Write(h.Path(nic)+"/net/eth7/address", "52:54:00:aa:00:01\n")
	h.Write(h.Path(nic)+"/net/eth7/addr_assign_type", "0\n")
	h.AddVF(nic, pcitest.Function{Address: nic[:8] + "10.0", IDs: "8086:10ca", Class: pcitest.ClassNIC, Node: -1, Group: 61, Resets: "flr"})

	h.Write(h.Path(b)+"/reset_method", "pm\n")

	c := h.config()
	c.GPUs = []discovery.GPU{{IDs: "1234:11e8", Name: "stand-in"}}
	if m := h.discover(c); len(m.Slots) != 0 || !strings.Contains(unsafe(m, a), "nothing identifies it") {
		t.Errorf("%s %v", lines(m), m.Unsafe)
	}
	c.GPUs[0].ByLocation = true
	m := h.discover(c)
	if len(m.Slots) != 1 {
		t.Fatal(lines(m), m.Unsafe)
	}
	s := m.Slots[0]
	if s.GPU.Serial != "location:host-7/pci0000:00/01.0/00.0" || s.GPU.SerialFrom != domain.SerialOfLocation || !strings.Contains(s.Why, "a swap is not noticed") || len(s.GPU.Functions) != 1 || m.GPUClass != "stand-in" {
		t.Errorf("%+v, why %q", s.GPU, s.Why)
	}
	if strings.Join(s.GPU.Resets, " ") != "af_flr pm" || strings.Join(s.NVMe.Resets, " ") != "pm hot" {
		t.Errorf("resets %v of the GPU, %v of the drive, which has its bus to itself", s.GPU.Resets, s.NVMe.Resets)
	}
	if s.NVMe.Serial != "NVMESLOT0" || s.NVMe.SizeBytes == 0 || s.IBVF.Serial != "52:54:00:aa:00:01/vf0" || s.IBVF.GUID != "" || s.IBVF.VFIndex != 0 {
		t.Errorf("%+v %+v", s.NVMe, s.IBVF)
	}
	// In another boot, already handed over: its place is what names it, and nobody has to be asked.
	h.Bind(a, "vfio-pci")
	h.Proc("sys/kernel/random/boot_id", "boot-2\n")
	c.Prove = func(context.Context, pci.Address) (discovery.Facts, error) {
		return discovery.Facts{}, errors.New("asked")
	}
	if m := h.discover(c); len(m.Slots) != 1 || m.Slots[0].GPU.Serial != s.GPU.Serial {
		t.Errorf("after a boot, at vfio-pci: %s %v", lines(m), m.Unsafe)
	}
	h.Write(h.Path(nic)+"/net/eth7/addr_assign_type", "1\n") // made up at random: it will be another one
	if m := h.discover(c); len(m.Slots) != 1 || m.Slots[0].IBVF.Serial != "" || !strings.Contains(unsafe(m, nic[:8]+"10.0"), "no GUID, MAC") {
		t.Error(lines(m), m.Unsafe)
	}
}

// An operator vouches for ports that do not say that they isolate; the map carries
// the profile's name.
func TestACSProfile(t *testing.T) {
	t.Parallel()
	h := small(t)
	for _, port := range []string{"0000:00:01.0", "0000:20:01.0"} {
		h.config0(port, 4096, 0)
		h.Link("kernel/iommu_groups/2/devices/0000:00:01.0", h.Path("0000:00:01.0")) // as the kernel then groups it
	}
	if m := h.discover(h.config()); len(m.Slots) != 0 {
		t.Error(lines(m))
	}
	c := h.config()
	c.ACS = discovery.ACSProfile{Name: "xeon-quirk", Ports: []string{"8086:352*"}}
	if m := h.discover(c); len(m.Slots) != 2 || m.ACSProfile != "xeon-quirk" || !strings.Contains(m.Slots[0].Why, "ACS profile xeon-quirk vouches for port 0000:00:01.0") {
		t.Error(lines(m), m.Unsafe)
	}
	digest := func(ports ...string) domain.Digest {
		c.ACS.Ports = ports
		m := h.discover(c)
		if len(m.ACSPorts) != len(slices.Compact(slices.Sorted(slices.Values(ports)))) || !slices.IsSorted(m.ACSPorts) {
			t.Errorf("%q in the map, vouched for are %q", m.ACSPorts, ports)
		}
		return m.Digest()
	}
	two := digest("8086:352*", "1000:c030")
	if digest("1000:c030", "8086:352*", "1000:c030") != two {
		t.Error("the same ports in another order are another map")
	}
	if digest("8086:352*") == two || digest("8086:352*", "1000:*") == two {
		t.Error("other ports under the same name are the same map")
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/devices.json", []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for say, c := range map[string]discovery.Config{
		"Config.Host is required": {},
		"no kind of VF":           {Host: "h", VF: "token-ring"},
		"needs a name":            {Host: "h", ACS: discovery.ACSProfile{Ports: []string{"*"}}},
		"at most 32 ports":        {Host: "h", ACS: discovery.ACSProfile{Name: "x", Ports: make([]string, 33)}},
		"pattern of 1 to 64":      {Host: "h", ACS: discovery.ACSProfile{Name: "x", Ports: []string{strings.Repeat("1", 65)}}},
		"vouches for no port":     {Host: "h", ACS: discovery.ACSProfile{Name: "strict", Ports: []string{"*"}}},
		"syntax error in pattern": {Host: "h", InternalNICs: []string{"[15b3"}},
		"is damaged":              {Host: "h", StateDir: dir},
	} {
		if _, err := discovery.New(c); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%v, want %q", err, say)
		}
	}
	d, err := discovery.New(discovery.Config{Host: "h", Sys: "/nonexistent"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Discover(context.Background()); err == nil {
		t.Error("a host without sysfs")
	}
}
