// Package pcitest makes sysfs trees for tests: what a kernel would show of PCI
// devices, bridges and IOMMU groups, in a directory of its own. Anything may be
// broken afterwards with [Tree.Write], [Tree.Link] and [Tree.Remove].
package pcitest

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gpuaas/gpuaas/hostd/pci"
)

// Tree is a sysfs tree in Dir.
type Tree struct {
	Dir   string
	t     testing.TB
	paths map[string]string // address -> directory below devices/
}

// New makes an empty tree, removed with the test.
func New(t testing.TB) *Tree {
	s := &Tree{Dir: TempDir(t), t: t, paths: map[string]string{}}
	for _, d := range []string{"bus/pci/devices", "bus/pci/drivers", "kernel/iommu_groups", "devices"} {
		s.must(os.MkdirAll(filepath.Join(s.Dir, d), 0o755))
	}
	return s
}

// TempDir is like t.TempDir, in memory if there is a tmpfs: a tree has thousands of
// files.
func TempDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "gpuaas-test")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (s *Tree) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// Open opens the tree; it is closed with the test.
func (s *Tree) Open() *pci.Sysfs {
	fs, err := pci.Open(s.Dir)
	s.must(err)
	s.t.Cleanup(func() { _ = fs.Close() })
	return fs
}

// Write makes or overwrites a file, and the directories above it.
func (s *Tree) Write(name, content string) {
	s.t.Helper()
	p := filepath.Join(s.Dir, name)
	s.must(os.MkdirAll(filepath.Dir(p), 0o755))
	s.must(os.WriteFile(p, []byte(content), 0o644))
}

// Mkdir makes a directory, and those above it.
func (s *Tree) Mkdir(name string) {
	s.t.Helper()
	s.must(os.MkdirAll(filepath.Join(s.Dir, name), 0o755))
}

// Remove takes a file or directory away with all that is in it.
func (s *Tree) Remove(name string) { s.must(os.RemoveAll(filepath.Join(s.Dir, name))) }

// Link makes a relative symbolic link at name to another name in the tree, in the
// place of one that is there.
func (s *Tree) Link(name, to string) {
	s.t.Helper()
	p := filepath.Join(s.Dir, name)
	s.must(os.MkdirAll(filepath.Dir(p), 0o755))
	rel, err := filepath.Rel(filepath.Dir(p), filepath.Join(s.Dir, to))
	s.must(err)
	_ = os.Remove(p)
	s.must(os.Symlink(rel, p))
}

// Function describes one PCI function. Zero values are left out of the tree, or
// mean 0.
type Function struct {
	Address    string
	Parent     string // address of the bridge above; "": Root
	Root       string // "pci0000:16"; taken from the address if there is no parent
	IDs        string // "10de:2330"
	Subsystem  string // "10de:16c1"
	Class      uint32 // 0x030200
	Node       int    // NUMA node, -1: not said
	Group      int    // IOMMU group; negative: none
	Driver     string
	Resets     string   // "flr bus"
	BARs       []uint64 // sizes of 64-bit prefetchable BARs
	TotalVFs   int
	Type       pci.PortType
	Multi      bool   // of several functions
	ACS        uint16 // capability and control; 0: no such capability
	Serial     uint64 // Device Serial Number capability
	ConfigSize int    // bytes of config space that can be read; 0: all 4096
}

// Classes of PCI functions.
const (
	ClassVGA    = 0x030000
	Class3D     = 0x030200
	ClassAudio  = 0x040300
	ClassNVMe   = 0x010802
	ClassNIC    = 0x020000
	ClassIB     = 0x020700
	ClassBridge = 0x060400
	ClassHost   = 0x060000
)

// FullACS is what an isolating port has switched on.
const FullACS = 0x1d

// Add puts a function into the tree.
func (s *Tree) Add(f Function) {
	s.t.Helper()
	dir := f.Root
	if f.Parent != "" {
		dir = s.paths[f.Parent]
		if dir == "" {
			s.t.Fatalf("%s: no parent %s", f.Address, f.Parent)
		}
	} else if dir == "" {
		domain, bus, _ := strings.Cut(f.Address, ":")
		dir = "devices/pci" + domain + ":" + bus[:2]
	}
	if !strings.HasPrefix(dir, "devices/") {
		dir = "devices/" + dir
	}
	dir += "/" + f.Address
	s.paths[f.Address] = dir
	vendor, id, _ := strings.Cut(f.IDs, ":")
	subVendor, subID, _ := strings.Cut(f.Subsystem, ":")
	hex := func(v string) string {
		if v == "" {
			v = "0000"
		}
		return "0x" + v + "\n"
	}
	at := func(name string) string { return dir + "/" + name }
	s.Write(at("vendor"), hex(vendor))
	s.Write(at("device"), hex(id))
	s.Write(at("subsystem_vendor"), hex(subVendor))
	s.Write(at("subsystem_device"), hex(subID))
	s.Write(at("class"), fmt.Sprintf("0x%06x\n", f.Class))
	s.Write(at("revision"), "0xa1\n")
	s.Write(at("numa_node"), fmt.Sprintf("%d\n", f.Node))
	s.Write(at("driver_override"), "(null)\n")
	s.Write(at("resource"), resource(f.BARs))
	s.Write(at("config"), string(f.Config()))
	if f.Resets != "" {
		s.Write(at("reset_method"), f.Resets+"\n")
	}
	if f.TotalVFs > 0 {
		s.Write(at("sriov_totalvfs"), fmt.Sprintf("%d\n", f.TotalVFs))
		s.Write(at("sriov_numvfs"), "0\n")
	}
	if f.Group >= 0 {
		s.SetGroup(f.Address, f.Group)
	}
	if f.Driver != "" {
		s.Bind(f.Address, f.Driver)
	}
	s.Link("bus/pci/devices/"+f.Address, dir)
}

// Path is the directory of a device that was added.
func (s *Tree) Path(address string) string { return s.paths[address] }

// Bind says that a driver has the device; "" says that none has.
func (s *Tree) Bind(address, driver string) {
	if driver == "" {
		s.Remove(s.paths[address] + "/driver")
		return
	}
	s.Mkdir("bus/pci/drivers/" + driver)
	s.Link(s.paths[address]+"/driver", "bus/pci/drivers/"+driver)
}

// SetGroup puts a device into an IOMMU group.
func (s *Tree) SetGroup(address string, n int) {
	group := fmt.Sprintf("kernel/iommu_groups/%d", n)
	s.Link(group+"/devices/"+address, s.paths[address])
	s.Link(s.paths[address]+"/iommu_group", group)
}

// AddVF puts the next virtual function of pf into the tree.
func (s *Tree) AddVF(pf string, f Function) {
	s.t.Helper()
	n := 0
	for {
		if _, err := os.Lstat(filepath.Join(s.Dir, s.paths[pf], fmt.Sprintf("virtfn%d", n))); err != nil {
			break
		}
		n++
	}
	f.Parent = ""
	f.Root = filepath.Dir(s.paths[pf])
	s.Add(f)
	s.Link(s.paths[f.Address]+"/physfn", s.paths[pf])
	s.Link(fmt.Sprintf("%s/virtfn%d", s.paths[pf], n), s.paths[f.Address])
	s.Write(s.paths[pf]+"/sriov_numvfs", fmt.Sprintf("%d\n", n+1))
}

// resource is the file of that name: BARs 0, 2, 4, and nothing else.
func resource(sizes []uint64) string {
	var b strings.Builder
	start := uint64(0x20000000000)
	for i := range 7 {
		if i%2 == 1 || i/2 >= len(sizes) || sizes[i/2] == 0 {
			b.WriteString("0x0000000000000000 0x0000000000000000 0x0000000000000000\n")
			continue
		}
		fmt.Fprintf(&b, "0x%016x 0x%016x 0x000000000014220c\n", start, start+sizes[i/2]-1)
		start += sizes[i/2]
	}
	return b.String()
}

// Config is the function's config space.
func (f *Function) Config() []byte {
	c := make([]byte, 4096)
	le := binary.LittleEndian
	le.PutUint16(c[0x06:], 0x10)
	if f.Multi {
		c[0x0e] = 0x80
	}
	c[0x34], c[0x40] = 0x40, 0x10 // one capability: PCI Express
	le.PutUint16(c[0x42:], uint16(f.Type)<<4|2)
	at := 0
	ext := func(id uint32) int {
		next := 0x100
		if at != 0 {
			next = at + 0x20
			le.PutUint32(c[at:], le.Uint32(c[at:])|uint32(next)<<20)
		}
		at = next
		le.PutUint32(c[at:], id|1<<16)
		return at
	}
	if f.Serial != 0 {
		le.PutUint64(c[ext(0x0003)+4:], f.Serial)
	}
	if f.ACS != 0 {
		n := ext(0x000d)
		le.PutUint16(c[n+4:], f.ACS)
		le.PutUint16(c[n+6:], f.ACS)
	}
	if f.ConfigSize > 0 {
		c = c[:f.ConfigSize]
	}
	return c
}
