package main

import (
	"strings"
	"time"
)

// parseWhen reads a moment: RFC 3339, or how long from now ("2h"); "" is none.
func parseWhen(flag, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t.UTC(), nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return time.Time{}, usage("%s %q: want a time like 2026-01-31T12:00:00Z, or how long from now: 2h", flag, clean(s))
	}
	return time.Now().Add(d).UTC().Truncate(time.Second), nil
}

// parsePast is parseWhen that looks back: "24h" is a day ago.
func parsePast(flag, s string) (time.Time, error) {
	if d, err := time.ParseDuration(strings.TrimPrefix(s, "-")); err == nil {
		return time.Now().Add(-d).UTC().Truncate(time.Second), nil
	}
	t, err := parseWhen(flag, s)
	if err != nil {
		return t, usage("%s %q: want a time like 2026-01-31T12:00:00Z, or how long ago: 24h", flag, clean(s))
	}
	return t, nil
}
