package main

import (
	"context"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/streamstest"
)

// A question that comes while a writer becomes a standby waits for the standby. One to
// a writer that failed, after which nothing comes, is refused.
func TestQuestionsBetweenTwoParts(t *testing.T) {
	t.Parallel()
	for _, leaving := range []bool{true, false} {
		l, err := commands.NewLoop(domain.NewWorld(), commands.Options{Site: "test1", Build: "test", Log: streamstest.New(t, 1).Log()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, end := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.Run(ctx) }()
		<-l.Started()
		m := newMember("one", nil, func() holder { return holder{} })
		m.promote(l)
		m.set(func() { m.leaving = leaving })
		end()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		type answer struct {
			n    uint64
			code string
		}
		answers := make(chan answer, 1)
		go func() {
			n, err := m.Query(t.Context(), domain.System, func(*domain.World, domain.Time) {})
			a := answer{n: n}
			if err != nil {
				a.code = err.Code
			}
			answers <- a
		}()
		if leaving {
			select {
			case a := <-answers:
				t.Fatalf("answered between two parts: %+v", a)
			case <-time.After(20 * time.Millisecond): // that nothing comes can only be waited for
			}
			s, err := commands.NewStandby(l.World(), commands.StandbyOptions{})
			if err != nil {
				t.Fatal(err)
			}
			m.demote(s)
		}
		want := answer{n: l.World().Head.N}
		if !leaving {
			want = answer{code: "site.stopping"}
		}
		if got := <-answers; got != want {
			t.Errorf("leaving %v: got %+v, want %+v", leaving, got, want)
		}
	}
}

// A writer is gone when nobody listened for a while, as far as this process asked: one
// that stood still itself did not.
func TestGone(t *testing.T) {
	t.Parallel()
	var p peers
	writer, at := streams.Holder{Name: "writer"}, time.Now()
	step := func(what string, h streams.Holder, want bool) {
		t.Helper()
		if got := p.gone(h); got != want {
			t.Errorf("%s: gone is %v", what, got)
		}
	}
	step("at first", writer, false)
	p.heard(streams.ErrNoHandler, at)
	step("nobody listens", writer, false)
	p.heard(streams.ErrNoHandler, at.Add(goneAfter))
	step("for just so long", writer, false)
	p.heard(streams.ErrNoHandler, at.Add(goneAfter+time.Millisecond))
	step("for longer", writer, true)
	step("open-epoch never listens", streams.Holder{Name: epochOpener}, false)
	step("another one has its time", streams.Holder{Name: "next"}, false)
	at = at.Add(-time.Hour) // an hour in which nobody asked
	p.heard(streams.ErrNoHandler, at)
	step("found once, an hour ago", streams.Holder{Name: "next"}, false)
	p.heard(context.DeadlineExceeded, at.Add(2*goneAfter))
	step("no answer in time says nothing", streams.Holder{Name: "next"}, false)
	p.heard(streams.ErrNoHandler, at.Add(3*goneAfter))
	step("nor does it count", streams.Holder{Name: "next"}, false)
}
