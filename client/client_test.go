package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testKey = "gpk_0123456789abcdefghjkmnpqrs_verysecret"

// site is a server of canned answers that keeps what it was asked.
type site struct {
	mu     sync.Mutex
	asked  []*http.Request
	bodies []string
	answer func(n int, w http.ResponseWriter, r *http.Request) // n-th request, from 0 on
}

// newSite starts a site and a client of it whose pauses are only noted.
func newSite(t *testing.T, answer func(n int, w http.ResponseWriter, r *http.Request), options ...Option) (*site, *Client, *[]time.Duration) {
	t.Helper()
	s := &site{answer: answer}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	c, err := New(server.URL, testKey, append([]Option{HTTPClient(&http.Client{Transport: transport})}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	pauses := &[]time.Duration{}
	c.jitter = func(d time.Duration) time.Duration { return d }
	c.sleep = func(ctx context.Context, d time.Duration) error { *pauses = append(*pauses, d); return ctx.Err() }
	return s, c, pauses
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	n := len(s.asked)
	s.asked, s.bodies = append(s.asked, r), append(s.bodies, string(b))
	s.mu.Unlock()
	s.answer(n, w, r)
}

func refuse(w http.ResponseWriter, status int, code string, retryable bool) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"type":"urn:gpuaas:problem:%s","title":"t","status":%d,"detail":"what to do","code":%q,"retryable":%t,"request_id":"req_1","errors":[{"field":"body.name","message":"too long"}]}`, code, status, code, retryable)
}

func TestACommandIsRetriedWithTheSameKeyAndBytes(t *testing.T) {
	t.Parallel()
	s, c, pauses := newSite(t, func(n int, w http.ResponseWriter, _ *http.Request) {
		switch n {
		case 0:
			w.Header().Set("Connection", "close") // else net/http, which knows the header too, repeats the next one itself
			refuse(w, 503, "queue.full", true)
		case 1:
			panic(http.ErrAbortHandler) // the connection breaks after the request was read
		case 2:
			w.Header().Set("Retry-After", "3")
			refuse(w, 429, "queue.lane_full", true)
		default:
			w.Header().Set("Log-Sequence", "42")
			w.WriteHeader(201)
			_, _ = io.WriteString(w, `{"id":"alloc_1","state":"provisioning","created_at":"2026-01-31T12:00:00Z","hold_micros":9007199254740993}`)
		}
	})
	var seen []*Answer
	ctx := OnAnswer(t.Context(), func(a *Answer) { seen = append(seen, a) })
	a, err := c.CreateAllocation(ctx, "prj_1", NewAllocation{Name: "train-7", SKU: "gpu-1x", Count: 2})
	if err != nil {
		t.Fatal(err)
	}
	if a.ID != "alloc_1" || a.HoldMicros != 9007199254740993 || c.Sequence() != 42 {
		t.Fatalf("%+v, sequence %d", a, c.Sequence())
	}
	if len(s.asked) != 4 || len(seen) != 1 || seen[0].Tries != 4 || seen[0].Sequence != 42 {
		t.Fatalf("%d requests, answers %+v", len(s.asked), seen)
	}
	key := s.asked[0].Header.Get("Idempotency-Key")
	for i, r := range s.asked {
		if r.Header.Get("Idempotency-Key") != key || len(key) < 20 || s.bodies[i] != s.bodies[0] || r.Header.Get("Authorization") != "Bearer "+testKey {
			t.Errorf("request %d differs: %v %s", i, r.Header, s.bodies[i])
		}
	}
	if got := fmt.Sprint(*pauses); got != "[200ms 400ms 3.75s]" {
		t.Errorf("pauses %s", got)
	}
	if _, err := c.StopAllocation(t.Context(), "alloc_1"); err != nil {
		t.Fatal(err)
	}
	if again := s.asked[4].Header.Get("Idempotency-Key"); again == key || again == "" {
		t.Errorf("another command has the key %q", again)
	}
	if _, err := c.StopAllocation(WithIdempotencyKey(t.Context(), "mine"), "alloc_1"); err != nil || s.asked[5].Header.Get("Idempotency-Key") != "mine" {
		t.Errorf("%v, %q", err, s.asked[5].Header.Get("Idempotency-Key"))
	}
}

func TestWhatIsNotRetried(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		status    int
		code      string
		retryable bool
		requests  int
	}{
		{404, "allocation.not_found", false, 1},
		{409, "capacity.exhausted", true, 1}, // may pass, but not within seconds
		{422, "request.invalid", false, 1},
		{500, "internal", false, 1},
		{500, "internal", true, 4},
		{503, "queue.full", true, 4},
	} {
		s, c, _ := newSite(t, func(_ int, w http.ResponseWriter, _ *http.Request) { refuse(w, test.status, test.code, test.retryable) })
		_, err := c.Allocation(t.Context(), "alloc_1")
		var p *Problem
		if !errors.As(err, &p) {
			t.Fatalf("%s: %v", test.code, err)
		}
		if p.Status != test.status || p.Code != test.code || p.Detail != "what to do" || p.Retryable != test.retryable || p.RequestID != "req_1" || len(p.Errors) != 1 || p.Errors[0].Field != "body.name" {
			t.Errorf("%+v", p)
		}
		if len(s.asked) != test.requests {
			t.Errorf("%s: %d requests, want %d", test.code, len(s.asked), test.requests)
		}
	}
}

func TestAnswersOfOthers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request)
		want   string
	}{
		"a proxy's page": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502); _, _ = io.WriteString(w, "<html>") }, "http.502"},
		"a redirect":     {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", 302) }, "http.302"},
		"not JSON":       {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }, "not its JSON"},
		"without any end": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.Copy(w, io.LimitReader(zeros{}, maxAnswerBytes+2))
		}, "more than"},
	} {
		_, c, _ := newSite(t, func(_ int, w http.ResponseWriter, r *http.Request) { test.answer(w, r) })
		_, err := c.WhoAmI(t.Context())
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), testKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestUnreachableAndDeadlines(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	s, c, _ := newSite(t, func(_ int, _ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-release:
		}
	}, Timeout(500*time.Millisecond), Tries(2))
	t.Cleanup(func() { close(release) })
	_, err := c.WhoAmI(t.Context())
	var u *Unreachable
	s.mu.Lock() // its handlers may not have noticed yet
	defer s.mu.Unlock()
	if !errors.As(err, &u) || len(s.asked) != 2 {
		t.Fatalf("%v after %d requests", err, len(s.asked))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := c.WhoAmI(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

func TestReadsSeeOnesOwnWrites(t *testing.T) {
	t.Parallel()
	answer := func(n int, w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Log-Sequence", fmt.Sprint(10-n)) // never goes back
		_, _ = io.WriteString(w, `{"items":[]}`)
	}
	s, c, _ := newSite(t, answer)
	for range 3 {
		if _, err := c.Balance(t.Context(), "ten_1"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.StopAllocation(t.Context(), "alloc_1"); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range s.asked {
		got = append(got, r.URL.RawQuery)
	}
	if fmt.Sprint(got) != "[ at_least=10 at_least=10 ]" {
		t.Errorf("%q", got)
	}
	s, c, _ = newSite(t, answer, AnySequence(), FromSequence(7))
	if _, err := c.Balance(t.Context(), "ten_1"); err != nil || s.asked[0].URL.RawQuery != "" {
		t.Errorf("%v %q", err, s.asked[0].URL.RawQuery)
	}
}

func TestListsWalkOverTheirPages(t *testing.T) {
	t.Parallel()
	s, c, _ := newSite(t, func(n int, w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("cursor") {
		case "":
			_, _ = io.WriteString(w, `{"items":[{"id":"slot_1"},{"id":"slot_2"}],"next_cursor":"c1"}`)
		case "c1":
			_, _ = io.WriteString(w, `{"items":[],"next_cursor":"c2"}`)
		default:
			_, _ = io.WriteString(w, `{"items":[{"id":"slot_3"}]}`)
		}
	})
	all, err := Collect(c.Slots(t.Context(), "host_1", ""), 0)
	if err != nil || len(all) != 3 || all[2].ID != "slot_3" || len(s.asked) != 3 {
		t.Fatalf("%v %v, %d requests", all, err, len(s.asked))
	}
	if q := s.asked[2].URL.Query(); q.Get("host_id") != "host_1" || q.Has("state") || q.Get("limit") == "" {
		t.Errorf("%v", q)
	}
	if some, err := Collect(c.Slots(t.Context(), "", ""), 1); err != nil || len(some) != 1 || len(s.asked) != 4 {
		t.Errorf("%v %v, %d requests", some, err, len(s.asked))
	}
	_, c, _ = newSite(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"items":[],"next_cursor":"c1"}`)
	})
	if _, err := Collect(c.Hosts(t.Context()), 0); err == nil {
		t.Error("a list without an end ended well")
	}
}

func TestWaitAllocation(t *testing.T) {
	t.Parallel()
	states := func(words ...string) func(int, http.ResponseWriter, *http.Request) {
		return func(n int, w http.ResponseWriter, _ *http.Request) {
			word, gone, _ := strings.Cut(words[min(n, len(words)-1)], "/")
			if gone != "" {
				gone = `,"released_at":"2026-01-31T12:00:00Z"`
			}
			fmt.Fprintf(w, `{"id":"alloc_1","state":%q,"reason":"no-image"%s}`, word, gone)
		}
	}
	_, c, pauses := newSite(t, states("provisioning", "provisioning", "running"))
	if a, err := c.WaitAllocation(t.Context(), "alloc_1", Running); err != nil || a.State != Running {
		t.Fatal(a, err)
	}
	if fmt.Sprint(*pauses) != "[500ms 750ms]" {
		t.Error(*pauses)
	}
	_, c, _ = newSite(t, states("provisioning", "failed"))
	var ended *StateError
	if a, err := c.WaitAllocation(t.Context(), "alloc_1", Running); !errors.As(err, &ended) || a.State != Failed || err.Error() != "allocation alloc_1 is failed (no-image)" {
		t.Fatal(a, err)
	}
	s, c, _ := newSite(t, states("failed", "failed", "failed/gone"))
	if _, err := c.WaitAllocation(t.Context(), "alloc_1", Released); err != nil || len(s.asked) != 3 {
		t.Fatal(err, len(s.asked))
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, c, _ = newSite(t, states("pending"))
	c.sleep = func(context.Context, time.Duration) error { cancel(); return ctx.Err() }
	if a, err := c.WaitAllocation(ctx, "alloc_1", Running); !errors.Is(err, context.Canceled) || a.State != Pending {
		t.Fatal(a, err)
	}
}

func TestTheKeyIsNeverPrinted(t *testing.T) {
	t.Parallel()
	c, err := New("https://site.example", testKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if strings.Contains(fmt.Sprintf(format, c), "verysecret") {
			t.Errorf("%s shows the key", format)
		}
	}
	for _, bad := range []string{"", "site.example", "ftp://x", "https://u:p@x", "https://x/?q=1"} {
		if _, err := New(bad, testKey); err == nil {
			t.Errorf("New(%q) went well", bad)
		}
	}
	if _, err := New("https://x", "a\nb"); err == nil || strings.Contains(err.Error(), "a\nb") {
		t.Errorf("a key of two lines: %v", err)
	}
}

func TestBodiesLeaveOutWhatIsNotSet(t *testing.T) {
	t.Parallel()
	for want, v := range map[string]any{
		`{"sku":"gpu-1x"}`: NewAllocation{SKU: "gpu-1x"},
		`{"name":"ci"}`:    NewAPIKey{Name: "ci"},
		`{"currency":"USD","micros_per_unit_hour":0}`: NewPrice{Currency: "USD"},
		`{"currency":"USD","amount_micros":1,"kind":"paid","expires_at":"2026-01-31T12:00:00Z"}`: NewCredit{
			Currency: "USD", AmountMicros: 1, Kind: "paid", ExpiresAt: time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC),
		},
	} {
		if b, err := json.Marshal(v); err != nil || string(b) != want {
			t.Errorf("%s, want %s (%v)", b, want, err)
		}
	}
}

func TestPathsAreEscaped(t *testing.T) {
	t.Parallel()
	s, c, _ := newSite(t, func(_ int, w http.ResponseWriter, _ *http.Request) { refuse(w, 404, "host.not_found", false) })
	_, _ = c.Host(t.Context(), "../../healthz?x")
	_, _ = c.Host(t.Context(), "")
	_, _ = c.Host(t.Context(), "..")
	for i, want := range []string{"/v1/hosts/..%2F..%2Fhealthz%3Fx", "/v1/hosts/-", "/v1/hosts/-"} {
		if got := s.asked[i].URL.EscapedPath(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// A device's history is read to its last page; its serial is free text.
func TestADevicesHistoryIsReadWhole(t *testing.T) {
	t.Parallel()
	const serial = `S6 Z/AN+%2F?a=b#c`
	s, c, _ := newSite(t, func(n int, w http.ResponseWriter, r *http.Request) {
		next := []string{`,"next_cursor":"p2"`, `,"next_cursor":"p3"`, ""}[min(n, 2)]
		fmt.Fprintf(w, `{"serial":"s","devices":[{"state":"in_slot"}],"places":[{"generation":1,"last_generation":2},{"generation":4}],"wipe_duties":[],"items":[{"generation":%d,"wipes":[{"device":{"method":"flr"}}]}]%s}`, n, next)
	})
	d, err := c.Device(t.Context(), serial, WithReports(), PageSize(1))
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Items) != 3 || d.Items[2].Generation != 2 || d.Items[0].Wipes[0].Device.Method != "flr" || len(d.Places) != 2 || *d.Places[0].LastGeneration != 2 || d.Places[1].LastGeneration != nil || d.NextCursor != "" {
		t.Errorf("%+v", d)
	}
	for i, r := range s.asked {
		if r.URL.Path != "/v1/devices/"+serial || r.FormValue("reports") != "true" || r.FormValue("limit") != "1" || r.FormValue("cursor") != []string{"", "p2", "p3"}[i] {
			t.Errorf("%s", r.URL)
		}
	}
	_, c, _ = newSite(t, func(_ int, w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"next_cursor":"p2"}`) })
	if _, err := c.Device(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), "circles") {
		t.Error(err)
	}
}
