package pci

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Address is where a PCI function is: domain:bus:device.function. Domains are 16
// bits wide on most machines and wider behind an Intel VMD ("10000:e1:00.0").
type Address struct {
	Domain   uint32
	Bus      uint8
	Device   uint8 // 0 to 31
	Function uint8 // 0 to 7
}

// Parse reads an address as sysfs writes it: "0000:17:00.1", lower case, nothing
// left out.
func Parse(s string) (Address, error) {
	var a Address
	domain, rest, _ := strings.Cut(s, ":")
	n, err := strconv.ParseUint(domain, 16, 32)
	if err == nil && len(rest) == len("17:00.1") {
		bus, e1 := strconv.ParseUint(rest[:2], 16, 8)
		dev, e2 := strconv.ParseUint(rest[3:5], 16, 8)
		fn, e3 := strconv.ParseUint(rest[6:], 8, 8)
		if e1 == nil && e2 == nil && e3 == nil && dev < 32 {
			a = Address{uint32(n), uint8(bus), uint8(dev), uint8(fn)}
		}
	}
	if a.String() != s { // one spelling only
		return Address{}, fmt.Errorf("pci: %q is no address, want domain:bus:device.function as in 0000:17:00.1", s[:min(len(s), 32)])
	}
	return a, nil
}

func (a Address) String() string {
	return fmt.Sprintf("%04x:%02x:%02x.%d", a.Domain, a.Bus, a.Device, a.Function)
}

// MarshalText implements encoding.TextMarshaler.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *Address) UnmarshalText(b []byte) (err error) {
	*a, err = Parse(string(b))
	return err
}

// Compare orders addresses by domain, bus, device, function.
func (a Address) Compare(b Address) int {
	return cmp.Or(cmp.Compare(a.Domain, b.Domain), cmp.Compare(a.Bus, b.Bus), cmp.Compare(a.Device, b.Device), cmp.Compare(a.Function, b.Function))
}

// SameDevice reports whether both are functions of one device: one card, one chip.
func (a Address) SameDevice(b Address) bool {
	a.Function, b.Function = 0, 0
	return a == b
}
