package vm

import (
	"fmt"
	"regexp"
)

// layout is the newest way of giving guest addresses. A change of anything a guest
// can see of its buses is a new number, and the old one goes on being rendered.
const layout = 1

// Pins are the choices of a VM's first start that all its later starts repeat,
// whatever hostd, QEMU and firmware are installed by then: a guest finds the same
// machine, with the same devices at the same addresses, until it is released. The
// machine driver keeps them with the VM's state. Guest addresses themselves are a
// function of Layout and of the order of the VM's slots.
type Pins struct {
	Layout    int    `json:"layout"`
	Machine   string `json:"machine"`    // versioned: "pc-q35-7.2"
	MMIO64MiB uint64 `json:"mmio64_mib"` // the firmware's window for 64-bit BARs
}

// NewPins are the pins of a VM that starts for the first time: the machine type
// that QEMU's q35 stands for now (see [Host.Machine]) and a window of the size
// its devices need (see [MMIO64MiB]).
func NewPins(machine string, mmio64MiB uint64) Pins {
	return Pins{Layout: layout, Machine: machine, MMIO64MiB: mmio64MiB}
}

var versioned = regexp.MustCompile(`^pc-q35-[0-9]+\.[0-9]+$`)

func (p Pins) validate() error {
	switch {
	case p.Layout != layout:
		return fmt.Errorf("layout %d, this hostd knows %d: a newer one made this VM", p.Layout, layout)
	case !versioned.MatchString(p.Machine):
		return fmt.Errorf("machine type %q, want a versioned q35: an alias changes with QEMU", p.Machine)
	case p.MMIO64MiB < minMMIO64MiB || p.MMIO64MiB > maxMMIO64MiB:
		return fmt.Errorf("a window of %d MiB for 64-bit BARs, want %d to %d", p.MMIO64MiB, minMMIO64MiB, maxMMIO64MiB)
	}
	return nil
}
