package linux

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/vfio"
)

// Wipe erases the slot's devices and proves it. The drive goes to the nvme driver for
// it, found by address and serial, and everything is with vfio-pci afterwards, however
// the wipe ended. Faults: slot.in_use while any VM has the slot, drive.other,
// wipe.device_gone.
func (m *Machine) Wipe(ctx context.Context, slot domain.SlotSpec, w domain.PlacedWipe) (evidence []domain.DeviceWipe, err error) {
	for _, d := range []component{{"gpu", slot.GPU}, {"nvme", slot.NVMe}, {"ib_vf", slot.IBVF}} {
		if d.Address == "" && d.Serial != "" { // the last look did not find it
			return nil, &machine.Fault{Code: "wipe.device_gone", Slot: slot.Index, Component: d.component, Scope: "device", Err: fmt.Errorf("the %s %s is not on this host", d.component, d.Serial)}
		}
	}
	set, err := vfio.SetOf(slot)
	if err != nil {
		return nil, err
	}
	release, err := m.guests.Erase(slot.NVMe.Serial)
	if err != nil {
		return nil, err
	}
	defer release()
	done, err := m.turns.take(ctx, set.Drives...)
	if err != nil {
		return nil, err
	}
	defer done()
	// A tenant had the drive's admin queue, and may have left it without a namespace: the
	// Wiper has the controller then, and says what it makes of that.
	if err := m.meet(ctx, set, set.Drives[0], slot); err != nil {
		if f := (*machine.Fault)(nil); errors.As(err, &f) {
			f.Slot, f.Component, f.Scope = slot.Index, "nvme", "device"
		}
		return nil, err
	}
	if ns, err := m.scanned(ctx, set, slot); err == nil {
		defer m.work(ns.Block)()
	} else {
		m.o.Log.Warn("a drive that is to be erased does not show its one namespace", "slot", slot.Index, "drive", slot.NVMe.Serial, "err", err)
	}
	// Canaries are written before anything is erased.
	if _, err := m.book.write(slot.NVMe.Serial); err != nil {
		return nil, err
	}
	defer func() {
		if gerr := m.giveBack(ctx, set); gerr != nil {
			// The evidence stands; the next VM's own proof will stop at what is wrong here.
			m.o.Log.Error("after a wipe the slot's functions are not with vfio-pci", "slot", slot.Index, "err", gerr)
			if err != nil {
				err = errors.Join(err, gerr)
			}
		}
	}()
	if evidence, err = m.o.Wiper.Wipe(ctx, slot, w); err != nil {
		return nil, err
	}
	for _, d := range evidence {
		if d.Component == "nvme" && d.Serial == slot.NVMe.Serial && readBack(&d) && m.readsZero(ctx, set, d.Serial) {
			if err := m.book.zeroed(d.Serial); err != nil {
				m.o.Log.Warn("that a drive is zero is not remembered: its next image takes longer", "drive", d.Serial, "err", err)
			}
		}
	}
	return evidence, nil
}

// scanned waits a moment for the namespace of a drive that is up: its driver finds them
// beside.
func (m *Machine) scanned(ctx context.Context, set vfio.Set, slot domain.SlotSpec) (*vfio.Namespace, error) {
	ctx, cancel := context.WithTimeout(ctx, m.scan)
	defer cancel()
	return m.bind.Namespace(ctx, set.Drives[0], slot.NVMe.Serial)
}

// scanWait bounds scanned.
const scanWait = 5 * time.Second

// giveBack hands functions to vfio-pci after an act, also one that was called off. It
// tries three times: nobody comes back for them until the slot is used again.
func (m *Machine) giveBack(ctx context.Context, set vfio.Set) (err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveBackWait)
	defer cancel()
	for range 3 {
		if err = m.bind.Give(ctx, set); err == nil {
			return nil
		}
	}
	return err
}

// giveBackWait bounds giveBack.
const giveBackWait = 2 * time.Minute

// readBack says whether the evidence is that every byte was read back, and was the
// same everywhere.
func readBack(d *domain.DeviceWipe) bool {
	return d.Result == domain.WipeVerified && d.Coverage == domain.CoverageAll && d.BytesRead == d.SizeBytes && d.SizeBytes > 0
}

// readsZero says whether the first bytes of a drive that reads the same everywhere are
// zero: an erased drive may also read as ones.
func (m *Machine) readsZero(ctx context.Context, set vfio.Set, serial string) bool {
	ctx, cancel := context.WithTimeout(ctx, m.scan)
	defer cancel()
	ns, err := m.bind.Namespace(ctx, set.Drives[0], serial)
	if err != nil {
		return false
	}
	f, err := m.exclusive(ns)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, 4096)
	n, err := f.ReadAt(head, 0)
	return err == nil && len(bytes.Trim(head[:n], "\x00")) == 0
}
