package streams_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/hostlink"
	"github.com/gpuaas/gpuaas/streams/server"
	"github.com/gpuaas/gpuaas/streams/streamstest"
)

// background runs f until the end of the test, or until stop.
func background(t testing.TB, f func(ctx context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(streamstest.Context(t))
	var wg sync.WaitGroup
	wg.Go(func() { f(ctx) })
	stop = func() { cancel(); wg.Wait() }
	t.Cleanup(stop)
	return stop
}

func placement(h *streamstest.Host, epoch uint32, generation, from uint64) []byte {
	return domain.EncodePlacement(&domain.Placement{
		Desired: domain.Desired{Site: "test1", Epoch: epoch, Host: h.ID, Generation: generation},
		From:    domain.Head{N: from},
	})
}

func openPlacements(t testing.TB, s *streamstest.Site) *streams.Placements {
	t.Helper()
	p, err := streams.OpenPlacements(s.Dial(server.Runtime), s.Names)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(time.Minute):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// until receives up to a value that satisfies ok.
func until[T any](t *testing.T, c <-chan T, ok func(T) bool) T {
	t.Helper()
	for {
		if v := receive(t, c); ok(v) {
			return v
		}
	}
}

func TestPlacements(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *streamstest.Site) {
		ctx := streamstest.Context(t)
		a, b := s.NewHost(1), s.NewHost(2)
		p := openPlacements(t, s)
		publish := func(h *streamstest.Host, generation uint64) {
			t.Helper()
			if err := p.Publish(ctx, h.ID, placement(h, 1, generation, generation)); err != nil {
				t.Fatal(err)
			}
		}
		publish(a, 1)
		publish(b, 100)

		got := make(chan uint64, 100)
		link := s.Link(a)
		fail := true
		start := func(l *hostlink.Link) (stop func()) {
			return background(t, func(ctx context.Context) {
				_ = l.Placements(ctx, func(p *domain.Placement) error {
					if fail {
						fail = false
						return errors.New("not now")
					}
					got <- p.Desired.Generation
					return nil
				})
			})
		}
		stop := start(link)
		is := func(want uint64) func(uint64) bool { return func(n uint64) bool { return n == want } }
		until(t, got, is(1)) // also after an error
		publish(a, 2)
		until(t, got, is(2))
		for g := uint64(3); g <= 20; g++ {
			publish(a, g)
		}
		until(t, got, is(20))

		// A new process of the host gets the current one, though it was settled.
		stop()
		publish(a, 20)
		again := s.Link(a)
		start(again)
		if n := receive(t, got); n != 20 {
			t.Fatalf("a restarted host got generation %d first", n)
		}
		// The servers restart one after another; the host goes on.
		for i := range s.Servers {
			s.Restart(i)
		}
		publish(a, 21)
		until(t, got, is(21))
		if last, err := p.Last(ctx, b.ID); err != nil || string(last) != string(placement(b, 1, 100, 100)) {
			t.Fatalf("the neighbour's placement: %x, %v", last, err)
		}
		hosts, err := p.Hosts(ctx)
		if len(hosts) != 2 || err != nil {
			t.Fatalf("hosts with placements: %v, %v", hosts, err)
		}
	})
}

// TestPlacementFence: a publisher that was deposed cannot take a host back.
func TestPlacementFence(t *testing.T) {
	t.Parallel()
	s := streamstest.New(t, 1)
	ctx := streamstest.Context(t)
	h := s.NewHost(1)
	old, now := openPlacements(t, s), openPlacements(t, s)
	if err := old.Publish(ctx, h.ID, placement(h, 1, 5, 10)); err != nil {
		t.Fatal(err)
	}
	if err := now.Publish(ctx, h.ID, placement(h, 1, 7, 12)); err != nil {
		t.Fatal(err)
	}
	if err := old.Publish(ctx, h.ID, placement(h, 1, 6, 11)); !errors.Is(err, streams.ErrStale) {
		t.Fatalf("an older placement: %v", err)
	}
	if err := now.Publish(ctx, h.ID, placement(h, 1, 7, 12)); err != nil {
		t.Fatalf("a repeat: %v", err)
	}
	contradiction := domain.EncodePlacement(&domain.Placement{
		Desired: domain.Desired{Site: "test1", Epoch: 1, Host: h.ID, Generation: 7, SlotMap: domain.DigestOf(nil)}, From: domain.Head{N: 13},
	})
	if err := now.Publish(ctx, h.ID, contradiction); !errors.Is(err, streams.ErrForked) {
		t.Fatalf("a contradiction: %v", err)
	}
	if err := now.Publish(ctx, h.ID, placement(h, 2, 1, 3)); err != nil { // a new site epoch begins again
		t.Fatal(err)
	}
	if err := now.Publish(ctx, domain.HostID{9}, placement(h, 2, 2, 4)); err == nil {
		t.Fatal("published one host's placement to another")
	}
}

func TestReports(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *streamstest.Site) {
		ctx := streamstest.Context(t)
		const hosts, each = 3, 20
		links := make([]*hostlink.Link, hosts)
		ids := map[domain.HostID]int{}
		for i := range links {
			h := s.NewHost(byte(i + 1))
			ids[h.ID] = i
			links[i] = s.Link(h)
			for n := range each { // before anybody reads
				if err := links[i].Report(ctx, domain.ReportReady, fmt.Append(nil, n)); err != nil {
					t.Fatal(err)
				}
			}
		}
		r, err := streams.OpenReports(s.Dial(server.Runtime), s.Names)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Close)
		type one struct{ host, n int }
		got := make(chan one, 1000)
		var mu sync.Mutex
		failed := map[one]bool{}
		background(t, func(ctx context.Context) {
			_ = r.Consume(ctx, func(m streams.ReportMsg) error {
				var o one
				_, err := fmt.Sscan(string(m.Data), &o.n)
				host, known := ids[m.Host]
				if o.host = host; err != nil || !known || m.Kind != domain.ReportReady || m.Received.IsZero() {
					t.Errorf("strange report %+v", m)
				}
				mu.Lock()
				defer mu.Unlock()
				if o.n == 7 && !failed[o] { // the first delivery of one of each fails
					failed[o] = true
					return errors.New("not now")
				}
				got <- o
				return nil
			})
		})
		count := map[one]int{}
		for len(count) < hosts*each {
			count[receive(t, got)]++
		}
		if len(failed) != hosts {
			t.Fatalf("%d reports failed once, want %d", len(failed), hosts)
		}
		// Settled reports leave the stream.
		js := s.JetStream()
		for {
			st, err := js.Stream(ctx, s.Names.Reports())
			if err != nil {
				t.Fatal(err)
			}
			if st.CachedInfo().State.Msgs == 0 {
				break
			}
		}
		if err := links[0].Report(ctx, "made-up", nil); err == nil {
			t.Fatal("a made-up kind was kept")
		}
		if err := links[0].Report(ctx, domain.ReportReady, make([]byte, 600<<10)); err == nil {
			t.Fatal("a report of 600 KiB was kept")
		}
	})
}

func TestHeartbeats(t *testing.T) {
	t.Parallel()
	s := streamstest.New(t, 1)
	h, other := s.NewHost(1), s.NewHost(2)
	hb, err := streams.OpenHeartbeats(s.Dial(server.Responder), s.Names)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hb.Close)
	got := make(chan uint64, 1000)
	background(t, func(ctx context.Context) {
		_ = hb.Listen(ctx, func(host domain.HostID, beat *domain.Heartbeat) {
			if host != h.ID {
				t.Errorf("heartbeat of %s", host)
			}
			got <- beat.Generation
		})
	})
	link := s.Link(h)
	background(t, func(ctx context.Context) { // nobody keeps them: until one was heard
		for ctx.Err() == nil {
			_ = link.Heartbeat(domain.EncodeHeartbeat(&domain.Heartbeat{Host: other.ID, Generation: 6}))
			_ = link.Heartbeat([]byte("\xff"))
			_ = link.Heartbeat(domain.EncodeHeartbeat(&domain.Heartbeat{Host: h.ID, Generation: 7}))
			time.Sleep(5 * time.Millisecond)
		}
	})
	if g := receive(t, got); g != 7 || hb.Refused() < 2 {
		t.Fatalf("generation %d, %d refused", g, hb.Refused())
	}
}

func TestRequests(t *testing.T) {
	t.Parallel()
	s := streamstest.New(t, 1)
	ctx := streamstest.Context(t)
	h := s.NewHost(1)
	link := s.Link(h)
	r, err := streams.OpenRequests(s.Dial(server.Responder), s.Names)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	if _, err := r.Command(ctx, nil); !errors.Is(err, streams.ErrNoHandler) {
		t.Fatalf("a command without a writer: %v", err)
	}
	if _, err := r.Console(ctx, h.ID, nil); !errors.Is(err, streams.ErrNoHandler) {
		t.Fatalf("a console nobody serves: %v", err)
	}
	echo := func(what string) streams.HostHandler {
		return func(_ context.Context, host domain.HostID, b []byte) ([]byte, error) {
			if string(b) == "refuse" {
				e := domain.Errorf(domain.Conflict, "vm.not_here", "host %s does not run it", host)
				e.Cause = errors.New("secret")
				return nil, e
			}
			if string(b) == "break" {
				return nil, errors.New("secret")
			}
			return fmt.Appendf(nil, "%s %s %s", what, host, b), nil
		}
	}
	background(t, func(ctx context.Context) { _ = r.ServeImages(ctx, echo("image")) })
	background(t, func(ctx context.Context) { _ = r.ServeVault(ctx, echo("vault")) })
	background(t, func(ctx context.Context) {
		_ = r.ServeCommands(ctx, func(_ context.Context, b []byte) ([]byte, error) { return append([]byte("decided "), b...), nil })
	})
	background(t, func(ctx context.Context) {
		_ = link.ServeConsole(ctx, func(_ context.Context, b []byte) ([]byte, error) { return append([]byte("screen "), b...), nil })
	})
	ask := func(f func() ([]byte, error), want string) {
		t.Helper()
		for {
			got, err := f()
			if errors.Is(err, streams.ErrNoHandler) { // not yet serving
				time.Sleep(time.Millisecond)
				continue
			}
			if string(got) != want || err != nil {
				t.Fatalf("got %q, %v, want %q", got, err, want)
			}
			return
		}
	}
	ask(func() ([]byte, error) { return link.RequestImage(ctx, []byte("x")) }, "image "+h.ID.String()+" x")
	ask(func() ([]byte, error) { return link.RequestVault(ctx, []byte("y")) }, "vault "+h.ID.String()+" y")
	ask(func() ([]byte, error) { return r.Console(ctx, h.ID, []byte("z")) }, "screen z")
	ask(func() ([]byte, error) { return r.Command(ctx, []byte("c")) }, "decided c")

	_, err = link.RequestVault(ctx, []byte("refuse"))
	var refusal *domain.Error
	if !errors.As(err, &refusal) || refusal.Kind != domain.Conflict || refusal.Code != "vm.not_here" || refusal.Cause != nil {
		t.Fatalf("refusal: %#v", err)
	}
	_, err = link.RequestVault(ctx, []byte("break"))
	if !errors.As(err, &refusal) || refusal.Kind != domain.Internal || refusal.Message != "internal error" {
		t.Fatalf("internal error: %#v", err)
	}
}
