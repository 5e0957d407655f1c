package nvme

import (
	"fmt"
	"time"
)

const (
	logError    = 0x01
	logSMART    = 0x02
	logFirmware = 0x03
	logSanitize = 0x81

	smartBytes      = 512
	firmwareBytes   = 512
	sanitizeBytes   = 512
	errorEntryBytes = 64
)

// SanitizeState is how the most recent sanitize stands (SSTAT bits 2:0).
type SanitizeState uint8

// The states.
const (
	NeverSanitized       SanitizeState = 0
	Sanitized            SanitizeState = 1
	Sanitizing           SanitizeState = 2
	SanitizeHasFailed    SanitizeState = 3
	SanitizedDeallocated SanitizeState = 4 // deallocated although no-deallocate was asked for
)

var sanitizeStates = [...]string{"never sanitized", "completed", "in progress", "failed", "completed with forced deallocation"}

func (s SanitizeState) String() string {
	if int(s) < len(sanitizeStates) {
		return sanitizeStates[s]
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// SanitizeStatus is the Sanitize Status log page (Base 2.0, LID 81h).
type SanitizeStatus struct {
	State    SanitizeState
	Progress uint16 // of 65536; only while [Sanitizing]
	Passes   uint8  // overwrite passes done
	CDW10    uint32 // of the sanitize it speaks of
	// How long each action takes; 0: not reported. A controller that reports an
	// estimate of zero seconds and one that reports none are not told apart: both
	// say nothing.
	Overwrite, Block, Crypto time.Duration
}

// Percent is the progress, 0 to 100.
func (s *SanitizeStatus) Percent() int { return int(s.Progress) * 100 >> 16 }

func (s *SanitizeStatus) String() string {
	return fmt.Sprintf("sanitize log: sstat %d (%s), sprog %d, scdw10 0x%x", s.State, s.State, s.Progress, s.CDW10)
}

// ParseSanitizeStatus reads the Sanitize Status log page.
func ParseSanitizeStatus(b []byte) (*SanitizeStatus, error) {
	const what = "sanitize status log"
	p, err := whole(b, sanitizeBytes, what)
	if err != nil {
		return nil, err
	}
	estimate := func(at int) time.Duration {
		if s := p.u32(at); s != 0xFFFFFFFF {
			return time.Duration(s) * time.Second
		}
		return 0
	}
	s := &SanitizeStatus{
		State: SanitizeState(p[2] & 7), Progress: p.u16(0), Passes: p[2] >> 3, CDW10: p.u32(4),
		Overwrite: estimate(8), Block: estimate(12), Crypto: estimate(16),
	}
	if s.State > SanitizedDeallocated {
		return nil, bad(what, "state %d", s.State)
	}
	if s.State != NeverSanitized && s.CDW10&7 == 0 {
		return nil, bad(what, "state %q of no sanitize action", s.State)
	}
	return s, nil
}

// Firmware is the Firmware Slot Information log page (Base 2.0, LID 03h).
type Firmware struct {
	Active uint8     // slot that the running firmware was loaded from
	Next   uint8     // slot that the next reset activates; 0: none pending
	Slots  [7]string // revision in each slot, "" if empty
}

// ParseFirmware reads the Firmware Slot Information log page.
func ParseFirmware(b []byte) (*Firmware, error) {
	const what = "firmware slot log"
	p, err := whole(b, firmwareBytes, what)
	if err != nil {
		return nil, err
	}
	f := &Firmware{Active: p[0] & 7, Next: p[0] >> 4 & 7}
	for i := range f.Slots {
		if f.Slots[i], err = p.text(8+8*i, 16+8*i, fmt.Sprintf("%s: slot %d", what, i+1)); err != nil {
			return nil, err
		}
	}
	if f.Active == 0 || f.Slots[f.Active-1] == "" {
		return nil, bad(what, "active slot %d has no revision", f.Active)
	}
	return f, nil
}

// SMART is the part of the SMART / Health Information log page that erasing
// depends on (Base 2.0, LID 02h).
type SMART struct {
	Critical     uint8 // bit 2: reliability degraded; bit 3: read only
	PercentUsed  uint8
	MediaErrors  uint64
	ErrorEntries uint64 // life-time count of error log entries
	PowerCycles  uint64
	Unsafe       uint64 // unsafe shutdowns
}

// Degraded says that the controller doubts its media, or takes no writes.
func (s *SMART) Degraded() bool { return s.Critical&(1<<2|1<<3) != 0 }

func (s *SMART) String() string {
	return fmt.Sprintf("smart: critical 0x%02x, media errors %d, used %d%%, power cycles %d, unsafe shutdowns %d", s.Critical, s.MediaErrors, s.PercentUsed, s.PowerCycles, s.Unsafe)
}

// ParseSMART reads the SMART / Health Information log page.
func ParseSMART(b []byte) (*SMART, error) {
	const what = "smart log"
	p, err := whole(b, smartBytes, what)
	if err != nil {
		return nil, err
	}
	if zero(p) {
		return nil, bad(what, "it is all zero: not even a temperature")
	}
	s := &SMART{Critical: p[0], PercentUsed: p[5]}
	for _, f := range []struct {
		to   *uint64
		at   int
		name string
	}{{&s.PowerCycles, 112, "power cycles"}, {&s.Unsafe, 144, "unsafe shutdowns"}, {&s.MediaErrors, 160, "media errors"}, {&s.ErrorEntries, 176, "error entries"}} {
		if *f.to, err = p.u128(f.at, what+": "+f.name); err != nil {
			return nil, err
		}
	}
	if s.Critical&0xC0 != 0 {
		return nil, bad(what, "critical warning 0x%02x has reserved bits", s.Critical)
	}
	return s, nil
}

// ErrorEntry is one entry of the Error Information log page (Base 2.0, LID 01h).
type ErrorEntry struct {
	Count  uint64 // rises with every error; names the entry
	Queue  uint16
	Status Status
	LBA    uint64
	NSID   uint32
}

func (e *ErrorEntry) String() string {
	return fmt.Sprintf("error log: #%d %v, queue %d, namespace %d, block %d", e.Count, e.Status, e.Queue, e.NSID, e.LBA)
}

// ParseErrors reads the Error Information log page; entries without a count are
// empty.
func ParseErrors(b []byte) ([]ErrorEntry, error) {
	const what = "error log"
	if len(b) == 0 || len(b)%errorEntryBytes != 0 {
		return nil, bad(what, "%d bytes are not whole entries", len(b))
	}
	var out []ErrorEntry
	for ; len(b) > 0; b = b[errorEntryBytes:] {
		p := page(b)
		if e := (ErrorEntry{Count: p.u64(0), Queue: p.u16(8), Status: Status(p.u16(12) >> 1), LBA: p.u64(16), NSID: p.u32(24)}); e.Count != 0 {
			out = append(out, e)
		}
	}
	return out, nil
}
