package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

// The bounds of event streams.
const (
	streamBuffer    = 256              // events on the way to one client
	streamWrite     = 15 * time.Second // a client that takes nothing for so long is dropped
	maxStreams      = 4096
	maxStreamsUser  = 32
	maxStreamsLane  = 512 // of one tenant: each of its events goes to all of them
	reconnectMillis = 2000
)

// streamSlots bounds the streams that are open at once.
type streamSlots struct {
	mu    sync.Mutex
	users map[domain.UserID]int
	lanes map[laneKey]int
	all   int
}

func newStreamSlots() *streamSlots {
	return &streamSlots{users: map[domain.UserID]int{}, lanes: map[laneKey]int{}}
}

func (t *streamSlots) take(user domain.UserID, l laneKey) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all >= maxStreams || t.users[user] >= maxStreamsUser || t.lanes[l] >= maxStreamsLane {
		return false
	}
	t.all++
	t.users[user]++
	t.lanes[l]++
	return true
}

func (t *streamSlots) give(user domain.UserID, l laneKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all--
	if t.users[user]--; t.users[user] == 0 {
		delete(t.users, user)
	}
	if t.lanes[l]--; t.lanes[l] == 0 {
		delete(t.lanes, l)
	}
}

// stream sends events until the client goes, is too slow, or its key ends. The
// client comes back with the last id it saw, and misses nothing.
func (s *Server) stream(c *call, sel *selection) {
	user := c.caller.Member.ID
	if !s.streams.take(user, c.lane.key) {
		c.write(c.fail(domain.Errorf(domain.Exhausted, "stream.too_many", "too many event streams are open: close some")))
		return
	}
	s.metrics.streams.Inc()
	defer func() { s.streams.give(user, c.lane.key); s.metrics.streams.Dec() }()
	ctx, cancel := context.WithCancel(c.ctx())
	defer cancel()
	c.rest()
	head, err := c.feedHead(ctx, sel)
	if err != nil {
		c.write(c.fail(err))
		return
	}
	c.sequence(head)
	events := make(chan FeedEvent, streamBuffer)
	ended := make(chan error, 1)
	go func() {
		ended <- s.o.Feed.Subscribe(ctx, sel.after, sel.filter, func(e FeedEvent) error {
			select {
			case events <- e: // full: the feed waits for this client, up to its write deadline
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	defer func() { cancel(); _ = <-ended }() // after cancel Subscribe ends by itself
	w := newEventWriter(c)
	heartbeat := time.NewTicker(s.o.Heartbeat)
	defer heartbeat.Stop()
	if !w.begin(s.cursors.seal(sel.scope, sel.after)) {
		return
	}
	for { // ends with the client, the server, the feed or the key
		ok := true
		select {
		case e := <-events:
			c.work() // until the next write
			if sel.wants(&e) {
				ok = w.event(s.event(c, sel, &e))
			} else {
				w.skipped(s.cursors.seal(sel.scope, e.Number))
			}
			if len(events) == 0 {
				c.rest()
			}
			if ok && len(events) == 0 {
				ok = w.flush()
			}
		case <-heartbeat.C:
			if !c.stillSame() {
				return
			}
			ok = w.heartbeat()
		case err := <-ended:
			ended <- err
			if ctx.Err() == nil {
				s.o.Slog.Error("event stream ended", "request_id", c.id, "err", err)
				w.failed(c.fail(feedError(err)))
			}
			return
		case <-s.stop:
			return
		case <-ctx.Done():
			return
		}
		if !ok {
			return
		}
	}
}

// stillSame reports whether the key still stands for whom it stood when the request
// came. A client that is still welcome comes back and is looked at anew.
func (c *call) stillSame() bool {
	now, ok := c.s.o.Callers.Caller(c.secret, domain.TimeOf(c.s.o.Clock()))
	return ok && now.Member == c.caller.Member
}

// eventWriter writes the stream format of the HTML standard, 9.2.6.
type eventWriter struct {
	c      *call
	rc     *http.ResponseController
	buf    []byte
	skipTo string // the newest event that was not asked for
}

func newEventWriter(c *call) *eventWriter {
	return &eventWriter{c: c, rc: http.NewResponseController(c.echo.Response().Writer)}
}

// begin says where the stream begins, so that a connection that breaks before the
// first event loses nothing either.
func (w *eventWriter) begin(cursor string) bool {
	h := w.c.echo.Response().Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no") // nginx would keep events back
	w.c.echo.Response().WriteHeader(http.StatusOK)
	w.buf = append(w.buf, "retry: "+strconv.Itoa(reconnectMillis)+"\nid: "+cursor+"\n\n"...)
	return w.flush()
}

// failed is the last that a stream says that the site cannot go on with: the
// problem, as the answer to a request would have it.
func (w *eventWriter) failed(p *Problem) {
	if data, err := json.Marshal(p); err == nil {
		w.buf = append(w.buf, "event: error\ndata: "+string(data)+"\n\n"...)
		w.flush()
	}
}

func (w *eventWriter) event(e Event) bool {
	data, err := json.Marshal(e)
	if err != nil {
		return false
	}
	w.skipTo = ""
	w.buf = append(w.buf, "id: "...)
	w.buf = append(w.buf, e.ID...)
	w.buf = append(w.buf, "\nevent: "...)
	w.buf = append(w.buf, e.Type...)
	w.buf = append(w.buf, "\ndata: "...)
	w.buf = append(w.buf, data...)
	w.buf = append(w.buf, "\n\n"...)
	return len(w.buf) < 1<<16 || w.flush()
}

func (w *eventWriter) skipped(cursor string) { w.skipTo = cursor }

// heartbeat is a comment; if events were passed over it also moves the client's
// cursor, so that a reconnect does not search them again.
func (w *eventWriter) heartbeat() bool {
	if w.skipTo != "" {
		w.buf = append(w.buf, "id: "+w.skipTo+"\n\n"...)
		w.skipTo = ""
	}
	w.buf = append(w.buf, ": still here\n\n"...)
	return w.flush()
}

func (w *eventWriter) flush() bool {
	if len(w.buf) == 0 {
		return true
	}
	_ = w.rc.SetWriteDeadline(time.Now().Add(streamWrite))
	if _, err := w.c.echo.Response().Write(w.buf); err != nil {
		return false
	}
	w.buf = w.buf[:0]
	return w.rc.Flush() == nil
}
