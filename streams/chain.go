package streams

import (
	"fmt"

	"github.com/gpuaas/gpuaas/domain"
)

// Chain checks that commits follow one another: numbers rise by one, and each
// carries the SHA-256 of the one before it. The zero Chain stands before the first
// commit of a log; Chain{Head: h} continues from a snapshot or checkpoint at h.
type Chain struct {
	Head domain.Head // the last commit seen
}

// Next checks and takes the next commit. An error wraps [ErrForked] and leaves the
// chain where it was.
func (c *Chain) Next(commit []byte) error {
	h, _, err := domain.DecodeCommitHeader(commit)
	if err != nil {
		return fmt.Errorf("%w: after commit %d: %w", ErrForked, c.Head.N, err)
	}
	if h.N != c.Head.N+1 {
		return fmt.Errorf("%w: commit %d follows commit %d", ErrForked, h.N, c.Head.N)
	}
	if h.Prev != c.Head.Hash {
		return fmt.Errorf("%w: commit %d says its predecessor is %s, it is %s", ErrForked, h.N, h.Prev, c.Head.Hash)
	}
	c.Head = domain.Head{N: h.N, Hash: domain.DigestOf(commit)}
	return nil
}
