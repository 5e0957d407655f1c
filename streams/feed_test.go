package streams_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
	"github.com/gpuaas/gpuaas/streams/streamstest"
)

// fill appends commits of that many events each.
func fill(t testing.TB, l *streams.Log, c *streamstest.Commits, commits, events int) {
	t.Helper()
	for range commits {
		b := c.Next(events, "a")
		if _, err := l.Append(streamstest.Context(t), c.Head.N-1, b); err != nil {
			t.Fatal(err)
		}
	}
}

func openFeed(t testing.TB, s *streamstest.Site) *streams.Feed {
	t.Helper()
	f, err := streams.OpenFeed(s.Dial(server.Runtime), s.Names)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

// runFanout runs one until stop, which waits for its end and returns it.
func runFanout(t testing.TB, s *streamstest.Site, l *streams.Log) (f *streams.Fanout, stop func() error) {
	t.Helper()
	f, err := streams.OpenFanout(s.Dial(server.Runtime), l)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	stop = func() error { cancel(); err := <-done; done <- err; f.Close(); return err }
	t.Cleanup(func() { _ = stop() })
	return f, stop
}

// subscribe reads the feed up to an event and checks that each came once.
func subscribe(t testing.TB, f *streams.Feed, upTo uint64) []streams.FeedEvent {
	t.Helper()
	var got []streams.FeedEvent
	errEnough := errors.New("enough")
	err := f.Subscribe(streamstest.Context(t), 0, nil, func(e streams.FeedEvent) error {
		if got = append(got, e); e.Number != uint64(len(got)) {
			return fmt.Errorf("event %d came as number %d", e.Number, len(got))
		}
		if e.Number == upTo {
			return errEnough
		}
		return nil
	}, nil)
	if !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	return got
}

func TestFanoutSurvivesRestarts(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *streamstest.Site) {
		l := s.Log()
		var c streamstest.Commits
		feed := openFeed(t, s)
		for round := range 4 {
			fill(t, l, &c, 10, 20+round)
			_, stop := runFanout(t, s, l)
			if round%2 == 0 { // stopped in the middle, wherever it is
				subscribe(t, feed, c.Events/2)
			} else { // two at once
				_, stop2 := runFanout(t, s, l)
				subscribe(t, feed, c.Events)
				_ = stop2()
			}
			if err := stop(); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
		}
		f, _ := runFanout(t, s, l)
		got := subscribe(t, feed, c.Events)
		e := got[len(got)-1]
		if e.Type != "site.writer_started" || e.Subject != "ev.test1.site.writer_started" || e.Resource != "test1" ||
			e.Commit != c.Head || e.At.String() != "2023-11-14T22:13:20.039Z" {
			t.Fatalf("last event: %+v", e)
		}
		if want := fmt.Sprintf(`{"site":"test1","term":%d,"build":"a","logic_level":1,"outage_ms":0}`, c.Events); string(e.Data) != want {
			t.Fatalf("body %s, want %s", e.Data, want)
		}
		for f.Position() < c.Events { // the subscriber can be ahead of the acknowledgement
			time.Sleep(time.Millisecond)
		}
		if lag, err := f.Lag(streamstest.Context(t)); lag != 0 || err != nil {
			t.Fatalf("lag %d, %v", lag, err)
		}
	})
}

func TestFeedPages(t *testing.T) {
	t.Parallel()
	s := streamstest.New(t, 1)
	ctx := streamstest.Context(t)
	l, feed := s.Log(), openFeed(t, s)
	var c streamstest.Commits
	fill(t, l, &c, 5, 50)
	runFanout(t, s, l)
	subscribe(t, feed, c.Events)

	var seen []uint64
	for after := uint64(0); ; {
		events, next, err := feed.Page(ctx, after, 60, s.Names.EventsSubject())
		if err != nil {
			t.Fatal(err)
		}
		if len(events) == 0 {
			break
		}
		for _, e := range events {
			seen = append(seen, e.Number)
		}
		after = next
	}
	if len(seen) != 250 || !slices.IsSorted(seen) {
		t.Fatalf("pages gave %d events of 250", len(seen))
	}
	// Nothing of a tenant without events, and the cursor moves on.
	events, next, err := feed.Page(ctx, 0, 10, "ev.test1.tenant.ten_x.>", "ev.test1.ledger.ten_x.>")
	if len(events) != 0 || next != 250 || err != nil {
		t.Fatalf("foreign page: %d events, next %d, %v", len(events), next, err)
	}
	events, _, err = feed.Page(ctx, 240, 1000, "ev.test1.tenant.ten_x.>", "ev.test1.site.>")
	if len(events) != 10 || err != nil {
		t.Fatalf("two filters: %d events, %v", len(events), err)
	}
}

// TestFeedPagesOfTypes: the server finds the few among the many by their subjects.
func TestFeedPagesOfTypes(t *testing.T) {
	t.Parallel()
	s := streamstest.New(t, 1)
	ctx := streamstest.Context(t)
	l, feed := s.Log(), openFeed(t, s)
	var c streamstest.Commits
	fill(t, l, &c, 30, 50)
	runFanout(t, s, l)
	subscribe(t, feed, c.Events)
	for types, want := range map[string]int{
		"site.writer_started": 3, "site.*": 3, "site.*,site.writer_started,site.writer_started": 3, "catalog.*,allocation.placed": 0,
	} {
		filters := s.Names.TypeEvents(domain.TenantID{}, domain.HostID{}, strings.Split(types, ","))
		events, next, err := feed.Page(ctx, c.Events-3, 10, filters...)
		if err != nil || len(events) != want || next != c.Events {
			t.Errorf("%s: %d events, next %d, %v", types, len(events), next, err)
		}
	}
	if n, head, err := feed.Head(ctx); n != c.Events || head != c.Head || err != nil {
		t.Errorf("head %d %v, %v", n, head, err)
	}
}

func TestTypeEvents(t *testing.T) {
	t.Parallel()
	n := streams.Names("s")
	tenant, host := domain.TenantID{1}, domain.HostID{1}
	for _, c := range []struct {
		tenant domain.TenantID
		host   domain.HostID
		types  string
		want   string
	}{
		{tenant, domain.HostID{}, "allocation.placed", "ev.s.allocation." + tenant.String() + ".placed"},
		{tenant, domain.HostID{}, "allocation.*,allocation.placed", "ev.s.allocation." + tenant.String() + ".>"},
		{tenant, domain.HostID{}, "slot.wiped,site.*,host.*", ""},
		{tenant, domain.HostID{}, "*,>,allocation.>,allocation,allocation.a.b,.placed,allocation. x", ""},
		{domain.TenantID{}, host, "slot.wiped,allocation.placed", "ev.s.slot." + host.String() + ".wiped"},
		{domain.TenantID{}, domain.HostID{}, "policy.set", "ev.s.policy.*.set ev.s.policy.set"},
		{domain.TenantID{}, domain.HostID{}, "policy.*", "ev.s.policy.>"},
	} {
		if got := strings.Join(n.TypeEvents(c.tenant, c.host, strings.Split(c.types, ",")), " "); got != c.want {
			t.Errorf("%s: %q, want %q", c.types, got, c.want)
		}
	}
}

func TestRebuildFeed(t *testing.T) {
	t.Parallel()
	s := streamstest.New(t, 1)
	ctx := streamstest.Context(t)
	l, feed := s.Log(), openFeed(t, s)
	var c streamstest.Commits
	fill(t, l, &c, 9, 7)
	runFanout(t, s, l)
	before := subscribe(t, feed, c.Events)
	if err := streams.RebuildFeed(ctx, s.Connect(server.Admin), s.Config, 33); err != nil {
		t.Fatal(err)
	}
	var after []streams.FeedEvent
	errEnough := errors.New("enough")
	err := feed.Subscribe(ctx, 0, nil, func(e streams.FeedEvent) error {
		if after = append(after, e); e.Number == c.Events {
			return errEnough
		}
		return nil
	}, nil)
	if !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	if len(after) != len(before)-32 {
		t.Fatalf("rebuilt feed has %d events, want %d", len(after), len(before)-32)
	}
	for i, e := range after {
		if b := before[32+i]; e.Number != b.Number || e.Commit != b.Commit || string(e.Data) != string(b.Data) {
			t.Fatalf("rebuilt event %+v, was %+v", e, b)
		}
	}
}

// TestDamagedFeed: the server passes over an event that it cannot read, and a reader of all
// of them says so.
func TestDamagedFeed(t *testing.T) {
	t.Parallel()
	s := streamstest.New(t, 1)
	ctx := streamstest.Context(t)
	l, feed := s.Log(), openFeed(t, s)
	var c streamstest.Commits
	fill(t, l, &c, 9, 7)
	_, stop := runFanout(t, s, l)
	subscribe(t, feed, c.Events)
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if last, err := feed.Whole(ctx); last != c.Events || err != nil {
		t.Fatalf("event %d, %v", last, err)
	}
	damage(t, s, 0, s.Names.Feed(), func(b []byte) { b[len(b)/2] ^= 1 })
	feed = openFeed(t, s)
	if _, err := feed.Whole(ctx); !errors.Is(err, streams.ErrForked) {
		t.Errorf("the whole feed: %v", err)
	}
	if events, _, err := feed.Page(ctx, 0, 1000); !errors.Is(err, streams.ErrForked) {
		t.Errorf("a page: %d events, %v", len(events), err)
	}
}
