package proof

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/gpuaas/gpuaas/domain"
)

const (
	// CanaryBytes is a canary's size, and what its offset is a multiple of but for
	// the last: that one ends with the medium.
	CanaryBytes = 4096

	// MaxCanaries is how many a large medium gets. A share f of it that an erasure
	// missed holds none of them with probability (1-f)^256: 1% is found 12 times of
	// 13, 5% practically always; and a part of more than two of the 254 equal
	// stretches that the medium is cut into always holds one.
	MaxCanaries = 256

	minCanaries = 3

	// pieceBytes is what survives or not: half of a canary is not gone.
	pieceBytes = sha256.Size
)

// Canaries are blocks that nothing but one attempt to erase one medium for one
// lease writes. Where they are and what they say follows from the lease's nonce,
// which no tenant sees: nobody can keep them out of an erasure, and a restarted
// host knows them again.
type Canaries struct {
	key []byte
	at  []int64
	buf []byte
}

// NewCanaries derives the canaries of a medium of size bytes. name tells the media
// of one lease apart, attempt the attempts: what an earlier attempt left behind
// cannot pass for canaries that landed now. buf is memory of CanaryBytes.
func NewCanaries(nonce domain.Digest, attempt uint32, name string, size int64, buf []byte) (*Canaries, error) {
	if size < minCanaries*CanaryBytes || size%512 != 0 {
		return nil, fmt.Errorf("proof: a medium of %d bytes has no room for canaries", size)
	}
	m := hmac.New(sha256.New, nonce[:])
	fmt.Fprintf(m, "canary %d %q", attempt, name)
	c := &Canaries{key: m.Sum(nil), buf: buf[:CanaryBytes], at: []int64{0}}
	c.scatter(1, uint64(size/CanaryBytes)-2)
	c.at = append(c.at, size-CanaryBytes)
	return c, nil
}

// scatter adds places among n blocks from first on: the blocks are cut into equal
// stretches, with one canary in each, at a place that the nonce chooses.
func (c *Canaries) scatter(first, n uint64) {
	stretches := min(n, MaxCanaries-2)
	for i := range stretches {
		from, to := first+n*i/stretches, first+n*(i+1)/stretches
		c.at = append(c.at, int64(from+c.number(forPlace, i)%(to-from))*CanaryBytes)
	}
}

// sum is SHA-256(key, label, a, b): the key is secret and of fixed length.
func (c *Canaries) sum(label byte, a, b uint64) [sha256.Size]byte {
	var in [sha256.Size + 1 + 16]byte
	copy(in[:], c.key)
	in[sha256.Size] = label
	binary.BigEndian.PutUint64(in[sha256.Size+1:], a)
	binary.BigEndian.PutUint64(in[sha256.Size+9:], b)
	return sha256.Sum256(in[:])
}

// What a sum is for.
const (
	forPlace byte = iota
	forContent
	forSample
)

func (c *Canaries) number(label byte, i uint64) uint64 {
	h := c.sum(label, i, 0)
	return binary.BigEndian.Uint64(h[:])
}

// Len is how many there are.
func (c *Canaries) Len() int { return len(c.at) }

// content is what the canary at off says: no two pieces of any two canaries are
// equal, and none is zero.
func (c *Canaries) content(off int64) []byte {
	b := make([]byte, 0, CanaryBytes)
	for i := uint64(0); len(b) < CanaryBytes; i++ {
		h := c.sum(forContent, uint64(off), i)
		b = append(b, h[:]...)
	}
	return b
}

// Plant writes the canaries and has them stored.
func (c *Canaries) Plant(ctx context.Context, m Medium) error {
	for _, off := range c.at {
		copy(c.buf, c.content(off))
		if err := m.WriteAt(ctx, c.buf, off); err != nil {
			return fmt.Errorf("canary at byte %d: %w", off, err)
		}
	}
	if err := m.Flush(ctx); err != nil {
		return fmt.Errorf("canaries: flush: %w", err)
	}
	return nil
}

// Landed reads the canaries and returns where the first one is that is not there,
// -1 if all are. What was read may come from a cache, unless the caller sees to it
// that there is none: a canary that only a cache knew proves nothing.
func (c *Canaries) Landed(ctx context.Context, m Medium) (missing int64, err error) {
	for _, off := range c.at {
		if err := c.read(ctx, m, off); err != nil {
			return off, err
		}
		if !bytes.Equal(c.buf, c.content(off)) {
			return off, nil
		}
	}
	return -1, nil
}

func (c *Canaries) read(ctx context.Context, m Medium, off int64) error {
	clear(c.buf) // a read that does nothing must not find what the last one left
	if err := m.ReadAt(ctx, c.buf, off); err != nil {
		return fmt.Errorf("canary at byte %d: %w", off, err)
	}
	return nil
}

// Gone counts the canaries of which no piece is left where it was, and says where
// the first survivor is, -1 if there is none.
func (c *Canaries) Gone(ctx context.Context, m Medium) (gone int, survivor int64, err error) {
	survivor = -1
	for _, off := range c.at {
		if err := c.read(ctx, m, off); err != nil {
			return gone, survivor, err
		}
		if !c.left(off) {
			gone++
		} else if survivor < 0 {
			survivor = off
		}
	}
	return gone, survivor, nil
}

func (c *Canaries) left(off int64) bool {
	want := c.content(off)
	for i := 0; i < CanaryBytes; i += pieceBytes {
		if bytes.Equal(c.buf[i:i+pieceBytes], want[i:i+pieceBytes]) {
			return true
		}
	}
	return false
}
