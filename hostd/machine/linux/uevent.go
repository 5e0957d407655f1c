package linux

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gpuaas/gpuaas/hostd/machine"
)

// A function that came or went is said after a moment, in which its neighbours come
// too, and once more when a drive that is slow to come up has shown its namespace.
// How often that leads to a look is the daemon's to bound.
const (
	ueventPause = time.Second
	ueventAgain = 30 * time.Second
)

// watchUevents says when a function came or went, until ctx ends. Without the kernel's
// word the hardware is looked at less often: that is no reason not to run.
func (m *Machine) watchUevents(ctx context.Context) {
	moved := make(chan struct{}, 1)
	m.done.Go(func() {
		sayMoved(ctx, moved, func() { m.guests.Emit(machine.Event{Kind: machine.HardwareMoved}) })
	})
	messages, err := m.o.Uevents()
	if err == nil {
		err = readUevents(ctx, messages, moved)
	}
	if ctx.Err() == nil {
		m.o.Log.Warn("devices that come and go are not noticed at once", "err", err)
	}
}

// readUevents passes on that something moved, until the source ends, or ctx.
func readUevents(ctx context.Context, messages io.ReadCloser, moved chan<- struct{}) error {
	var once sync.Once
	closing := func() { once.Do(func() { _ = messages.Close() }) }
	defer closing()
	defer context.AfterFunc(ctx, closing)()
	buf := make([]byte, 16<<10) // the kernel's messages have some 2 KiB at most
	for {                       // ends with the source
		n, err := messages.Read(buf)
		lost := errors.Is(err, unix.ENOBUFS) // messages were: anything may have happened
		if err != nil && !lost {
			return err
		}
		if !lost && !moves(buf[:n]) {
			continue
		}
		select {
		case moved <- struct{}{}:
		default: // nobody has seen the last one yet
		}
	}
}

// sayMoved turns any number of movements into one word a pause.
func sayMoved(ctx context.Context, moved <-chan struct{}, say func()) {
	var soon, again <-chan time.Time
	for { // ends with ctx
		select {
		case <-ctx.Done():
			return
		case <-moved:
			if soon == nil {
				soon = time.After(ueventPause)
			}
			again = time.After(ueventAgain)
		case <-soon:
			soon = nil
			say()
		case <-again:
			again = nil
			say()
		}
	}
}

// moves says whether a message of the kernel tells of a function that came or went:
// "add@/devices/...", then KEY=VALUE, each ended by a zero. What drivers do to functions
// (bind, unbind, the nvme driver's own devices) does not count: hostd does it all day,
// and every look that reads a drive's serial anew would be followed by another.
func moves(message []byte) bool {
	var action, subsystem string
	for field := range bytes.SplitSeq(message, []byte{0}) {
		switch key, value, _ := bytes.Cut(field, []byte("=")); string(key) {
		case "ACTION":
			action = string(value)
		case "SUBSYSTEM":
			subsystem = string(value)
		}
	}
	return subsystem == "pci" && (action == "add" || action == "remove")
}

// kernelUevents is the kernel's own multicast of what happens to devices (kernel,
// lib/kobject_uevent.c). Each Read gives one message; only root can send others there.
func kernelUevents() (io.ReadCloser, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("linux: uevents: %w", err)
	}
	const ofTheKernel = 1 // group 2 is what udev makes of them
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: ofTheKernel}); err != nil {
		return nil, errors.Join(fmt.Errorf("linux: uevents: %w", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "uevents"), nil
}
