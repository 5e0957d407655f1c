package domain

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// A slot is what a tenant rents: one GPU, one NVMe drive and one InfiniBand VF,
// with whole cores and memory of their NUMA node.

// SlotState is where a slot is in its life.
type SlotState uint8

// The states. Nothing but a verified wipe leads to SlotIsAvailable; anything
// unknown, missing, skipped or late leads to SlotIsQuarantined.
const (
	SlotIsProposed SlotState = iota + 1
	SlotIsWiping
	SlotIsAvailable
	SlotIsReserved
	SlotIsActive
	SlotIsQuarantined
	SlotIsRetired
)

var slotStateNames = [...]string{"", "proposed", "wiping", "available", "reserved", "active", "quarantined", "retired"}

func (s SlotState) String() string { return enumName(slotStateNames[:], s) }

// MarshalText implements encoding.TextMarshaler.
func (s SlotState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *SlotState) UnmarshalText(b []byte) error {
	return enumParse(s, slotStateNames[:], string(b), "slot state")
}

// Slot is a slot's state. A site has up to a million: no pointers here, and no
// more bytes than needed.
type Slot struct {
	ID         SlotID
	seed       [16]byte  // the lease's nonce is derived from it
	devices    [3]uint64 // deviceKey of GPU, NVMe, VF
	Deadline   Time      // of the wipe
	host       uint32
	vm         uint32 // row of the VM that holds it, or is on its way out; or none
	Generation uint32 // counts the leases
	Attempt    uint32 // wipes tried for the present generation
	Index      uint16
	State      SlotState
	NUMA       uint8
	Policy     WipePolicy
	Condemned  bool   // goes to quarantine instead of back to available
	Dirty      bool   // no wipe was verified since it was last used, or since it came in
	Real       bool   // its devices are real hardware: the evidence of its wipes has to be whole
	room       uint64 // SlotSpec.room of its cores and memory
}

var deviceComponents = [3]string{"gpu", "nvme", "ib_vf"}

// deviceKey names a device for ever: 64 bits of SHA-256(component, serial). Zero
// means no such device in the slot.
func deviceKey(component int, serial string) uint64 {
	if serial == "" {
		return 0
	}
	h := sha256.Sum256([]byte(deviceComponents[component] + "\x00" + serial))
	return binary.BigEndian.Uint64(h[:])
}

// DeviceKey is deviceKey of a component by its name; 0 where there is no such one.
func DeviceKey(component, serial string) uint64 {
	if k := slices.Index(deviceComponents[:], component); k >= 0 {
		return deviceKey(k, serial)
	}
	return 0
}

// leaseNonce is unique to one lease of one slot.
func leaseNonce(seed [16]byte, slot SlotID, generation uint32) Digest {
	var b [16 + 16 + 4]byte
	copy(b[:], seed[:])
	copy(b[16:], slot[:])
	binary.BigEndian.PutUint32(b[32:], generation)
	return sha256.Sum256(b[:])
}

func (s *Slot) lease() Lease {
	return Lease{Slot: s.ID, Index: uint32(s.Index), Generation: s.Generation, Nonce: leaseNonce(s.seed, s.ID, s.Generation)}
}

// slotsOf are the slots of one host, to be found in order: they lie side by side, which
// saves what a look into the index of all slots costs.
func (w *World) slotsOf(host HostID) slotFinder {
	if h := w.hosts.get(host); h != nil {
		return slotFinder{w: w, rows: h.slots}
	}
	return slotFinder{}
}

type slotFinder struct {
	w    *World
	rows []uint32
	at   int // behind the last one found
}

// find returns the slot's row, or none if it is not on the host.
func (f *slotFinder) find(id SlotID) uint32 {
	for range f.rows {
		if f.at >= len(f.rows) {
			f.at = 0
		}
		row := f.rows[f.at]
		f.at++
		if f.w.slots.row(row).ID == id {
			return row
		}
	}
	return none
}

// touchHostSlots keeps the placement and the placement index true after slots of
// the host changed.
func (w *World) touchHostSlots(id HostID) {
	hi := w.hosts.find(id)
	w.touch(w.hosts.row(hi))
	w.fleet.refresh(w, hi)
}
