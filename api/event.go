package api

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

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
	a, _, rerr := s.o.Reads.Allocation(c.ctx(), c.scope(), id)
	if rerr != nil {
		return sel, domain.AsError(rerr)
	}
	_ = sel.filter.Tenant.UnmarshalText([]byte(a.TenantID)) // written by the projector
	sel.resource = a.ID
	sel.after = max(sel.after, uint64(a.Number)-1)
	return sel, nil
}

// selection is what of the feed a request asks for.
type selection struct {
	filter   FeedFilter
	resource string // only events about it, if set
	types    []string
	after    uint64
	limit    int
	scope    string // of its cursors
	last     bool   // after the newest
}

// eventRoute registers a route that answers pages or a stream.
func (s *Server) eventRoute(r route, selected func(*call) (selection, *domain.Error)) {
	r.method = http.MethodGet
	op := s.operation(r, false)
	op.Parameters = slices.DeleteFunc(op.Parameters, func(p *param) bool { return p == atLeast })
	op.Parameters = append(op.Parameters, &param{Name: "Last-Event-ID", In: "header", Description: "As a browser sends it; instead of after.", Schema: stringSchema})
	schema := s.schema("Events", Events{})
	s.schema("Event", Event{})
	op.Responses["200"].Content = map[string]*huma.MediaType{
		"application/json":  {Schema: schema},
		"text/event-stream": {Schema: &huma.Schema{Type: "string", Description: "id: a cursor, event: a type, data: an Event in one line"}},
	}
	huma.Register(s.api, op, func(ctx context.Context, _ *noInput) (*huma.StreamResponse, error) {
		c := callOf(ctx)
		sel, err := selected(c)
		if err != nil {
			return nil, c.fail(err)
		}
		if streaming(c.echo.Request()) {
			return &huma.StreamResponse{Body: func(huma.Context) { s.stream(c, &sel) }}, nil
		}
		page, err := s.eventPage(c, &sel)
		if err != nil {
			return nil, c.fail(err)
		}
		return &huma.StreamResponse{Body: func(huma.Context) {
			c.echo.Response().Header().Set("Content-Type", "application/json")
			c.echo.Response().WriteHeader(http.StatusOK)
			_ = writeJSON(c.echo.Response(), page)
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
			sel.types = append(sel.types, t)
		}
	}
	if len(sel.types) > maxEventTypes {
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
	if len(sel.types) == 0 {
		return true
	}
	for _, t := range sel.types {
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

// maxFeedScans bounds how much of the feed one page may look through for events of
// a few types; the page says where to go on.
const maxFeedScans = 8

func (s *Server) eventPage(c *call, sel *selection) (*Events, *domain.Error) {
	if err := s.fromLatest(c.ctx(), sel); err != nil {
		return nil, err
	}
	page := &Events{Items: []Event{}}
	after, n := sel.after, uint64(0)
	for range maxFeedScans {
		want := sel.limit - len(page.Items)
		events, next, err := s.o.Feed.Page(c.ctx(), after, want, sel.filter)
		if err != nil {
			return nil, feedError(err)
		}
		for i := range events {
			n = max(n, events[i].Commit)
			if sel.wants(&events[i]) {
				page.Items = append(page.Items, s.event(c, sel, &events[i]))
			}
		}
		after = next
		if len(events) < want || len(page.Items) >= sel.limit {
			break
		}
	}
	page.NextCursor = s.cursors.seal(sel.scope, after)
	if n > 0 {
		c.sequence(n)
	}
	return page, nil
}

func (s *Server) fromLatest(ctx context.Context, sel *selection) *domain.Error {
	if !sel.last {
		return nil
	}
	last, err := s.o.Feed.Last(ctx)
	if err != nil {
		return feedError(err)
	}
	sel.after = last
	return nil
}

func feedError(err error) *domain.Error {
	e := domain.Errorf(domain.Unavailable, "feed.unavailable", "the event feed does not answer now: try again")
	e.Cause = err
	return e
}
