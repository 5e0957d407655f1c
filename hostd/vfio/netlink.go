package vfio

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
)

// Netlink is the kernel's [Links].
type Netlink struct{}

// SetVF implements Links: address, VLAN, no promiscuity, no address but its own.
func (Netlink) SetVF(ifname string, index int, c VFConfig) error {
	link, err := netlink.LinkByName(ifname)
	if err != nil {
		return err
	}
	state := uint32(netlink.VF_LINK_STATE_DISABLE)
	if c.LinkUp {
		state = netlink.VF_LINK_STATE_AUTO
	}
	if c.GUID != 0 || link.Type() == "ipoib" {
		guid := make(net.HardwareAddr, 8)
		for i := range guid {
			guid[i] = byte(c.GUID >> (56 - 8*i))
		}
		if err := netlink.LinkSetVfNodeGUID(link, index, guid); err != nil {
			return fmt.Errorf("node GUID: %w", err)
		}
		if err := netlink.LinkSetVfPortGUID(link, index, guid); err != nil {
			return fmt.Errorf("port GUID: %w", err)
		}
		return netlink.LinkSetVfState(link, index, state)
	}
	mac := c.MAC
	if mac == nil {
		mac = make(net.HardwareAddr, 6)
	}
	if err := netlink.LinkSetVfHardwareAddr(link, index, mac); err != nil {
		return fmt.Errorf("MAC: %w", err)
	}
	if err := netlink.LinkSetVfVlan(link, index, int(c.VLAN)); err != nil {
		return fmt.Errorf("VLAN: %w", err)
	}
	if err := netlink.LinkSetVfSpoofchk(link, index, true); err != nil {
		return fmt.Errorf("spoof check: %w", err)
	}
	if err := netlink.LinkSetVfTrust(link, index, false); err != nil {
		return fmt.Errorf("trust: %w", err)
	}
	// Cards without a switchable port state (igb) say so: the port's own state holds.
	_ = netlink.LinkSetVfState(link, index, state)
	return nil
}

// VF implements Links.
func (Netlink) VF(ifname string, index int) (VFConfig, error) {
	link, err := netlink.LinkByName(ifname)
	if err != nil {
		return VFConfig{}, err
	}
	for _, vf := range link.Attrs().Vfs {
		if vf.ID == index {
			if !vf.Spoofchk && link.Type() != "ipoib" {
				return VFConfig{}, fmt.Errorf("VF %d may send with any address", index)
			}
			return VFConfig{MAC: vf.Mac, VLAN: uint16(vf.Vlan), LinkUp: vf.LinkState != netlink.VF_LINK_STATE_DISABLE}, nil
		}
	}
	return VFConfig{}, fmt.Errorf("the kernel knows no VF %d of %s", index, ifname)
}
