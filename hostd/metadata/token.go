package metadata

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"time"
)

// maxTTL is the longest life of a token in seconds, as on EC2.
const maxTTL = 21600

// tokens makes and checks tokens without remembering them: a token is its end and
// a MAC over that and the VM, under a key of this process. A restart of the daemon
// ends all tokens; agents fetch a new one when theirs is refused.
type tokens struct{ key [32]byte }

func newTokens() (t tokens, err error) {
	if _, err := rand.Read(t.key[:]); err != nil {
		return t, fmt.Errorf("metadata: %w", err)
	}
	return t, nil
}

func (t tokens) issue(vm string, end time.Time) string {
	b := binary.BigEndian.AppendUint64(nil, uint64(end.Unix()))
	return base64.RawURLEncoding.EncodeToString(append(b, t.mac(vm, b)...))
}

func (t tokens) valid(token, vm string, now time.Time) bool {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) != 8+sha256.Size {
		return false
	}
	return hmac.Equal(b[8:], t.mac(vm, b[:8])) && now.Unix() < int64(binary.BigEndian.Uint64(b[:8]))
}

func (t tokens) mac(vm string, end []byte) []byte {
	h := hmac.New(sha256.New, t.key[:])
	h.Write(end)
	h.Write([]byte(vm))
	return h.Sum(nil)
}
