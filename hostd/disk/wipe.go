package disk

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/gpuaas/gpuaas/domain"
)

// MethodOverwrite is what [Wipe] does: zeroes over everything that is stored, then
// the file's blocks given back.
const MethodOverwrite = "overwrite-zero"

const (
	chunkBytes  = 1 << 20
	canaryBytes = 4096
)

// Wipe overwrites the drive and reads all of it back. nonce is the ended lease's:
// before the wipe a canary derived from it is written to the beginning, the middle
// and the end and read again, so that the zeroes read afterwards are known to come
// from where writes go. An error means that nothing is known; a drive that still
// holds something is evidence with result failed. Repeating it is harmless.
func Wipe(ctx context.Context, path, serial string, size uint64, nonce domain.Digest) (domain.DeviceWipe, error) {
	ev := domain.DeviceWipe{Component: "nvme", Serial: serial, Method: MethodOverwrite}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return ev, fmt.Errorf("wipe: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return ev, fmt.Errorf("wipe: %w", err)
	}
	if uint64(st.Size()) != size || size < 3*canaryBytes {
		return ev, fmt.Errorf("wipe: %s has %d bytes, want %d", path, st.Size(), size)
	}
	if err := plantCanaries(f, size, nonce); err != nil {
		return ev, err
	}
	if err := overwrite(ctx, f, st.Size()); err != nil {
		return ev, err
	}
	if err := dropCache(f); err != nil {
		return ev, err
	}
	read, dirty, err := readBack(ctx, f, st.Size())
	if err != nil {
		return ev, err
	}
	ev.BytesRead = uint64(read)
	switch {
	case dirty >= 0:
		ev.Result, ev.Detail = domain.WipeFailed, fmt.Sprintf("byte %d is not zero", dirty)
	case ev.BytesRead != size:
		ev.Result, ev.Detail = domain.WipePartial, fmt.Sprintf("read %d of %d bytes", read, size)
	default:
		ev.Result, ev.Detail = domain.WipeVerified, "every byte read back as zero"
	}
	return ev, nil
}

// plantCanaries writes and reads the canaries.
func plantCanaries(f *os.File, size uint64, nonce domain.Digest) error {
	at := []int64{0, int64(size/2) &^ (canaryBytes - 1), int64(size-canaryBytes) &^ (canaryBytes - 1)}
	for i, off := range at {
		if _, err := f.WriteAt(canary(nonce, i), off); err != nil {
			return fmt.Errorf("wipe: canary: %w", err)
		}
	}
	if err := dropCache(f); err != nil {
		return err
	}
	got := make([]byte, canaryBytes)
	for i, off := range at {
		if _, err := f.ReadAt(got, off); err != nil {
			return fmt.Errorf("wipe: canary: %w", err)
		}
		if !bytes.Equal(got, canary(nonce, i)) {
			return fmt.Errorf("wipe: the canary written at byte %d does not read back", off)
		}
	}
	return nil
}

// canary is 4 KiB that nothing else writes: HMAC-SHA256(nonce, "canary", i) over
// and over. No block of it is zero.
func canary(nonce domain.Digest, i int) []byte {
	m := hmac.New(sha256.New, nonce[:])
	fmt.Fprintf(m, "canary %d", i)
	return bytes.Repeat(m.Sum(nil), canaryBytes/sha256.Size)
}

// overwrite writes zeroes over what is stored, makes that durable, and then gives
// the blocks back. The order matters: a hole alone would leave the old bytes in
// blocks of the host's file system.
func overwrite(ctx context.Context, f *os.File, size int64) error {
	zero := make([]byte, chunkBytes)
	for _, e := range extents(f, size) {
		for at := e.from; at < e.to; {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("wipe: %w", err)
			}
			n, err := f.WriteAt(zero[:min(chunkBytes, e.to-at)], at)
			if err != nil {
				return fmt.Errorf("wipe: %w", err)
			}
			at += int64(n)
		}
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("wipe: %w", err)
	}
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, size)
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) { // without holes it stays allocated: zero all the same
		return fmt.Errorf("wipe: discard: %w", err)
	}
	return nil
}

// dropCache makes what was written durable and has the next read come from below.
func dropCache(f *os.File) error {
	if err := f.Sync(); err != nil {
		return fmt.Errorf("wipe: %w", err)
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("wipe: %w", err)
	}
	return nil
}

// readBack reads the whole drive, holes included. It returns how much it read and
// where the first byte is that is not zero, -1 if there is none.
func readBack(ctx context.Context, f *os.File, size int64) (read, dirty int64, err error) {
	buf := make([]byte, chunkBytes)
	for at := int64(0); at < size; {
		if err := ctx.Err(); err != nil {
			return at, -1, fmt.Errorf("wipe: %w", err)
		}
		n, err := f.ReadAt(buf[:min(chunkBytes, size-at)], at)
		if err != nil {
			return at, -1, fmt.Errorf("wipe: read back: %w", err)
		}
		if i := firstNonZero(buf[:n]); i >= 0 {
			return at + int64(n), at + int64(i), nil
		}
		at += int64(n)
	}
	return size, -1, nil
}

var zeroChunk = make([]byte, chunkBytes)

// firstNonZero is the index of the first byte of b that is not zero, or -1.
func firstNonZero(b []byte) int {
	if bytes.Equal(b, zeroChunk[:len(b)]) {
		return -1
	}
	for i, c := range b {
		if c != 0 {
			return i
		}
	}
	return -1
}
