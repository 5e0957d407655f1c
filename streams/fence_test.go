package streams_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
	"github.com/gpuaas/gpuaas/streams/streamstest"
)

// TestFence lets two writers compete through a network that loses
// acknowledgements, on one server, and on three that change their leader
// meanwhile. No fork, no acknowledged commit missing, none twice.
func TestFence(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *streamstest.Site) {
		const each = 150
		var wg sync.WaitGroup
		acked := make([]map[uint64]domain.Digest, 2)
		for w := range acked {
			p := newProxy(t, s.Servers[w%len(s.Servers)].ClientURL(), uint64(w))
			l := s.LogBy(streams.DialCreds(p.url(), s.Trust.CredsFile(server.Runtime), nats.IgnoreDiscoveredServers()))
			p.storm(true)
			t.Cleanup(func() { p.storm(false) })
			acked[w] = map[uint64]domain.Digest{}
			wg.Go(func() {
				if err := compete(streamstest.Context(t), l, fmt.Sprint("writer ", w), each, acked[w]); err != nil {
					t.Error(err)
				}
			})
		}
		stop := make(chan struct{})
		var chaos sync.WaitGroup
		if len(s.Servers) > 1 {
			admin := s.Connect(server.Admin)
			chaos.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(300 * time.Millisecond):
						_, _ = admin.Request("$JS.API.STREAM.LEADER.STEPDOWN."+s.Names.Log(), nil, time.Second)
					}
				}
			})
		}
		wg.Wait()
		close(stop)
		chaos.Wait()

		stored := map[uint64]domain.Digest{}
		var chain streams.Chain
		l := s.Log()
		err := l.Read(streamstest.Context(t), 1, func(seq uint64, data []byte) error {
			stored[seq] = domain.DigestOf(data)
			return chain.Next(data)
		})
		if err != nil {
			t.Fatal(err)
		}
		for w := range acked {
			if len(acked[w]) != each {
				t.Errorf("writer %d was acknowledged %d of %d", w, len(acked[w]), each)
			}
			for seq, hash := range acked[w] {
				if stored[seq] != hash {
					t.Errorf("acknowledged commit %d of writer %d is missing", seq, w)
				}
			}
		}
		// Each was stored once: every commit not acknowledged to the one was the other's.
		if len(stored) != 2*each {
			t.Errorf("%d commits stored, %d acknowledged", len(stored), 2*each)
		}
	})
}

// compete appends n commits. When it is deposed it does what a process does: it
// reads the log again and goes on from its end. A read of the end can miss what is
// not yet applied, so it may be deposed at once again.
func compete(ctx context.Context, l *streams.Log, mark string, n int, acked map[uint64]domain.Digest) error {
	var c streamstest.Commits
	var seq uint64
	reload := func() error {
		for {
			attempt, cancel := context.WithTimeout(ctx, time.Second)
			at, data, err := l.Last(attempt)
			cancel()
			if err == nil {
				if seq = at; data != nil {
					h, _, err := domain.DecodeCommitHeader(data)
					if err != nil {
						return err
					}
					c.Head = domain.Head{N: h.N, Hash: domain.DigestOf(data)}
				}
				return nil
			}
			if ctx.Err() != nil {
				return err
			}
		}
	}
	if err := reload(); err != nil {
		return err
	}
	for len(acked) < n {
		b := c.Next(1, fmt.Sprint(mark, " ", len(acked)))
		got, err := l.Append(ctx, seq, b)
		switch {
		case err == nil:
			acked[got] = c.Head.Hash
			seq = got
		case errors.Is(err, streams.ErrDeposed):
			if err := reload(); err != nil {
				return err
			}
		default:
			return err
		}
	}
	return nil
}

// TestUnknownOutcome: without a server, or with one of three, an append says that it
// does not know.
func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *streamstest.Site) {
		l := s.Log()
		for i := range majority(s) {
			s.Servers[i].Shutdown()
		}
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		if _, err := l.Append(ctx, 0, []byte("x")); !errors.Is(err, streams.ErrUnknown) {
			t.Fatalf("append without a majority: %v", err)
		}
	})
}

// TestAppendSurvivesRestart: the server, or the majority of three, goes away under an
// append and comes back.
func TestAppendSurvivesRestart(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *streamstest.Site) {
		l := s.Log()
		var c streamstest.Commits
		fill(t, l, &c, 3, 1)
		for i := range majority(s) {
			s.Servers[i].Shutdown()
		}
		done := make(chan error, 1)
		b := c.Next(1, "a")
		go func() { _, err := l.Append(streamstest.Context(t), 3, b); done <- err }()
		for i := range majority(s) {
			s.Restart(i)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if err := l.Check(streamstest.Context(t), c.Head); err != nil {
			t.Fatal(err)
		}
	})
}

// majority is how many servers a log cannot be without.
func majority(s *streamstest.Site) int { return len(s.Servers)/2 + 1 }
