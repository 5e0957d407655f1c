package domain

import "strings"

// Checks of what a request may say. The bounds stand here once; the API's schema
// repeats them for documentation.

const (
	maxName       = 63
	maxTags       = 32
	maxSSHKeys    = 64
	maxUserData   = 64 << 10
	maxImageName  = 128
	maxGangVMs    = 32
	maxSlotsOnMap = 64
)

// checkSlug accepts names of resources: 1-63 of a-z, 0-9 and "-", beginning with
// a letter or digit and not ending with "-" (a DNS label, RFC 1123: it becomes a
// host name).
func checkSlug(field, s string) *Error {
	bad := s == "" || len(s) > maxName || s[0] == '-' || s[len(s)-1] == '-'
	for i := 0; !bad && i < len(s); i++ {
		c := s[i]
		bad = !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
	}
	if bad {
		return invalidField(field, "name.invalid", "%s %q: want 1 to %d of a-z, 0-9 and -, not at either end a -", field, clip(s, 80), maxName)
	}
	return nil
}

// checkWord accepts short tokens like image names, GPU classes and racks:
// printable ASCII without spaces.
func checkWord(field, s string, limit int, optional bool) *Error {
	if s == "" && optional {
		return nil
	}
	ok := s != "" && len(s) <= limit
	for i := 0; ok && i < len(s); i++ {
		c := s[i]
		ok = c > ' ' && c < 0x7f && !strings.ContainsRune(`"'<>\&`, rune(c))
	}
	if !ok {
		return invalidField(field, "word.invalid", "%s %q: want 1 to %d printable ASCII characters without spaces or quotes", field, clip(s, 80), limit)
	}
	return nil
}
