package commands

import (
	"context"
	"log/slog"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

// Log is where commits become durable. streams.Log implements it.
type Log interface {
	// Append makes commit the log's message expectedSeq+1. Any error means that the
	// outcome is unknown or that another process writes: the loop ends.
	Append(ctx context.Context, expectedSeq uint64, commit []byte) (uint64, error)
	// Seq is the log's sequence of commit n.
	Seq(n uint64) uint64
}

// Publisher sends placements to hosts. Offer must not block; of two placements of
// one host only the later one matters.
type Publisher interface {
	Offer([]*domain.PlacementDraft)
}

// Poison is a command, a question or a deadline that failed inside: a bug. It was
// refused or parked, and the site went on.
type Poison struct {
	What    string           `json:"what"` // the command's type, "question" or "tick"
	Command domain.CommandID `json:"command_id,omitzero"`
	KeyID   string           `json:"key_id,omitempty"`
	HostID  string           `json:"host_id,omitempty"`
	Code    string           `json:"code"`
	Why     string           `json:"why"` // at most 512 bytes
}

// Options are what a loop is made of.
type Options struct {
	Site      string
	Build     string
	Log       Log
	Publisher Publisher        // nil: none
	Clock     func() time.Time // nil: time.Now
	Slog      *slog.Logger
	Metrics   *Metrics // nil: none
	// Snapshot is called at most every SnapshotEvery commits with the world as it was
	// after one of them, encoded, once that commit is durable. It must not block.
	Snapshot      func(head domain.Head, state []byte)
	SnapshotEvery uint64
	// Final is called with the state at a clean stop. It may block.
	Final func(head domain.Head, state []byte)
	// Gate refuses commands that come with a key while it returns an error for them: the
	// disk is nearly full, the read models are too far behind.
	Gate func(domain.CommandBody) *domain.Error
	// KeepLevel begins the term at the logic level that the log has, if it has one: the
	// site's other processes may be of an older build. See domain.StartWriter.
	KeepLevel bool
	// Live reports whether this process surely is the only writer. While it is not,
	// refusals that come without an append wait. Nil: always.
	Live func() bool
	// Poisoned is told what could not be decided, for the audit. It must not block.
	Poisoned func(Poison)
	// AppendTimeout is how long the site may be without its log before the process
	// gives up, so that another one can write. Default 30 s.
	AppendTimeout time.Duration
	// Alone: there is no other process, and giving up would end the reads as well. An
	// append is waited for until the loop is told to end, and AppendTimeout from then on.
	Alone bool
}
