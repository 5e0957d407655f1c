package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
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
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
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
	if time.Since(start) > 10*time.Second {
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
