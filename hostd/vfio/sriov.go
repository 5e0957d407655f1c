package vfio

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"time"

	"github.com/gpuaas/gpuaas/hostd/pci"
)

// vfsWait bounds how long virtual functions take to appear; the write itself blocks
// while firmware works.
const vfsWait = 60 * time.Second

// MakeVFs has the physical function have exactly n virtual ones, which no driver of
// the host takes. A PF that has them is left alone; one that has another number, as
// somebody else made them, is refused: VMs may hold them.
func (b *Binder) MakeVFs(ctx context.Context, pf pci.Address, n uint16) ([]pci.Address, error) {
	d, err := b.sys.Device(pf)
	if err != nil {
		return nil, fmt.Errorf("vfio: %w", err)
	}
	switch {
	case n == 0 || n > d.TotalVFs:
		return nil, fmt.Errorf("vfio: %s can have 1 to %d virtual functions, not %d", pf, d.TotalVFs, n)
	case d.NumVFs != 0 && d.NumVFs != n:
		return nil, fmt.Errorf("vfio: %s has %d virtual functions, want %d: take them away first (echo 0 > sriov_numvfs), when no VM has one", pf, d.NumVFs, n)
	}
	// Without this the host's driver takes each VF the moment it appears.
	if err := b.write(ctx, pf, path.Join(d.Path, "sriov_drivers_autoprobe"), "0\n"); err != nil {
		return nil, fmt.Errorf("vfio: %w", err)
	}
	if d.NumVFs == 0 {
		wait, cancel := context.WithTimeout(ctx, vfsWait)
		defer cancel()
		if err := b.writes.do(wait, b.kernel, pf.String(), path.Join(d.Path, "sriov_numvfs"), strconv.Itoa(int(n))+"\n"); err != nil {
			return nil, fmt.Errorf("vfio: %w", err)
		}
	}
	err = b.await(ctx, vfsWait, fmt.Sprintf("vfio: the virtual functions of %s do not appear", pf), func() (bool, error) {
		if d, err = b.sys.Device(pf); err != nil {
			return false, fmt.Errorf("vfio: %w", err)
		}
		return len(d.VFs) == int(n), nil
	})
	if err != nil {
		return nil, err
	}
	return d.VFs, nil
}

// VFConfig is what a physical function keeps and enforces of a virtual one, whatever
// its guest does. InfiniBand has GUIDs and a link state, Ethernet all but the GUIDs.
type VFConfig struct {
	InfiniBand bool   // read only: of which kind the physical function is
	NodeGUID   string // "b8ce:f603:00a1:b2c4"; "": none set
	PortGUID   string

	MAC        string // "" or all zero: none, the guest's driver makes one up
	VLAN       uint16 // 0: none
	SpoofCheck bool   // it sends with no other address
	Trust      bool   // it may be promiscuous and change its address
	Link       Link
	RateMbps   uint32 // 0: no limit
}

// Link is the state of a virtual function's port.
type Link string

// The states.
const (
	LinkAuto Link = "auto" // as the physical port's
	LinkUp   Link = "up"
	LinkDown Link = "down"
)

// Links sets and reads the virtual functions of a PF's network interface
// (rtnetlink(7), IFLA_VFINFO_LIST).
type Links interface {
	SetVF(ifname string, index int, c VFConfig) error
	VF(ifname string, index int) (VFConfig, error)
}

// VF reads what the physical function keeps of an approved virtual one.
func (b *Binder) VF(s Set, vf pci.Address, links Links) (VFConfig, error) {
	ifname, index, err := b.port(s, vf)
	if err != nil {
		return VFConfig{}, err
	}
	c, err := links.VF(ifname, index)
	if err != nil {
		return c, fmt.Errorf("vfio: %s (VF %d of %s): %w", vf, index, ifname, err)
	}
	return c, nil
}

// SetVF configures an approved virtual function by its PF and reads it back. What it
// was before is the undo.
func (b *Binder) SetVF(s Set, vf pci.Address, links Links, c VFConfig) error {
	ifname, index, err := b.port(s, vf)
	if err != nil {
		return err
	}
	if err := links.SetVF(ifname, index, c); err != nil {
		return fmt.Errorf("vfio: %s (VF %d of %s): %w", vf, index, ifname, err)
	}
	got, err := b.VF(s, vf, links)
	if err != nil {
		return err
	}
	if got != c {
		return fmt.Errorf("vfio: %s (VF %d of %s) reads back %+v, want %+v", vf, index, ifname, got, c)
	}
	return nil
}

// port finds the physical function's interface and the virtual function's number.
func (b *Binder) port(s Set, vf pci.Address) (ifname string, index int, err error) {
	d, err := b.sys.Device(vf)
	if err != nil {
		return "", 0, fmt.Errorf("vfio: %w", err)
	}
	if !d.VF || !s.owns(vf) {
		return "", 0, fmt.Errorf("vfio: %s is no approved virtual function", vf)
	}
	ifname, err = b.netdev(d.PF)
	return ifname, d.VFIndex, err
}

// netdev is the PF's one network interface.
func (b *Binder) netdev(pf pci.Address) (string, error) {
	d, err := b.sys.Device(pf)
	if err != nil {
		return "", fmt.Errorf("vfio: %w", err)
	}
	names, err := b.sys.Tree.List(path.Join(d.Path, "net"))
	if err != nil {
		return "", fmt.Errorf("vfio: %s has no network interface: is its driver loaded? %w", pf, err)
	}
	if len(names) != 1 {
		return "", errors.New("vfio: " + pf.String() + " has several network interfaces, want one for each function")
	}
	return names[0], nil
}
