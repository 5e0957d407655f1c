package commands

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"

	"golang.org/x/sync/errgroup"

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
const foldAhead = 16

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

// FoldLog applies the log's commits after w's head. Reading with hashing, decoding
// and applying run beside each other.
func FoldLog(ctx context.Context, log LogReader, w *domain.World) error {
	return fold(ctx, log, w, nil)
}

func fold(ctx context.Context, log LogReader, w *domain.World, progress *FoldProgress) error {
	// Decoded commits live for milliseconds: collecting less often is most of the
	// speed there is to gain, and start-up is when memory is not needed elsewhere.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	group, ctx := errgroup.WithContext(ctx)
	type read struct {
		seq  uint64
		b    []byte
		hash domain.Digest
	}
	hashed := make(chan read, foldAhead)
	from := log.Seq(w.Head.N + 1)
	group.Go(func() error {
		defer close(hashed)
		return log.Read(ctx, from, func(seq uint64, b []byte) error {
			return send(ctx, hashed, read{seq, b, sha256.Sum256(b)})
		})
	})
	type decoded struct {
		buffer *domain.Buffer
		c      *domain.Commit
		hash   domain.Digest
	}
	ahead, free := make(chan decoded, foldAhead), make(chan *domain.Buffer, foldAhead)
	for range foldAhead {
		free <- new(domain.Buffer)
	}
	group.Go(func() error {
		defer close(ahead)
		for r := range hashed {
			buffer, err := receive(ctx, free)
			if err != nil {
				return err
			}
			c, err := buffer.Decode(r.b)
			if err != nil {
				return fmt.Errorf("message %d: %w", r.seq, err)
			}
			if err := send(ctx, ahead, decoded{buffer, c, r.hash}); err != nil {
				return err
			}
		}
		return nil
	})
	group.Go(func() error {
		for d := range ahead {
			if err := w.ApplyCommit(d.c, d.hash); err != nil {
				return err
			}
			events := 0
			for i := range d.c.Decisions {
				events += len(d.c.Decisions[i].Events)
			}
			progress.reached(d.c.N, events)
			free <- d.buffer // has room for all
		}
		return nil
	})
	return group.Wait()
}

// receive waits for the next value, unless the fold has ended.
func receive[T any](ctx context.Context, from <-chan T) (v T, err error) {
	select {
	case v = <-from:
		return v, nil
	case <-ctx.Done():
		return v, ctx.Err()
	}
}

// send hands v on, unless the fold has ended.
func send[T any](ctx context.Context, to chan<- T, v T) error {
	select {
	case to <- v:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
