package api

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"hash/crc32"
	"math/big"

	"github.com/gpuaas/gpuaas/domain"
)

// One-time secrets are a function of the site secret and the command that asked
// for them, so that the answer to a repeated command shows the same secret again
// and nothing has to be kept. The log holds only the SHA-256 of the whole string.

// The prefixes make a secret recognizable to scanners.
const (
	keyPrefix   = "gpk"
	tokenPrefix = "enr"
)

var secretIDs = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// KeySecret is the secret of the API key that a command creates:
// gpk_<26 characters>_<43 of base62><6 of base62: CRC-32 (IEEE) of what stands before>.
func KeySecret(site [32]byte, command domain.CommandID) string {
	id, secret := derive(site, "api key id", command), derive(site, "api key secret", command)
	s := keyPrefix + "_" + secretIDs.EncodeToString(id[:16]) + "_" + base62(secret[:], 43)
	return s + checksum(s)
}

// EnrolmentToken is the one-time token of the host that a command enrols.
func EnrolmentToken(site [32]byte, command domain.CommandID) string {
	secret := derive(site, "enrolment token", command)
	s := tokenPrefix + "_" + base62(secret[:], 43)
	return s + checksum(s)
}

// SecretHash is what the log holds of a secret.
func SecretHash(secret string) domain.Digest { return domain.DigestOf([]byte(secret)) }

func derive(site [32]byte, purpose string, command domain.CommandID) [32]byte {
	m := hmac.New(sha256.New, site[:])
	m.Write([]byte(purpose))
	m.Write([]byte{0})
	m.Write(command[:])
	return [32]byte(m.Sum(nil))
}

func checksum(s string) string {
	c := crc32.ChecksumIEEE([]byte(s))
	return base62([]byte{byte(c >> 24), byte(c >> 16), byte(c >> 8), byte(c)}, 6)
}

const base62Digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// base62 writes b as a number of exactly width digits.
func base62(b []byte, width int) string {
	n, base, digit := new(big.Int).SetBytes(b), big.NewInt(62), new(big.Int)
	out := make([]byte, width)
	for i := width - 1; i >= 0; i-- {
		n.DivMod(n, base, digit)
		out[i] = base62Digits[digit.Int64()]
	}
	return string(out)
}
