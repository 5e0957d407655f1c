package linux

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/discovery"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/pci"
	"github.com/gpuaas/gpuaas/hostd/vfio"
)

// hold hands all functions of the slots to vfio-pci. A drive that was not read by its
// serial since the host booted is read first: what is at its address may be another.
// It changes nothing where nothing is missing.
func (m *Machine) hold(ctx context.Context, slots []domain.SlotSpec) error {
	set, err := vfio.SetOf(slots...)
	if err != nil {
		return err
	}
	for i, slot := range slots {
		if m.known(set.Drives[i], slot.NVMe.Serial) {
			continue
		}
		if err := m.meet(ctx, set, set.Drives[i], slot); err != nil {
			return err
		}
	}
	return m.bind.Give(ctx, set)
}

// known says whether the serial was read from the device that is at the address.
func (m *Machine) known(a pci.Address, serial string) bool {
	inode, err := m.inode(a)
	return err == nil && m.book.is(serial, a, inode)
}

func (m *Machine) inode(a pci.Address) (uint64, error) {
	path, err := m.sys.Path(a)
	if err != nil {
		return 0, err
	}
	return m.sys.Tree.Inode(path)
}

// meet brings a slot's drive to the nvme driver and reads its serial there, which
// needs no namespace: a tenant may have deleted it. Faults: drive.other when there is
// another drive at the address; drive.silent, which is no proof of anything yet.
func (m *Machine) meet(ctx context.Context, set vfio.Set, a pci.Address, slot domain.SlotSpec) error {
	inode, err := m.inode(a)
	if err != nil {
		return err
	}
	if err := m.bind.Take(ctx, set, a, vfio.DriverNVMe); err != nil {
		return err
	}
	has, err := m.bind.Serial(ctx, a)
	if err != nil {
		return &machine.Fault{Code: "drive.silent", Slot: slot.Index, Err: err}
	}
	if want := slot.NVMe.Serial; has != want {
		return &machine.Fault{
			Code: "drive.other", Slot: slot.Index, Component: "nvme", Scope: "device",
			Err: fmt.Errorf("linux: the drive at %s has serial %q, want %q", a, has, want),
		}
	}
	if after, err := m.inode(a); err != nil || after != inode {
		return errors.Join(fmt.Errorf("linux: the device at %s went away while its serial was read", a), err)
	}
	return m.book.saw(has, a, inode)
}

// takeDrive meets a drive and waits for its one namespace.
func (m *Machine) takeDrive(ctx context.Context, set vfio.Set, a pci.Address, slot domain.SlotSpec) (*vfio.Namespace, error) {
	if err := m.meet(ctx, set, a, slot); err != nil {
		return nil, err
	}
	return m.bind.Namespace(ctx, a, slot.NVMe.Serial)
}

// exclusive opens the drive's block device for nobody else: what is mounted, or held
// by device mapper, md or swap, is refused with drive.in_use. It makes sure that the
// node in /dev is that namespace.
func (m *Machine) exclusive(ns *vfio.Namespace) (*os.File, error) {
	path := m.node(ns)
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, &machine.Fault{Code: "drive.in_use", Component: "nvme", Scope: "host", Err: fmt.Errorf("the host itself uses %s: mounted, LVM, md or swap: %w", path, err)}
	}
	if err != nil {
		return nil, fmt.Errorf("linux: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, errors.Join(fmt.Errorf("linux: %w", err), f.Close())
	}
	dev := fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	if !m.files && (st.Mode&unix.S_IFMT != unix.S_IFBLK || dev != ns.Dev) {
		return nil, errors.Join(fmt.Errorf("linux: %s is %s, want the block device %s", path, dev, ns.Dev), f.Close())
	}
	return f, nil
}

// node is the namespace's block device in /dev.
func (m *Machine) node(ns *vfio.Namespace) string {
	return filepath.Join(m.o.Discovery.Dev, ns.Block)
}

// work marks a block device as in use by an act of ours until release is called, so
// that a look at the hardware does not take that for somebody else's use.
func (m *Machine) work(block string) (release func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.working[block] = true
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.working, block)
	}
}

// disks is how discovery looks at block devices, but for those that are being worked
// on.
type disks struct {
	discovery.Disks
	m *Machine
}

// Busy implements discovery.Disks.
func (d *disks) Busy(name, dev string) (bool, error) {
	d.m.mu.Lock()
	working := d.m.working[name]
	d.m.mu.Unlock()
	if working {
		return false, nil
	}
	return d.Disks.Busy(name, dev)
}

// once says whether a namespace is of a drive that was a slot's, while no approved map
// says which still are.
func (m *Machine) once(name string) bool {
	if m.o.Discovery.Approved != nil && m.o.Discovery.Approved() != nil {
		return false
	}
	serial, err := m.sys.Tree.Text(path.Join("class/block", name, "device/serial"))
	return err == nil && m.book.knows(serial)
}

// Identify implements discovery.Disks.
func (d *disks) Identify(ctx context.Context, name, dev string) (string, error) {
	d.m.mu.Lock()
	working := d.m.working[name]
	d.m.mu.Unlock()
	if working {
		return "not read: it is being written", nil
	}
	if d.m.once(name) {
		return "not read: it was a slot's, and no approved map is known", nil
	}
	return d.Disks.Identify(ctx, name, dev)
}
