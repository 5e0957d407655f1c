package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func sse(w http.ResponseWriter, ids ...string) {
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	_, _ = io.WriteString(w, "retry: 1500\n\n: still here\n\n")
	for _, id := range ids {
		fmt.Fprintf(w, "id: %s\nevent: allocation.placed\ndata: {\"id\":%q,\ndata: \"type\":\"allocation.placed\",\"sequence\":9,\"time\":\"2026-01-31T12:00:00.001Z\"}\n\n", id, id)
	}
	w.(http.Flusher).Flush()
}

func TestEventsGoOnWhereTheyWere(t *testing.T) {
	t.Parallel()
	s, c, pauses := newSite(t, func(n int, w http.ResponseWriter, r *http.Request) {
		switch n {
		case 0:
			sse(w, "e1", "e2")
			panic(http.ErrAbortHandler) // the connection breaks
		case 1:
			refuse(w, 503, "feed.unavailable", true)
		case 2:
			sse(w)
			_, _ = io.WriteString(w, "id: e5\n\n: nothing for you up to here\n\n") // moves the cursor only
		case 3:
			sse(w, "e6")
			_, _ = io.WriteString(w, "id: e7\ndata: {\"id\":\"half an ev") // not ended: not an event
		default:
			sse(w, "e7", "e8")
		}
	})
	enough := errors.New("enough")
	var got []string
	err := c.Events(t.Context(), "e0", func(e *Event) error {
		if got = append(got, e.ID); e.ID == "e8" {
			return enough
		}
		return nil
	}, OfTypes("allocation.*"))
	if !errors.Is(err, enough) {
		t.Fatal(err)
	}
	if fmt.Sprint(got) != "[e1 e2 e6 e7 e8]" || c.Sequence() != 9 {
		t.Errorf("%v, sequence %d", got, c.Sequence())
	}
	var asked []string
	for _, r := range s.asked {
		asked = append(asked, r.URL.RawQuery+" "+r.Header.Get("Last-Event-ID"))
	}
	want := "after=e0&types=allocation.%2A |types=allocation.%2A e2|types=allocation.%2A e2|types=allocation.%2A e5|types=allocation.%2A e6"
	if strings.Join(asked, "|") != want {
		t.Errorf("%s\nwant %s", strings.Join(asked, "|"), want)
	}
	if fmt.Sprint(*pauses) != "[1.5s 400ms 1.5s 1.5s]" {
		t.Error(*pauses)
	}
}

func TestAStreamThatCannotGoOn(t *testing.T) {
	t.Parallel()
	_, c, _ := newSite(t, func(n int, w http.ResponseWriter, r *http.Request) {
		sse(w, "e1")
		switch n {
		case 0: // passes by itself
			_, _ = io.WriteString(w, "event: error\ndata: {\"status\":503,\"code\":\"feed.unavailable\",\"retryable\":true}\n\n")
		default:
			_, _ = io.WriteString(w, "event: error\ndata: {\"status\":422,\"code\":\"cursor.gone\"}\n\n")
		}
	})
	n := 0
	err := c.Events(t.Context(), "e0", func(*Event) error { n++; return nil })
	var p *Problem
	if !errors.As(err, &p) || p.Code != "cursor.gone" || n != 2 {
		t.Fatalf("%v after %d events", err, n)
	}
}

func TestPastEventsEndWithTheFeed(t *testing.T) {
	t.Parallel()
	s, c, _ := newSite(t, func(n int, w http.ResponseWriter, r *http.Request) {
		// Others' events move the cursor for ever; an empty page need not be the end.
		fmt.Fprintf(w, `{"items":[],"next_cursor":"c%d","more":%v}`, n, n < 2)
	})
	for e, err := range c.PastEvents(t.Context(), "") {
		t.Fatal(e, err)
	}
	if len(s.asked) != 3 {
		t.Errorf("asked %d times", len(s.asked))
	}
}

func TestFromNowOnIsACursorOfItsOwn(t *testing.T) {
	t.Parallel()
	s, c, _ := newSite(t, func(n int, w http.ResponseWriter, r *http.Request) {
		switch n {
		case 0:
			_, _ = io.WriteString(w, `{"items":[],"next_cursor":"now"}`)
		case 1: // breaks before the first event
			sse(w)
		default:
			sse(w, "e1")
		}
	})
	enough := errors.New("enough")
	if err := c.Events(t.Context(), Latest, func(*Event) error { return enough }, OfAllocation("alloc_1")); !errors.Is(err, enough) {
		t.Fatal(err)
	}
	if got := s.asked[0].URL.RequestURI(); got != "/v1/allocations/alloc_1/events?after=latest&limit=1" {
		t.Error(got)
	}
	for _, r := range s.asked[1:] {
		if r.Header.Get("Last-Event-ID") != "now" || r.URL.Query().Has("after") {
			t.Errorf("%v %v", r.URL, r.Header)
		}
	}
}

func TestEventsEnd(t *testing.T) {
	t.Parallel()
	_, c, _ := newSite(t, func(_ int, w http.ResponseWriter, _ *http.Request) { refuse(w, 403, "auth.platform_only", false) })
	var p *Problem
	if err := c.Events(t.Context(), "", nil); !errors.As(err, &p) || p.Status != 403 {
		t.Error(err)
	}
	// Never got through: after its tries it gives up.
	s, c, _ := newSite(t, func(_ int, w http.ResponseWriter, _ *http.Request) { refuse(w, 503, "feed.unavailable", true) })
	if err := c.Events(t.Context(), "", nil); !errors.As(err, &p) || len(s.asked) != 4 {
		t.Errorf("%v after %d", err, len(s.asked))
	}
	// Got through once: it goes on for as long as the caller wants.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, c, _ = newSite(t, func(n int, w http.ResponseWriter, _ *http.Request) {
		if n == 0 {
			sse(w)
			return
		}
		if n == 30 {
			cancel()
		}
		refuse(w, 503, "feed.unavailable", true)
	})
	if err := c.Events(ctx, "", nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	_, c, _ = newSite(t, func(_ int, w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") })
	if err := c.Events(t.Context(), "", nil); err == nil || !strings.Contains(err.Error(), "instead of a stream") {
		t.Error(err)
	}
	_, c, _ = newSite(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
		sse(w)
		_, _ = io.WriteString(w, "data: "+strings.Repeat("x", maxEventBytes+1)+"\n\n")
	})
	if err := c.Events(t.Context(), "", nil); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Error(err)
	}
}

// TestASilentStreamIsDead: no heartbeat for the quiet time ends a connection.
func TestASilentStreamIsDead(t *testing.T) {
	t.Parallel()
	_, c, _ := newSite(t, func(n int, w http.ResponseWriter, r *http.Request) {
		if n == 0 {
			sse(w)
			<-r.Context().Done() // the client hangs up
			return
		}
		sse(w, "e1")
	})
	c.quiet = 200 * time.Millisecond
	enough := errors.New("enough")
	if err := c.Events(t.Context(), "", func(*Event) error { return enough }); !errors.Is(err, enough) {
		t.Fatal(err)
	}
}

func TestPastEventsEndAtTheNewest(t *testing.T) {
	t.Parallel()
	s, c, _ := newSite(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("after") {
		case "":
			_, _ = io.WriteString(w, `{"items":[{"id":"e1"},{"id":"e2"}],"next_cursor":"e2"}`)
		case "e2": // a page of others' events only
			_, _ = io.WriteString(w, `{"items":[],"next_cursor":"e4"}`)
		default:
			_, _ = io.WriteString(w, `{"items":[],"next_cursor":"e4"}`)
		}
	}, FromSequence(5))
	all, err := Collect(c.PastEvents(t.Context(), ""), 0)
	if err != nil || len(all) != 2 || len(s.asked) != 3 {
		t.Fatalf("%v %v, %d requests", all, err, len(s.asked))
	}
	if s.asked[0].URL.Query().Get("at_least") != "5" {
		t.Error("events do not wait for what was written")
	}
}
