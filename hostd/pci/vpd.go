package pci

import (
	"encoding/binary"
	"fmt"
	"path"
	"strings"

	"github.com/gpuaas/gpuaas/hostd/pci/attr"
)

// VPD is a device's Vital Product Data (PCI Local Bus Specification 3.0, appendix
// I): what its maker wrote into it.
type VPD struct {
	Name   string            // of the product
	Fields map[string]string // by two-letter keyword: "SN" serial number, "PN" part number, "V0" the vendor's own
}

// vpdMax bounds the fields of one device.
const vpdMax = 128

// VPD reads a device's product data. It asks the device, slowly, and must not be
// called while a guest has it. None is fs.ErrNotExist.
func (s *Sysfs) VPD(d *Device) (*VPD, error) {
	b, err := s.Tree.Bytes(path.Join(d.Path, "vpd"))
	if err != nil {
		return nil, err
	}
	v, err := parseVPD(b)
	if err != nil {
		return nil, fmt.Errorf("pci: %s: vpd: %w", d.Address, err)
	}
	return v, nil
}

// parseVPD reads resources up to the end tag. Values that are not printable are
// left out: what is binary there is nobody's name.
func parseVPD(b []byte) (*VPD, error) {
	const (
		name     = 0x82
		readOnly = 0x90
		writable = 0x91
		end      = 0x78
	)
	v := &VPD{Fields: map[string]string{}}
	for len(b) > 0 && b[0] != end {
		if len(b) < 3 || b[0]&0x80 == 0 {
			return nil, fmt.Errorf("no resource at %d bytes before the end", len(b))
		}
		tag, size := b[0], int(binary.LittleEndian.Uint16(b[1:]))
		if 3+size > len(b) {
			return nil, fmt.Errorf("resource %#x is cut short", tag)
		}
		body := b[3 : 3+size]
		b = b[3+size:]
		switch tag {
		case name:
			v.Name = clean(body)
		case readOnly, writable:
			if err := v.fields(body); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

func (v *VPD) fields(b []byte) error {
	for len(b) > 0 {
		if len(b) < 3 || 3+int(b[2]) > len(b) {
			return fmt.Errorf("a field is cut short")
		}
		key, value := string(b[:2]), clean(b[3:3+int(b[2])])
		b = b[3+int(b[2]):]
		if value == "" || !attr.Printable(key) || key == "RV" || key == "RW" { // checksum, free space
			continue
		}
		if len(v.Fields) == vpdMax {
			return fmt.Errorf("more than %d fields", vpdMax)
		}
		v.Fields[key] = value
	}
	return nil
}

func clean(b []byte) string {
	s := strings.Trim(string(b), " \x00")
	if !attr.Printable(s) {
		return ""
	}
	return s
}
