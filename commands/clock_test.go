package commands_test

import (
	"time"
	"unsafe"
)

// jumped is now with its wall clock moved and its monotonic clock left alone. The
// time package has no way to make one: the layout of Time (wall bits: flag, 33 bits
// of seconds since 1885, 30 of nanoseconds) is used as it has been since Go 1.9.
func jumped(now time.Time, d time.Duration) time.Time {
	wall := (*uint64)(unsafe.Pointer(&now))
	*wall += uint64(d/time.Second) << 30
	return now
}
