package streams

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/gpuaas/gpuaas/domain"
)

// Feed reads the events of a site. Many may use one at a time.
type Feed struct {
	nc   *nats.Conn
	js   jetstream.JetStream
	site Names
}

// OpenFeed connects for reading.
func OpenFeed(dial Dial, site Names) (*Feed, error) {
	nc, js, err := connectJetStream(dial, "feed")
	if err != nil {
		return nil, err
	}
	return &Feed{nc: nc, js: js, site: site}, nil
}

// Close drops the connection and ends every Subscribe.
func (f *Feed) Close() { f.nc.Close() }

// Last is the number of the newest event in the feed.
func (f *Feed) Last(ctx context.Context) (uint64, error) {
	info, err := streamInfo(ctx, f.js, f.site.Feed())
	if err != nil {
		return 0, err
	}
	return info.State.LastSeq, nil
}

// Head is the number of the newest event in the feed, and the commit it stands in:
// the zero Head while none is there.
func (f *Feed) Head(ctx context.Context) (uint64, domain.Head, error) {
	info, err := streamInfo(ctx, f.js, f.site.Feed())
	if err != nil {
		return 0, domain.Head{}, err
	}
	last := info.State.LastSeq
	if info.State.Msgs == 0 {
		return last, domain.Head{}, nil
	}
	m, err := getMessage(ctx, f.nc, f.site.Feed(), fmt.Appendf(nil, `{"seq":%d}`, last))
	if err != nil {
		return 0, domain.Head{}, err
	}
	e, err := m.event()
	return last, e.Commit, err
}

// Page returns up to limit events (at most 1000) with numbers above after that
// match one of the subject filters (none: all), and the cursor for the next page.
// On one replica the cursor also moves past what does not match, so that a quiet
// tenant's next page does not search the same stretch again; on three it cannot,
// because the replica that reads may be behind the one that said where the feed
// ends. Filters come from
// [Names.OwnerEvents] and its siblings, never from a caller's input as it is: they
// are what keeps one tenant's events from another.
func (f *Feed) Page(ctx context.Context, after uint64, limit int, filters ...string) (events []FeedEvent, next uint64, err error) {
	limit = min(max(limit, 1), maxPage)
	info, err := streamInfo(ctx, f.js, f.site.Feed())
	if err != nil {
		return nil, 0, err
	}
	end := info.State.LastSeq
	if after >= end {
		return nil, after, nil
	}
	next, err = startOf(info, after)
	if err != nil {
		return nil, 0, err
	}
	t := tail{js: f.js, stream: f.site.Feed(), next: next, filters: filters}
	msgs, err := t.page(ctx, limit)
	for tries := 1; errors.Is(err, ErrForked) && info.Config.Replicas > 1 && tries < pageTries; tries++ {
		msgs, err = t.page(ctx, limit) // likely from another server, whose copy may be whole
	}
	if err != nil {
		return nil, 0, err
	}
	events = make([]FeedEvent, len(msgs))
	for i, m := range msgs {
		if events[i], err = parseEvent(m.seq, m.subject, m.header, m.data); err != nil {
			return nil, 0, err
		}
	}
	next = after
	if n := len(events); n > 0 {
		next = events[n-1].Number
	}
	if len(events) < limit && info.Config.Replicas == 1 {
		next = max(next, end)
	}
	return events, next, nil
}

// Whole reads the feed from its beginning to where it ends now, and wants every event to be
// there: the server passes over one that is damaged, and a reader with a filter cannot
// know. It returns the number of the last one. Errors: [ErrForked], [ErrLostTail], which
// name the event.
func (f *Feed) Whole(ctx context.Context) (last uint64, err error) {
	info, err := streamInfo(ctx, f.js, f.site.Feed())
	if err != nil || info.State.Msgs == 0 {
		return 0, err
	}
	return info.State.LastSeq, f.whole(ctx, info, "")
}

// whole reads a server's copy; of any server if it is empty.
func (f *Feed) whole(ctx context.Context, info *jetstream.StreamInfo, server string) error {
	t := tail{js: f.js, stream: f.site.Feed(), server: server, next: info.State.FirstSeq, end: info.State.LastSeq, grace: lostTailGrace, fn: func(m message) error {
		_, err := parseEvent(m.seq, m.subject, m.header, m.data)
		return err
	}}
	return t.run(ctx)
}

// LastOf is the newest event of one subject; [ErrNotFound] if there is none. On three
// replicas it is asked of the leader.
func (f *Feed) LastOf(ctx context.Context, subject string) (FeedEvent, error) {
	m, err := lastBySubject(ctx, f.nc, f.site.Feed(), subject)
	if err != nil {
		return FeedEvent{}, err
	}
	header, err := nats.DecodeHeadersMsg(m.Header)
	if err != nil {
		return FeedEvent{}, fmt.Errorf("event %d: %w", m.Seq, err)
	}
	return parseEvent(m.Seq, m.Subject, header, m.Data)
}

// startOf is the first event to read. A cursor of 0 means "from the beginning",
// wherever that is; any other one from before the beginning would miss events, and
// is refused.
func startOf(info *jetstream.StreamInfo, after uint64) (uint64, error) {
	first := max(info.State.FirstSeq, 1)
	if after == 0 || after+1 >= first {
		return max(after+1, first), nil
	}
	return 0, fmt.Errorf("%w: the feed begins with event %d, asked after %d", ErrTrimmed, first, after)
}

// Subscribe calls fn with every event above after that matches one of the filters
// (none: all), in order, each once, and goes on across reconnects until ctx ends
// or fn returns an error. caughtUp, if not nil, is called whenever no further event
// was waiting: the moment for a keep-alive or a flush.
func (f *Feed) Subscribe(ctx context.Context, after uint64, filters []string, fn func(FeedEvent) error, caughtUp func()) error {
	info, err := streamInfo(ctx, f.js, f.site.Feed())
	if err != nil {
		return err
	}
	next, err := startOf(info, after)
	if err != nil {
		return err
	}
	t := tail{js: f.js, stream: f.site.Feed(), next: next, filters: filters, caughtUp: caughtUp, fn: func(m message) error {
		e, err := parseEvent(m.seq, m.subject, m.header, m.data)
		if err != nil {
			return err
		}
		return fn(e)
	}}
	return t.run(ctx)
}

// RebuildFeed throws the feed away and makes an empty one that begins with event
// first (1: from the beginning); the running [Fanout] fills it. admin is the
// administrator's connection. Readers and mirrors elsewhere lose their durable
// consumers with the stream; cursors stay good, because events keep their numbers.
func RebuildFeed(ctx context.Context, admin *nats.Conn, c Config, first uint64) error {
	js, err := jetstream.New(admin)
	if err != nil {
		return err
	}
	asked, cancel := ask(ctx)
	defer cancel()
	if err := js.DeleteStream(asked, c.Site.Feed()); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("delete %s: %w", c.Site.Feed(), err)
	}
	c.FeedFirst = first
	asked, cancel = ask(ctx)
	defer cancel()
	for _, want := range c.wanted() {
		if want.Name != c.Site.Feed() {
			continue
		}
		if _, err := js.CreateStream(asked, want); err != nil {
			return fmt.Errorf("create %s: %w", want.Name, err)
		}
	}
	return nil
}
