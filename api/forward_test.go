package api

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// pointer is a Writers that a test turns.
type pointer struct {
	own atomic.Bool
	to  atomic.Pointer[url.URL]
}

func (p *pointer) Decide() (func(), bool) { return func() {}, p.own.Load() }
func (p *pointer) Elsewhere() *url.URL    { return p.to.Load() }

func (p *pointer) point(t *testing.T, at string) {
	t.Helper()
	u, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	p.to.Store(u)
}

// beside is a process that stands by: its requests go where the pointer points.
func beside(t *testing.T, writer *site) (*site, *pointer) {
	t.Helper()
	p := &pointer{}
	s := *writer
	o := Options{
		Site: "test", Region: "auh1", Secret: s.secret, Decider: s.loop, Callers: s.loop.Directory(), History: s.log, Feed: s.log, Vault: s.vault, Audit: s.audit,
		Consoles: stubs{}, Hosts: stubs{}, Heartbeats: stubs{}, Images: s.images, Writers: p,
	}
	var h http.Handler
	s.server, h = New(o)
	s.server.forward.patience = 300 * time.Millisecond
	s.http = httptest.NewServer(h)
	t.Cleanup(func() { s.server.Close(); s.http.Close() })
	return &s, p
}

// TestForward: what changes something is decided by the process that writes, as the
// caller that asked, and the answer is that process's.
func TestForward(t *testing.T) {
	t.Parallel()
	writer := newSite(t)
	s, p := beside(t, writer)
	p.point(t, writer.http.URL)
	made := s.want(201, s.admin, "POST", "/v1/tenants", `{"name":"acme","currency":"USD"}`, header{"X-Request-Id", "mine"})
	if made.header.Get("Log-Sequence") == "" || made.header.Get("X-Request-Id") != "mine" || made.get("id") == "" {
		t.Errorf("the answer lost something: %v %s", made.header, made.body)
	}
	s.refused(401, "auth.invalid_key", "gpk_nobody", "POST", "/v1/tenants", `{"name":"other","currency":"USD"}`)
	s.refused(400, "request.malformed", s.admin, "POST", "/v1/tenants", `{`)
	s.refused(413, "request.too_large", s.admin, "POST", "/v1/tenants", `{"name":"`+strings.Repeat("x", maxBodyBytes)+`"}`)
	s.want(200, s.admin, "GET", "/v1/whoami", "") // its own
}

// TestForwardOneHop: a request that was handed on once is not handed on again, and
// without a writer it is refused as one that may be repeated.
func TestForwardOneHop(t *testing.T) {
	t.Parallel()
	writer := newSite(t)
	s, p := beside(t, writer)
	notWriter := func(headers ...header) {
		t.Helper()
		a := s.do(s.admin, "POST", "/v1/tenants", `{"name":"acme","currency":"USD"}`, headers...)
		if a.status != 503 || a.get("code") != "not_writer" || a.get("retryable") != "true" || a.header.Get("Retry-After") == "" {
			t.Errorf("%d %v %s", a.status, a.header, a.body)
		}
	}
	notWriter() // nobody is known
	other, q := beside(t, writer)
	q.point(t, s.http.URL)
	p.point(t, other.http.URL)
	notWriter() // two that point at each other
	p.point(t, writer.http.URL)
	notWriter(header{hopHeader, "1"})
	s.want(201, s.admin, "POST", "/v1/tenants", `{"name":"acme","currency":"USD"}`)
}

// TestForwardWaits: a request that comes between two writers waits for the next one,
// which may be this process.
func TestForwardWaits(t *testing.T) {
	t.Parallel()
	writer := newSite(t)
	s, p := beside(t, writer)
	s.server.forward.patience = 10 * time.Second
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for name, comes := range map[string]func(){"another": func() { p.point(t, writer.http.URL) }, "this": func() { p.own.Store(true) }} {
		p.own.Store(false)
		p.point(t, gone.URL) // refuses connections
		var wg sync.WaitGroup
		wg.Go(func() { s.want(201, s.admin, "POST", "/v1/tenants", `{"name":"`+name+`","currency":"USD"}`) })
		time.AfterFunc(50*time.Millisecond, comes)
		wg.Wait()
	}
}

// TestForwardIsCut: when the connection breaks after the request was sent, only what
// the site knows again is asked again.
func TestForwardIsCut(t *testing.T) {
	t.Parallel()
	writer := newSite(t)
	s, p := beside(t, writer)
	s.server.forward.patience = 20 * time.Second
	var cuts atomic.Int64
	cut := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		out := r.Clone(r.Context())
		out.RequestURI, out.Body = "", io.NopCloser(bytes.NewReader(b))
		out.URL, _ = url.Parse(writer.http.URL + r.URL.RequestURI())
		res, err := http.DefaultTransport.RoundTrip(out) // it is decided
		if err == nil {
			res.Body.Close()
		}
		if cuts.Add(1)%2 == 1 { // and every other time nobody hears of it
			p.point(t, writer.http.URL)
			panic(http.ErrAbortHandler)
		}
	}))
	defer cut.Close()
	p.point(t, cut.URL)
	if a := s.do(s.admin, "POST", "/v1/tenants", `{"name":"one","currency":"USD"}`); a.status != 503 || a.get("code") != "outcome.unknown" {
		t.Errorf("%d %s", a.status, a.body)
	}
	cuts.Store(0)
	p.point(t, cut.URL)
	s.want(201, s.admin, "POST", "/v1/tenants", `{"name":"two","currency":"USD"}`, header{"Idempotency-Key", "k"})
	if cuts.Load() != 1 {
		t.Errorf("the broken connection was used %d times", cuts.Load())
	}
}

// TestForwardedToOneThatStandsStill: when another process decides, a request that may
// be repeated goes there, though the one that was asked says nothing, and though that
// took longer than one waits for a process that decides.
func TestForwardedToOneThatStandsStill(t *testing.T) {
	t.Parallel()
	writer := newSite(t)
	s, p := beside(t, writer)
	s.server.forward.patience = time.Second
	asked, still := make(chan struct{}, 1), make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		asked <- struct{}{}
		<-still
	}))
	defer silent.Close()
	defer close(still)
	p.point(t, silent.URL)
	go func() {
		<-asked
		time.Sleep(s.server.forward.patience)
		p.point(t, writer.http.URL)
	}()
	s.want(201, s.admin, "POST", "/v1/tenants", `{"name":"acme","currency":"USD"}`, header{"Idempotency-Key", "k"})
	p.point(t, silent.URL)
	go func() {
		<-asked
		p.point(t, writer.http.URL)
	}()
	s.refused(503, "outcome.unknown", s.admin, "POST", "/v1/tenants", `{"name":"other","currency":"USD"}`) // nobody could tell a repeat
}
