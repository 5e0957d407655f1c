package wipe

import (
	"context"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/nvme"
	"github.com/gpuaas/gpuaas/hostd/wipe/proof"
)

// verify looks at the blocks: no canary is left, and every byte is what the method
// promises. Where it promises nothing (a crypto erase of a drive that does not say
// what deallocated blocks read as), what is there means nothing to anybody, and a
// sample's digest is evidence.
func (e *eraser) verify(ctx context.Context) error {
	e.ev.Planted, e.ev.Gone, e.ev.BytesRead, e.ev.SizeBytes, e.ev.Coverage = 0, 0, 0, 0, domain.CoverageAll
	if len(e.planted) != len(e.base.Namespaces) {
		return refuse(CanaryNotLanded, "canaries are on %d of %d namespaces", len(e.planted), len(e.base.Namespaces))
	}
	for i, n := range e.planted {
		e.ev.Planted += n
		e.ev.SizeBytes += uint64(e.base.Namespaces[i].Bytes())
	}
	buf, sample, at := nvme.Buffer(readBytes), proof.NewSample(), 0
	err := e.each(ctx, func(n *namespace, b nvme.Blocks) error {
		c, err := e.canaries(n)
		if err != nil {
			return err
		}
		if uint32(c.Len()) != e.planted[at] {
			return refuse(CanaryNotLanded, "%d canaries were planted, %d are looked for", e.planted[at], c.Len())
		}
		at++
		gone, survivor, err := c.Gone(ctx, b)
		e.ev.Gone += uint32(gone)
		if err != nil {
			return err
		}
		if survivor >= 0 {
			return refuse(CanarySurvived, "%d of %d canaries are left, the first at byte %d", c.Len()-gone, c.Len(), survivor)
		}
		want, known := e.promised(n)
		if !known {
			e.ev.Coverage = domain.CoverageSampled
			read, err := c.Sample(ctx, b, b.Size(), sample)
			e.ev.BytesRead += uint64(read)
			return err
		}
		read, dirty, err := proof.ReadAll(ctx, b, b.Size(), buf, want)
		e.ev.BytesRead += uint64(read)
		if err == nil && dirty >= 0 {
			err = refuse(NotBlank, "byte %d is not 0x%02x", dirty, want)
		}
		return err
	})
	if err != nil {
		return err
	}
	if e.ev.Coverage == domain.CoverageSampled {
		e.ev.Sample = proof.DigestOf(sample)
		e.ev.Detail = "no canary is left; the drive does not say what erased blocks read as, a sample was read"
		return nil
	}
	e.ev.Detail = "no canary is left; every byte was read back as erased"
	return nil
}

// promised is the byte that every erased block of the namespace consists of, if the
// method and the drive promise one.
func (e *eraser) promised(n *namespace) (want byte, known bool) {
	switch {
	case e.method.promise == promisesZero || n.Deallocated == nvme.ReadsZero:
		return 0, true
	case n.Deallocated == nvme.ReadsFF:
		return 0xFF, true
	}
	return 0, false
}
