package vfio

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/vishvananda/netlink"
)

// Netlink is the kernel's [Links].
type Netlink struct{}

var linkStates = map[Link]uint32{
	LinkAuto: netlink.VF_LINK_STATE_AUTO, LinkUp: netlink.VF_LINK_STATE_ENABLE, LinkDown: netlink.VF_LINK_STATE_DISABLE,
}

// SetVF implements Links. What already is as wanted is not written: a card need not
// be able to do what nobody asks of it. A card that cannot switch the port off (igb)
// keeps it as it is, and then the state reads back as "auto".
func (n Netlink) SetVF(ifname string, index int, c VFConfig) error {
	link, err := netlink.LinkByName(ifname)
	if err != nil {
		return err
	}
	now, err := n.VF(ifname, index)
	if err != nil {
		return err
	}
	if c.InfiniBand != now.InfiniBand {
		return fmt.Errorf("%s is InfiniBand: %v, wanted: %v", ifname, now.InfiniBand, c.InfiniBand)
	}
	node, err := guidBytes(c.NodeGUID)
	if err != nil {
		return err
	}
	port, err := guidBytes(c.PortGUID)
	if err != nil {
		return err
	}
	mac := make(net.HardwareAddr, 6)
	if c.MAC != "" {
		if mac, err = net.ParseMAC(c.MAC); err != nil {
			return err
		}
	}
	for _, step := range []struct {
		name string
		skip bool
		do   func() error
	}{
		{"node GUID", now.NodeGUID == c.NodeGUID, func() error { return netlink.LinkSetVfNodeGUID(link, index, node) }},
		{"port GUID", now.PortGUID == c.PortGUID, func() error { return netlink.LinkSetVfPortGUID(link, index, port) }},
		{"MAC", now.MAC == c.MAC, func() error { return netlink.LinkSetVfHardwareAddr(link, index, mac) }},
		{"VLAN", now.VLAN == c.VLAN, func() error { return netlink.LinkSetVfVlan(link, index, int(c.VLAN)) }},
		{"spoof check", now.SpoofCheck == c.SpoofCheck, func() error { return netlink.LinkSetVfSpoofchk(link, index, c.SpoofCheck) }},
		{"trust", now.Trust == c.Trust, func() error { return netlink.LinkSetVfTrust(link, index, c.Trust) }},
		{"rate", now.RateMbps == c.RateMbps, func() error { return netlink.LinkSetVfRate(link, index, 0, int(c.RateMbps)) }},
		{"link state", now.Link == c.Link, func() error { return netlink.LinkSetVfState(link, index, linkStates[c.Link]) }},
	} {
		if step.skip {
			continue
		}
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

// NoLinkState says whether err is a card's that has no port of its own for each
// virtual function, so that its state cannot be set.
func NoLinkState(err error) bool { return errors.Is(err, syscall.EOPNOTSUPP) }

// VF implements Links.
func (Netlink) VF(ifname string, index int) (VFConfig, error) {
	link, err := netlink.LinkByName(ifname)
	if err != nil {
		return VFConfig{}, err
	}
	for _, vf := range link.Attrs().Vfs {
		if vf.ID != index {
			continue
		}
		c := VFConfig{VLAN: uint16(vf.Vlan), SpoofCheck: vf.Spoofchk, Trust: vf.Trust == 1, Link: LinkAuto, RateMbps: vf.MaxTxRate}
		if c.InfiniBand = infiniBand(link); c.InfiniBand {
			if c.NodeGUID, c.PortGUID, err = vfGUIDs(link, index); err != nil {
				return VFConfig{}, err
			}
		} else if mac := vf.Mac.String(); mac != "" && mac != "00:00:00:00:00:00" {
			c.MAC = mac
		}
		for name, state := range linkStates {
			if state == vf.LinkState {
				c.Link = name
			}
		}
		return c, nil
	}
	return VFConfig{}, fmt.Errorf("the kernel knows no VF %d of %s", index, ifname)
}
