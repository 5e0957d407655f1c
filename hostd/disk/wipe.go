package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/wipe/proof"
)

// MethodOverwrite is what [Wipe] does: zeroes over everything that is stored, then
// the file's blocks given back.
const MethodOverwrite = "overwrite-zero"

const chunkBytes = 1 << 20

// Wipe overwrites the drive and reads all of it back. nonce is the ended lease's:
// before the wipe canaries derived from it are written and read again, so that the
// zeroes read afterwards are known to come from where writes go. An error means
// that nothing is known; a drive that still holds something is evidence with
// result failed. Repeating it is harmless.
func Wipe(ctx context.Context, path, serial string, size uint64, nonce domain.Digest) (domain.DeviceWipe, error) {
	ev := domain.DeviceWipe{Component: "nvme", Serial: serial, Method: MethodOverwrite, SizeBytes: size, Coverage: domain.CoverageAll}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return ev, fmt.Errorf("wipe: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return ev, fmt.Errorf("wipe: %w", err)
	}
	if uint64(st.Size()) != size {
		return ev, fmt.Errorf("wipe: %s has %d bytes, want %d", path, st.Size(), size)
	}
	canaries, err := proof.NewCanaries(nonce, 0, serial, st.Size(), make([]byte, proof.CanaryBytes))
	if err != nil {
		return ev, fmt.Errorf("wipe: %w", err)
	}
	if err := canaries.Plant(ctx, medium{f}); err != nil {
		return ev, fmt.Errorf("wipe: %w", err)
	}
	missing, err := canaries.Landed(ctx, medium{f})
	if err != nil {
		return ev, fmt.Errorf("wipe: %w", err)
	}
	if missing >= 0 {
		return ev, fmt.Errorf("wipe: the canary written at byte %d does not read back", missing)
	}
	ev.Planted = uint32(canaries.Len())
	if err := overwrite(ctx, f, st.Size()); err != nil {
		return ev, err
	}
	if err := dropCache(f); err != nil {
		return ev, err
	}
	gone, survivor, err := canaries.Gone(ctx, medium{f})
	if err != nil {
		return ev, fmt.Errorf("wipe: %w", err)
	}
	ev.Gone = uint32(gone)
	read, dirty, err := proof.ReadAll(ctx, medium{f}, st.Size(), make([]byte, chunkBytes), 0)
	if err != nil {
		return ev, fmt.Errorf("wipe: %w", err)
	}
	ev.BytesRead = uint64(read)
	switch {
	case survivor >= 0:
		ev.Result, ev.Reason, ev.Detail = domain.WipeFailed, "wipe.canary_survived", fmt.Sprintf("the canary at byte %d is still there", survivor)
	case dirty >= 0:
		ev.Result, ev.Reason, ev.Detail = domain.WipeFailed, "wipe.not_blank", fmt.Sprintf("byte %d is not zero", dirty)
	case ev.BytesRead != size:
		ev.Result, ev.Detail = domain.WipePartial, fmt.Sprintf("read %d of %d bytes", read, size)
	default:
		ev.Result, ev.Detail = domain.WipeVerified, "every byte read back as zero"
	}
	return ev, nil
}

// medium is the file as what is proved about.
type medium struct{ f *os.File }

// ReadAt implements [proof.Medium].
func (m medium) ReadAt(_ context.Context, p []byte, off int64) error {
	_, err := m.f.ReadAt(p, off)
	return err
}

// WriteAt implements [proof.Medium].
func (m medium) WriteAt(_ context.Context, p []byte, off int64) error {
	_, err := m.f.WriteAt(p, off)
	return err
}

// Flush implements [proof.Medium].
func (m medium) Flush(context.Context) error { return dropCache(m.f) }

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

var zeroChunk = make([]byte, chunkBytes)

// blank says whether b, of at most chunkBytes, is all zero.
func blank(b []byte) bool { return bytes.Equal(b, zeroChunk[:len(b)]) }
