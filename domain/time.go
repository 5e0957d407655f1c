package domain

import (
	"fmt"
	"time"
)

// Time is an instant: milliseconds since 1970-01-01T00:00:00Z, UTC. Zero means
// "never" or "not set".
type Time int64

// Duration is a length of time in milliseconds.
type Duration int64

// The units of a Duration.
const (
	Millisecond Duration = 1
	Second               = 1000 * Millisecond
	Minute               = 60 * Second
	Hour                 = 60 * Minute
	Day                  = 24 * Hour
)

// TimeOf cuts t to milliseconds.
func TimeOf(t time.Time) Time {
	if t.IsZero() {
		return 0
	}
	return Time(t.UnixMilli())
}

// Std is the standard library's value in UTC.
func (t Time) Std() time.Time {
	if t == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(t)).UTC()
}

// Add moves t by d.
func (t Time) Add(d Duration) Time { return t + Time(d) }

// Sub is the time from u to t.
func (t Time) Sub(u Time) Duration { return Duration(t - u) }

// String is RFC 3339 with milliseconds, "" for zero.
func (t Time) String() string {
	var b [timeLength]byte
	return string(t.append(b[:0]))
}

const timeLength = len("2006-01-02T15:04:05.000Z")

// append writes seconds in the form that package time writes quickly, and the milliseconds
// after it: each answer and each event has a time.
func (t Time) append(b []byte) []byte {
	if t == 0 {
		return b
	}
	std := t.Std()
	b = std.AppendFormat(b, time.RFC3339)
	ms := std.Nanosecond() / int(time.Millisecond)
	return append(b[:len(b)-1], '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), 'Z')
}

// MarshalText implements encoding.TextMarshaler.
func (t Time) MarshalText() ([]byte, error) { return t.append(make([]byte, 0, timeLength)), nil }

// UnmarshalText reads RFC 3339. A second of 60 is refused: a leap second has no
// place on the Unix time scale, and guessing one would bill it twice.
func (t *Time) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*t = 0
		return nil
	}
	v, err := time.Parse(time.RFC3339Nano, string(b))
	if err != nil {
		return fmt.Errorf("%q is not an RFC 3339 time", clip(string(b), 64))
	}
	*t = TimeOf(v)
	return nil
}

// Std is the standard library's value.
func (d Duration) Std() time.Duration { return time.Duration(d) * time.Millisecond }

// firstOfNextMonth is the UTC instant at which the month after t begins.
func firstOfNextMonth(t Time) Time {
	y, m, _ := t.Std().Date()
	return TimeOf(time.Date(y, m+1, 1, 0, 0, 0, 0, time.UTC))
}
