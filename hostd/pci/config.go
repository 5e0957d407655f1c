package pci

import (
	"bytes"
	"encoding/binary"
)

// PortType is what a PCIe function is (PCI Express Base Specification, device/port
// type of the PCI Express capabilities register).
type PortType uint8

// The port types that matter here. NotExpress: no PCIe capability, or not known.
const (
	Endpoint         PortType = 0x0
	LegacyEndpoint   PortType = 0x1
	RootPort         PortType = 0x4
	UpstreamPort     PortType = 0x5
	DownstreamPort   PortType = 0x6
	PCIeToPCIBridge  PortType = 0x7
	PCIToPCIeBridge  PortType = 0x8
	IntegratedDevice PortType = 0x9
	EventCollector   PortType = 0xa
	NotExpress       PortType = 0xff
)

// ACS is the Access Control Services capability of a function (PCI Express Base
// Specification, extended capability 0x000d).
type ACS struct {
	Known   bool   // false: config space could not be read that far (not root)
	Present bool   // it has the capability
	Cap     uint16 // what it can do
	Ctrl    uint16 // what is switched on
}

// What a port has to do so that nothing passes between the devices below it, or
// between them and others, without the IOMMU: source validation, request and
// completion redirect, upstream forwarding. The same as the kernel asks for when it
// makes IOMMU groups (REQ_ACS_FLAGS, drivers/iommu/iommu.c).
const acsIsolation = 0x01 | 0x04 | 0x08 | 0x10

// Isolates reports whether the port keeps the devices below it apart. What a port
// cannot switch is hard-wired to on, as the kernel takes it; a port without the
// capability, or of which nothing is known, does not isolate.
func (a ACS) Isolates() bool {
	need := acsIsolation & a.Cap
	return a.Known && a.Present && a.Ctrl&need == need
}

// space is what was read of a function's config space: 64 bytes without
// privileges, 256 without PCIe's extended space, 4096 when all of it.
type space []byte

func (s space) u16(at int) uint16 {
	if at < 0 || at+2 > len(s) {
		return 0
	}
	return binary.LittleEndian.Uint16(s[at:])
}

func (s space) u32(at int) uint32 {
	if at < 0 || at+4 > len(s) {
		return 0
	}
	return binary.LittleEndian.Uint32(s[at:])
}

// Answers says whether config space that was read came from a device: where nobody
// answers all bits are ones. The ids of a virtual function are ones too (SR-IOV
// specification, 3.4.1.1), its command, status and class are not.
func Answers(config []byte) bool {
	return len(config) >= 12 && len(bytes.Trim(config[:12], "\xff")) > 0
}

// capability finds a capability of the first 256 bytes; 0 if there is none, or it
// was not read. The chain is bounded: a loop ends.
func (s space) capability(id byte) int {
	if s.u16(0x06)&0x10 == 0 || len(s) < 256 {
		return 0
	}
	at := int(s[0x34]) &^ 3
	for range 48 { // (256-64)/4
		if at < 0x40 {
			return 0
		}
		if s[at] == id {
			return at
		}
		at = int(s[at+1]) &^ 3
	}
	return 0
}

// extended finds an extended capability. known is false if what was read ends
// before the chain does, or the chain is broken.
func (s space) extended(id uint16) (at int, known bool) {
	const begin, size = 0x100, 4096
	if len(s) < size {
		return 0, false
	}
	at = begin
	for range (size - begin) / 8 {
		h := s.u32(at)
		switch {
		case h == 0 || h == 0xffffffff:
			return 0, at == begin && h == 0 // none at all; or the device does not answer
		case uint16(h) == id:
			return at, true
		}
		at = int(h>>20) &^ 3
		if at == 0 {
			return 0, true
		}
		if at < begin || at+8 > size {
			return 0, false
		}
	}
	return 0, false
}

func (s space) portType() PortType {
	at := s.capability(0x10)
	if at == 0 {
		return NotExpress
	}
	return PortType(s.u16(at+2) >> 4 & 0xf)
}

func (s space) multifunction() bool { return len(s) > 0x0e && s[0x0e]&0x80 != 0 }

func (s space) acs() ACS {
	at, known := s.extended(0x000d)
	a := ACS{Known: known, Present: at != 0}
	if a.Present {
		a.Cap, a.Ctrl = s.u16(at+4), s.u16(at+6)
	}
	return a
}

// serial is the Device Serial Number (extended capability 0x0003), an EUI-64; 0 if
// there is none, or it is one that means none.
func (s space) serial() uint64 {
	at, _ := s.extended(0x0003)
	if at == 0 || at+12 > len(s) {
		return 0
	}
	if n := binary.LittleEndian.Uint64(s[at+4:]); n != 1<<64-1 {
		return n
	}
	return 0
}
