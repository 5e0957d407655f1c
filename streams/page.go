package streams

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// maxPage bounds one page of anything.
	maxPage = 1000
	// pageTries is how often a page is read that a server's copy cannot give. Nothing can
	// ask for a server: of three, all tries meet the one whose copy is damaged once in 6,561.
	pageTries = 8
)

// page reads up to limit of the messages that are there. In a cluster a new consumer may
// be asked before every server has heard of it, or while it has no leader: then again, for
// some three seconds.
func (t *tail) page(ctx context.Context, limit int) ([]message, error) {
	pause := 50 * time.Millisecond
	for tries := 1; ; tries++ { // ends with an answer, or after six
		out, err := t.once(ctx, limit)
		if !errors.Is(err, nats.ErrNoResponders) || tries == 6 || !wait(ctx, pause) {
			return out, err
		}
		pause *= 2
	}
}

func (t *tail) once(ctx context.Context, limit int) ([]message, error) {
	c, err := t.consumer(ctx, t.next)
	if err != nil {
		return nil, err
	}
	defer t.forget(c)
	want := int(min(uint64(limit), c.CachedInfo().NumPending))
	if want == 0 {
		return nil, nil
	}
	fetch := func() (jetstream.MessageBatch, error) { return c.Fetch(want, jetstream.FetchMaxWait(5*time.Second)) }
	if t.lossy { // what cannot be read is pending, too, and never comes
		fetch = func() (jetstream.MessageBatch, error) { return c.FetchNoWait(want) }
	}
	batch, err := fetch()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", t.stream, err)
	}
	out := make([]message, 0, want)
	for m := range batch.Messages() {
		meta, err := m.Metadata()
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", t.stream, err)
		}
		out = append(out, message{meta.Sequence.Stream, m.Subject(), m.Headers(), m.Data(), meta.Timestamp})
	}
	for i, m := range out {
		if want := t.next + uint64(i); len(t.filters) == 0 && !t.lossy && m.seq != want {
			return nil, fmt.Errorf("%w: %s: message %d cannot be read", ErrForked, t.stream, want)
		}
	}
	if err := batch.Error(); err != nil {
		return nil, fmt.Errorf("read %s: %w", t.stream, err)
	}
	if len(out) != want && !t.lossy {
		return nil, errors.Join(ctx.Err(), fmt.Errorf("read %s: got %d of %d messages in time", t.stream, len(out), want))
	}
	return out, nil
}
