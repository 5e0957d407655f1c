package nvme

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// page is a data structure as the controller returned it.
type page []byte

func (p page) u16(at int) uint16 { return binary.LittleEndian.Uint16(p[at:]) }
func (p page) u32(at int) uint32 { return binary.LittleEndian.Uint32(p[at:]) }
func (p page) u64(at int) uint64 { return binary.LittleEndian.Uint64(p[at:]) }

// u128 is a 16-byte number; one that does not fit in 64 bits is an error.
func (p page) u128(at int, what string) (uint64, error) {
	if p.u64(at+8) != 0 {
		return 0, bad(what, "a number of more than 64 bits")
	}
	return p.u64(at), nil
}

// text is an ASCII field padded with spaces. Bytes that are not printable are an
// error: such a field identifies nothing.
func (p page) text(from, to int, what string) (string, error) {
	s := strings.TrimRight(string(p[from:to]), " \x00")
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' {
			return "", bad(what, "byte 0x%02x is not ASCII", c)
		}
	}
	return strings.TrimLeft(s, " "), nil
}

// PageError says that a controller's answer makes no sense.
type PageError struct {
	Page   string // "identify controller"
	Reason string
}

func (e *PageError) Error() string { return fmt.Sprintf("nvme: %s: %s", e.Page, e.Reason) }

func bad(what, format string, args ...any) error {
	return &PageError{Page: what, Reason: fmt.Sprintf(format, args...)}
}

func whole(b []byte, size int, what string) (page, error) {
	if len(b) < size {
		return nil, bad(what, "%d bytes, want %d: cut short", len(b), size)
	}
	return page(b[:size]), nil
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
