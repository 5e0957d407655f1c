package nvme

import (
	"context"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioOpWriteZeroes is the NVM command set's Write Zeroes.
const ioOpWriteZeroes = 0x08

// zeroesAtOnce bounds one Write Zeroes command in blocks: the field has 16 bits,
// and a drive must answer within its timeout.
const zeroesAtOnce = 1 << 16

// disk is a namespace's block device, opened past the page cache.
type disk struct {
	f     *os.File
	nsid  uint32
	size  int64
	block int64
}

// Namespace implements [Controller].
func (d *Device) Namespace(ctx context.Context, nsid uint32) (Blocks, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	name, err := d.find.disk(d.name, nsid)
	if err != nil {
		return nil, err
	}
	// O_EXCL on a block device is EBUSY while anything holds it.
	f, err := os.OpenFile(d.find.dev(name), os.O_RDWR|unix.O_EXCL|unix.O_DIRECT, 0)
	if err != nil {
		return nil, fmt.Errorf("nvme: %w", err)
	}
	b := &disk{f: f, nsid: nsid}
	if b.block, err = logicalBlock(f); err == nil {
		b.size, err = f.Seek(0, io.SeekEnd)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("nvme: %s: %w", name, err)
	}
	return b, nil
}

func logicalBlock(f *os.File) (n int64, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := raw.Control(func(fd uintptr) {
		var v int
		v, err = unix.IoctlGetInt(int(fd), unix.BLKSSZGET)
		n = int64(v)
	})
	if cerr != nil {
		return 0, cerr
	}
	return n, err
}

func (b *disk) Size() int64       { return b.size }
func (b *disk) BlockBytes() int64 { return b.block }
func (b *disk) Close() error      { return b.f.Close() }

func (b *disk) inside(off, n int64) error {
	if off < 0 || n <= 0 || off%b.block != 0 || n%b.block != 0 || off > b.size-n {
		return fmt.Errorf("nvme: bytes %d to %d are not blocks of the namespace (%d bytes in blocks of %d)", off, off+n, b.size, b.block)
	}
	return nil
}

// ReadAt implements [Blocks]. A read that ends early is an error.
func (b *disk) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := b.inside(off, int64(len(p))); err != nil {
		return err
	}
	return blocking(ctx, func() error { _, err := b.f.ReadAt(p, off); return err })
}

// WriteAt implements [Blocks].
func (b *disk) WriteAt(ctx context.Context, p []byte, off int64) error {
	if err := b.inside(off, int64(len(p))); err != nil {
		return err
	}
	return blocking(ctx, func() error { _, err := b.f.WriteAt(p, off); return err })
}

// WriteZeroes implements [Blocks], by the ioctl: the block layer would write zeroes
// itself where the drive refuses, and then say that the drive did it. A namespace
// with metadata zeroes that too, because the command carries no data.
func (b *disk) WriteZeroes(ctx context.Context, off, n int64) error {
	if err := b.inside(off, n); err != nil {
		return err
	}
	for lba, left := uint64(off/b.block), uint64(n/b.block); left > 0; {
		k := min(left, zeroesAtOnce)
		c := &Command{Opcode: ioOpWriteZeroes, NSID: b.nsid, CDW10: uint32(lba), CDW11: uint32(lba >> 32), CDW12: uint32(k - 1)}
		if _, err := pass(ctx, b.f, ioctlIO, ioctlIO, c); err != nil {
			return err
		}
		lba, left = lba+k, left-k
	}
	return nil
}

// Flush implements [Blocks]: fsync of a block device is the Flush command, where
// the controller has a volatile cache.
func (b *disk) Flush(ctx context.Context) error {
	return blocking(ctx, b.f.Sync)
}

var _ = [1]struct{}{}[unsafe.Sizeof(passthru{})-80] // the kernel's size of the structure
