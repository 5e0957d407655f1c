package proof

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"

	"github.com/gpuaas/gpuaas/domain"
)

// ReadAll reads the whole medium in pieces of buf and says how much it read and
// where the first byte is that is not want, -1 if there is none; it stops there.
func ReadAll(ctx context.Context, m Medium, size int64, buf []byte, want byte) (read, dirty int64, err error) {
	same := bytes.Repeat([]byte{want}, len(buf))
	for at := int64(0); at < size; {
		if err := ctx.Err(); err != nil {
			return at, -1, err
		}
		b := buf[:min(int64(len(buf)), size-at)]
		b[0], b[len(b)-1] = ^want, ^want // a read that does nothing must not pass
		if err := m.ReadAt(ctx, b, at); err != nil {
			return at, -1, fmt.Errorf("read back at byte %d: %w", at, err)
		}
		if !bytes.Equal(b, same[:len(b)]) {
			i := 0
			for b[i] == want {
				i++
			}
			return at + int64(len(b)), at + int64(i), nil
		}
		at += int64(len(b))
	}
	return size, -1, nil
}

const samples = 1024

// Sample reads up to 1024 blocks of CanaryBytes, scattered as the canaries are, and
// adds their places and content to h. It returns how much it read.
func (c *Canaries) Sample(ctx context.Context, m Medium, size int64, h hash.Hash) (read int64, err error) {
	n := uint64(size / CanaryBytes)
	stretches := min(n, samples)
	var place [8]byte
	for i := range stretches {
		from, to := n*i/stretches, n*(i+1)/stretches
		off := int64(from+c.number(forSample, i)%(to-from)) * CanaryBytes
		clear(c.buf)
		if err := m.ReadAt(ctx, c.buf, off); err != nil {
			return read, fmt.Errorf("sample at byte %d: %w", off, err)
		}
		binary.BigEndian.PutUint64(place[:], uint64(off))
		h.Write(place[:])
		h.Write(c.buf)
		read += CanaryBytes
	}
	return read, nil
}

// DigestOf ends a sample.
func DigestOf(h hash.Hash) domain.Digest { return domain.Digest(h.Sum(nil)) }

// NewSample is the hash that [Canaries.Sample] adds to.
func NewSample() hash.Hash { return sha256.New() }
