package vfio

import (
	"context"
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/gpuaas/gpuaas/hostd/pci"
)

// Driver is the driver that functions are given to.
const Driver = "vfio-pci"

// DriverNVMe is the host's driver of drives.
const DriverNVMe = "nvme"

// Bounds of one act on one function. An unbind waits for what the device has under
// way; a probe of an nvme drive resets its controller (CAP.TO: at most 127.5 s, in
// practice a few).
const (
	writeWait = 30 * time.Second
	probeWait = 10 * time.Second
)

// Binder moves functions between drivers. It is safe for concurrent use on
// different functions; the caller keeps acts on one slot apart.
type Binder struct {
	sys    *pci.Sysfs
	kernel Kernel
	writes writes
	settle time.Duration // between two looks at what the kernel does by itself
}

// New makes a Binder.
func New(sys *pci.Sysfs, kernel Kernel) *Binder {
	return &Binder{sys: sys, kernel: kernel, settle: 10 * time.Millisecond}
}

// write is one bounded write for the function.
func (b *Binder) write(ctx context.Context, a pci.Address, name, value string) error {
	ctx, cancel := context.WithTimeout(ctx, writeWait)
	defer cancel()
	return b.writes.do(ctx, b.kernel, a.String(), name, value)
}

// members reads all functions of the groups of the set, bridges left out, and
// refuses groups that have others in them. Nothing is written.
func (b *Binder) members(s Set) ([]*pci.Device, error) {
	var out []*pci.Device
	seen := map[pci.Address]bool{}
	for _, a := range s.functions() {
		d, err := b.sys.Device(a)
		if err != nil {
			return nil, fmt.Errorf("vfio: %w", err)
		}
		if !d.Grouped {
			return nil, fmt.Errorf("vfio: %s is in no IOMMU group: switch the IOMMU on (intel_iommu=on, and in the firmware)", a)
		}
		for _, m := range d.Members {
			if seen[m] {
				continue
			}
			seen[m] = true
			if b.writes.underway(m.String()) {
				return nil, fmt.Errorf("vfio: %s: %w", m, ErrStuck) // what is read of it may change at any moment
			}
			md, err := b.sys.Device(m)
			if err != nil {
				return nil, fmt.Errorf("vfio: %w", err)
			}
			switch {
			case md.Bridge():
				continue // vfio lets pcieport keep what is between the members
			case !s.owns(m):
				return nil, &Foreign{Address: m, With: a, Group: d.Group}
			case md.NumVFs > 0:
				return nil, fmt.Errorf("vfio: %s has %d virtual functions: they would go with it", m, md.NumVFs)
			}
			out = append(out, md)
		}
	}
	return out, nil
}

// order is that in which functions leave their drivers: what depends on another
// one first. The further functions of a chip are consumers of its function 0 (the
// kernel links a GPU's audio and UCSI functions to it), virtual ones of physical.
func order(devices []*pci.Device) {
	slices.SortStableFunc(devices, func(a, b *pci.Device) int {
		if a.VF != b.VF {
			if a.VF {
				return -1
			}
			return 1
		}
		return int(b.Address.Function) - int(a.Address.Function)
	})
}

// Give hands the set's functions to vfio-pci and proves it. What already is there is
// left alone.
func (b *Binder) Give(ctx context.Context, s Set) error {
	devices, err := b.members(s)
	if err != nil {
		return err
	}
	if err := b.hand(ctx, devices); err != nil {
		return err
	}
	return b.Prove(ctx, s)
}

// hand hands functions to vfio-pci.
func (b *Binder) hand(ctx context.Context, devices []*pci.Device) error {
	order(devices)
	// First all overrides: from here on no driver of the host takes any of them,
	// whatever else is plugged, probed or loaded meanwhile.
	for _, d := range devices {
		if d.Override == Driver {
			continue
		}
		if err := b.write(ctx, d.Address, path.Join(d.Path, "driver_override"), Driver+"\n"); err != nil {
			return fmt.Errorf("vfio: %w", err)
		}
	}
	for _, d := range devices {
		if err := b.release(ctx, d, Driver); err != nil {
			return err
		}
	}
	for _, d := range slices.Backward(devices) {
		if err := b.probe(ctx, d, Driver); err != nil {
			return err
		}
	}
	return nil
}

// release takes a function from its driver, unless that is the wanted one.
func (b *Binder) release(ctx context.Context, d *pci.Device, want string) error {
	if d.Driver == "" || d.Driver == want {
		return nil
	}
	wrote := b.write(ctx, d.Address, path.Join("bus/pci/drivers", d.Driver, "unbind"), d.Address.String()+"\n")
	now, err := b.sys.Device(d.Address)
	switch {
	case err != nil:
		return fmt.Errorf("vfio: %w", err)
	case now.Driver == "" || now.Driver == want:
		return nil // whatever the write said: an earlier one that hung may have done it
	case wrote != nil:
		return fmt.Errorf("vfio: %w", wrote)
	}
	return fmt.Errorf("vfio: %s stays bound to %s", d.Address, now.Driver)
}

// probe has the bus look for a driver and waits until the wanted one has the
// function.
func (b *Binder) probe(ctx context.Context, d *pci.Device, want string) error {
	now, err := b.sys.Device(d.Address)
	if err != nil {
		return fmt.Errorf("vfio: %w", err)
	}
	if now.Driver == want {
		return nil
	}
	if now.Override != want {
		return fmt.Errorf("vfio: driver_override of %s is %q, want %q: something else writes it", d.Address, now.Override, want)
	}
	if err := b.write(ctx, d.Address, "bus/pci/drivers_probe", d.Address.String()+"\n"); err != nil {
		return fmt.Errorf("vfio: %w", err)
	}
	return b.await(ctx, probeWait, fmt.Sprintf("vfio: %s does not take %s: is the module loaded?", want, d.Address), func() (bool, error) {
		now, err := b.sys.Device(d.Address)
		if err != nil {
			return false, fmt.Errorf("vfio: %w", err)
		}
		if now.Driver != "" && now.Driver != want {
			return false, fmt.Errorf("vfio: %s was taken by %s, want %s", d.Address, now.Driver, want)
		}
		return now.Driver == want, nil
	})
}

// await looks until ok, an error, the limit or the end of ctx.
func (b *Binder) await(ctx context.Context, limit time.Duration, what string, ok func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for { // ends with ctx at the latest
		done, err := ok()
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, ctx.Err())
		case <-time.After(b.settle):
		}
	}
}

// Prove says whether the set is as it has to be for a VM: every function of every
// group is approved, bound to vfio-pci and answers, and the groups are viable. It
// changes nothing. A VM that runs has its groups open: see [Binder.Bound].
func (b *Binder) Prove(ctx context.Context, s Set) error {
	devices, err := b.bound(s)
	if err != nil {
		return err
	}
	var groups []uint32
	for _, d := range devices {
		if d.Dead {
			return fmt.Errorf("vfio: %s does not answer", d.Address)
		}
		if !slices.Contains(groups, d.Group) {
			groups = append(groups, d.Group)
		}
	}
	for _, g := range groups {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("vfio: %w", err)
		}
		if err := b.kernel.Viable(g); err != nil {
			return fmt.Errorf("vfio: %w", err)
		}
	}
	return nil
}

// Bound is [Binder.Prove] without asking vfio or the functions, for those that a VM has
// open.
func (b *Binder) Bound(s Set) error {
	_, err := b.bound(s)
	return err
}

func (b *Binder) bound(s Set) ([]*pci.Device, error) {
	devices, err := b.members(s)
	if err != nil {
		return nil, err
	}
	for _, d := range devices {
		if d.Driver != Driver {
			return nil, fmt.Errorf("vfio: %s is bound to %q, want %s", d.Address, d.Driver, Driver)
		}
		if d.Override != Driver {
			return nil, fmt.Errorf("vfio: driver_override of %s is %q, want %s", d.Address, d.Override, Driver)
		}
	}
	return devices, nil
}

// Take brings one function of the set to a driver of the host: a drive to nvme, to
// be written or erased. Only that driver can take it. It is the undo of Give.
func (b *Binder) Take(ctx context.Context, s Set, a pci.Address, driver string) error {
	if !s.owns(a) {
		return fmt.Errorf("vfio: %s is not approved", a)
	}
	if _, err := b.members(s); err != nil {
		return err
	}
	d, err := b.sys.Device(a)
	if err != nil {
		return fmt.Errorf("vfio: %w", err)
	}
	if d.Override != driver {
		if err := b.write(ctx, a, path.Join(d.Path, "driver_override"), driver+"\n"); err != nil {
			return fmt.Errorf("vfio: %w", err)
		}
	}
	if err := b.release(ctx, d, driver); err != nil {
		return err
	}
	return b.probe(ctx, d, driver)
}
