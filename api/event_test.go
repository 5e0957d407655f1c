package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/gpuaas/gpuaas/domain"
)

// sseClient reads one event stream.
type sseClient struct {
	res    *http.Response
	lines  *bufio.Scanner
	lastID string
	cancel func()
}

func (s *site) subscribe(key, query, lastID string) *sseClient {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	req, err := http.NewRequestWithContext(ctx, "GET", s.http.URL+"/v1/events"+query, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Accept", "text/event-stream")
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	if res.StatusCode != 200 {
		s.t.Fatalf("stream: %d", res.StatusCode)
	}
	c := &sseClient{res: res, lines: bufio.NewScanner(res.Body), cancel: func() { cancel(); res.Body.Close() }}
	c.lines.Buffer(nil, 1<<20)
	s.t.Cleanup(c.cancel)
	return c
}

// next returns the next event's type and data; comment is set for a heartbeat.
func (c *sseClient) next() (e Event, comment, ok bool) {
	for c.lines.Scan() {
		switch line := c.lines.Text(); {
		case line == "" && (e.Type != "" || comment):
			return e, comment, true
		case strings.HasPrefix(line, ":"):
			comment = true
		case strings.HasPrefix(line, "id: "):
			c.lastID = line[4:]
		case strings.HasPrefix(line, "data: "):
			if json.Unmarshal([]byte(line[6:]), &e) != nil {
				return e, false, false
			}
		}
	}
	return e, false, false
}

// drain reads n events.
func (c *sseClient) drain(n int) (ids []string) {
	for len(ids) < n {
		e, comment, ok := c.next()
		if !ok {
			return ids
		}
		if !comment {
			ids = append(ids, e.ID)
		}
	}
	return ids
}

// pages reads everything there is by pages.
func (s *site) pages(key, query string, limit int) (events []Event) {
	s.t.Helper()
	cursor := ""
	for {
		a := s.want(200, key, "GET", fmt.Sprintf("/v1/events?limit=%d%s%s", limit, query, cursor), "")
		var p Events
		if err := json.Unmarshal(a.body, &p); err != nil {
			s.t.Fatal(err)
		}
		if len(p.Items) == 0 {
			return events
		}
		events = append(events, p.Items...)
		cursor = "&after=" + p.NextCursor
	}
}

func TestAStreamContinuesExactlyAcrossRestarts(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	acme, other := s.tenant("acme", 0), s.tenant("other", 0)
	c := s.subscribe(acme.viewer, "", "")
	var got []string
	made := 0
	for round := range 3 {
		for range 5 {
			made++
			s.want(201, acme.owner, "POST", "/v1/tenants/"+acme.id+"/projects", fmt.Sprintf(`{"name":"p%d"}`, made))
			s.want(201, other.owner, "POST", "/v1/tenants/"+other.id+"/projects", fmt.Sprintf(`{"name":"p%d"}`, made))
		}
		got = append(got, c.drain(3+round)...) // some are left unread when the site goes down
		s.restart()
		c.cancel()
		s.want(201, acme.owner, "POST", "/v1/tenants/"+acme.id+"/projects", fmt.Sprintf(`{"name":"away%d"}`, round))
		c = s.subscribe(acme.viewer, "", got[len(got)-1])
	}
	want := s.pages(acme.viewer, "", 7)
	got = append(got, c.drain(len(want)-len(got))...)
	ids := make([]string, len(want))
	for i, e := range want {
		ids[i] = e.ID
	}
	if !slices.Equal(got, ids) {
		t.Fatalf("the stream had %d events, the pages %d; they differ", len(got), len(ids))
	}
	for _, e := range want {
		if strings.Contains(string(e.Data), other.id) || e.Subject == other.id || e.Number != 0 {
			t.Fatalf("acme sees %+v %s", e, e.Data)
		}
	}
}

func TestAStreamLives(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(o *Options) { o.Heartbeat = 20 * time.Millisecond })
	acme := s.tenant("acme", 0)
	c := s.subscribe(acme.viewer, "?after=latest", "")
	if _, comment, ok := c.next(); !comment || !ok {
		t.Fatal("no heartbeat")
	}
	// A revoked key ends its stream.
	for _, k := range s.pages(s.admin, "&types=tenant.api_key_created&tenant_id="+acme.id, 10) {
		s.want(200, s.admin, "DELETE", "/v1/api-keys/"+k.Subject, "")
	}
	start := time.Now()
	for {
		if _, _, ok := c.next(); !ok {
			break
		}
	}
	if time.Since(start) > time.Minute {
		t.Fatal("the stream of a revoked key goes on")
	}
}

func TestCursorsAreOpaqueAndOnlyTheirOwners(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	acme, other := s.tenant("acme", 0), s.tenant("other", 0)
	a, b := s.pages(acme.owner, "", 100), s.pages(s.admin, "", 500)
	for i := range a {
		if i > 0 && len(a[i].ID) == len(a[i-1].ID) && a[i].ID[:6] == a[i-1].ID[:6] {
			t.Errorf("cursors %s and %s look alike", a[i-1].ID, a[i].ID)
		}
	}
	forged := []byte(a[0].ID)
	forged[3] ^= 1
	for _, cursor := range []string{string(forged), "1", "AAAAAAAAAAAAAAAAAAAAAA", b[3].ID, strings.Repeat("x", 1000)} {
		s.refused(422, "cursor.invalid", acme.owner, "GET", "/v1/events?after="+cursor, "")
		s.refused(422, "cursor.invalid", acme.owner, "GET", "/v1/events", "", header{"Last-Event-ID", cursor})
	}
	s.refused(422, "cursor.invalid", other.owner, "GET", "/v1/events?after="+a[0].ID, "")
	s.refused(404, "tenant.not_found", other.owner, "GET", "/v1/events?tenant_id="+acme.id, "")
	s.refused(403, "auth.platform_only", other.owner, "GET", "/v1/events?host_id=x", "")
	s.refused(422, "request.invalid", other.owner, "GET", "/v1/events?limit=0", "")
	s.refused(422, "request.invalid", other.owner, "GET", "/v1/events?limit=501", "")
	one := s.pages(s.admin, "&tenant_id="+acme.id, 100)
	if len(one) != len(a) || one[0].Number == 0 {
		t.Errorf("an operator sees %d events of the tenant, the tenant %d", len(one), len(a))
	}
	for _, e := range s.pages(acme.owner, "&types=project.*", 100) {
		if !strings.HasPrefix(e.Type, "project.") {
			t.Errorf("asked for project.*, got %s", e.Type)
		}
	}
}

// TestAPageIsFullOrTheEnd: what is asked for lies behind a thousand events of the
// same tenant that are not, and still the first page has it.
func TestAPageIsFullOrTheEnd(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	var tenant domain.TenantID
	_ = tenant.UnmarshalText([]byte(w.acme.id))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 90 { // two events each
				w.system(&domain.GrantCredit{Tenant: tenant, Currency: "USD", Amount: 1, Kind: domain.GrantPromotional})
			}
		})
	}
	wg.Wait()
	w.want(202, w.acme.owner, "DELETE", "/v1/allocations/"+w.alloc, "")
	a := w.want(201, w.acme.owner, "POST", "/v1/projects/"+w.acme.project+"/allocations", `{"sku":"gpu-1x"}`)
	id, n := a.get("id"), a.header.Get("Log-Sequence")
	w.system(&domain.Tick{})
	for path, types := range map[string]string{
		"/v1/events?types=allocation.releasing":                           "allocation.releasing",
		"/v1/events?types=allocation.*&limit=2":                           "allocation.placed allocation.releasing",
		"/v1/events?types=project.*,allocation.releasing":                 "project.created allocation.releasing",
		"/v1/events?types=slot.wiped":                                     "",
		"/v1/allocations/" + w.alloc + "/events":                          "allocation.placed allocation.releasing",
		"/v1/allocations/" + w.alloc + "/events?limit=1":                  "allocation.placed",
		"/v1/allocations/" + w.alloc + "/events?types=project.*":          "",
		"/v1/allocations/" + id + "/events":                               "allocation.placed",
		"/v1/allocations/" + id + "/events?types=allocation.vm_running":   "",
		"/v1/allocations/" + w.alloc + "/events?types=*,allocation.relea": "",
	} {
		query := "?at_least="
		if strings.Contains(path, "?") {
			query = "&at_least="
		}
		var p Events
		a := w.want(200, w.acme.owner, "GET", path+query+n, "")
		if err := json.Unmarshal(a.body, &p); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range p.Items {
			got = append(got, e.Type)
		}
		if strings.Join(got, " ") != types {
			t.Errorf("%s: %v, want %s", path, got, types)
		}
		if full := strings.Contains(path, "limit"); p.More != full {
			t.Errorf("%s: more %v", path, p.More)
		}
		if at := a.header.Get("Log-Sequence"); !p.More && at < n || at == "" {
			t.Errorf("%s: reflects %q, want %s", path, at, n)
		}
	}
}

// TestAPageOutOfTimeSaysSo: it has what it found, goes on where it stopped, and does
// not look like the end.
func TestAPageOutOfTimeSaysSo(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	acme := s.tenant("acme", 0)
	c := &call{s: s.server, echo: echo.New().NewContext(httptest.NewRequest("GET", "/v1/events", nil), httptest.NewRecorder())}
	_ = acme
	s.server.o.Deadline = 30 * time.Second
	s.server.o.Feed = &slowFeed{memoryLog: s.log, now: s.server}
	page, err := s.server.eventPage(c, &selection{filter: FeedFilter{Types: []string{"slot.none"}}, limit: 5})
	if err != nil || len(page.Items) != 0 || !page.More {
		t.Fatalf("%+v, %v", page, err)
	}
}

// slowFeed uses up the request's time with its first page.
type slowFeed struct {
	*memoryLog
	now *Server
}

func (f *slowFeed) Page(ctx context.Context, after uint64, limit int, x FeedFilter) ([]FeedEvent, uint64, error) {
	f.now.o.Deadline = 0
	return f.memoryLog.Page(ctx, after, limit, x)
}

// TestAStreamSaysWhereItBegins: a client whose connection breaks before the first
// event has a cursor all the same.
func TestAStreamSaysWhereItBegins(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	acme := s.tenant("acme", 0)
	first := s.subscribe(acme.viewer, "?after=latest", "")
	for first.lastID == "" {
		if !first.lines.Scan() {
			t.Fatal("the stream ended without a cursor")
		}
		if id, ok := strings.CutPrefix(first.lines.Text(), "id: "); ok {
			first.lastID = id
		}
	}
	first.cancel()
	s.want(201, acme.owner, "POST", "/v1/tenants/"+acme.id+"/projects", `{"name":"meanwhile"}`)
	again := s.subscribe(acme.viewer, "?after=latest", first.lastID)
	if e, _, ok := again.next(); !ok || e.Type != "project.created" {
		t.Fatalf("%+v, %v", e, ok)
	}
}

// endedFeed cannot go on.
type endedFeed struct {
	*memoryLog
	err error
}

func (f endedFeed) Subscribe(context.Context, uint64, FeedFilter, func(FeedEvent) error) error {
	return f.err
}

func TestAStreamThatCannotGoOnSaysWhy(t *testing.T) {
	t.Parallel()
	for code, end := range map[string]error{
		"cursor.gone":      domain.Errorf(domain.Invalid, "cursor.gone", "begin without one"),
		"feed.unavailable": errors.New("no leader"),
	} {
		s := newSite(t, func(o *Options) { o.Feed = endedFeed{o.Feed.(*memoryLog), end} })
		acme := s.tenant("acme", 0)
		c := s.subscribe(acme.viewer, "", "")
		var lines []string
		for c.lines.Scan() {
			lines = append(lines, c.lines.Text())
		}
		text := strings.Join(lines, "\n")
		if !strings.Contains(text, "event: error\ndata: {") || !strings.Contains(text, `"code":"`+code+`"`) || strings.Contains(text, "no leader") {
			t.Errorf("%s: %s", code, text)
		}
	}
}

func TestStreamsAreBounded(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	acme := s.tenant("acme", 0)
	var open []*sseClient
	for range maxStreamsUser {
		open = append(open, s.subscribe(acme.viewer, "", ""))
	}
	s.refused(429, "stream.too_many", acme.viewer, "GET", "/v1/events", "", header{"Accept", "text/event-stream"})
	s.subscribe(acme.owner, "", "") // another user is not in the way
	for _, c := range open {
		c.cancel()
	}
}
