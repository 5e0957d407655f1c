package streams_test

import (
	"errors"
	"testing"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/streamstest"
)

// each runs a test on one server and on three: they behave differently.
func each(t *testing.T, f func(t *testing.T, s *streamstest.Site)) {
	t.Run("R1", func(t *testing.T) { t.Parallel(); f(t, streamstest.New(t, 1)) })
	t.Run("R3", func(t *testing.T) { t.Parallel(); f(t, streamstest.New(t, 3)) })
}

func TestAppendAndRead(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *streamstest.Site) {
		ctx := streamstest.Context(t)
		l := s.Log()
		if seq, data, err := l.Last(ctx); seq != 0 || data != nil || err != nil {
			t.Fatalf("an empty log ends at %d, %x, %v", seq, data, err)
		}
		var c streamstest.Commits
		var last []byte
		for i := range uint64(20) {
			last = c.Next(3, "a")
			if seq, err := l.Append(ctx, i, last); seq != i+1 || err != nil {
				t.Fatalf("append %d: %d, %v", i, seq, err)
			}
		}
		if seq, data, err := l.Last(ctx); seq != 20 || string(data) != string(last) || err != nil {
			t.Fatalf("the log ends at %d, %x, %v", seq, data, err)
		}
		var chain streams.Chain
		n := 0
		if err := l.Read(ctx, 1, func(seq uint64, data []byte) error { n++; return chain.Next(data) }); err != nil {
			t.Fatal(err)
		}
		if n != 20 || chain.Head != c.Head {
			t.Fatalf("read %d commits up to %v, want %v", n, chain.Head, c.Head)
		}
		if err := l.Check(ctx, c.Head); err != nil {
			t.Fatal(err)
		}
		if err := l.Check(ctx, domain.Head{N: 21}); !errors.Is(err, streams.ErrLostTail) {
			t.Fatalf("commit 21 of 20: %v", err)
		}
		if err := l.Check(ctx, domain.Head{N: 20}); !errors.Is(err, streams.ErrForked) {
			t.Fatalf("commit 20 with another hash: %v", err)
		}
		// Another commit where one exists: deposed. The same again: success.
		if _, err := l.Append(ctx, 19, []byte("another writer's")); !errors.Is(err, streams.ErrDeposed) {
			t.Fatalf("a second commit 20: %v", err)
		}
		if seq, err := l.Append(ctx, 19, last); seq != 20 || err != nil {
			t.Fatalf("commit 20 again: %d, %v", seq, err)
		}
	})
}
