package commands

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/gpuaas/gpuaas/domain"
)

// Verified is what an audit of the log found: nothing wrong, or it would be an
// error.
type Verified struct {
	Head      domain.Head   `json:"head"`
	Decisions uint64        `json:"decisions"`
	Events    uint64        `json:"events"`
	State     domain.Digest `json:"state_hash"`

	Documents []domain.Digest `json:"-"` // of the vault: what the log names
}

// Verify reads the whole log, checks numbers and the hash chain, decides every
// command again and compares what follows, byte for byte, with what was recorded,
// and holds the result against all invariants.
func Verify(ctx context.Context, log LogReader) (Verified, error) {
	w := domain.NewWorld()
	var v Verified
	err := log.Read(ctx, log.Seq(1), func(seq uint64, b []byte) error {
		c, err := domain.DecodeCommit(b)
		if err != nil {
			return fmt.Errorf("message %d: %w", seq, err)
		}
		hash := domain.Digest(sha256.Sum256(b))
		if c.N != w.Head.N+1 || c.Prev != w.Head.Hash {
			return fmt.Errorf("message %d: commit %d does not follow commit %d: the chain is broken", seq, c.N, w.Head.N)
		}
		if c.At < w.At {
			return fmt.Errorf("message %d: commit %d is of %s, earlier than the one before it, %s", seq, c.N, c.At, w.At)
		}
		for i := range c.Decisions {
			d := &c.Decisions[i]
			if err := reexecute(w, c.At, d); err != nil {
				return fmt.Errorf("commit %d, decision %d (%s %s): %w", c.N, i, d.Command.Body.CommandType(), d.Command.ID, err)
			}
			if i == 0 {
				w.Begin(c.At) // as the loop does: the first command still sees the time before
			}
			w.Apply(d, domain.Position{N: c.N, Index: uint32(i)})
			v.Decisions++
			v.Events += uint64(len(d.Events))
		}
		w.End(domain.Head{N: c.N, Hash: hash})
		v.Documents = append(v.Documents, c.Documents()...)
		return nil
	})
	if err != nil {
		return v, err
	}
	if err := w.CheckAll(); err != nil {
		return v, fmt.Errorf("the world that the log folds into is not consistent: %w", err)
	}
	v.Head, v.State = w.Head, w.Hash()
	return v, nil
}

// reexecute decides d's command again.
func reexecute(w *domain.World, at domain.Time, d *domain.Decision) error {
	out := w.Decide(at, &d.Command)
	switch {
	case out.Err != nil:
		return fmt.Errorf("was accepted, and is refused now: %w", out.Err)
	case out.Repeat.N != 0:
		return fmt.Errorf("was accepted before, at commit %d", out.Repeat.N)
	}
	again := domain.Decision{Command: d.Command, Events: make([]domain.Event, len(out.Events))}
	for i, e := range out.Events {
		again.Events[i] = domain.Event{Number: w.Number + 1 + uint64(i), Body: e}
	}
	if !bytes.Equal(domain.AppendDecision(nil, d), domain.AppendDecision(nil, &again)) {
		return fmt.Errorf("leads to %d other events than the %d recorded", len(again.Events), len(d.Events))
	}
	return nil
}
