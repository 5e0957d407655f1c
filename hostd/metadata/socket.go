package metadata

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// address is where guests ask.
const address = "169.254.169.254"

// Devices are the sockets of a network namespace. Namespace names a process that
// lives in it; nil: this process's own.
type Devices struct {
	Namespace func() (pid int, err error)
}

// open returns the namespace; the caller closes it.
func (d Devices) open() (netns.NsHandle, error) {
	if d.Namespace == nil {
		return netns.Get()
	}
	pid, err := d.Namespace()
	if err != nil {
		return netns.None(), err
	}
	return netns.GetFromPid(pid)
}

// Index implements Sockets.
func (d Devices) Index(device string) (int, error) {
	ns, err := d.open()
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return 0, err
	}
	defer h.Close()
	link, err := h.LinkByName(device)
	if err != nil {
		return 0, err
	}
	return link.Attrs().Index, nil
}

// Listen implements Sockets. Replies have a hop limit of 1: they reach the guest
// and nobody behind it.
func (d Devices) Listen(device string) (net.Listener, error) {
	ns, err := d.open()
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	type result struct {
		l   net.Listener
		err error
	}
	done := make(chan result)
	go func() {
		// A socket belongs to the namespace its thread was in. The thread is not unlocked,
		// so it ends with this goroutine and nothing else ever runs in that namespace.
		runtime.LockOSThread()
		if err := netns.Set(ns); err != nil {
			done <- result{err: fmt.Errorf("namespace: %w", err)}
			return
		}
		l, err := listenOn(device)
		done <- result{l, err}
	}()
	r := <-done
	return r.l, r.err
}

func listenOn(device string) (net.Listener, error) {
	c := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var errs []error
		err := raw.Control(func(fd uintptr) {
			errs = append(errs,
				unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, device),
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, 1))
		})
		return errors.Join(append(errs, err)...)
	}}
	return c.Listen(context.Background(), "tcp4", address+":80")
}
