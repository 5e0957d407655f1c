package wipe

import (
	"context"
	"fmt"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/nvme"
)

// method is one way to erase a drive.
type method struct {
	name    string
	promise promise
	can     func(*nvme.Identity) bool
	run     func(e *eraser, ctx context.Context) error // a method of eraser
}

// promise is what a method says about the blocks it erased.
type promise int

const (
	promisesDeallocated promise = iota // what the namespace says of deallocated blocks
	promisesZero
)

func sanitizing(a nvme.SanitizeAction) func(*eraser, context.Context) error {
	return func(e *eraser, ctx context.Context) error { return e.sanitize(ctx, a) }
}

func formatting(ses nvme.SecureErase) func(*eraser, context.Context) error {
	return func(e *eraser, ctx context.Context) error { return e.format(ctx, ses) }
}

var (
	sanitizeCrypto = method{"sanitize-crypto", promisesDeallocated, (*nvme.Identity).SanitizeCrypto, sanitizing(nvme.SanitizeKeysGone)}
	sanitizeBlock  = method{"sanitize-block", promisesDeallocated, (*nvme.Identity).SanitizeBlock, sanitizing(nvme.SanitizeBlocks)}
	sanitizeOver   = method{"sanitize-overwrite", promisesDeallocated, (*nvme.Identity).SanitizeOver, sanitizing(nvme.SanitizeRewrite)}
	formatCrypto   = method{"format-ses2", promisesDeallocated, (*nvme.Identity).CryptoFormat, formatting(nvme.EraseCrypto)}
	formatUserData = method{"format-ses1", promisesDeallocated, (*nvme.Identity).Format, formatting(nvme.EraseUserData)}
	writeZeroes    = method{"write-zeroes", promisesZero, (*nvme.Identity).ZeroesBlocks, (*eraser).zero}
	overwrite      = method{"overwrite-zero", promisesZero, func(*nvme.Identity) bool { return true }, (*eraser).overwrite}
)

// ladders are the methods a policy allows, strongest first. A method that the
// drive does not advertise, or refuses as unknown to it, is passed over: nothing
// was done. Any other failure ends the wipe. Automatic choice leaves the sanitize
// by overwriting out: it takes hours where the others take seconds, and erases no
// more than they do.
var ladders = map[domain.WipePolicy][]*method{
	domain.WipeAuto:      {&sanitizeCrypto, &sanitizeBlock, &formatCrypto, &formatUserData, &writeZeroes, &overwrite},
	domain.WipeSanitize:  {&sanitizeCrypto, &sanitizeBlock, &sanitizeOver},
	domain.WipeFormat:    {&formatCrypto, &formatUserData},
	domain.WipeOverwrite: {&overwrite},
}

func byName(name string) *method {
	for _, m := range []*method{&sanitizeCrypto, &sanitizeBlock, &sanitizeOver} {
		if m.name == name {
			return m
		}
	}
	return nil
}

// erase goes down the policy's ladder to the first method that the drive takes.
func (e *eraser) erase(ctx context.Context) error {
	for _, m := range ladders[e.wipe.Policy] {
		if !m.can(e.id) {
			continue
		}
		e.method, e.ev.Method = m, m.name
		err := m.run(e, ctx)
		if err == nil {
			return nil
		}
		if !nvme.Unsupported(err) {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		e.say("%s: the drive advertises it and refuses it: %v", m.name, err)
	}
	return refuse(Unsupported, "policy %s: the drive knows no method that it allows (SANICAP 0x%x, FNA 0x%x)", e.wipe.Policy, e.id.Sanitize, e.id.FormatAttrs)
}

func (e *eraser) format(ctx context.Context, ses nvme.SecureErase) error {
	for i := range e.base.Namespaces {
		n := &e.base.Namespaces[i].Namespace
		if err := nvme.FormatNamespace(ctx, e.ctl, n, ses); err != nil {
			return fmt.Errorf("namespace %d: %w", n.ID, err)
		}
		e.say("format of namespace %d with ses %d: completed", n.ID, ses)
	}
	return nil
}

// stretchBytes is how much is zeroed between two looks at the clock.
const stretchBytes = 256 << 20

func (e *eraser) zero(ctx context.Context) error {
	return e.each(ctx, func(n *namespace, b nvme.Blocks) error {
		for off := int64(0); off < b.Size(); off += stretchBytes {
			if err := b.WriteZeroes(ctx, off, min(stretchBytes, b.Size()-off)); err != nil {
				return err
			}
		}
		return b.Flush(ctx)
	})
}

func (e *eraser) overwrite(ctx context.Context) error {
	zero := nvme.Buffer(readBytes)
	return e.each(ctx, func(n *namespace, b nvme.Blocks) error {
		for off := int64(0); off < b.Size(); off += readBytes {
			if err := b.WriteAt(ctx, zero[:min(readBytes, b.Size()-off)], off); err != nil {
				return err
			}
		}
		return b.Flush(ctx)
	})
}

// each opens the blocks of every namespace in turn. What the kernel shows must be
// what the drive says.
func (e *eraser) each(ctx context.Context, do func(*namespace, nvme.Blocks) error) error {
	for i := range e.base.Namespaces {
		n := &e.base.Namespaces[i]
		b, err := e.ctl.Namespace(ctx, n.ID)
		if err != nil {
			return fmt.Errorf("namespace %d: %w", n.ID, err)
		}
		if b.Size() != n.Bytes() || b.BlockBytes() != int64(n.BlockBytes) {
			err = refuse(SizeMismatch, "namespace %d: the host sees %d bytes in blocks of %d, the drive says %d in blocks of %d", n.ID, b.Size(), b.BlockBytes(), n.Bytes(), n.BlockBytes)
		} else {
			err = do(n, b)
		}
		if cerr := b.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return fmt.Errorf("namespace %d: %w", n.ID, err)
		}
	}
	return nil
}
