package api

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
)

// newTestShares has four turns of each kind.
func newTestShares() *shares { return newShares(2, 4) }

// until waits for requests that the kernel brings: nothing tells when it has.
func (s *shares) until(t *testing.T, so func(*shares) bool) {
	t.Helper()
	is := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return so(s)
	}
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d are under way, turns %+v", s.underWay, s.work)
		}
	}
}

func tenantLane(i byte) laneKey { return laneKey{tenant: domain.TenantID{i}} }

func (s *shares) mustEnter(t *testing.T, i byte) *lane {
	t.Helper()
	l, err := s.enter(tenantLane(i), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// waiter takes a turn in the background and says its name when it has it.
func (s *shares) waiter(l *lane, name string, got chan<- string) {
	go func() {
		if s.take(context.Background(), &s.work, l) {
			got <- name
		}
	}()
	synctest.Wait()
}

// TestTurnsGoRoundTheLanes: alone a lane has every turn; beside another one half; who
// waits is served lane by lane, whoever has more waiting.
func TestTurnsGoRoundTheLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestShares()
		flood := s.mustEnter(t, 1)
		for range 4 {
			if !s.take(t.Context(), &s.work, flood) {
				t.Fatal("alone it has not every turn")
			}
		}
		got := make(chan string, 10)
		for i := range 3 {
			s.waiter(flood, fmt.Sprintf("flood %d", i), got)
		}
		quiet := s.mustEnter(t, 2)
		s.waiter(quiet, "quiet 0", got)
		s.waiter(quiet, "quiet 1", got)
		for _, want := range []string{"quiet 0", "quiet 1"} { // the flood has more than half
			s.give(&s.work, flood)
			synctest.Wait()
			if name := <-got; name != want {
				t.Fatalf("%s before %s", name, want)
			}
		}
		s.give(&s.work, quiet)
		synctest.Wait()
		if len(got) != 0 {
			t.Fatalf("%s, though it has half and another lane is there", <-got)
		}
		if !s.take(t.Context(), &s.work, quiet) {
			t.Fatal("no turn was free")
		}
		s.give(&s.work, flood)
		synctest.Wait()
		if name := <-got; name != "flood 0" {
			t.Fatal(name)
		}
		s.leave(quiet)
		s.give(&s.work, quiet)
		s.give(&s.work, quiet)
		synctest.Wait()
		if len(got) != 0 {
			t.Fatalf("%s, though the other lane was here a moment ago", <-got)
		}
		time.Sleep(2 * laneMemory)
		s.mustEnter(t, 1) // forgets who was here long ago
		s.give(&s.work, flood)
		synctest.Wait()
		if a, b := <-got, <-got; a == b || a+b != "flood 1flood 2" && b+a != "flood 1flood 2" { // at once
			t.Fatal(a, b)
		}
	})
}

// TestWhoGivesUpTakesNoTurn: a request that ends while it waits, or waits too long,
// leaves its place, and nothing is lost of what it might have got.
func TestWhoGivesUpTakesNoTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestShares()
		l := s.mustEnter(t, 1)
		for range 4 {
			s.take(t.Context(), &s.work, l)
		}
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan bool)
		go func() { gone <- s.take(ctx, &s.work, l) }()
		synctest.Wait()
		cancel()
		if <-gone {
			t.Fatal("a turn for somebody who is gone")
		}
		began := time.Now()
		if s.take(t.Context(), &s.work, l) || time.Since(began) != turnPatience {
			t.Fatalf("it waited %v", time.Since(began))
		}
		for range 4 {
			s.give(&s.work, l)
		}
		if s.work.free != 4 || l.places[0].used != 0 || len(l.places[0].waiting) != 0 {
			t.Fatalf("%+v %+v", s.work, l.places[0])
		}
	})
}

// TestTurnsAreNeverMoreThanThereAre runs many lanes against the bounds.
func TestTurnsAreNeverMoreThanThereAre(t *testing.T) {
	t.Parallel()
	s := newTestShares()
	var mu sync.Mutex
	var wg sync.WaitGroup
	now, of := 0, map[*lane]int{}
	for i := range 64 {
		wg.Go(func() {
			for n := range 200 {
				l, err := s.enter(tenantLane(byte(i%5)), time.Now())
				if err != nil {
					t.Error(err)
					return
				}
				ctx, cancel := context.WithCancel(t.Context())
				if (i+n)%7 == 0 {
					cancel()
				}
				if s.take(ctx, &s.work, l) {
					mu.Lock()
					now++
					of[l]++
					if now > 4 {
						t.Errorf("%d turns at once", now)
					}
					mu.Unlock()
					mu.Lock()
					now--
					of[l]--
					mu.Unlock()
					s.give(&s.work, l)
				}
				cancel()
				s.leave(l)
			}
		})
	}
	wg.Wait()
	if s.work.free != 4 || s.underWay != 0 || len(s.work.order) != 0 {
		t.Fatalf("%+v, %d under way", s.work, s.underWay)
	}
}

func TestAWholeSiteHasItsBound(t *testing.T) {
	t.Parallel()
	s := newTestShares()
	now := time.Now()
	for i := range maxUnderWay {
		if _, err := s.enter(laneKey{user: domain.UserID{byte(i >> 8), byte(i)}}, now); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.enter(tenantLane(1), now); err == nil || err.Code != "queue.full" || !errBusy().Retryable {
		t.Fatal(err)
	}
}

// TestOneLaneIsFull: who has too many requests under way is refused before its body
// is read, after a while, and others are answered: also those with no key from
// elsewhere, and while bodies and answers of the first stand still.
func TestOneLaneIsFull(t *testing.T) {
	t.Parallel()
	held := make(chan struct{})
	s := newSite(t, func(o *Options) { o.Decider = heldDecider{o.Decider, held} })
	acme, other := s.tenant("acme", 0), s.tenant("other", 0)
	addr := s.http.Listener.Addr().String()
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	begin := func(c net.Conn, length int) {
		fmt.Fprintf(c, "POST /v1/tenants/%s/projects HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", acme.id, acme.owner, length)
	}
	for i := range maxLane {
		c := dial()
		begin(c, 12)
		if i%2 == 0 { // the others' bodies do not come
			_, _ = io.WriteString(c, `{"name":"x"}`)
		}
	}
	s.server.shares.until(t, func(sh *shares) bool { return sh.underWay >= maxLane })
	began := time.Now()
	c := dial()
	begin(c, 1<<17) // and never sends it
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(res.Body)
	if res.StatusCode != 429 || res.Header.Get("Retry-After") != "1" || !strings.Contains(string(b), `"queue.lane_full"`) || !strings.Contains(string(b), `"retryable":true`) {
		t.Errorf("%s %v %s", res.Status, res.Header, b)
	}
	if took := time.Since(began); took < refusalPause || took > bodyTimeout/2 {
		t.Errorf("refused after %v", took)
	}
	s.want(200, other.owner, "GET", "/v1/whoami", "")
	s.want(201, other.owner, "POST", "/v1/tenants/"+other.id+"/projects", `{"name":"meanwhile"}`)
	s.want(200, "", "GET", "/healthz", "")
	s.refused(401, "auth.invalid_key", "gpk_nobody", "GET", "/v1/whoami", "")
	close(held)
}

// TestSlowReadersHoldNoTurn: answers that nobody reads keep no turn.
func TestSlowReadersHoldNoTurn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	other := s.tenant("other", 0)
	for range 4 * s.server.shares.work.all {
		c, err := net.Dial("tcp", s.http.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_, _ = io.WriteString(c, strings.Repeat("GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n", 100))
	}
	s.server.shares.until(t, func(sh *shares) bool { // all of them are in the middle of a write
		return sh.underWay == 4*sh.work.all && sh.work.free == sh.work.all
	})
	s.want(200, other.owner, "GET", "/v1/whoami", "")
}

// heldDecider keeps projects named x back until the channel is closed.
type heldDecider struct {
	Decider
	held chan struct{}
}

func (d heldDecider) Submit(ctx context.Context, cmd *domain.Command) commands.Reply {
	if p, ok := cmd.Body.(*domain.CreateProject); ok && p.Name == "x" {
		<-d.held
	}
	return d.Decider.Submit(ctx, cmd)
}
