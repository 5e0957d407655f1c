package api

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
)

// stuck is a decision loop that never answers.
type stuck struct{ Decider }

func (stuck) Submit(ctx context.Context, _ *domain.Command) commands.Reply {
	<-ctx.Done()
	return commands.Reply{Err: domain.Errorf(domain.Unavailable, "request.timeout", "no answer in time")}
}

type bomb struct{ Images }

func (bomb) Upload(string, domain.UserID) (Upload, error) { panic("gpk_secret in a panic") }

func TestWhatBreaksInsideSaysNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(o *Options) { o.Images = bomb{} })
	ten := s.tenant("acme", 0)
	a := s.refused(500, "internal", ten.owner, "GET", "/v1/uploads/x", "")
	if bytes.Contains(a.body, []byte("panic")) || a.get("retryable") != "true" {
		t.Errorf("%s", a.body)
	}
	s.want(200, ten.owner, "GET", "/v1/whoami", "") // the site goes on
}

func TestARequestEndsAtItsDeadline(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ten := s.tenant("acme", 0)
	s.server.o.Decider, s.server.o.Deadline = stuck{s.loop}, time.Second
	a := s.refused(503, "request.timeout", ten.owner, "POST", "/v1/tenants/"+ten.id+"/projects", `{"name":"x"}`)
	if a.header.Get("Command-Id") == "" { // with it the outcome can be asked for
		t.Error("no Command-Id in an answer that says the outcome is unknown")
	}
}

func TestBodiesComeInManyWays(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	raw := func(request string) string {
		t.Helper()
		c, err := net.Dial("tcp", s.http.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		fmt.Fprintf(c, "%s", strings.ReplaceAll(request, "KEY", s.admin))
		line, _ := bufio.NewReader(c).ReadString('\n')
		return strings.TrimSpace(line)
	}
	head := "POST /v1/tenants HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer KEY\r\nContent-Type: application/json\r\n"
	body := `{"name":"chunked","currency":"USD"}`
	if got := raw(head + "Transfer-Encoding: chunked\r\n\r\n" + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)); got != "HTTP/1.1 201 Created" {
		t.Errorf("chunked: %s", got)
	}
	if got := raw(head + "Content-Length: 400000\r\n\r\n{"); !strings.HasPrefix(got, "HTTP/1.1 413") {
		t.Errorf("announced too large: %s", got)
	}
	chunk := strings.Repeat("x", 1<<16)
	var b strings.Builder
	for range 5 {
		fmt.Fprintf(&b, "10000\r\n%s\r\n", chunk)
	}
	if got := raw(head + "Transfer-Encoding: chunked\r\n\r\n" + b.String() + "0\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 413") {
		t.Errorf("chunked too large: %s", got)
	}
	if got := raw("GET /v1/whoami HTTP/1.1\r\nHost: x\r\nX-Big: " + strings.Repeat("x", 64<<10) + "\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 431") {
		t.Errorf("huge header: %s", got)
	}
}

func TestNobodyElsesCookieJar(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a := s.want(200, s.admin, "GET", "/v1/whoami", "")
	if a.header.Get("Cache-Control") != "no-store" || a.header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%v", a.header)
	}
	for _, scheme := range []string{"Basic ", "", "Token "} {
		if a := s.do("", "GET", "/v1/whoami", "", header{"Authorization", scheme + s.admin}); a.status != http.StatusUnauthorized {
			t.Errorf("%q: %d", scheme, a.status)
		}
	}
	s.want(200, "", "GET", "/v1/whoami", "", header{"Authorization", "bearer " + s.admin})
}

func TestEnrolment(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h1", 1)
	token := s.want(201, s.admin, "POST", "/v1/hosts", `{"name":"h2"}`).get("enrolment_token")
	const key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	body := func(token, sign, nats string) string {
		return fmt.Sprintf(`{"token":%q,"signing_public_key":%q,"nats_public_key":%q}`, token, sign, nats)
	}
	nats := "U" + strings.Repeat("A", 55)
	last := map[bool]string{true: "y", false: "x"}[strings.HasSuffix(token, "x")]
	s.refused(401, "host.token_invalid", "", "POST", "/v1/enroll", body(token[:len(token)-1]+last, key, nats))
	s.refused(401, "host.token_invalid", "", "POST", "/v1/enroll", body(EnrolmentToken(s.secret, domain.CommandID{1}), key, nats))
	s.refused(422, "host.bad_key", "", "POST", "/v1/enroll", body(token, strings.Repeat("A", 43)+"!", nats))
	s.refused(422, "host.bad_key", "", "POST", "/v1/enroll", body(token, key, "X"+strings.Repeat("A", 55)))
	a := s.want(200, "", "POST", "/v1/enroll", body(token, key, nats))
	if a.get("nats_jwt") != "jwt."+a.get("host_id")+"."+nats || a.get("site") != "test" || a.get("host_id") == h.id.String() {
		t.Errorf("%s", a.body)
	}
	before := s.log.last()
	if b := s.want(200, "", "POST", "/v1/enroll", body(token, key, nats)); b.get("host_id") != a.get("host_id") || s.log.last() != before {
		t.Errorf("a lost answer asked for again: %s", b.body)
	}
	s.refused(401, "host.token_used", "", "POST", "/v1/enroll", body(token, key, "U"+strings.Repeat("B", 55)))
}

func TestTheConsoleIsItsTenants(t *testing.T) {
	t.Parallel()
	w := newTestWorld(t)
	path := "/v1/allocations/" + w.alloc + "/console"
	a := w.want(200, w.acme.viewer, "GET", path+"?offset=0&limit=7", "")
	if a.get("data") != "Y29uc29sZQ==" || a.get("offset") != "7" {
		t.Errorf("%s", a.body)
	}
	a = w.want(200, w.acme.viewer, "GET", path, "", header{"Accept", "text/plain"})
	if !strings.HasPrefix(string(a.body), "console of vm_") || a.header.Get("Console-Offset") == "" {
		t.Errorf("%s %v", a.body, a.header)
	}
	w.refused(404, "vm.not_found", w.acme.viewer, "GET", path+"?vm=1", "")
	w.refused(422, "request.invalid", w.acme.viewer, "GET", path+"?limit=0", "")
	w.refused(403, "console.tenant_only", w.operator, "GET", path, "")
}
