package vfio

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/gpuaas/gpuaas/hostd/pci"
)

// Reset methods as sysfs names them (Documentation/ABI/testing/sysfs-bus-pci).
const (
	ResetFLR = "flr" // function level reset: this function alone
	ResetBus = "bus" // secondary bus reset: everything below the bridge
)

// ErrNoReset: the function does not have the method.
var ErrNoReset = errors.New("the function has no such reset")

// resetWait bounds a reset: the kernel itself waits up to 60 s for a device to come
// back (PCIE_RESET_READY_POLL_MS).
const resetWait = 70 * time.Second

// Reset resets an approved function by exactly that method. A bus reset is refused
// when anything that is not in the set is below the same bridge. The device has to
// answer afterwards. The order of methods that the kernel preferred is put back.
func (b *Binder) Reset(ctx context.Context, s Set, a pci.Address, method string) (err error) {
	d, err := b.sys.Device(a)
	if err != nil {
		return fmt.Errorf("vfio: reset: %w", err)
	}
	switch {
	case !s.owns(a):
		return fmt.Errorf("vfio: reset: %s is not approved", a)
	case !slices.Contains(d.Resets, method):
		return fmt.Errorf("vfio: reset %s by %s: %w: it has %q", a, method, ErrNoReset, strings.Join(d.Resets, " "))
	}
	ctx, cancel := context.WithTimeout(ctx, resetWait)
	defer cancel()
	if method == ResetBus {
		below, err := b.private(s, d)
		if err != nil {
			return err
		}
		if len(below) > 1 {
			return b.hotReset(ctx, d, below)
		}
	}
	set := func(ctx context.Context, methods string) error {
		return b.writes.do(ctx, b.kernel, a.String(), path.Join(d.Path, "reset_method"), methods+"\n")
	}
	if err := set(ctx, method); err != nil {
		return fmt.Errorf("vfio: reset: %w", err)
	}
	defer func() {
		back, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeWait)
		defer cancel()
		err = errors.Join(err, set(back, strings.Join(d.Resets, " ")))
	}()
	if err := b.writes.do(ctx, b.kernel, a.String(), path.Join(d.Path, "reset"), "1\n"); err != nil {
		return fmt.Errorf("vfio: reset %s by %s: %w", a, method, err)
	}
	return b.answered(ctx, d)
}

// hotReset is the bus reset of a function that is not alone on its bus: a GPU with its
// audio function. The kernel lists the method bus for the first function that it finds
// on a bus, before it finds the others, and refuses it ever after; vfio does it for
// whoever owns them all. They are the set's, and stay with vfio-pci.
func (b *Binder) hotReset(ctx context.Context, d *pci.Device, below []*pci.Device) error {
	if err := b.hand(ctx, below); err != nil {
		return err
	}
	var groups []uint32
	for _, o := range below {
		groups = append(groups, o.Group)
	}
	slices.Sort(groups)
	groups = slices.Compact(groups)
	err := b.writes.run(ctx, d.Address.String(), func() error { return b.kernel.HotReset(d.Address.String(), d.Group, groups) })
	if err != nil {
		return fmt.Errorf("vfio: reset %s by bus: %w", d.Address, err)
	}
	return b.answered(ctx, d)
}

// answered waits until a function that was reset answers.
func (b *Binder) answered(ctx context.Context, d *pci.Device) error {
	return b.await(ctx, resetWait, fmt.Sprintf("vfio: %s does not answer after its reset", d.Address), func() (bool, error) {
		c, err := b.sys.Tree.Bytes(path.Join(d.Path, "config"))
		if err != nil {
			return false, fmt.Errorf("vfio: %s is gone after its reset: %w", d.Address, err)
		}
		return pci.Answers(c), nil
	})
}

// Private says why a bus reset of the function would reach others than the set: nil
// if everything below the bridge above it is approved.
func (b *Binder) Private(s Set, a pci.Address) error {
	d, err := b.sys.Device(a)
	if err != nil {
		return fmt.Errorf("vfio: %w", err)
	}
	_, err = b.private(s, d)
	return err
}

// private are the functions, bridges aside, below the bridge above d, d among them, if
// all of them are the set's.
func (b *Binder) private(s Set, d *pci.Device) (below []*pci.Device, err error) {
	if len(d.Above) == 0 {
		return nil, fmt.Errorf("vfio: bus reset of %s: it is on a root bus, with others", d.Address)
	}
	bridge := d.Above[len(d.Above)-1]
	all, err := b.sys.Addresses()
	if err != nil {
		return nil, fmt.Errorf("vfio: %w", err)
	}
	for _, o := range all {
		other, err := b.sys.Device(o)
		if err != nil {
			return nil, fmt.Errorf("vfio: %w", err)
		}
		if !slices.Contains(other.Above, bridge) || other.Bridge() {
			continue
		}
		if !s.owns(o) {
			return nil, fmt.Errorf("vfio: bus reset of %s: %s is below the same bridge %s and is not approved with it", d.Address, o, bridge)
		}
		below = append(below, other)
	}
	return below, nil
}
