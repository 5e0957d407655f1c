package streams_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
	"github.com/gpuaas/gpuaas/streams/streamstest"
)

// TestDamagedCopy: one server of three cannot read a message of the log. Readers go to
// another one and say so; nothing ends; and a check of all copies names the server.
func TestDamagedCopy(t *testing.T) {
	t.Parallel()
	s := streamstest.New(t, 3)
	ctx := streamstest.Context(t)
	l := s.Log()
	if copies, err := l.Copies(ctx, domain.Head{}); copies != nil || err != nil {
		t.Errorf("of an empty log: %v, %v", copies, err)
	}
	var c streamstest.Commits
	fill(t, l, &c, 20, 3)
	feed := openFeed(t, s)
	_, stop := runFanout(t, s, l)
	subscribe(t, feed, c.Events)
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	is := func(when string, damaged ...string) {
		t.Helper()
		copies, err := l.Copies(ctx, c.Head)
		var bad []string
		for _, one := range copies {
			if one.Err != nil {
				bad = append(bad, one.Server)
			}
			if one.Err != nil && !(errors.Is(one.Err, streams.ErrForked) && strings.Contains(one.Err.Error(), "from server "+one.Server)) || one.Offline {
				t.Errorf("%s: %+v", when, one)
			}
		}
		if err != nil || len(copies) != 3 || strings.Join(bad, " ") != strings.Join(damaged, " ") {
			t.Fatalf("%s: damaged are %q, want %q: %v, %v", when, bad, damaged, copies, err)
		}
	}
	current(t, l, c.Head)
	is("none damaged")
	middle := func(b []byte) { b[len(b)*19/40] ^= 1 } // in the tenth of twenty messages
	damage(t, s, 1, s.Names.Log(), middle)
	damage(t, s, 1, s.Names.Feed(), middle)
	current(t, l, c.Head)
	is("one damaged", "s1")
	var ofFeed []streams.Copy
	for ready := false; !ready; { // the server that was damaged has caught up
		copies, err := feed.Copies(ctx)
		if err != nil || len(copies) != 3 {
			t.Fatalf("of the feed: %v, %v", copies, err)
		}
		ofFeed, ready = copies, !copies[0].Offline && !copies[1].Offline && !copies[2].Offline
	}
	if ofFeed[0].Err != nil || ofFeed[1].Err == nil || ofFeed[2].Err != nil {
		t.Errorf("of the feed: %v", ofFeed)
	}
	if last, err := feed.Whole(ctx); last != c.Events || err != nil {
		t.Errorf("event %d, %v", last, err)
	}
	for range 6 {
		if events, next, err := feed.Page(ctx, 0, 1000); err != nil || next != c.Events || len(events) != int(c.Events) {
			t.Errorf("a page: %d events, %d, %v", len(events), next, err)
		}
	}

	said := make(chan error, 100)
	again, err := streams.OpenLog(ctx, streams.LogConfig{Dial: s.Dial(server.Runtime), Site: s.Names, OnError: func(err error) {
		select {
		case said <- err:
		default:
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	for len(said) == 0 { // a reader begins at any server
		n, chain := 0, streams.Chain{}
		if err := again.Read(ctx, 1, func(_ uint64, b []byte) error { n++; return chain.Next(b) }); err != nil || chain.Head != c.Head {
			t.Fatalf("%d messages read, %v", n, err)
		}
		follow(t, again, 1, domain.Head{}).until(t, c.Head)
	}
	if err := <-said; !strings.Contains(err.Error(), "message 10 cannot be read from server s1, another has it") {
		t.Errorf("said: %v", err)
	}

	for _, i := range []int{0, 2} {
		damage(t, s, i, s.Names.Log(), middle)
		current(t, l, c.Head)
	}
	is("all damaged", "s0", "s1", "s2")
	if err := l.Read(ctx, 1, func(uint64, []byte) error { return nil }); !errors.Is(err, streams.ErrForked) {
		t.Errorf("read of a log that no server can read: %v", err)
	}
	follow(t, again, 1, domain.Head{}).end(t, streams.ErrForked)
}

// current waits until every server has caught up.
func current(t *testing.T, l *streams.Log, head domain.Head) {
	t.Helper()
	ctx := streamstest.Context(t)
	for {
		copies, err := l.Copies(ctx, head)
		ready := err == nil
		for _, c := range copies {
			ready = ready && !c.Offline
		}
		if ready {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%v, %v", copies, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
