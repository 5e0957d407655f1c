package projections

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"

	"github.com/gpuaas/gpuaas/domain"
)

// cursor is a place in a list: an event's number, and what tells rows of one event
// apart.
type cursor struct{ a, b int64 }

// listKind keeps a cursor of one list from being used in another.
type listKind byte

const (
	listTenants listKind = iota + 1
	listMembers
	listProjects
	listProjectMembers
	listOperators
	listKeys
	listHosts
	listSlots
	listAllocations
	listLedger
	listUsage
	listGrants
	listAudit
	listWipeDuties
	listImages
	listDevice
)

// cursors encrypt places: event numbers count the whole site's activity, which is
// no tenant's business. One block of AES holds a place and a check.
type cursors struct{ block cipher.Block }

func newCursors(key []byte) cursors {
	sum := sha256.Sum256(append([]byte("gpuaas list cursors\x00"), key...))
	block, err := aes.NewCipher(sum[:16])
	if err != nil {
		panic(err) // the size of the key is right
	}
	return cursors{block}
}

func (c cursors) encode(kind listKind, descending bool, at cursor) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], uint64(at.a))
	binary.BigEndian.PutUint32(b[8:], uint32(at.b))
	b[12] = byte(kind)
	if descending {
		b[13] = 1
	}
	c.block.Encrypt(b[:], b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func (c cursors) decode(kind listKind, descending bool, s string) (at cursor, err error) {
	b, bad := base64.RawURLEncoding.DecodeString(s)
	if bad == nil && len(b) == 16 {
		c.block.Decrypt(b, b)
		if b[12] == byte(kind) && (b[13] == 1) == descending && b[13] < 2 && b[14] == 0 && b[15] == 0 {
			return cursor{int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint32(b[8:]))}, nil
		}
	}
	e := domain.Errorf(domain.Invalid, "list.cursor", "cursor: not one of this list: begin without a cursor")
	e.Field = "cursor"
	return at, e
}
