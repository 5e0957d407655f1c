// Package machine is the narrow seam between the host daemon and the hardware:
// one interface, three implementations (lab, sim, linux), each a package beside
// this file. The daemon decides what to do (hostd/plan); a machine only does it.
//
// Every method is idempotent: doing it twice is doing it once, and doing it after
// a crash in the middle finishes the work. Every method honours its context's
// deadline. None retries by itself; the daemon does, with bounds.
package machine

import (
	"context"
	"fmt"
	"io"

	"github.com/gpuaas/gpuaas/domain"
)

// VM is what a machine needs to bring one VM up: the placed VM, the specs of its
// slots in the approved map, the image's local file and the seed's content.
type VM struct {
	domain.PlacedVM
	Slots     []domain.SlotSpec // same order as PlacedVM.Leases
	ImagePath string            // verified local file, qcow2 or raw; "" on machines without images
	SSHKeys   []string          // authorized_keys lines
	UserData  []byte            // cloud-init user data, as the tenant gave it
}

// Machine does things to one host.
type Machine interface {
	// Discover looks at the hardware and proposes a slot map. It touches nothing.
	Discover(ctx context.Context) (*domain.SlotMap, error)

	// Observe says which VMs exist, running or not. The daemon calls it at start
	// and before every plan, so it must be cheap (well under a second).
	Observe(ctx context.Context) ([]Observed, error)

	// PrepareDisk writes the image onto the slots' drives (the boot drive is the
	// first slot's), verifies it and leaves the devices ready to be passed
	// through. A prepared disk of the same VM is left alone: stop and start keep
	// the data.
	PrepareDisk(ctx context.Context, vm *VM) error

	// PrepareSeed makes the cloud-init NoCloud seed (host name, keys, user data).
	PrepareSeed(ctx context.Context, vm *VM) error

	// AttachNetwork gives the VM its port, static DHCP lease and NAT.
	AttachNetwork(ctx context.Context, vm *VM) error

	// Start defines the domain if needed and starts it. A running one is left alone.
	Start(ctx context.Context, vm *VM) error

	// Stop asks the guest to power off (ACPI) and, when ctx's deadline is near or
	// grace has passed, pulls the plug. Disk, seed and network stay.
	Stop(ctx context.Context, id domain.VMID, grace domain.Duration) error

	// Reboot resets the running guest.
	Reboot(ctx context.Context, id domain.VMID) error

	// Remove pulls the plug and removes everything of the VM but the data on the
	// drives: domain, NVRAM, seed, network port, console log.
	Remove(ctx context.Context, id domain.VMID) error

	// Wipe erases every device of the slot and proves it. An error means that
	// nothing is known; a finished wipe that failed is a result in the evidence.
	Wipe(ctx context.Context, slot domain.SlotSpec, w domain.PlacedWipe) ([]domain.DeviceWipe, error)

	// Console reads the VM's serial console from offset on, up to max bytes, and
	// returns the offset after them. Past the end it returns no bytes.
	Console(ctx context.Context, id domain.VMID, offset int64, max int) (b []byte, next int64, err error)

	// Events is the machine's own news. It is closed by Close. A reader that is
	// slow loses nothing that Observe does not also say.
	Events() <-chan Event

	io.Closer // frees what the machine holds; VMs go on running
}

// Observed is one VM that exists on the host.
type Observed struct {
	VM      domain.VMID
	Running bool
	Boot    uint32      // the boot number it was last started or rebooted with
	Slots   []uint32    // slot indexes it holds
	Since   domain.Time // running since, or stopped since; zero if not known
	Alive   domain.Time // first sign of life of this boot; zero: none yet
	Ready   domain.Time // guest said ready in this boot; zero: not yet
	Address string

	Cause  string   // why it is off, if neither the guest nor we meant it: "host.rebooted", "domain.crashed"
	Lost   bool     // and it is to be started into the same boot again
	Doubts []string // why its guest, which says ready in this boot, was not believed: "guest.devices_missing"

	Prepared bool // the image is on its drive: PrepareDisk needs no file
	Seeded   bool // its seed is there: PrepareSeed has nothing to add
}

// EventKind is what a machine noticed by itself.
type EventKind string

// The kinds of machine events.
const (
	GuestAlive   EventKind = "alive"   // DHCP lease or metadata call; Address set
	GuestReady   EventKind = "ready"   // the guest said so
	GuestStopped EventKind = "stopped" // the domain is off: by the guest, or crashed
	DeviceFault  EventKind = "fault"   // Code says what; Slot set
	Changed      EventKind = "changed" // something of a VM moved: observe again

	// HardwareMoved: a device came or went, no matter whose: discover again. It may come
	// as often as hardware, or a guest that resets its own, makes it.
	HardwareMoved EventKind = "hardware"
)

// Event is news from the machine.
type Event struct {
	Kind    EventKind
	VM      domain.VMID
	At      domain.Time
	Address string
	Slot    uint32
	Detail  string

	Code      string // of a fault: a stable code, "device.gone"; "": Detail is all there is
	Component string // of a fault: "gpu", "nvme", "ib_vf" or "host"; "" is taken as "host"
	Scope     string // of a fault, the repair: "device", "baseboard" or "host"; "" is taken as "host"
}

// Fault is an error with a stable code and whose fault it is. Any other error
// is the provider's, with code "machine.error".
type Fault struct {
	Code   string // "image.digest_mismatch", "disk.too_small", "domain.start_failed"
	Theirs bool   // the tenant's doing: charged, not retried
	Err    error

	// Of a device that is to blame: its slot, component ("gpu", "nvme", "ib_vf", "host")
	// and repair scope. Component "": none is.
	Slot             uint32
	Component, Scope string
}

func (f *Fault) Error() string { return fmt.Sprintf("%s: %v", f.Code, f.Err) }

// Unwrap gives the cause.
func (f *Fault) Unwrap() error { return f.Err }
