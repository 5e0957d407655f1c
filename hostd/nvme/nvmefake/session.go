package nvmefake

import (
	"context"

	"golang.org/x/sys/unix"

	"github.com/gpuaas/gpuaas/hostd/nvme"
)

// session implements [nvme.Controller].
type session struct{ d *Drive }

// run has the hook see the operation and carries it out under the drive's lock.
func (d *Drive) run(ctx context.Context, op *Op, do func() error) error {
	locked := func() error {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.tick()
		return do()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if d.Hook == nil {
		return locked()
	}
	return d.Hook(op, locked)
}

// Admin implements [nvme.Controller].
func (s *session) Admin(ctx context.Context, c *nvme.Command) (uint32, error) {
	op := &Op{Kind: "admin", Cmd: c, NSID: c.NSID, Data: c.Data}
	err := s.d.run(ctx, op, func() (err error) {
		op.Result, err = s.d.admin(c)
		return err
	})
	if err != nil {
		return 0, err
	}
	return op.Result, s.d.wait(ctx, c)
}

// Reset implements [nvme.Controller].
func (s *session) Reset(ctx context.Context) error {
	return s.d.run(ctx, &Op{Kind: "reset"}, func() error { return nil })
}

// Close implements [nvme.Controller].
func (s *session) Close() error { return nil }

// Namespace implements [nvme.Controller].
func (s *session) Namespace(ctx context.Context, nsid uint32) (nvme.Blocks, error) {
	b := &blocks{d: s.d, nsid: nsid}
	err := s.d.run(ctx, &Op{Kind: "open", NSID: nsid}, func() error {
		n := s.d.Namespaces[nsid]
		if n == nil {
			return unix.ENOENT
		}
		b.n, b.size, b.block = n, n.Bytes, 1<<n.Formats[n.Format].Shift
		return nil
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// blocks implements [nvme.Blocks].
type blocks struct {
	d           *Drive
	n           *Namespace
	nsid        uint32
	size, block int64
}

func (b *blocks) Size() int64       { return b.size }
func (b *blocks) BlockBytes() int64 { return b.block }
func (b *blocks) Close() error      { return nil }

// barred is why no block can be reached now, as the kernel says it.
func (b *blocks) barred(write bool) error {
	switch {
	case b.d.Namespaces[b.nsid] != b.n:
		return unix.ENODEV
	case b.d.state == nvme.Sanitizing || b.d.failedOp || b.d.Locking.Locked, write && b.n.Protection != nvme.Writable:
		return unix.EIO
	}
	return nil
}

func (b *blocks) check(op *Op) error {
	if op.Off < 0 || op.N <= 0 || op.Off%b.block != 0 || op.N%b.block != 0 || op.Off+op.N > b.size {
		return unix.EINVAL
	}
	return nil
}

// each calls f for the part of every chunk in a range.
func each(off, n int64, f func(chunk, at, from, to int64)) {
	for done := int64(0); done < n; {
		chunk, at := (off+done)/chunkBytes, (off+done)%chunkBytes
		k := min(chunkBytes-at, n-done)
		f(chunk, at, done, done+k)
		done += k
	}
}

// ReadAt implements [nvme.Blocks].
func (b *blocks) ReadAt(ctx context.Context, p []byte, off int64) error {
	op := &Op{Kind: "read", NSID: b.nsid, Off: off, N: int64(len(p)), Data: p}
	return b.d.run(ctx, op, func() error {
		if err := b.check(op); err != nil {
			return err
		}
		if err := b.barred(false); err != nil {
			return err
		}
		each(off, op.N, func(chunk, at, from, to int64) { copy(p[from:to], b.n.chunk(chunk)[at:]) })
		return nil
	})
}

// WriteAt implements [nvme.Blocks].
func (b *blocks) WriteAt(ctx context.Context, p []byte, off int64) error {
	op := &Op{Kind: "write", NSID: b.nsid, Off: off, N: int64(len(p)), Data: p}
	return b.d.run(ctx, op, func() error {
		if err := b.check(op); err != nil {
			return err
		}
		if err := b.barred(true); err != nil {
			return err
		}
		each(off, op.N, func(chunk, at, from, to int64) { b.n.put(chunk, at, p[from:to]) })
		return nil
	})
}

// WriteZeroes implements [nvme.Blocks].
func (b *blocks) WriteZeroes(ctx context.Context, off, n int64) error {
	op := &Op{Kind: "zeroes", NSID: b.nsid, Off: off, N: n}
	return b.d.run(ctx, op, func() error {
		if b.d.ONCS&(1<<3) == 0 {
			return nvme.InvalidOpcode
		}
		if err := b.check(op); err != nil {
			return err
		}
		if err := b.barred(true); err != nil {
			return err
		}
		zero := make([]byte, chunkBytes)
		each(off, n, func(chunk, at, from, to int64) { b.n.put(chunk, at, zero[:to-from]) })
		return nil
	})
}

// Flush implements [nvme.Blocks].
func (b *blocks) Flush(ctx context.Context) error {
	return b.d.run(ctx, &Op{Kind: "flush", NSID: b.nsid}, func() error {
		if err := b.barred(false); err != nil {
			return err
		}
		b.n.flush()
		return nil
	})
}
