package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// recorded asks the site without a listener, as the operator, and fails if it failed.
func (s *site) recorded(t *testing.T, method, path string, body []byte, h http.Header) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(string(body)))
	r.Header = h
	h.Set("Authorization", "Bearer "+s.admin)
	if len(body) > 0 {
		h.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	s.http.Config.Handler.ServeHTTP(w, r)
	if w.Code >= 500 && w.Code != http.StatusServiceUnavailable {
		t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
	if w.Code >= 400 && (w.Header().Get("Content-Type") != "application/problem+json" || !json.Valid(w.Body.Bytes()) || w.Body.Len() > 16<<10) {
		t.Fatalf("%s %s: refused with %d, %d bytes of %s", method, path, w.Code, w.Body.Len(), w.Header().Get("Content-Type"))
	}
	return w
}

// FuzzBody: a body of any bytes, for each route that has one.
func FuzzBody(f *testing.F) {
	s := newSite(f)
	var routes []documented
	for _, d := range s.openAPI().routes {
		if d.body != nil && !d.bytes {
			routes = append(routes, d)
		}
	}
	for i := range routes {
		f.Add(uint8(i), []byte(bodies[routes[i].name()]))
	}
	for _, j := range junk[:24] {
		f.Add(uint8(len(j)), []byte(j))
	}
	f.Fuzz(func(t *testing.T, n uint8, body []byte) {
		d := &routes[int(n)%len(routes)]
		path := d.path
		for _, name := range d.holes() {
			path = strings.ReplaceAll(path, "{"+name+"}", "quota.gpus")
		}
		s.recorded(t, d.method, path, body, http.Header{})
	})
}

// FuzzLaunch: the launch's own decoder accepts what encoding/json accepts, and reads
// the same.
func FuzzLaunch(f *testing.F) {
	f.Add([]byte(`{"sku":"gpu-1x","image":"tiny","count":2,"tags":{"a":"b"},"ssh_keys":["k"],"expires_at":"2999-01-01T00:00:00Z","dry_run":true}`))
	for _, j := range junk {
		f.Add([]byte(`{"sku":` + j + `}`))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if !checkJSON(body) {
			return // as readBody refuses it
		}
		b, err := decodeLaunch(body)
		if err != nil {
			if err.Code == "" || len(err.Message) > 1024 {
				t.Fatalf("%+v", err)
			}
			return
		}
		var want createAllocation
		if json.Unmarshal(body, &want) != nil {
			t.Fatalf("%q was read as %+v", body, b)
		}
		x, _ := json.Marshal(b)
		y, _ := json.Marshal(&want)
		if string(x) != string(y) {
			t.Fatalf("%q was read as\n%s, not\n%s", body, x, y)
		}
	})
}

// FuzzHeaders: what a request says about itself.
func FuzzHeaders(f *testing.F) {
	s := newSite(f)
	for _, v := range append([]string{s.server.cursors.seal("event:platform", 3), "cmd_0000000000e000000000000000", "k-1", "text/event-stream"}, words...) {
		f.Add(v, v, v, v)
	}
	f.Fuzz(func(t *testing.T, idem, command, last, query string) {
		h := http.Header{"Idempotency-Key": {idem}, "Command-Id": {command}, "X-Request-Id": {last}}
		w := s.recorded(t, "POST", "/v1/tenants", []byte(`{"name":"NOT A NAME"}`), h)
		if w.Code < 400 {
			t.Fatalf("done: %s", w.Body)
		}
		if id := w.Header().Get("X-Request-Id"); id == "" || strings.ContainsAny(id, "\r\n \x00") {
			t.Fatalf("request id %q", id)
		}
		r := httptest.NewRequest("GET", "/v1/events", nil)
		r.URL.RawQuery = query
		r.Header = http.Header{"Last-Event-Id": {last}, "Authorization": {"Bearer " + s.admin}}
		rec := httptest.NewRecorder()
		s.http.Config.Handler.ServeHTTP(rec, r)
		if rec.Code >= 500 && rec.Code != http.StatusServiceUnavailable {
			t.Fatalf("%d %s", rec.Code, rec.Body)
		}
	})
}

// FuzzCursor: only what was given out, to who asks, is read.
func FuzzCursor(f *testing.F) {
	k := newCursors([32]byte{1})
	f.Add("event:a", k.seal("event:a", 7))
	f.Add("event:b", k.seal("event:a", 7))
	f.Add("", "AAAAAAAAAAAAAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, scope, s string) {
		if n, ok := k.open(scope, s); ok && k.seal(scope, n) != s {
			t.Fatalf("%q is %d", s, n)
		}
	})
}

// FuzzKey: whatever stands in Authorization, it is nobody's.
func FuzzKey(f *testing.F) {
	s := newSite(f)
	f.Add("Bearer x")
	f.Add("bearer  " + strings.Repeat("k", 300))
	f.Fuzz(func(t *testing.T, v string) {
		digest, _ := secretOf(v)
		if _, ok := s.server.o.Callers.Caller(digest, 1); ok && !strings.Contains(v, s.admin) {
			t.Fatalf("%q is somebody's", v)
		}
	})
}
