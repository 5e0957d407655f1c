package pci

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// ClearingResets are the kernel's reset methods after which nothing of what a device
// held is left, best first: of the function alone (PCI Express, or the older Advanced
// Features), and of its whole bus. A change of the power state ("pm") may keep what it
// likes; what "acpi" and "device_specific" do is the board's and the kernel's secret.
var ClearingResets = []string{"flr", "af_flr", "bus"}

// Device is one PCI function, as it was when it was read.
type Device struct {
	Address          Address
	Vendor, ID       uint16
	SubVendor, SubID uint16
	Class            uint32 // 24 bits: class, subclass, programming interface
	Revision         uint8
	NUMANode         int // -1: the firmware does not say
	Driver           string
	Override         string    // driver_override, "" if there is none
	Grouped          bool      // it is in an IOMMU group; false: no IOMMU, or not switched on
	Group            uint32    // number of the group: it changes between boots
	Members          []Address // all functions in the group, in order, itself included
	Resets           []string  // reset_method, in the kernel's order of preference; nil: no reset
	BARs             []BAR
	TotalVFs, NumVFs uint16    // SR-IOV: how many it could have, how many there are
	PF               Address   // of a VF
	VF               bool      // it is one
	VFIndex          int       // of a VF: which of its PF's
	VFs              []Address // of a PF, by index
	Root             string    // root complex and bus: "pci0000:16"
	Above            []Address // bridges from the root port down to the device
	Type             PortType
	Multifunction    bool
	ACS              ACS
	SerialNumber     uint64 // Device Serial Number capability; 0: none, or config space not readable
	Dead             bool   // config space reads as all ones: it has fallen off the bus
	Path             string // its directory in the tree
}

// BAR is one base address register.
type BAR struct {
	Index        int // 0 to 5; 6 is the expansion ROM
	Size         uint64
	IO           bool // an I/O port range
	Wide         bool // 64 bits
	Prefetchable bool
}

// Bridge reports whether it is a PCI-to-PCI bridge: a root port, a port of a
// switch. Other bridges (class 06xx), such as an NVSwitch, are devices like any.
func (d *Device) Bridge() bool { return d.Class>>8 == 0x0604 }

// IDs is "vendor:device", as in "10de:2330".
func (d *Device) IDs() string { return fmt.Sprintf("%04x:%04x", d.Vendor, d.ID) }

// Subsystem is the subsystem's "vendor:device".
func (d *Device) Subsystem() string { return fmt.Sprintf("%04x:%04x", d.SubVendor, d.SubID) }

// Device reads one function. The error says which file made no sense; a device that
// is not there is fs.ErrNotExist.
func (s *Sysfs) Device(a Address) (*Device, error) {
	dir, err := s.Path(a)
	if err != nil {
		return nil, err
	}
	d := &Device{Address: a, Path: dir}
	if d.Root, d.Above, err = place(dir); err != nil {
		return nil, err
	}
	for _, read := range []func(*Device) error{s.ids, s.driver, s.group, s.resets, s.bars, s.virtual, s.config} {
		if err := read(d); err != nil {
			return nil, fmt.Errorf("pci: %s: %w", a, err)
		}
	}
	return d, nil
}

// nodeMax is the highest NUMA node that a slot map can name.
const nodeMax = 255

func (s *Sysfs) ids(d *Device) error {
	var sum error
	read := func(name string, bits int) uint64 {
		v, err := s.Tree.Uint(path.Join(d.Path, name), bits)
		sum = errors.Join(sum, err)
		return v
	}
	d.Vendor, d.ID = uint16(read("vendor", 16)), uint16(read("device", 16))
	d.SubVendor, d.SubID = uint16(read("subsystem_vendor", 16)), uint16(read("subsystem_device", 16))
	d.Class, d.Revision = uint32(read("class", 24)), uint8(read("revision", 8))
	node, err := s.Tree.Int(path.Join(d.Path, "numa_node"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		node, err = -1, nil
	case node > nodeMax:
		err = fmt.Errorf("NUMA node %d: no machine has that many", node)
	}
	d.NUMANode = max(int(node), -1)
	return errors.Join(sum, err)
}

func (s *Sysfs) driver(d *Device) (err error) {
	if d.Driver, err = optional(s.Tree.Base(path.Join(d.Path, "driver"))); err != nil {
		return err
	}
	d.Override, err = optional(s.Tree.Text(path.Join(d.Path, "driver_override")))
	if d.Override == "(null)" { // how the kernel writes that there is none
		d.Override = ""
	}
	return err
}

// group reads the IOMMU group. A device that is not among its group's members, as
// only a hand-made tree can say, is an error.
func (s *Sysfs) group(d *Device) error {
	to, err := s.Tree.Link(path.Join(d.Path, "iommu_group"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	n, perr := strconv.ParseUint(path.Base(to), 10, 32)
	if perr != nil || path.Dir(to) != groupsDir {
		return fmt.Errorf("iommu_group is %q", to)
	}
	d.Grouped, d.Group = true, uint32(n)
	if d.Members, err = s.Group(d.Group); err != nil {
		return err
	}
	if !slices.Contains(d.Members, d.Address) {
		return fmt.Errorf("is not a member of its IOMMU group %d", d.Group)
	}
	return nil
}

func (s *Sysfs) resets(d *Device) error {
	line, err := optional(s.Tree.Text(path.Join(d.Path, "reset_method")))
	d.Resets = strings.Fields(line)
	return err
}

// Resource flags (include/linux/ioport.h).
const (
	resourceIO       = 0x100
	resourceMem      = 0x200
	resourcePrefetch = 0x2000
	resource64       = 0x100000
)

// bars reads the device's own registers: six BARs and the ROM. What follows in the
// file are the windows of bridges and the BARs of VFs.
func (s *Sysfs) bars(d *Device) error {
	b, err := optional(s.Tree.Bytes(path.Join(d.Path, "resource")))
	if err != nil {
		return err
	}
	for i, line := range strings.SplitN(string(b), "\n", 8) {
		var start, end, flags uint64
		if i == 7 || line == "" {
			break
		}
		if n, err := fmt.Sscanf(line, "0x%x 0x%x 0x%x", &start, &end, &flags); n != 3 || err != nil || end < start || end-start == 1<<64-1 {
			return fmt.Errorf("resource %d is %q", i, line[:min(len(line), 64)])
		}
		if flags&(resourceIO|resourceMem) == 0 || end == 0 {
			continue
		}
		d.BARs = append(d.BARs, BAR{
			Index: i, Size: end - start + 1, IO: flags&resourceIO != 0, Wide: flags&resource64 != 0, Prefetchable: flags&resourcePrefetch != 0,
		})
	}
	return nil
}

// virtual reads SR-IOV: of a PF its VFs, of a VF its PF.
func (s *Sysfs) virtual(d *Device) error {
	total, e1 := optional(s.Tree.Uint(path.Join(d.Path, "sriov_totalvfs"), 16))
	num, e2 := optional(s.Tree.Uint(path.Join(d.Path, "sriov_numvfs"), 16))
	if err := errors.Join(e1, e2); err != nil {
		return err
	}
	d.TotalVFs, d.NumVFs = uint16(total), uint16(num)
	var err error
	if d.VFs, err = s.virtfns(d.Path, d.NumVFs); err != nil {
		return err
	}
	name, err := optional(s.Tree.Base(path.Join(d.Path, "physfn")))
	if err != nil || name == "" {
		return err
	}
	if d.PF, err = Parse(name); err != nil {
		return err
	}
	d.VF = true
	dir, err := s.Path(d.PF)
	if err != nil {
		return err
	}
	all, err := s.virtfns(dir, vfsMax)
	if err != nil {
		return err
	}
	if d.VFIndex = slices.Index(all, d.Address); d.VFIndex < 0 {
		return fmt.Errorf("its PF %s does not know it", d.PF)
	}
	return nil
}

// vfsMax bounds the virtual functions of one device; real ones have up to 256.
const vfsMax = 512

// virtfns follows virtfn0, virtfn1, ... up to n of them, or to the first that is
// not there.
func (s *Sysfs) virtfns(dir string, n uint16) ([]Address, error) {
	if n > vfsMax {
		return nil, fmt.Errorf("%d virtual functions, at most %d are believed", n, vfsMax)
	}
	var out []Address
	for i := range n {
		name, err := s.Tree.Base(path.Join(dir, fmt.Sprintf("virtfn%d", i)))
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return nil, err
		}
		a, err := Parse(name)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

func (s *Sysfs) config(d *Device) error {
	b, err := optional(s.Tree.Bytes(path.Join(d.Path, "config")))
	if err != nil {
		return err
	}
	c := space(b)
	d.Dead = c.u16(0) == 0xffff && !(d.VF && Answers(b)) // a VF has no vendor id of its own there
	d.Type, d.Multifunction, d.ACS, d.SerialNumber = c.portType(), c.multifunction(), c.acs(), c.serial()
	return nil
}
