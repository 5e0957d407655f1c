package network

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Bridges makes and removes the tenants' bridges. A bridge that is added twice is
// one bridge, one that is deleted twice is gone.
type Bridges interface {
	List() ([]string, error)
	Add(name, cidr string) error // up, with this address, without STP and multicast snooping
	Delete(name string) error
}

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

// List implements Bridges.
func (k KernelBridges) List() (names []string, err error) {
	err = k.in(func(h *netlink.Handle) error {
		links, err := h.LinkList()
		for _, l := range links {
			if l.Type() == "bridge" {
				names = append(names, l.Attrs().Name)
			}
		}
		return err
	})
	return names, err
}

// Add implements Bridges.
func (k KernelBridges) Add(name, cidr string) error {
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	return k.in(func(h *netlink.Handle) error {
		snooping := false
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		// A new bridge has STP off.
		err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping})
		if err != nil && !errors.Is(err, syscall.EEXIST) {
			return err
		}
		link, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		if err := h.AddrReplace(link, addr); err != nil {
			return err
		}
		return h.LinkSetUp(link)
	})
}

// Delete implements Bridges.
func (k KernelBridges) Delete(name string) error {
	return k.in(func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		var gone netlink.LinkNotFoundError
		if errors.As(err, &gone) {
			return nil
		}
		if err != nil {
			return err
		}
		return h.LinkDel(link)
	})
}
