package network

import (
	"errors"
	"fmt"
	"net"
	"regexp"
)

// Port is one VM's place on its tenant's network.
type Port struct {
	VM       string `json:"vm"`
	Tenant   string `json:"tenant"`
	Slot     uint32 `json:"slot"` // the VM's first slot: names the tap and the address
	MAC      string `json:"mac"`
	Hostname string `json:"hostname"`
	Subnet   int    `json:"subnet"`            // the tenant's network on this host; chosen by Attach
	Plugged  bool   `json:"plugged,omitempty"` // the tap is made and plugged in here, not by libvirt; chosen by Attach
}

// maxSubnets is how many tenants' networks a host can hold at once: dnsmasq is
// told all their ranges when it starts. maxSlot keeps addresses inside a /24.
const (
	maxSubnets = 64
	maxSlot    = 199
)

// Bridge is the bridge that libvirt plugs the tap into when the domain starts; "":
// the tap is there and plugged in already.
func (p Port) Bridge() string {
	if p.Plugged {
		return ""
	}
	return bridgeName(p.Subnet)
}

// Tap is the port's interface.
func (p Port) Tap() string { return fmt.Sprintf("gtap%d", p.Slot) }

// Address is the address the guest gets by DHCP.
func (p Port) Address() string { return fmt.Sprintf("10.77.%d.%d", p.Subnet, 10+p.Slot) }

func bridgeName(subnet int) string { return fmt.Sprintf("gbr%d", subnet) }

// gateway is the bridge's own address.
func gateway(subnet int) string { return fmt.Sprintf("10.77.%d.1", subnet) }

// hostnames are what may go into dnsmasq's file: one DNS label.
var hostname = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$`)

func (p Port) validate() error {
	mac, err := net.ParseMAC(p.MAC)
	switch {
	case p.VM == "" || p.Tenant == "":
		return errors.New("network: port without VM or tenant")
	case err != nil || len(mac) != 6 || mac.String() != p.MAC:
		return fmt.Errorf("network: %q is not a MAC address in lower case", p.MAC)
	case p.Hostname != "" && !hostname.MatchString(p.Hostname):
		return fmt.Errorf("network: %q is not a host name", p.Hostname)
	case p.Slot > maxSlot:
		return fmt.Errorf("network: slot %d, at most %d", p.Slot, maxSlot)
	}
	return nil
}
