package pci_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gpuaas/gpuaas/hostd/pci"
	"github.com/gpuaas/gpuaas/hostd/pci/attr"
	"github.com/gpuaas/gpuaas/hostd/pci/pcitest"
)

func addr(t testing.TB, s string) pci.Address {
	t.Helper()
	a, err := pci.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAddress(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"0000:00:00.0", "0000:17:1f.7", "10000:e1:00.0", "ffffffff:ff:1f.7"} {
		if a := addr(t, s); a.String() != s {
			t.Errorf("%s is written %s", s, a)
		}
	}
	for _, s := range []string{
		"", "17:00.0", "0000:17:00", "0000:17:00.8", "0000:17:20.0", "0000:17:00.0 ", "0000:17:00.0\n", "0000:17:00.01", "000:17:00.0", "00000:17:00.0",
		"0000:1F:00.0", "+000:17:00.0", "0000:+7:00.0", "100000000:00:00.0", "0000:17-00.0", "0000:17:00:0", "../../etc", strings.Repeat("0", 1<<16),
	} {
		if a, err := pci.Parse(s); err == nil {
			t.Errorf("%.40q is read as %s", s, a)
		}
	}
	if a, b := addr(t, "0001:00:00.0"), addr(t, "0000:ff:1f.7"); a.Compare(b) <= 0 || a.SameDevice(b) {
		t.Error("the domain does not count")
	}
}

func FuzzParse(f *testing.F) {
	f.Add("0000:17:00.1")
	f.Fuzz(func(t *testing.T, s string) {
		if a, err := pci.Parse(s); err == nil && a.String() != s {
			t.Errorf("%q is read as %s", s, a)
		}
	})
}

// host is a GPU with its audio function behind a switch, and a NIC with two VFs.
func host(t testing.TB) *pcitest.Tree {
	s := pcitest.New(t)
	port := pcitest.Function{Class: pcitest.ClassBridge, IDs: "8086:352a", Driver: "pcieport", ACS: pcitest.FullACS}
	for i, p := range []struct {
		address, parent string
		typ             pci.PortType
	}{{"0000:16:01.0", "", pci.RootPort}, {"0000:17:00.0", "0000:16:01.0", pci.UpstreamPort}, {"0000:18:00.0", "0000:17:00.0", pci.DownstreamPort}, {"0000:18:04.0", "0000:17:00.0", pci.DownstreamPort}} {
		f := port
		f.Address, f.Parent, f.Type, f.Group = p.address, p.parent, p.typ, i
		if f.Type == pci.UpstreamPort {
			f.ACS = 0
		}
		s.Add(f)
	}
	s.Add(pcitest.Function{
		Address: "0000:19:00.0", Parent: "0000:18:00.0", IDs: "10de:2330", Subsystem: "10de:16c1", Class: pcitest.Class3D, Group: 10, Node: 1,
		Driver: "vfio-pci", Resets: "flr bus", BARs: []uint64{16 << 20, 128 << 30, 32 << 20}, Serial: 0x48b02d0000c0ffee, Multi: true,
	})
	s.Add(pcitest.Function{Address: "0000:19:00.1", Parent: "0000:18:00.0", IDs: "10de:22ba", Class: pcitest.ClassAudio, Group: 10, Multi: true, Node: -1})
	s.Add(pcitest.Function{Address: "0000:1a:00.0", Parent: "0000:18:04.0", IDs: "15b3:1021", Class: pcitest.ClassIB, Group: 11, TotalVFs: 16, Driver: "mlx5_core"})
	for i := range 2 {
		s.AddVF("0000:1a:00.0", pcitest.Function{Address: fmt.Sprintf("0000:1a:00.%d", i+1), IDs: "15b3:101e", Class: pcitest.ClassIB, Group: 12 + i, Resets: "flr"})
	}
	return s
}

func TestDevice(t *testing.T) {
	t.Parallel()
	s := host(t)
	sys := s.Open()
	got, err := sys.Device(addr(t, "0000:19:00.0"))
	if err != nil {
		t.Fatal(err)
	}
	want := &pci.Device{
		Address: addr(t, "0000:19:00.0"), Vendor: 0x10de, ID: 0x2330, SubVendor: 0x10de, SubID: 0x16c1, Class: 0x030200, Revision: 0xa1, NUMANode: 1,
		Driver: "vfio-pci", Grouped: true, Group: 10, Members: []pci.Address{addr(t, "0000:19:00.0"), addr(t, "0000:19:00.1")}, Resets: []string{"flr", "bus"},
		BARs: []pci.BAR{{0, 16 << 20, false, true, true}, {2, 128 << 30, false, true, true}, {4, 32 << 20, false, true, true}},
		Root: "pci0000:16", Above: []pci.Address{addr(t, "0000:16:01.0"), addr(t, "0000:17:00.0"), addr(t, "0000:18:00.0")}, Multifunction: true,
		ACS: pci.ACS{Known: true}, SerialNumber: 0x48b02d0000c0ffee, Path: "devices/pci0000:16/0000:16:01.0/0000:17:00.0/0000:18:00.0/0000:19:00.0",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	vf, err := sys.Device(addr(t, "0000:1a:00.2"))
	if err != nil || !vf.VF || vf.VFIndex != 1 || vf.PF.String() != "0000:1a:00.0" || !slices.Equal(vf.Above, []pci.Address{addr(t, "0000:16:01.0"), addr(t, "0000:17:00.0"), addr(t, "0000:18:04.0")}) {
		t.Errorf("VF: %+v %v", vf, err)
	}
	pf, err := sys.Device(addr(t, "0000:1a:00.0"))
	if err != nil || pf.VF || pf.TotalVFs != 16 || pf.NumVFs != 2 || len(pf.VFs) != 2 {
		t.Errorf("PF: %+v %v", pf, err)
	}
	if all, err := sys.Addresses(); err != nil || len(all) != 9 || !slices.IsSortedFunc(all, pci.Address.Compare) {
		t.Errorf("all: %v %v", all, err)
	}
	if _, err := sys.Device(addr(t, "0001:19:00.0")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a device in another domain: %v", err)
	}
}

func TestACS(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		a        pci.ACS
		isolates bool
	}{
		{"unknown", pci.ACS{Present: true, Cap: 0x1d, Ctrl: 0x1d}, false},
		{"absent", pci.ACS{Known: true}, false},
		{"on", pci.ACS{Known: true, Present: true, Cap: 0x5f, Ctrl: 0x1d}, true},
		{"off", pci.ACS{Known: true, Present: true, Cap: 0x5f}, false},
		{"no upstream forwarding", pci.ACS{Known: true, Present: true, Cap: 0x1d, Ctrl: 0x0d}, false},
		{"redirect hard-wired", pci.ACS{Known: true, Present: true, Cap: 0x11, Ctrl: 0x11}, true},
	} {
		if got := c.a.Isolates(); got != c.isolates {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	for size, known := range map[int]bool{64: false, 256: false, 4095: false, 4096: true} {
		s := pcitest.New(t)
		s.Add(pcitest.Function{Address: "0000:00:01.0", Class: pcitest.ClassBridge, ACS: pcitest.FullACS, Serial: 7, ConfigSize: size, Type: pci.RootPort})
		d, err := s.Open().Device(addr(t, "0000:00:01.0"))
		if err != nil || d.ACS.Known != known || d.ACS.Isolates() != known || d.SerialNumber != map[bool]uint64{true: 7}[known] {
			t.Errorf("%d bytes of config space: %+v %v", size, d, err)
		}
		if d != nil && (d.Type == pci.RootPort) != (size >= 256) {
			t.Errorf("%d bytes of config space: port type %d", size, d.Type)
		}
	}
}

// Trees that no kernel makes: an error that says where, or nothing known; never a
// file outside the tree.
func TestHostileTrees(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("0xbeef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const gpu = "0000:19:00.0"
	raw := func(s *pcitest.Tree, name, to string) {
		s.Remove(name)
		if err := os.Symlink(to, filepath.Join(s.Dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, say string
		do        func(s *pcitest.Tree, dir string)
	}{
		{"link out", "escapes", func(s *pcitest.Tree, dir string) { raw(s, dir+"/device", secret) }},
		{"link out upwards", "escapes", func(s *pcitest.Tree, dir string) { raw(s, dir+"/device", strings.Repeat("../", 40)+secret[1:]) }},
		{"link to itself", "levels of symbolic links", func(s *pcitest.Tree, dir string) { raw(s, dir+"/class", "class") }},
		{"device link out", "out of the tree", func(s *pcitest.Tree, dir string) { raw(s, "bus/pci/devices/"+gpu, "../../../../../etc/"+gpu) }},
		{"device elsewhere", "is said to be at", func(s *pcitest.Tree, dir string) { s.Link("bus/pci/devices/"+gpu, "devices/pci0000:16/0000:16:01.0") }},
		{"below no root", "no root complex", func(s *pcitest.Tree, dir string) { s.Link("bus/pci/devices/"+gpu, "devices/virtual/"+gpu) }},
		{"huge file", "larger than", func(s *pcitest.Tree, dir string) { s.Write(dir+"/config", strings.Repeat("x", attr.FileMax+1)) }},
		{"missing id", "no such file", func(s *pcitest.Tree, dir string) { s.Remove(dir + "/vendor") }},
		{"garbage id", "not a number", func(s *pcitest.Tree, dir string) { s.Write(dir+"/device", "0xzz\n") }},
		{"id of too many bits", "not a number", func(s *pcitest.Tree, dir string) { s.Write(dir+"/device", "0x12345\n") }},
		{"control characters", "printable", func(s *pcitest.Tree, dir string) { s.Write(dir+"/driver_override", "vfio\x1b[2J\n") }},
		{"directory for a file", "invalid", func(s *pcitest.Tree, dir string) { s.Remove(dir + "/class"); s.Mkdir(dir + "/class") }},
		{"absurd node", "NUMA node", func(s *pcitest.Tree, dir string) { s.Write(dir+"/numa_node", "4096\n") }},
		{"garbage resource", "resource 0", func(s *pcitest.Tree, dir string) { s.Write(dir+"/resource", "0x1 what\n") }},
		{"upside-down resource", "resource 0", func(s *pcitest.Tree, dir string) { s.Write(dir+"/resource", "0x20 0x10 0x200\n") }},
		{"all memory", "resource 0", func(s *pcitest.Tree, dir string) { s.Write(dir+"/resource", "0x0 0xffffffffffffffff 0x200\n") }},
		{"group of others", "not a member", func(s *pcitest.Tree, dir string) { s.Link(dir+"/iommu_group", "kernel/iommu_groups/11") }},
		{"group nowhere", "iommu_group", func(s *pcitest.Tree, dir string) { s.Link(dir+"/iommu_group", "kernel/5") }},
		{"group that is not", "no such file", func(s *pcitest.Tree, dir string) { s.Link(dir+"/iommu_group", "kernel/iommu_groups/99") }},
		{"name in a group", "no address", func(s *pcitest.Tree, dir string) { s.Write("kernel/iommu_groups/10/devices/lo", "") }},
		{"VF of nobody", "does not know it", func(s *pcitest.Tree, dir string) { s.Link(dir+"/physfn", "devices/pci0000:16/0000:16:01.0") }},
		{"VF of itself", "does not know it", func(s *pcitest.Tree, dir string) { s.Link(dir+"/physfn", dir) }},
		{"endless VFs", "virtual functions", func(s *pcitest.Tree, dir string) { s.Write(dir+"/sriov_numvfs", "65535\n") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := host(t)
			c.do(s, s.Path(gpu))
			d, err := s.Open().Device(addr(t, gpu))
			if err == nil || !strings.Contains(err.Error(), c.say) {
				t.Errorf("%+v, %v; want an error with %q", d, err, c.say)
			}
		})
	}
	s := host(t)
	s.Remove(s.Path(gpu) + "/numa_node")
	s.Remove(s.Path(gpu) + "/iommu_group")
	if d, err := s.Open().Device(addr(t, gpu)); err != nil || d.NUMANode != -1 || d.Grouped {
		t.Errorf("nothing known: %+v %v", d, err)
	}
	s.Mkdir("bus/pci/devices/lo")
	if _, err := s.Open().Addresses(); err == nil {
		t.Error("a device whose name is no address was passed over")
	}
}

// A chain of capabilities that bites its tail ends.
func FuzzConfig(f *testing.F) {
	f.Add(make([]byte, 4096))
	f.Add([]byte(strings.Repeat("\x10\x34\x56\x10", 1024)))
	s := pcitest.New(f)
	s.Add(pcitest.Function{Address: "0000:00:01.0", Class: pcitest.ClassBridge, ACS: pcitest.FullACS, Serial: 7})
	sys := s.Open()
	config := filepath.Join(s.Dir, s.Path("0000:00:01.0"), "config")
	own, err := os.ReadFile(config)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(own)
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(config, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if d, err := sys.Device(pci.Address{Device: 1}); err == nil && len(b) < 4096 && d.ACS.Isolates() {
			t.Error("isolation is claimed of what was not read")
		}
	})
}

func TestDeadDevice(t *testing.T) {
	t.Parallel()
	s := host(t)
	s.Write(s.Path("0000:19:00.0")+"/config", strings.Repeat("\xff", 4096))
	s.Write(s.Path("0000:1a:00.1")+"/config", strings.Repeat("\xff", 4)+strings.Repeat("\x00", 60)) // as VFs' ids read
	sys := s.Open()
	if d, err := sys.Device(addr(t, "0000:19:00.0")); err != nil || !d.Dead || d.ACS.Known {
		t.Errorf("off the bus: %+v %v", d, err)
	}
	if d, err := sys.Device(addr(t, "0000:1a:00.1")); err != nil || d.Dead {
		t.Errorf("a VF: %+v %v", d, err)
	}
	s.Write(s.Path("0000:1a:00.1")+"/config", strings.Repeat("\xff", 64))
	if d, err := sys.Device(addr(t, "0000:1a:00.1")); err != nil || !d.Dead {
		t.Errorf("a VF off the bus: %+v %v", d, err)
	}
}
