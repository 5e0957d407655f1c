package api

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"

	"github.com/gpuaas/gpuaas/domain"
)

// Cursors are numbers of the site's log or tables. A tenant must not learn from
// them how much happens at the site, and must not make up its own: a cursor is one
// block of AES over the number and a tag of who may use it.
type cursors struct {
	block cipher.Block
	tag   [32]byte
}

func newCursors(site [32]byte) *cursors {
	key := derive(site, "cursor encryption", domain.CommandID{})
	block, err := aes.NewCipher(key[:16])
	if err != nil {
		panic(err) // 16 bytes are a key
	}
	return &cursors{block: block, tag: derive(site, "cursor scope", domain.CommandID{})}
}

// seal writes a number for one scope: a tenant's id, or "platform", with what kind
// of list it belongs to.
func (k *cursors) seal(scope string, number uint64) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], number)
	copy(b[8:], k.check(scope, number))
	k.block.Encrypt(b[:], b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// open reads a cursor that was sealed for the scope.
func (k *cursors) open(scope, s string) (uint64, bool) {
	var b [17]byte
	if len(s) != 22 {
		return 0, false
	}
	if n, err := base64.RawURLEncoding.Strict().Decode(b[:], []byte(s)); err != nil || n != 16 {
		return 0, false
	}
	k.block.Decrypt(b[:16], b[:16])
	number := binary.BigEndian.Uint64(b[:])
	return number, subtle.ConstantTimeCompare(b[8:16], k.check(scope, number)) == 1
}

func (k *cursors) check(scope string, number uint64) []byte {
	m := hmac.New(sha256.New, k.tag[:])
	m.Write([]byte(scope))
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], number)
	m.Write(n[:])
	return m.Sum(nil)[:8]
}

// scopeName is whose cursors the caller may use.
func (c *call) scopeName() string {
	if c.platform() {
		return "platform"
	}
	return c.caller.Member.Tenant.String()
}

func errCursor() *domain.Error {
	return domain.Errorf(domain.Invalid, "cursor.invalid", "this cursor was not given out for this list")
}
