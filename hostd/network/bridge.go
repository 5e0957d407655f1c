package network

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Bridge is one tenant's network as it should be.
type Bridge struct {
	Name      string
	MAC       string   // of the gateway
	Addresses []string // of the gateway, with prefix lengths
	Ports     []Port
}

// Bridges makes the bridges of a network namespace be these and no others. Doing so
// again changes nothing, and after a failure it finishes the work.
type Bridges interface {
	Apply(ctx context.Context, want []Bridge) error

	// Plugs says that Apply makes the ports' taps too and guards what they send; else
	// libvirt makes them, and nftables guards them.
	Plugs() bool

	// Epoch changes when what Apply made may be lost. It is asked often.
	Epoch() string
}

// gatewayMAC is the bridge's own hardware address: the same for ever, so that no
// guest's ARP cache is wrong after a restart of the host.
func gatewayMAC(subnet int) string { return fmt.Sprintf("06:67:70:75:00:%02x", subnet) }

// ours are the names of our bridges.
var ours = regexp.MustCompile(`^gbr[0-9]+$`)

// KernelBridges are the bridges of a network namespace, by rtnetlink(7). Namespace
// names a process that lives in it.
type KernelBridges struct {
	Namespace func() (pid int, err error)
}

// in opens a handle into the namespace. The calling thread stays where it is.
func (k KernelBridges) in(f func(*netlink.Handle) error) error {
	pid, err := k.Namespace()
	if err != nil {
		return err
	}
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return fmt.Errorf("namespace of process %d: %w", pid, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return fmt.Errorf("namespace of process %d: %w", pid, err)
	}
	defer h.Close()
	return f(h)
}

// Plugs implements Bridges.
func (KernelBridges) Plugs() bool { return false }

// Epoch implements Bridges: bridges go with the kernel or their namespace only.
func (KernelBridges) Epoch() string { return "" }

// Apply implements Bridges.
func (k KernelBridges) Apply(_ context.Context, want []Bridge) error {
	return k.in(func(h *netlink.Handle) error {
		links, err := h.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			name := l.Attrs().Name
			wanted := slices.ContainsFunc(want, func(b Bridge) bool { return b.Name == name })
			if l.Type() != "bridge" || wanted || !ours.MatchString(name) {
				continue
			}
			if err := h.LinkDel(l); err != nil {
				return fmt.Errorf("delete bridge %s: %w", name, err)
			}
		}
		for _, b := range want {
			if err := addBridge(h, b); err != nil {
				return fmt.Errorf("add bridge %s: %w", b.Name, err)
			}
		}
		return nil
	})
}

// addBridge makes the bridge, without STP and multicast snooping, and brings it up.
func addBridge(h *netlink.Handle, b Bridge) error {
	snooping := false
	attrs := netlink.NewLinkAttrs()
	attrs.Name = b.Name
	// A new bridge has STP off.
	err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping})
	if err != nil && !errors.Is(err, syscall.EEXIST) {
		return err
	}
	link, err := h.LinkByName(b.Name)
	if err != nil {
		return err
	}
	for _, cidr := range b.Addresses {
		addr, err := netlink.ParseAddr(cidr)
		if err != nil {
			return err
		}
		if err := h.AddrReplace(link, addr); err != nil {
			return err
		}
	}
	return h.LinkSetUp(link)
}
