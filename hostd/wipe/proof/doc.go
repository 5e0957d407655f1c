// Package proof shows that an erasure happened: canaries that were there before it
// and are not after it, and reading back what must be empty. Zeroes alone prove
// nothing: a drive that never stored anything reads as zeroes too.
//
// It knows a medium only as bytes at offsets, so the same proof holds for a drive's
// namespace and for the file that stands in for one.
package proof

import "context"

// Medium is what is erased. Offsets and lengths are multiples of its block size,
// which divides [CanaryBytes]; buffers are the caller's and suit direct I/O when
// they come from its maker's allocator.
type Medium interface {
	ReadAt(ctx context.Context, p []byte, off int64) error
	WriteAt(ctx context.Context, p []byte, off int64) error
	Flush(ctx context.Context) error // what was written is on the medium, and reads come from there
}
