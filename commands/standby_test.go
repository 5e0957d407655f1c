package commands_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/domain/domaintest"
	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/streamstest"
)

// writing runs a loop on a world and a log.
func writing(t *testing.T, w *domain.World, o commands.Options) (l *commands.Loop, stop func() error) {
	t.Helper()
	o.Site = "test1"
	l, err := commands.NewLoop(w, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	<-l.Started()
	return l, func() error { cancel(); return <-done }
}

// TestStandbyGoesOn: a standby folds what the writer appends, answers from it, and
// goes on as the writer where that one ended; the one before goes on as a standby.
func TestStandbyGoesOn(t *testing.T) {
	t.Parallel()
	site := streamstest.New(t, 1)
	first, stopFirst := writing(t, domain.NewWorld(), commands.Options{Log: site.Log()})
	submit := submitTo(t, first)
	admin := domaintest.Admin(submit, "admin")
	domaintest.SKUs(submit, admin, 1)

	var snapshots int
	log := site.Log()
	b, err := commands.NewStandby(domain.NewWorld(), commands.StandbyOptions{Snapshot: func(domain.Head, []byte) { snapshots++ }, SnapshotEvery: 3})
	if err != nil {
		t.Fatal(err)
	}
	follow := func(s *commands.Standby, log *streams.Log) (stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s.Follow(ctx, log) }()
		return func() {
			t.Helper()
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	stopB := follow(b, log)
	tenant := domaintest.NewTenant(submit, admin, "acme", "key", 1e9)
	r := first.Submit(t.Context(), command(tenant.Key, &domain.CreateProject{Tenant: tenant.ID, Name: "second"}))
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	if err := b.WaitFor(streamstest.Context(t), r.N); err != nil {
		t.Fatal(err)
	}
	hash := func(q interface {
		Query(context.Context, domain.Actor, func(*domain.World, domain.Time)) (uint64, *domain.Error)
	},
	) (h domain.Digest) {
		t.Helper()
		if _, err := q.Query(t.Context(), domain.System, func(w *domain.World, _ domain.Time) { h = w.Hash() }); err != nil {
			t.Fatal(err)
		}
		return h
	}
	if hash(b) != hash(first) {
		t.Error("the standby has another world than the writer")
	}
	if _, ok := b.Directory().Caller(domain.DigestOf([]byte("key")), domain.TimeOf(time.Now())); !ok {
		t.Error("the standby does not know the key")
	}
	if r := b.Submit(t.Context(), command(admin, &domain.CreateProject{Tenant: tenant.ID, Name: "third"})); r.Err == nil || r.Err.Code != "not_writer" || !r.Err.Retryable {
		t.Errorf("a standby decides: %+v", r)
	}
	if snapshots == 0 {
		t.Error("a standby keeps no snapshot")
	}

	if err := stopFirst(); err != nil {
		t.Fatal(err)
	}
	stopB()
	a, err := commands.NewStandby(first.World(), commands.StandbyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	stopA := follow(a, site.Log())
	second, stopSecond := writing(t, b.Take(), commands.Options{Log: log})
	if _, err := b.Query(t.Context(), domain.System, func(*domain.World, domain.Time) {}); err == nil {
		t.Error("a world that was given away is still asked")
	}
	r = second.Submit(t.Context(), command(tenant.Key, &domain.CreateProject{Tenant: tenant.ID, Name: "fourth"}))
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	if err := a.WaitFor(streamstest.Context(t), r.N); err != nil {
		t.Fatal(err)
	}
	if hash(a) != hash(second) {
		t.Error("after the hand-over the worlds differ")
	}
	stopA()
	if err := stopSecond(); err != nil {
		t.Fatal(err)
	}
}

// TestStandbyNoticesAnotherLog: a tail that was lost, or replaced by another one of
// the same length, ends a standby.
func TestStandbyNoticesAnotherLog(t *testing.T) {
	t.Parallel()
	for _, again := range []int{2, 5} {
		t.Run(fmt.Sprintf("%d of 5 commits", again), func(t *testing.T) {
			t.Parallel()
			site := streamstest.New(t, 1)
			ctx := streamstest.Context(t)
			write := func(n int, mark string) {
				t.Helper()
				log, c := site.Log(), streamstest.Commits{}
				for i := range uint64(n) {
					if _, err := log.Append(ctx, i, c.Next(1, mark)); err != nil {
						t.Fatal(err)
					}
				}
			}
			write(5, "as it was")
			s, err := commands.NewStandby(domain.NewWorld(), commands.StandbyOptions{})
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- s.Follow(ctx, site.Log()) }()
			if err := s.WaitFor(ctx, 5); err != nil {
				t.Fatal(err)
			}
			js := site.JetStream()
			st, err := js.Stream(ctx, site.Names.Log())
			if err != nil {
				t.Fatal(err)
			}
			config := st.CachedInfo().Config
			if err := js.DeleteStream(ctx, site.Names.Log()); err != nil {
				t.Fatal(err)
			}
			if _, err := js.CreateStream(ctx, config); err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
				t.Fatal(err)
			}
			write(again, "another")
			select {
			case err := <-done:
				if !errors.Is(err, streams.ErrLostTail) && !errors.Is(err, streams.ErrForked) {
					t.Errorf("it ended with %v", err)
				}
			case <-ctx.Done():
				t.Fatal("it was not noticed")
			}
		})
	}
}

// TestStandbyIsTooOld: a log that was raised to a level of a newer build is not folded
// on.
func TestStandbyIsTooOld(t *testing.T) {
	t.Parallel()
	site := streamstest.New(t, 1)
	var bytes []byte
	newer := domain.Decision{
		Command: domain.Command{Actor: domain.System, Body: &domain.StartWriter{Site: "test1", LogicLevel: domain.LogicLevel + 1}},
		Events:  []domain.Event{{Number: 1, Body: &domain.WriterStarted{Site: "test1", Term: 1, LogicLevel: domain.LogicLevel + 1}}},
	}
	bytes = domain.EncodeCommit(&domain.Commit{N: 1, At: 1, Decisions: []domain.Decision{newer}})
	if _, err := site.Log().Append(t.Context(), 0, bytes); err != nil {
		t.Fatal(err)
	}
	s, err := commands.NewStandby(domain.NewWorld(), commands.StandbyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Follow(streamstest.Context(t), site.Log()); err == nil || !strings.Contains(err.Error(), "upgrade it") {
		t.Errorf("it folded a log of a newer build: %v", err)
	}
	if s.Head().N != 0 {
		t.Error("the commit of a newer build is in its world")
	}
}

// TestAnswersWaitForTheClaim: while it is not sure that no other process writes, what
// is not appended is not answered; what is, proves it.
func TestAnswersWaitForTheClaim(t *testing.T) {
	t.Parallel()
	var live atomic.Bool
	l, stop := writing(t, domain.NewWorld(), commands.Options{Log: &gatedLog{}, Live: live.Load})
	submit := submitTo(t, l)
	admin := domaintest.Admin(submit, "admin") // is appended
	refused := make(chan *domain.Error, 1)
	go func() {
		refused <- l.Submit(context.Background(), command(admin, &domain.CreateProject{Tenant: domain.TenantID{1}, Name: "p"})).Err
	}()
	for range 5 { // a standby answers questions too
		if _, err := l.Query(t.Context(), admin, func(*domain.World, domain.Time) {}); err != nil {
			t.Error(err)
		}
	}
	select {
	case <-refused:
		t.Fatal("a command was refused without the claim")
	case <-time.After(50 * time.Millisecond): // that nothing comes can only be waited for
	}
	live.Store(true)
	if err := <-refused; err == nil || err.Code != "tenant.not_found" {
		t.Error(err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestKeepsTheLevel: a writer beside older processes begins at the level that the log
// has, and raises it when it is told to.
func TestKeepsTheLevel(t *testing.T) {
	t.Parallel()
	old := domain.NewWorld()
	core := commands.NewCore(old)
	start := command(domain.System, &domain.StartWriter{Site: "test1", LogicLevel: 1})
	if r := core.Decide(1, start); r.Err != nil {
		t.Fatal(r.Err)
	}
	core.Close()
	l, stop := writing(t, old, commands.Options{Log: &gatedLog{}, KeepLevel: true})
	see := func() (level uint32, term uint64, at domain.Time) {
		if _, err := l.Query(t.Context(), domain.System, func(w *domain.World, _ domain.Time) { level, term, at = w.LogicLevel, w.Term, w.At }); err != nil {
			t.Fatal(err)
		}
		return level, term, at
	}
	if level, term, _ := see(); level != 1 || term != 2 {
		t.Errorf("it began at level %d, term %d", level, term)
	}
	r := l.Submit(t.Context(), command(domain.System, &domain.StartWriter{Site: "test1", LogicLevel: domain.LogicLevel, Running: true}))
	if r.Err != nil || r.Events[0].(*domain.WriterStarted).Outage != 0 {
		t.Errorf("raised: %+v", r)
	}
	if level, term, _ := see(); level != domain.LogicLevel || term != 3 {
		t.Errorf("after it: level %d, term %d", level, term)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}
