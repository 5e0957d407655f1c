package projections

import "testing"

// FuzzCursor: only what was given out for the list is read.
func FuzzCursor(f *testing.F) {
	c := newCursors([]byte("secret"))
	f.Add(c.encode(1, false, cursor{7, 9}), byte(1), false)
	f.Add("x", byte(0), true)
	f.Fuzz(func(t *testing.T, s string, kind byte, descending bool) {
		at, err := c.decode(listKind(kind), descending, s)
		if err == nil && c.encode(listKind(kind), descending, at) != s {
			t.Fatalf("%q was read as %v", s, at)
		}
	})
}
