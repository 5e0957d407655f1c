package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Event is one fact, as CloudEvents 1.0 writes it. Its ID is the cursor after it.
type Event struct {
	SpecVersion string          `json:"specversion"`
	ID          string          `json:"id"`
	Source      string          `json:"source"`
	Type        string          `json:"type"` // allocation.placed
	Subject     string          `json:"subject,omitempty"`
	Time        time.Time       `json:"time"`
	Number      uint64          `json:"number,omitempty"` // for the site's people
	Sequence    uint64          `json:"sequence"`
	Data        json.RawMessage `json:"data"`
}

// Latest as a cursor stands for now: only what happens from now on.
const Latest = "latest"

// Select narrows events.
type Select func(*selection)

type selection struct {
	path  string
	query url.Values
}

// OfTypes are only events of these types; a family is "allocation.*".
func OfTypes(types ...string) Select {
	return func(s *selection) { s.query.Set("types", strings.Join(types, ",")) }
}

// OfTenant is for the site's people: one tenant's events.
func OfTenant(id string) Select { return func(s *selection) { s.query.Set("tenant_id", id) } }

// OfHost is for the site's people: one host and its slots.
func OfHost(id string) Select { return func(s *selection) { s.query.Set("host_id", id) } }

// OfAllocation are one allocation's events.
func OfAllocation(id string) Select {
	return func(s *selection) { s.path = path("/v1/allocations/%s/events", id) }
}

func selectionOf(after string, selects []Select) *selection {
	s := &selection{path: "/v1/events", query: queryOf("after", after)}
	for _, f := range selects {
		f(s)
	}
	return s
}

// eventPage is a page of events. It has a cursor on the last page too.
type eventPage struct {
	Page[Event]
	More *bool `json:"more"` // a site that does not say so: look whether the cursor moves
}

// PastEvents walks over the events after a cursor ("": from the beginning) up to
// the newest one. An event's ID is the cursor to go on after it.
func (c *Client) PastEvents(ctx context.Context, after string, selects ...Select) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		s := selectionOf(after, selects)
		s.query.Set("limit", strconv.Itoa(pageItems))
		for last := after; ; { // ends with the feed, or when the cursor stands still
			page, err := call[eventPage](ctx, c, &request{method: http.MethodGet, path: s.path, query: s.query})
			if err != nil {
				yield(Event{}, err)
				return
			}
			for _, e := range page.Items {
				if !yield(e, nil) {
					return
				}
			}
			if page.NextCursor == "" || page.NextCursor == last || page.More != nil && !*page.More {
				return
			}
			last = page.NextCursor
			s.query.Set("after", last)
		}
	}
}

// Events calls fn with every event after the cursor ("": from the beginning,
// [Latest]: from now on), in order, each once, as they happen. It reconnects by
// itself where it was, for as long as it takes: it ends with ctx, with fn's error,
// or with a refusal that does not pass.
func (c *Client) Events(ctx context.Context, after string, fn func(*Event) error, selects ...Select) error {
	s := &stream{c: c, sel: selectionOf(after, selects), fn: fn}
	if after == Latest { // a cursor of its own, so that a broken connection loses nothing
		if err := s.pin(ctx); err != nil {
			return err
		}
	}
	for failed := 0; ; { // see above
		err := s.run(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var stop *stopError
		if errors.As(err, &stop) {
			return stop.err
		}
		if s.moved {
			failed = 0
		}
		failed++
		if err != nil && (!passes(err) || failed >= c.tries && (!s.connected || tooMany(err))) {
			return err
		}
		pause := c.pause(err, min(failed, 8))
		if s.retry > 0 && failed == 1 {
			pause = min(s.retry, longestPause)
		}
		if c.sleep(ctx, pause) != nil {
			return ctx.Err()
		}
	}
}

// stopError carries fn's error past the reconnecting.
type stopError struct{ err error }

func (e *stopError) Error() string { return e.err.Error() }

// stream is one follower over all its connections.
type stream struct {
	c      *Client
	sel    *selection
	fn     func(*Event) error
	lastID string
	retry  time.Duration // what the site asks for between connections
	moved  bool          // this connection brought something

	connected bool // some connection was a stream
}

// pin turns "latest" into a cursor, with what came meanwhile.
func (s *stream) pin(ctx context.Context) error {
	query := maps.Clone(s.sel.query)
	query.Set("limit", "1")
	page, err := call[eventPage](ctx, s.c, &request{method: http.MethodGet, path: s.sel.path, query: query})
	if err != nil {
		return err
	}
	for i := range page.Items {
		if err := s.fn(&page.Items[i]); err != nil {
			return err
		}
	}
	s.lastID = page.NextCursor
	return nil
}

// tooMany is the one refusal that passes by itself only if the caller does
// something.
func tooMany(err error) bool {
	var p *Problem
	return errors.As(err, &p) && p.Status == http.StatusTooManyRequests
}

// run is one connection, from request to end. A refusal is a *Problem, a broken
// connection *Unreachable.
func (s *stream) run(ctx context.Context) error {
	s.moved = false
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watchdog := time.AfterFunc(s.c.quiet, cancel) // the site's heartbeats keep it off
	defer watchdog.Stop()
	header := http.Header{"User-Agent": {s.c.agent}, "Accept": {"text/event-stream"}}
	if s.lastID != "" {
		header.Set("Last-Event-ID", s.lastID)
	}
	s.c.authorize(header)
	query := maps.Clone(s.sel.query)
	if s.lastID != "" {
		query.Del("after")
	}
	res, err := s.c.send(ctx, &request{method: http.MethodGet, path: s.sel.path, query: query, anySeq: true}, header, nil)
	if err != nil {
		return lost(context.Background(), err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(res.Body, maxEventBytes))
		return problemOf(res.StatusCode, res.Header, body)
	}
	if t, _, _ := strings.Cut(res.Header.Get("Content-Type"), ";"); t != "text/event-stream" {
		return fmt.Errorf("client: %s answered %q instead of a stream", s.sel.path, t)
	}
	s.connected = true
	return s.read(res.Body, func() { watchdog.Reset(s.c.quiet) })
}

// read takes the stream apart (HTML standard, 9.2.6).
func (s *stream) read(body io.Reader, alive func()) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 0, 64<<10), maxEventBytes)
	var data []byte
	var event string
	id := s.lastID
	for lines.Scan() { // ends with the connection
		alive()
		line := lines.Bytes()
		if len(line) == 0 {
			if event == "error" && len(data) > 0 {
				return failure(data)
			}
			if err := s.dispatch(id, data); err != nil {
				return err
			}
			data, event = data[:0], ""
			continue
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "id":
			id = string(value)
		case "event":
			event = string(value)
		case "data":
			if len(data)+len(value) > maxEventBytes {
				return errors.New("client: an event is too large")
			}
			data = append(append(data, value...), '\n')
		case "retry":
			if ms, err := strconv.Atoi(string(value)); err == nil && ms >= 0 {
				s.retry = time.Duration(min(ms, 60_000)) * time.Millisecond
			}
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return errors.New("client: an event is too large")
	} else if err != nil {
		return &Unreachable{err}
	}
	return nil
}

// failure is the problem with which the site ended a stream that it cannot go on
// with.
func failure(data []byte) error {
	var p Problem
	if err := json.Unmarshal(data, &p); err != nil || p.Status == 0 {
		return &Unreachable{errors.New("the site ended the stream and did not say why")}
	}
	return &p
}

// dispatch hands an event over; one without data only moves the cursor.
func (s *stream) dispatch(id string, data []byte) error {
	if len(data) > 0 {
		var e Event
		if err := json.Unmarshal(data, &e); err != nil {
			return fmt.Errorf("client: an event that is not JSON: %w", err)
		}
		s.c.saw(e.Sequence)
		if err := s.fn(&e); err != nil {
			return &stopError{err}
		}
	}
	if id != s.lastID {
		s.lastID, s.moved = id, true
	}
	return nil
}
