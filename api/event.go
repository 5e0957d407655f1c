package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/gpuaas/gpuaas/domain"
)

// Event is one fact, as CloudEvents 1.0 writes it. Its id is the cursor after it.
type Event struct {
	SpecVersion string          `json:"specversion" example:"1.0"`
	ID          string          `json:"id" doc:"Opaque; also the cursor to go on after this event"`
	Source      string          `json:"source" example:"/sites/auh1"`
	Type        string          `json:"type" example:"allocation.placed"`
	Subject     string          `json:"subject,omitempty" doc:"The id of what it is about"`
	Time        string          `json:"time" format:"date-time"`
	Number      uint64          `json:"number,omitempty" doc:"For the site's own people: the event's number"`
	Sequence    uint64          `json:"sequence" doc:"The commit it stands in, as in Log-Sequence"`
	Data        json.RawMessage `json:"data" doc:"The event itself"`
}

// Events is a page of events.
type Events struct {
	Items      []Event `json:"items" nullable:"false"`
	NextCursor string  `json:"next_cursor" doc:"Where to go on; also when there was nothing new"`
	More       bool    `json:"more" doc:"Whether there may be more after next_cursor now; false: this page goes to the end"`
}

var eventQuery = []*param{
	queryParam("after", "A cursor: only events after it. Left out: from the beginning; latest: from now on.", stringSchema),
	queryParam("types", "Only these types, separated by commas; a family is allocation.*", stringSchema),
}

const maxEventTypes = 64

func (s *Server) eventRoutes() {
	s.eventRoute(route{
		path: "/v1/events", id: "list-events", tag: "Events", summary: "What happened, as pages or as a stream",
		about: "With Accept: text/event-stream the answer is a stream of server-sent events that goes on for ever: id is a cursor, event the type, data the event. It continues exactly after Last-Event-ID. A tenant sees what is its own; the site's people see everything, or with host_id one host and its slots, or with tenant_id one tenant.",
		query: append(slices.Clone(eventQuery), limitParam, queryParam("host_id", "Operators: one host and its slots.", stringSchema), queryParam("tenant_id", "Operators: one tenant.", stringSchema)),
	}, s.eventSelection)
	s.eventRoute(route{
		path: "/v1/allocations/{a}/events", id: "list-allocation-events", tag: "Allocations", summary: "What happened to an allocation, as pages or as a stream",
		query: append(slices.Clone(eventQuery), limitParam),
	}, s.allocationSelection)
}

// allocationSelection is one allocation's events. They begin where it was placed.
func (s *Server) allocationSelection(c *call) (selection, *domain.Error) {
	var id domain.AllocationID
	if err := pathID(c, "a", "allocation", &id); err != nil {
		return selection{}, err
	}
	sel, err := c.selection()
	if err != nil {
		return sel, err
	}
	if err := c.catchUp(); err != nil {
		return sel, err
	}
	a, _, err := found(c, c.allocation(id))
	if err != nil {
		return sel, err
	}
	_ = sel.filter.Tenant.UnmarshalText([]byte(a.TenantID)) // written by the projector
	if len(sel.filter.Types) == 0 {
		sel.filter.Types = []string{"allocation.*"} // the only family about one
	}
	sel.resource, sel.until = a.ID, a.ReleasedAt
	sel.after = max(sel.after, uint64(a.Number)-1)
	return sel, nil
}

// selection is what of the feed a request asks for.
type selection struct {
	filter   FeedFilter
	resource string      // only events about it, if set
	until    domain.Time // and none is later; 0: it lives
	after    uint64
	limit    int
	scope    string // of its cursors
	last     bool   // after the newest
}

// eventRoute registers a route that answers pages or a stream.
func (s *Server) eventRoute(r route, selected func(*call) (selection, *domain.Error)) {
	r.method = http.MethodGet
	op := s.operation(r, false)
	op.Parameters = append(op.Parameters, &param{Name: "Last-Event-ID", In: "header", Description: "As a browser sends it; instead of after.", Schema: stringSchema})
	schema := s.schema("Events", Events{})
	s.schema("Event", Event{})
	op.Responses["200"].Content = map[string]*huma.MediaType{
		"application/json":  {Schema: schema},
		"text/event-stream": {Schema: &huma.Schema{Type: "string", Description: "id: a cursor, event: a type, data: an Event in one line"}},
	}
	huma.Register(s.api, op, func(ctx context.Context, _ *noInput) (*huma.StreamResponse, error) {
		c := callOf(ctx)
		c.rest()
		sel, err := selected(c)
		c.work()
		if err != nil {
			return nil, c.fail(err)
		}
		if streaming(c.echo.Request()) {
			return &huma.StreamResponse{Body: func(huma.Context) { s.stream(c, &sel) }}, nil
		}
		c.rest()
		page, err := s.eventPage(c, &sel)
		c.work()
		if err != nil {
			return nil, c.fail(err)
		}
		return &huma.StreamResponse{Body: func(huma.Context) {
			_ = answerJSON(c.echo.Response(), http.StatusOK, page)
		}}, nil
	})
	s.routes = append(s.routes, r)
}

// eventSelection reads the query of /v1/events. What a tenant sees is fixed by its
// key, never by the request.
func (s *Server) eventSelection(c *call) (selection, *domain.Error) {
	sel, err := c.selection()
	if err != nil {
		return sel, err
	}
	q := c.echo.QueryParams()
	host, tenant := q.Get("host_id"), q.Get("tenant_id")
	if !c.platform() {
		if host != "" {
			return sel, c.requirePlatform()
		}
		own := c.caller.Member.Tenant
		if own.IsZero() || tenant != "" && tenant != own.String() {
			return sel, notFound("tenant")
		}
		sel.filter.Tenant = own
		return sel, nil
	}
	if host != "" && sel.filter.Host.UnmarshalText([]byte(host)) != nil {
		return sel, notFound("host")
	}
	if tenant != "" && sel.filter.Tenant.UnmarshalText([]byte(tenant)) != nil {
		return sel, notFound("tenant")
	}
	return sel, nil
}

// selection reads what all event routes have in common.
func (c *call) selection() (selection, *domain.Error) {
	q := c.echo.QueryParams()
	sel := selection{scope: "event:" + c.scopeName()}
	var err *domain.Error
	if sel.limit, err = limitOf(q.Get("limit")); err != nil {
		return sel, err
	}
	for _, t := range strings.Split(q.Get("types"), ",") {
		if t = strings.TrimSpace(t); t != "" {
			sel.filter.Types = append(sel.filter.Types, t)
		}
	}
	if len(sel.filter.Types) > maxEventTypes {
		return sel, domain.Errorf(domain.Invalid, "request.invalid", "types: at most %d", maxEventTypes)
	}
	after := q.Get("after")
	if id := c.echo.Request().Header.Get("Last-Event-ID"); id != "" {
		after = id // a browser reconnects with the first request's query
	}
	switch after {
	case "":
	case "latest":
		sel.last = true
	default:
		var ok bool
		if sel.after, ok = c.s.cursors.open(sel.scope, after); !ok {
			return sel, errCursor()
		}
	}
	return sel, nil
}

// wants reports whether the event is one of those asked for.
func (sel *selection) wants(e *FeedEvent) bool {
	if sel.resource != "" && e.Resource != sel.resource {
		return false
	}
	if len(sel.filter.Types) == 0 {
		return true
	}
	for _, t := range sel.filter.Types {
		if t == e.Type || strings.HasSuffix(t, ".*") && strings.HasPrefix(e.Type, t[:len(t)-1]) {
			return true
		}
	}
	return false
}

func (s *Server) event(c *call, sel *selection, e *FeedEvent) Event {
	out := Event{
		SpecVersion: "1.0", ID: s.cursors.seal(sel.scope, e.Number), Source: "/sites/" + s.o.Site, Type: e.Type, Subject: e.Resource,
		Time: e.At.String(), Sequence: e.Commit, Data: e.Data,
	}
	if c.platform() {
		out.Number = e.Number
	}
	return out
}

const (
	// feedChunk is how many events are looked through at a time for those about one
	// resource: the feed has an index of owners and types, not of resources.
	feedChunk = 1000
	// feedLook is the pause between two looks at a feed that is still behind.
	feedLook = 10 * time.Millisecond
)

// eventPage reads until the page is full or the feed ends, for a third of the
// request's time: an empty page is the end, unless it says that there may be more.
func (s *Server) eventPage(c *call, sel *selection) (*Events, *domain.Error) {
	head, err := c.feedHead(c.ctx(), sel)
	if err != nil {
		return nil, err
	}
	page := &Events{Items: []Event{}, More: true}
	reflects := uint64(0)
	for begin := time.Now(); page.More && len(page.Items) < sel.limit && time.Since(begin) < s.o.Deadline/3; {
		n, err := s.fillPage(c, sel, page)
		if err != nil {
			return nil, err
		}
		reflects = max(reflects, n)
	}
	if !page.More {
		reflects = max(reflects, head)
	}
	page.NextCursor = s.cursors.seal(sel.scope, sel.after)
	c.sequence(reflects)
	return page, nil
}

// fillPage looks through one more stretch of the feed, moves sel on after it, and
// returns the last commit that it saw.
func (s *Server) fillPage(c *call, sel *selection, page *Events) (n uint64, _ *domain.Error) {
	want := sel.limit - len(page.Items)
	if sel.resource != "" {
		want = feedChunk
	}
	events, next, err := s.o.Feed.Page(c.ctx(), sel.after, want, sel.filter)
	if err != nil {
		return 0, feedError(err)
	}
	for i := range events {
		e := &events[i]
		if sel.until != 0 && e.At > sel.until {
			page.More = false // what is released stays as it is
			return n, nil
		}
		n, sel.after = e.Commit, e.Number
		if !sel.wants(e) {
			continue
		}
		page.Items = append(page.Items, s.event(c, sel, e))
		if len(page.Items) == sel.limit {
			return n, nil
		}
	}
	sel.after, page.More = next, len(events) == want
	return n, nil
}

// feedHead waits until the feed has what the request asks for, and returns the
// newest commit in it. A selection from now on begins there.
func (c *call) feedHead(ctx context.Context, sel *selection) (uint64, *domain.Error) {
	least, err := c.atLeast()
	if err != nil {
		return 0, err
	}
	var n, want uint64
	if least > 0 {
		if n, err = c.ask(c.actor(), func(w *domain.World, _ domain.Time) *domain.Error { want = w.Number; return nil }); err != nil {
			return 0, err
		}
		if n < least {
			return 0, errBehind(n)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, c.s.o.Deadline)
	defer cancel()
	for { // ends with the feed, or ctx
		last, head, ferr := c.s.o.Feed.Last(ctx)
		if ferr != nil {
			return 0, feedError(ferr)
		}
		if last >= want {
			if sel.last {
				sel.after, sel.last = last, false
			}
			return max(head, n), nil
		}
		select {
		case <-time.After(feedLook):
		case <-ctx.Done():
			return 0, errBehind(head)
		}
	}
}

// feedError is what the follower says itself, or that it does not answer.
func feedError(err error) *domain.Error {
	if known := (*domain.Error)(nil); errors.As(err, &known) {
		return known
	}
	e := domain.Errorf(domain.Unavailable, "feed.unavailable", "the event feed does not answer now: try again")
	e.Cause = err
	return e
}
