package vfio

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Kernel is what this package changes and asks of the kernel.
type Kernel interface {
	// Write writes an attribute; name is relative to the sysfs root. It may block.
	Write(name, value string) error
	// Viable asks vfio whether all members of the group are where a VM can have them.
	// It is an error if not, and if some process has the group open.
	Viable(group uint32) error
	// HotReset resets the bus that the function, in group, is on, for whoever owns all
	// that is on it: every function there is bound to vfio-pci, in one of groups, and
	// no process has one of those open. It may block.
	HotReset(function string, group uint32, groups []uint32) error
}

// Linux is the kernel of this machine.
type Linux struct {
	Sys string // "": /sys
	Dev string // "": /dev
}

// Write implements Kernel.
func (l Linux) Write(name, value string) error {
	sys := l.Sys
	if sys == "" {
		sys = "/sys"
	}
	f, err := os.OpenFile(path.Join(sys, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value) // one write is one act
	return errors.Join(err, f.Close())
}

// VFIO_GROUP_GET_STATUS and its flags (include/uapi/linux/vfio.h).
const (
	vfioGroupGetStatus = ';'<<8 | (100 + 3)
	vfioGroupViable    = 1
)

// Viable implements Kernel.
func (l Linux) Viable(group uint32) error {
	dev := l.Dev
	if dev == "" {
		dev = "/dev"
	}
	f, err := os.OpenFile(path.Join(dev, "vfio", strconv.FormatUint(uint64(group), 10)), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("IOMMU group %d: %w", group, err)
	}
	defer f.Close()
	status := struct{ argsz, flags uint32 }{argsz: 8}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), vfioGroupGetStatus, uintptr(unsafe.Pointer(&status)))
	switch {
	case errno != 0:
		return fmt.Errorf("IOMMU group %d: status: %w", group, errno)
	case status.flags&vfioGroupViable == 0:
		return fmt.Errorf("IOMMU group %d is not viable: a member is bound to a driver of the host", group)
	}
	return nil
}

// ErrStuck: an earlier write for the function has not come back from the kernel.
var ErrStuck = errors.New("an earlier write to it hangs in the kernel: the device needs a reset or the host a power cycle")

// writes bounds what can be under way: one write for each function. A write that
// does not return in time is left behind, and its function is stuck until it does.
type writes struct {
	mu   sync.Mutex
	busy map[string]bool
}

func (w *writes) underway(function string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.busy[function]
}

// do writes, for the function, and returns when the kernel did or ctx is over.
func (w *writes) do(ctx context.Context, k Kernel, function, name, value string) error {
	err := w.run(ctx, function, func() error { return k.Write(name, value) })
	if err != nil && !errors.Is(err, ErrStuck) {
		return fmt.Errorf("write %q to %s: %w", value, name, err)
	}
	return err
}

// run has the kernel do something for the function, and returns when it did or ctx is
// over.
func (w *writes) run(ctx context.Context, function string, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w.mu.Lock()
	if w.busy[function] {
		w.mu.Unlock()
		return fmt.Errorf("%s: %w", function, ErrStuck)
	}
	if w.busy == nil {
		w.busy = map[string]bool{}
	}
	w.busy[function] = true
	w.mu.Unlock()
	done := make(chan error, 1)
	go func() {
		err := f()
		w.mu.Lock()
		delete(w.busy, function)
		w.mu.Unlock()
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		select {
		case err := <-done: // at the same moment
			return err
		default:
			return ctx.Err()
		}
	}
}
