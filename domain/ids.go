package domain

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// idEncoding is Crockford's base32 alphabet in lower case: no i, l, o or u, so
// that an id read out over a telephone survives. 16 bytes give 26 characters.
var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// idKind gives an id type its prefix. Each kind is an empty struct, so that two
// id types never convert into one another by accident.
type idKind interface{ prefix() string }

// ID is a typed resource id: 16 bytes, written as prefix_26characters. The zero
// value means "none" and is written as the empty string. Ids are never reused.
type ID[K idKind] [16]byte

// The id types. Example of a text form: alloc_06g3n4k8w2v5r9t1y7m0q4x8zc.
type (
	TenantID     = ID[tenantKind]
	ProjectID    = ID[projectKind]
	UserID       = ID[userKind]
	APIKeyID     = ID[apiKeyKind]
	HostID       = ID[hostKind]
	SlotID       = ID[slotKind]
	SKUID        = ID[skuKind]
	PriceID      = ID[priceKind]
	AllocationID = ID[allocationKind]
	VMID         = ID[vmKind]
	GrantID      = ID[grantKind]
	CommandID    = ID[commandKind]
	TxID         = ID[txKind]
	JournalID    = ID[journalKind]
	WipeDutyID   = ID[wipeDutyKind]
	CorrectionID = ID[correctionKind]
	ImageID      = ID[imageKind]
)

type (
	tenantKind     struct{}
	projectKind    struct{}
	userKind       struct{}
	apiKeyKind     struct{}
	hostKind       struct{}
	slotKind       struct{}
	skuKind        struct{}
	priceKind      struct{}
	allocationKind struct{}
	vmKind         struct{}
	grantKind      struct{}
	commandKind    struct{}
	txKind         struct{}
	journalKind    struct{}
	wipeDutyKind   struct{}
	correctionKind struct{}
	imageKind      struct{}
)

func (tenantKind) prefix() string     { return "ten" }
func (projectKind) prefix() string    { return "prj" }
func (userKind) prefix() string       { return "usr" }
func (apiKeyKind) prefix() string     { return "key" }
func (hostKind) prefix() string       { return "host" }
func (slotKind) prefix() string       { return "slot" }
func (skuKind) prefix() string        { return "sku" }
func (priceKind) prefix() string      { return "price" }
func (allocationKind) prefix() string { return "alloc" }
func (vmKind) prefix() string         { return "vm" }
func (grantKind) prefix() string      { return "grant" }
func (commandKind) prefix() string    { return "cmd" }
func (txKind) prefix() string         { return "tx" }
func (journalKind) prefix() string    { return "jrn" }
func (wipeDutyKind) prefix() string   { return "duty" }
func (correctionKind) prefix() string { return "corr" }
func (imageKind) prefix() string      { return "img" }

// IsZero reports whether the id names nothing.
func (id ID[K]) IsZero() bool { return id == ID[K]{} }

// String is the text form, "" for the zero id.
func (id ID[K]) String() string {
	var b [longestID]byte
	return string(id.append(b[:0]))
}

// AppendText implements encoding.TextAppender.
func (id ID[K]) AppendText(b []byte) ([]byte, error) { return id.append(b), nil }

// longestID is the length of an id with the longest prefix: feed and answers have dozens
// of ids a launch, so they are made without a look at the heap.
const longestID = len("alloc") + 1 + 26

func (id ID[K]) append(b []byte) []byte {
	if id.IsZero() {
		return b
	}
	var k K
	return idEncoding.AppendEncode(append(append(b, k.prefix()...), '_'), id[:])
}

// Prefix is the word before the underscore, for messages.
func (id ID[K]) Prefix() string { var k K; return k.prefix() }

// MarshalText implements encoding.TextMarshaler.
func (id ID[K]) MarshalText() ([]byte, error) { return id.append(make([]byte, 0, longestID)), nil }

// UnmarshalText implements encoding.TextUnmarshaler. It accepts only the
// canonical form, so that one resource has one spelling.
func (id *ID[K]) UnmarshalText(b []byte) error {
	v, err := ParseID[K](string(b))
	if err != nil {
		return err
	}
	*id = v
	return nil
}

// ParseID reads a text form; "" is the zero id.
func ParseID[K idKind](s string) (ID[K], error) {
	var id ID[K]
	if s == "" {
		return id, nil
	}
	var k K
	body, ok := strings.CutPrefix(s, k.prefix()+"_")
	if !ok || len(body) != 26 {
		return id, &idError{s, k.prefix(), true}
	}
	n, err := idEncoding.Decode(id[:], []byte(body))
	if err != nil || n != 16 || id.String() != s {
		return ID[K]{}, &idError{s, k.prefix(), false}
	}
	return id, nil
}

// idError is a text that is no id. Where a name may stand, too, each launch makes one and
// nobody reads it, so its words are made when they are.
type idError struct {
	text, prefix string
	form         bool // not even of the form
}

func (e *idError) Error() string {
	text := fmt.Sprintf("%q is not a %s id", clip(e.text, 64), e.prefix)
	if e.form {
		text += fmt.Sprintf(": want %s_ and 26 characters", e.prefix)
	}
	return text
}

// Entropy is 32 random bytes that the loop adds to every command. All ids and
// nonces of a decision derive from it, so that decide needs no random source.
type Entropy [32]byte

// derive is SHA-256(entropy, label, index).
func (e Entropy) derive(label string, index int) [32]byte {
	var b [32 + 32 + 8]byte
	copy(b[:], e[:])
	n := 32 + copy(b[32:64], label)
	binary.BigEndian.PutUint64(b[n:], uint64(index))
	return sha256.Sum256(b[:n+8])
}

// deriveID makes the index-th id of its kind in a decision.
func deriveID[K idKind](e Entropy, index int) ID[K] {
	var k K
	h := e.derive(k.prefix(), index)
	return ID[K](h[:16])
}

// Digest is a SHA-256, written in lower-case hex with the algorithm in front.
type Digest [32]byte

// IsZero reports whether there is no digest.
func (d Digest) IsZero() bool { return d == Digest{} }

// String is "sha256:<hex>", "" for the zero digest.
func (d Digest) String() string {
	if d.IsZero() {
		return ""
	}
	var b [len("sha256:") + 64]byte
	hex.Encode(b[copy(b[:], "sha256:"):], d[:])
	return string(b[:])
}

// MarshalText implements encoding.TextMarshaler.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Digest) UnmarshalText(b []byte) error {
	*d = Digest{}
	if len(b) == 0 {
		return nil
	}
	digits, ok := strings.CutPrefix(string(b), "sha256:")
	if !ok || len(digits) != 64 {
		return fmt.Errorf("%q is not a digest: want sha256: and 64 hex digits", clip(string(b), 80))
	}
	for i := range d {
		hi, lo := unhex(digits[2*i]), unhex(digits[2*i+1])
		if hi > 15 || lo > 15 {
			return fmt.Errorf("%q is not a digest: want sha256: and 64 lower-case hex digits", clip(string(b), 80))
		}
		d[i] = hi<<4 | lo
	}
	return nil
}

func unhex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	}
	return 255
}

// DigestOf is the SHA-256 of b.
func DigestOf(b []byte) Digest { return sha256.Sum256(b) }

// clip bounds what of a foreign string is repeated in a message.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "..."
}
