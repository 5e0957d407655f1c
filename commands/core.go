package commands

import (
	"crypto/sha256"
	"fmt"

	"github.com/gpuaas/gpuaas/domain"
)

// Reply is the answer to a command.
type Reply struct {
	N      uint64             // the commit that holds the decision; without events, the commit the answer reflects
	At     domain.Time        // that commit's time
	Events []domain.EventBody // what followed; none: it was already so
	// Repeat is set when the command was accepted before: its place in the log.
	Repeat domain.Position
	Err    *domain.Error // a refusal
}

// Core decides commands into groups, one group a commit. It is single-threaded
// and knows no time but what it is told.
//
// The caller's duties:
//  1. Open with the fold of everything durable.
//  2. Call Decide only with times that never fall.
//  3. Append the bytes of Close with the expected sequence of the commit before.
//  4. Close the next group only after the last one is durable.
//  5. Deliver a group's replies only after it, and all groups before it, are durable.
//  6. If an append fails for good, throw the Core away: its world runs ahead of
//     the log.
type Core struct {
	world *domain.World
	head  domain.Head // of the last closed group
	open  group
	spare []byte // a buffer that no commit is in
}

// group is the commit being filled.
type group struct {
	at        domain.Time
	buf       []byte
	decisions uint32
}

// Closed is a finished group: the commit's bytes, nil when nothing was decided.
type Closed struct {
	Head       domain.Head // after the commit; of Cut without its hash
	At         domain.Time
	Commit     []byte
	Decisions  uint32
	Placements []*domain.PlacementDraft // of hosts whose desired state changed
}

// NewCore goes on from a folded world.
func NewCore(w *domain.World) *Core { return &Core{world: w, head: w.Head} }

// World is what decisions are made against. It runs ahead of what is durable.
func (c *Core) World() *domain.World { return c.world }

// Full reports whether the open group takes no further decision.
func (c *Core) Full() bool {
	return c.open.decisions >= domain.MaxCommitDecisions || len(c.open.buf) > domain.MaxCommitBytes-domain.MaxDecisionBytes-64
}

// Empty reports whether nothing was decided in the open group.
func (c *Core) Empty() bool { return c.open.decisions == 0 }

// at is the open group's time, stamped when its first command is decided.
func (c *Core) at(now domain.Time) domain.Time {
	if c.open.decisions == 0 {
		c.open.at = max(now, c.world.At)
	}
	return c.open.at
}

// Now is the time at which a question asked now is answered.
func (c *Core) Now(now domain.Time) domain.Time { return c.at(now) }

// Decide decides one command and makes it part of the world. The reply must wait
// until the open group is durable.
func (c *Core) Decide(now domain.Time, cmd *domain.Command) Reply {
	at := c.at(now)
	out := c.world.Decide(at, cmd)
	switch {
	case out.Err != nil:
		return Reply{N: c.head.N, At: at, Err: out.Err}
	case out.Repeat.N != 0:
		return Reply{N: out.Repeat.N, At: at, Repeat: out.Repeat}
	case len(out.Events) == 0:
		return Reply{N: c.lastN(), At: c.world.At}
	}
	d := domain.Decision{Command: *cmd, Events: make([]domain.Event, len(out.Events))}
	for i, e := range out.Events {
		d.Events[i] = domain.Event{Number: c.world.Number + 1 + uint64(i), Body: e}
	}
	if c.open.decisions == 0 {
		c.open.buf, c.spare = domain.NewCommitBuffer(c.spare), nil
		c.world.Begin(at)
	}
	before := len(c.open.buf)
	c.open.buf = domain.AppendDecision(c.open.buf, &d)
	if len(c.open.buf)-before > domain.MaxDecisionBytes {
		c.open.buf = c.open.buf[:before]
		return Reply{N: c.head.N, At: at, Err: domain.Errorf(domain.Exhausted, "decision.too_large", "this would be more than %d KiB at once: ask for less", domain.MaxDecisionBytes>>10)}
	}
	pos := domain.Position{N: c.head.N + 1, Index: c.open.decisions}
	c.world.Apply(&d, pos)
	c.open.decisions++
	return Reply{N: pos.N, At: at, Events: out.Events}
}

// lastN is the commit that holds the newest decision.
func (c *Core) lastN() uint64 {
	if c.open.decisions > 0 {
		return c.head.N + 1
	}
	return c.head.N
}

// Close finishes the open group.
func (c *Core) Close() Closed {
	out := c.Cut()
	out.Seal()
	c.Sealed(out.Head)
	return out
}

// Cut finishes the open group but for its hash, so that the next one can be decided while
// [Closed.Seal] makes it, anywhere. Before the next Cut comes [Core.Sealed].
func (c *Core) Cut() Closed {
	if c.open.decisions == 0 {
		return Closed{Head: c.head, At: c.world.At}
	}
	n := c.head.N + 1
	b := domain.SealCommit(c.open.buf, n, c.open.at, c.head.Hash)
	out := Closed{Head: domain.Head{N: n}, At: c.open.at, Commit: b, Decisions: c.open.decisions}
	c.Sealed(out.Head)
	for _, id := range c.world.TakeDirtyHosts() {
		if p, ok := c.world.DraftPlacement(id); ok {
			out.Placements = append(out.Placements, p)
		}
	}
	c.open = group{}
	return out
}

// Seal makes the commit's hash, once.
func (c *Closed) Seal() {
	if c.Commit == nil || !c.Head.Hash.IsZero() {
		return
	}
	c.Head.Hash = sha256.Sum256(c.Commit)
	for i, p := range c.Placements {
		c.Placements[i] = p.From(c.Head)
	}
}

// Sealed takes the head of the newest group.
func (c *Core) Sealed(h domain.Head) {
	c.head = h
	c.world.End(h)
}

// Recycle gives a commit's buffer back once nobody reads it any more.
func (c *Core) Recycle(b []byte) {
	if cap(b) <= domain.MaxCommitBytes+4096 {
		c.spare = b
	}
}

// Fold applies commits from a log to a world: the reader for recovery, standbys
// and audits. It checks numbers and the hash chain.
func Fold(w *domain.World, commit []byte) error {
	c, err := domain.DecodeCommitEvents(commit)
	if err != nil {
		return fmt.Errorf("after commit %d: %w", w.Head.N, err)
	}
	return w.ApplyCommit(c, sha256.Sum256(commit))
}
