package pci

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/gpuaas/gpuaas/hostd/pci/attr"
)

const (
	devicesDir = "bus/pci/devices"
	groupsDir  = "kernel/iommu_groups"
)

// Sysfs is the kernel's view of the PCI devices. It may be used by several
// goroutines.
type Sysfs struct{ Tree *attr.Tree }

// Open opens a sysfs tree: "/sys", or one that a test made.
func Open(root string) (*Sysfs, error) {
	t, err := attr.Open(root)
	if err != nil {
		return nil, err
	}
	return &Sysfs{Tree: t}, nil
}

// Close lets the tree go.
func (s *Sysfs) Close() error { return s.Tree.Close() }

// Addresses lists all functions, in order. A name that is no address is an error:
// a list with a hole could hide a device that shares a group.
func (s *Sysfs) Addresses() ([]Address, error) { return s.addresses(devicesDir) }

// Group is the members of an IOMMU group, in order.
func (s *Sysfs) Group(n uint32) ([]Address, error) {
	return s.addresses(fmt.Sprintf("%s/%d/devices", groupsDir, n))
}

func (s *Sysfs) addresses(dir string) ([]Address, error) {
	names, err := s.Tree.List(dir)
	if err != nil {
		return nil, fmt.Errorf("pci: %w", err)
	}
	out := make([]Address, 0, len(names))
	for _, name := range names {
		a, err := Parse(name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
		out = append(out, a)
	}
	slices.SortFunc(out, Address.Compare)
	return out, nil
}

// Path is the device's directory, as a name in the tree, in its place below its
// root complex: "devices/pci0000:16/0000:16:01.0/0000:17:00.0".
func (s *Sysfs) Path(a Address) (string, error) {
	to, err := s.Tree.Link(path.Join(devicesDir, a.String()))
	if err != nil {
		return "", fmt.Errorf("pci: %w", err)
	}
	if path.Base(to) != a.String() || !strings.HasPrefix(to, "devices/") {
		return "", fmt.Errorf("pci: %s is said to be at %q: %w", a, to, fs.ErrInvalid)
	}
	return to, nil
}

// place reads the path: the name of the root complex, and the bridges below it down
// to the device, which is left out.
func place(dir string) (root string, above []Address, err error) {
	for part := range strings.SplitSeq(path.Dir(dir), "/") {
		if isRoot(part) {
			root, above = part, nil // behind a VMD a root stands below a device
			continue
		}
		a, perr := Parse(part)
		switch {
		case perr == nil && root != "":
			above = append(above, a)
		case root != "":
			return "", nil, fmt.Errorf("pci: %q is in the path of a device: %w", part, fs.ErrInvalid)
		}
	}
	if root == "" {
		return "", nil, fmt.Errorf("pci: %s is below no root complex: %w", dir, fs.ErrInvalid)
	}
	if len(above) > pathMax {
		return "", nil, fmt.Errorf("pci: %s: more than %d bridges above a device", dir, pathMax)
	}
	return root, above, nil
}

// pathMax bounds the bridges above one device; real machines have at most five.
const pathMax = 32

// isRoot: "pci0000:16", a root bus.
func isRoot(part string) bool {
	rest, ok := strings.CutPrefix(part, "pci")
	if !ok {
		return false
	}
	_, err := Parse(rest + ":00.0")
	return err == nil
}

// optional makes an attribute that is not there no error.
func optional[T any](v T, err error) (T, error) {
	if errors.Is(err, fs.ErrNotExist) {
		var zero T
		return zero, nil
	}
	return v, err
}
