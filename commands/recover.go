package commands

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"

	"github.com/gpuaas/gpuaas/domain"
)

// LogReader is how a fold reads the log; streams.Log implements it.
type LogReader interface {
	// Read calls fn with every commit from sequence fromSeq to the present end.
	Read(ctx context.Context, fromSeq uint64, fn func(seq uint64, commit []byte) error) error
	Seq(n uint64) uint64
	// Check says whether the log holds this head: a reader that is ahead of the log,
	// or has another commit there, must not go on.
	Check(ctx context.Context, h domain.Head) error
}

// foldAhead bounds the commits that are decoded and not yet applied.
const foldAhead = 64

// Recover is the world as the log has it: the newest snapshot that the log
// confirms, and the fold of everything after it.
func Recover(ctx context.Context, log LogReader, snaps *Snapshots, progress *FoldProgress, slog *slog.Logger) (*domain.World, error) {
	defer progress.done()
	w := domain.NewWorld()
	for _, s := range snaps.List() {
		loaded, err := snaps.load(s)
		if err == nil {
			err = log.Check(ctx, loaded.Head)
		}
		if err == nil {
			w = loaded
			break
		}
		if !errors.Is(err, domain.ErrSnapshotSchema) {
			slog.Warn("snapshot not used", "snapshot", s.Name, "err", err)
		}
	}
	progress.reached(w.Head.N, 0)
	if err := fold(ctx, log, w, progress); err != nil {
		return nil, err
	}
	return w, nil
}

// FoldLog applies the log's commits after w's head. Reading, hashing and decoding
// run beside applying.
func FoldLog(ctx context.Context, log LogReader, w *domain.World) error {
	return fold(ctx, log, w, nil)
}

func fold(ctx context.Context, log LogReader, w *domain.World, progress *FoldProgress) error {
	type decoded struct {
		c    *domain.Commit
		hash domain.Digest
	}
	// Decoded commits live for milliseconds: collecting less often is most of the
	// speed there is to gain, and start-up is when memory is not needed elsewhere.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ahead := make(chan decoded, foldAhead)
	readErr := make(chan error, 1)
	from := log.Seq(w.Head.N + 1)
	go func() {
		defer close(ahead)
		readErr <- log.Read(ctx, from, func(seq uint64, b []byte) error {
			c, err := domain.DecodeCommitEvents(b)
			if err != nil {
				return fmt.Errorf("message %d: %w", seq, err)
			}
			select {
			case ahead <- decoded{c, sha256.Sum256(b)}:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	for d := range ahead {
		if err := w.ApplyCommit(d.c, d.hash); err != nil {
			cancel()
			for range ahead { // let the reader end
			}
			<-readErr
			return err
		}
		events := 0
		for i := range d.c.Decisions {
			events += len(d.c.Decisions[i].Events)
		}
		progress.reached(d.c.N, events)
	}
	return <-readErr
}
