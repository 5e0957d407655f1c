package vm

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/pci"
)

// Limits of a VM with real slots: what the layout has addresses for.
const (
	maxSlots = 16 // as on one slot map
	maxCells = 8
)

// Passthrough gives a domain the devices, cores and memory of real slots. Nothing
// in it is looked up: all of it comes from the approved slot map and from what
// discovery found on this boot.
type Passthrough struct {
	Pins  Pins
	Slots []domain.SlotSpec // the VM's, in the order of its leases; it boots from the first one's drive

	Cores       [][]uint16       // the host's cores: each the hardware threads that are siblings
	HostThreads []uint16         // hardware threads that are the host's own: QEMU's other threads run there
	HugepageKiB map[uint8]uint32 // size of the huge pages of a NUMA node; absent: ordinary pages
	LockMemory  bool             // nothing of the guest is ever swapped
	User        User             // QEMU runs as
	AMD         bool             // AMD processors show a guest its SMT siblings only when told to

	Confidential Confidential
}

// User is the account one VM's QEMU runs as; no other VM's does. Zero: the account
// in libvirt's qemu.conf, for hosts that stand in for real ones.
type User struct{ UID, GID uint32 }

// Users is a range of accounts that belong to nobody else on the host.
type Users struct{ First, Count uint32 }

// Of is the account of the VM whose first slot is slot: slots are exclusive, so
// accounts are.
func (u Users) Of(slot uint32) (User, error) {
	if u.First < 1000 || slot >= u.Count {
		return User{}, fmt.Errorf("no account for slot %d in %d accounts from %d on", slot, u.Count, u.First)
	}
	return User{u.First + slot, u.First + slot}, nil
}

// slotDevices are the slot's functions. Other functions of the same devices (a GPU's
// audio) are with vfio-pci too, and no guest needs them.
func slotDevices(s *domain.SlotSpec) []*domain.Device {
	d := []*domain.Device{&s.GPU, &s.NVMe}
	if s.IBVF.Address != "" {
		d = append(d, &s.IBVF)
	}
	return d
}

func (p *Passthrough) validate(kvm bool) error {
	if err := p.Pins.validate(); err != nil {
		return err
	}
	if len(p.Slots) == 0 || len(p.Slots) > maxSlots {
		return fmt.Errorf("%d slots, want 1 to %d", len(p.Slots), maxSlots)
	}
	if (p.User.UID == 0) != (p.User.GID == 0) {
		return fmt.Errorf("user %d with group %d", p.User.UID, p.User.GID)
	}
	seen := map[string]uint32{}
	for i := range p.Slots {
		s := &p.Slots[i]
		if s.MemoryMiB == 0 {
			return fmt.Errorf("slot %d: no memory", s.Index)
		}
		for _, d := range slotDevices(s) {
			if _, err := pci.Parse(d.Address); err != nil {
				return fmt.Errorf("slot %d: %w", s.Index, err)
			}
			if by, taken := seen[d.Address]; taken {
				return fmt.Errorf("slot %d: %s is slot %d's already", s.Index, d.Address, by)
			}
			seen[d.Address] = s.Index
			for _, bar := range d.BARs {
				if bits.OnesCount64(bar.SizeBytes) != 1 || bar.SizeBytes > maxBARBytes {
					return fmt.Errorf("slot %d: %s has a BAR of %d bytes", s.Index, d.Address, bar.SizeBytes)
				}
			}
		}
	}
	if need := MMIO64MiB(p.Slots); need > p.Pins.MMIO64MiB {
		return fmt.Errorf("the devices need %d MiB of 64-bit addresses, the VM began with %d: other devices than at its first start", need, p.Pins.MMIO64MiB)
	}
	if len(p.cells()) > maxCells {
		return fmt.Errorf("slots on %d NUMA nodes, at most %d", len(p.cells()), maxCells)
	}
	if err := p.Confidential.validate(kvm); err != nil {
		return err
	}
	return p.validateThreads()
}

// validateThreads: the VM has whole cores, all of the same number of threads, and
// none of the host's.
func (p *Passthrough) validateThreads() error {
	if len(p.HostThreads) == 0 {
		return errors.New("no hardware thread is left for QEMU itself")
	}
	of := map[uint16]uint32{}
	for _, s := range p.Slots {
		if len(s.Threads) == 0 {
			return fmt.Errorf("slot %d: no hardware threads", s.Index)
		}
		for _, t := range s.Threads {
			if by, taken := of[t]; taken {
				return fmt.Errorf("slot %d: hardware thread %d is slot %d's already", s.Index, t, by)
			}
			if slices.Contains(p.HostThreads, t) {
				return fmt.Errorf("slot %d: hardware thread %d is the host's", s.Index, t)
			}
			of[t] = s.Index
		}
	}
	placed, width := 0, 0
	for _, core := range p.Cores {
		owners := map[uint32]bool{}
		mine := 0
		for _, t := range core {
			if slot, ok := of[t]; ok {
				owners[slot] = true
				mine++
			}
		}
		switch {
		case mine == 0:
			continue
		case mine != len(core) || len(owners) != 1:
			return fmt.Errorf("core %d is not one slot's alone: its siblings would see what it does", core)
		case width != 0 && width != len(core):
			return fmt.Errorf("core %d has %d threads, others have %d", core, len(core), width)
		}
		width = len(core)
		placed += mine
	}
	if placed != len(of) {
		return fmt.Errorf("%d of %d hardware threads are in no core of the host", len(of)-placed, len(of))
	}
	return nil
}
