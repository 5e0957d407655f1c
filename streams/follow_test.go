package streams_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/streamstest"
)

// follower follows a log in the background.
type follower struct {
	heads chan domain.Head
	done  chan error
}

func follow(t *testing.T, l *streams.Log, from uint64, known domain.Head) *follower {
	t.Helper()
	ctx, cancel := context.WithCancel(streamstest.Context(t))
	f := &follower{heads: make(chan domain.Head, 1000), done: make(chan error, 1)}
	go func() {
		f.done <- l.Follow(ctx, from, known, func(_ uint64, data []byte) error {
			h, _, err := domain.DecodeCommitHeader(data) // no Chain: it would notice in Follow's place
			f.heads <- domain.Head{N: h.N, Hash: domain.DigestOf(data)}
			return err
		})
	}()
	t.Cleanup(func() { cancel(); <-f.done })
	return f
}

func (f *follower) until(t *testing.T, want domain.Head) {
	t.Helper()
	for {
		select {
		case h := <-f.heads:
			if h == want {
				return
			}
		case err := <-f.done:
			f.done <- err
			t.Fatalf("follow ended before commit %d: %v", want.N, err)
		case <-time.After(time.Minute):
			t.Fatalf("commit %d did not come", want.N)
		}
	}
}

func (f *follower) end(t *testing.T, want error) {
	t.Helper()
	select {
	case err := <-f.done:
		f.done <- err
		if !errors.Is(err, want) {
			t.Fatalf("follow ended with %v, want %v", err, want)
		}
	case <-time.After(time.Minute):
		t.Fatalf("follow did not end with %v", want)
	}
}

func TestFollow(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *streamstest.Site) {
		l := s.Log()
		var c streamstest.Commits
		early := follow(t, l, 1, domain.Head{})
		fill(t, l, &c, 10, 1)
		early.until(t, c.Head)
		known := c.Head
		fill(t, l, &c, 10, 1)
		late := follow(t, l, known.N+1, known)
		late.until(t, c.Head)
		early.until(t, c.Head)

		s.Restart(0) // the reader goes on
		fill(t, s.Log(), &c, 10, 1)
		early.until(t, c.Head)
		late.until(t, c.Head)

		// What a reader knows and the log does not hold.
		follow(t, l, known.N+1, domain.Head{N: known.N, Hash: domain.DigestOf(nil)}).end(t, streams.ErrForked)
		follow(t, l, 101, domain.Head{N: 100, Hash: known.Hash}).end(t, streams.ErrLostTail)
	})
}

// TestFollowAcrossARestart: a process that starts again has none of the commits before
// its first append in memory, only the server has.
func TestFollowAcrossARestart(t *testing.T) {
	t.Parallel()
	s := streamstest.New(t, 1)
	var c streamstest.Commits
	fill(t, s.Log(), &c, 10, 1)
	for range 3 {
		again, known := s.Log(), c.Head
		fill(t, again, &c, 1, 1)
		f := follow(t, again, known.N+1, known)
		f.until(t, c.Head)
		fill(t, again, &c, 3, 1)
		f.until(t, c.Head)
	}
}

// TestFollowNoticesAnotherLog: an administrator replaces the log under a reader.
func TestFollowNoticesAnotherLog(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		again int // commits in the new log
		want  error
	}{
		"shorter": {5, streams.ErrLostTail},
		"longer":  {15, streams.ErrForked},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := streamstest.New(t, 1)
			ctx := streamstest.Context(t)
			l := s.Log()
			var c streamstest.Commits
			f := follow(t, l, 1, domain.Head{})
			fill(t, l, &c, 10, 1)
			f.until(t, c.Head)

			js := s.JetStream()
			info, err := js.Stream(ctx, s.Names.Log())
			if err != nil {
				t.Fatal(err)
			}
			if err := js.DeleteStream(ctx, s.Names.Log()); err != nil {
				t.Fatal(err)
			}
			if _, err := js.CreateStream(ctx, info.CachedInfo().Config); err != nil {
				t.Fatal(err)
			}
			other := streamstest.Commits{}
			for i := range tc.again {
				if _, err := l.Append(ctx, uint64(i), other.Next(1, "other")); err != nil {
					t.Fatal(err)
				}
			}
			f.end(t, tc.want)
		})
	}
}

func TestChain(t *testing.T) {
	t.Parallel()
	var c streamstest.Commits
	first, second, third := c.Next(1, "a"), c.Next(1, "a"), c.Next(1, "a")
	var chain streams.Chain
	if err := chain.Next(second); !errors.Is(err, streams.ErrForked) {
		t.Fatalf("beginning with the second: %v", err)
	}
	for _, b := range [][]byte{first, second} {
		if err := chain.Next(b); err != nil {
			t.Fatal(err)
		}
	}
	at := chain.Head
	damaged := append([]byte(nil), third...)
	damaged[25] ^= 1 // a bit of prev
	for name, b := range map[string][]byte{"repeat": second, "damaged": damaged, "not a commit": []byte("x")} {
		if err := chain.Next(b); !errors.Is(err, streams.ErrForked) || chain.Head != at {
			t.Errorf("%s: %v, head %v", name, err, chain.Head)
		}
	}
	if err := chain.Next(third); err != nil || chain.Head != c.Head {
		t.Fatal(err, chain.Head)
	}
}
