package projections

import (
	"strings"
	"unicode/utf8"
)

// What hosts say is text of any bytes, and Postgres stores neither NUL nor what is not
// UTF-8: one such word in a report must not stop the tables. Such bytes are written as
// U+FFFD, as encoding/json writes them.

// storable is text as Postgres can store it.
func storable(s string) string {
	if strings.IndexByte(s, 0) < 0 && utf8.ValidString(s) {
		return s
	}
	return strings.Map(func(r rune) rune {
		if r == 0 {
			return utf8.RuneError
		}
		return r
	}, s)
}

// storableJSON is what encoding/json wrote, as jsonb can store it.
func storableJSON(s string) string {
	if !strings.Contains(s, `\u0000`) {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); {
		n := 1
		if s[i] == '\\' {
			n = 2 // a backslash that is escaped begins nothing
		}
		if n == 2 && strings.HasPrefix(s[i:], `\u0000`) {
			out.WriteString(`\ufffd`)
			n = 6
		} else {
			out.WriteString(s[i : i+n])
		}
		i += n
	}
	return out.String()
}

// storableArgs makes a statement's arguments storable.
func storableArgs(args []any) []any {
	for i, a := range args {
		switch a := a.(type) {
		case string:
			args[i] = storable(a)
		case []string:
			for k := range a {
				a[k] = storable(a[k])
			}
		}
	}
	return args
}
