package nvme

import "encoding/binary"

// Locking is what a drive with the TCG Storage feature set says of its locks (TCG
// Storage Architecture Core Specification 2.01, 3.3.6.5: Locking feature of the
// Level 0 Discovery; Opal drives and their kin have it).
type Locking struct {
	Supported bool
	Enabled   bool // someone has taken ownership of the locking part
	Locked    bool // at least one range is locked
	Shadowed  bool // the MBR is shadowed: reads of the first blocks are not the medium's
}

const (
	discoveryBytes   = 2048
	discoveryHeader  = 48
	featureLocking   = 0x0002
	maxTCGFeatures   = 64
	lockingMinLength = 12
)

// ParseLocking reads a Level 0 Discovery response; one without a locking feature
// is a drive that cannot lock.
func ParseLocking(b []byte) (*Locking, error) {
	const what = "TCG level 0 discovery"
	be := binary.BigEndian
	if len(b) < discoveryHeader {
		return nil, bad(what, "%d bytes, want %d: cut short", len(b), discoveryHeader)
	}
	n := uint64(be.Uint32(b)) + 4 // the length does not count itself
	if n < discoveryHeader || n > uint64(len(b)) {
		return nil, bad(what, "says it has %d bytes of %d", n, len(b))
	}
	if major := be.Uint16(b[4:]); major != 0 {
		return nil, bad(what, "version %d", major)
	}
	l := new(Locking)
	for i, rest := 0, b[discoveryHeader:n]; len(rest) > 0; i++ {
		if i == maxTCGFeatures || len(rest) < 4 || len(rest) < 4+int(rest[3]) {
			return nil, bad(what, "feature %d is cut short", i)
		}
		code, body := be.Uint16(rest), rest[4:4+int(rest[3])]
		if code == featureLocking {
			if len(body) < lockingMinLength {
				return nil, bad(what, "locking feature of %d bytes", len(body))
			}
			f := body[0]
			l.Supported, l.Enabled, l.Locked = f&1 != 0, f&2 != 0, f&4 != 0
			l.Shadowed = f&(1<<4) != 0 && f&(1<<5) == 0 // enabled and not done
		}
		rest = rest[4+int(rest[3]):]
	}
	return l, nil
}
