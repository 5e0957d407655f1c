package commands_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/domain/domaintest"
	"github.com/gpuaas/gpuaas/streams/streamstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// gatedLog is a log whose appends wait for the test, or fail.
type gatedLog struct {
	mu   sync.Mutex
	log  memoryLog
	gate chan struct{} // nil: open
	fail error
	came int // appends that were asked for
}

func (g *gatedLog) Append(ctx context.Context, seq uint64, b []byte) (uint64, error) {
	g.mu.Lock()
	gate := g.gate
	g.came++
	g.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fail != nil {
		return 0, g.fail
	}
	return g.log.Append(ctx, seq, b)
}

func (g *gatedLog) Seq(n uint64) uint64 { return n }

func (g *gatedLog) set(gate chan struct{}, fail error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gate, g.fail = gate, fail
}

func (g *gatedLog) commits() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.log.commits)
}

func (g *gatedLog) appends() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.came
}

// clock is a loop's clock that a test puts forward: a deadline passes when the test is
// ready for it.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) forward(d time.Duration) { c.ahead.Add(int64(d)) }

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("never: %s", what)
		case <-tick.C:
		}
	}
}

// Nothing is answered before it is durable: not an acceptance, not a refusal that
// read what is not durable yet, not a question.
func TestNothingIsAnsweredBeforeItIsDurable(t *testing.T) {
	t.Parallel()
	log := &gatedLog{}
	r := start(t, log, 1, 1, 1)
	defer r.stop()
	gate := make(chan struct{})
	log.set(gate, nil)
	before := log.commits()
	asked := log.appends()
	tenant := r.tenants[0]
	create := &domain.CreateAllocation{Project: tenant.Project, Name: "one", SKUName: "gpu-1x", Count: 1}
	type answer struct {
		what string
		r    commands.Reply
	}
	answers := make(chan answer, 3)
	var head domain.Head
	go func() {
		answers <- answer{"accepted", r.Submit(context.Background(), command(tenant.Key, create))}
	}()
	eventually(t, "the first command is decided", func() bool { return log.appends() > asked })
	go func() {
		answers <- answer{"refused", r.Submit(context.Background(), command(tenant.Key, create))}
	}()
	go func() {
		n, err := r.Query(context.Background(), tenant.Key, func(w *domain.World, _ domain.Time) { head = w.Head })
		answers <- answer{"question", commands.Reply{N: n, Err: err}}
	}()
	select {
	case a := <-answers:
		t.Fatalf("%s was answered before the commit was durable: %+v", a.what, a.r)
	case <-time.After(50 * time.Millisecond): // that nothing comes can only be waited for
	}
	close(gate)
	for range 3 {
		switch a := <-answers; {
		case a.what == "refused" && (a.r.Err == nil || a.r.Err.Code != "allocation.name_taken"):
			t.Errorf("refused: %+v", a.r)
		case a.what != "refused" && a.r.Err != nil:
			t.Errorf("%s: %v", a.what, a.r.Err)
		}
	}
	if n := log.commits() - before; n != 1 {
		t.Errorf("%d commits, a refusal and a question write nothing", n)
	}
	if last := log.log.commits[before]; head.N != uint64(before+1) || head.Hash != domain.DigestOf(last) {
		t.Errorf("a question while commit %d is on its way sees the head %d %s, it is %s", before+1, head.N, head.Hash, domain.DigestOf(last))
	}
}

func TestRepeats(t *testing.T) {
	t.Parallel()
	r := start(t, &gatedLog{}, 2, 4, 4)
	defer r.stop()
	tenant, other := r.tenants[0], r.tenants[1]
	body := &domain.CreateAllocation{Project: tenant.Project, SKUName: "gpu-1x", Count: 1}

	// The same command id, many at once: one decision.
	cmd := command(tenant.Key, body)
	var accepted, repeats atomic.Int64
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			c := *cmd
			reply := r.Submit(context.Background(), &c)
			switch {
			case reply.Err != nil:
				t.Error(reply.Err)
			case reply.Repeat.N != 0:
				repeats.Add(1)
			default:
				accepted.Add(1)
			}
		})
	}
	wg.Wait()
	if accepted.Load() != 1 || repeats.Load() != 49 {
		t.Fatalf("%d accepted, %d repeats", accepted.Load(), repeats.Load())
	}

	// The same Idempotency-Key under new command ids.
	keyed := func(a domain.Actor, key, bodyText string) commands.Reply {
		c := command(a, body)
		c.IdemKey, c.BodyHash = domain.DigestOf([]byte(key)), domain.DigestOf([]byte(bodyText))
		return r.Submit(context.Background(), c)
	}
	first := keyed(tenant.Key, "k1", "b")
	if again := keyed(tenant.Key, "k1", "b"); again.Repeat.N != first.N {
		t.Errorf("a repeat under the key: %+v, first %+v", again, first)
	}
	if reply := keyed(tenant.Key, "k1", "another"); reply.Err == nil || reply.Err.Code != "idempotency.conflict" {
		t.Errorf("another body under the key: %+v", reply)
	}
	if reply := keyed(other.Key, "k1", "another"); reply.Err == nil || reply.Err.Code != "project.not_found" {
		t.Errorf("another tenant's key is its own: %+v", reply)
	}

	// Ids too old or from the future are refused.
	for _, c := range []struct {
		at   time.Time
		code string
	}{{time.Now().Add(-16 * time.Minute), "command.expired"}, {time.Now().Add(6 * time.Minute), "command.from_the_future"}} {
		x := command(tenant.Key, body)
		x.ID = commands.NewCommandID(c.at, domain.Entropy{})
		if reply := r.Submit(context.Background(), x); reply.Err == nil || reply.Err.Code != c.code {
			t.Errorf("%s: %+v", c.code, reply)
		}
	}
}

func TestDeadlinePassedInTheQueue(t *testing.T) {
	t.Parallel()
	log := &gatedLog{}
	r := start(t, log, 1, 1, 1)
	defer r.stop()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	reply := r.Submit(ctx, command(r.tenants[0].Key, &domain.CreateProject{Tenant: r.tenants[0].ID, Name: "late"}))
	if reply.Err == nil || reply.Err.Code != "request.timeout" {
		t.Fatalf("%+v", reply)
	}
	if reply := r.Submit(context.Background(), command(r.tenants[0].Key, &domain.CreateProject{Tenant: r.tenants[0].ID, Name: "late"})); reply.Err != nil {
		t.Fatalf("the one whose deadline had passed was decided: %v", reply.Err)
	}
}

// One tenant's flood fills its own lane and nobody else's: who comes after it is
// decided in the next group, while the flood still has several before it.
func TestFairQueue(t *testing.T) {
	t.Parallel()
	log := &gatedLog{}
	r := start(t, log, 2, 1, 1)
	defer r.stop()
	gate := make(chan struct{})
	log.set(gate, nil)
	flood, calm := r.tenants[0], r.tenants[1]
	var wg sync.WaitGroup
	var full atomic.Int64
	var last atomic.Uint64
	sent := 0
	submit := func() {
		name := fmt.Sprintf("p%d", sent)
		sent++
		wg.Go(func() {
			reply := r.Submit(context.Background(), command(flood.Key, &domain.CreateProject{Tenant: flood.ID, Name: name}))
			switch {
			case reply.Err == nil:
				for n := last.Load(); reply.N > n && !last.CompareAndSwap(n, reply.N); n = last.Load() {
				}
			case reply.Err.Code == "queue.lane_full":
				full.Add(1)
			}
		})
	}
	eventually(t, "the lane and the group that waits are full", func() bool {
		for range 1024 - r.QueueLen() { // the loop takes some of them into the group
			submit()
		}
		return r.QueueLen() == 1024 && sent-int(full.Load()) > 1024+domain.MaxCommitDecisions
	})
	submit()
	eventually(t, "one more of the flood is refused", func() bool { return full.Load() > 0 })
	done := make(chan commands.Reply, 1)
	go func() {
		done <- r.Submit(context.Background(), command(calm.Key, &domain.CreateProject{Tenant: calm.ID, Name: "mine"}))
	}()
	eventually(t, "it waits behind the flood", func() bool { return r.QueueLen() == 1025 })
	close(gate)
	reply := <-done
	if reply.Err != nil {
		t.Fatalf("the other tenant: %v", reply.Err)
	}
	wg.Wait()
	if last.Load() < reply.N+2 {
		t.Fatalf("the other tenant was decided in commit %d, the flood that was there before it up to commit %d", reply.N, last.Load())
	}
}

// An append that fails ends the loop; everyone who waits learns that the outcome
// is not known, and nobody hears "not done".
func TestUnknownOutcomeEndsTheLoop(t *testing.T) {
	t.Parallel()
	log := &gatedLog{}
	l, err := commands.NewLoop(domain.NewWorld(), commands.Options{Site: "test1", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- l.Run(context.Background()) }()
	<-l.Started()
	admin := domaintest.Admin(submitTo(t, l), "admin")
	log.set(nil, errors.New("deposed"))
	reply := l.Submit(context.Background(), command(admin, &domain.CreateTenant{Name: "x", Currency: "USD"}))
	if reply.Err == nil || reply.Err.Code != "outcome.unknown" || !reply.Err.Retryable {
		t.Fatalf("%+v", reply)
	}
	if err := <-done; err == nil {
		t.Fatal("the loop went on after an append failed")
	}
	if reply := l.Submit(context.Background(), command(admin, &domain.CreateTenant{Name: "y", Currency: "USD"})); reply.Err == nil || reply.Err.Kind != domain.Unavailable {
		t.Fatalf("after the end: %+v", reply)
	}
}

func TestClockJumpStopsTheWriter(t *testing.T) {
	t.Parallel()
	var jump atomic.Int64
	l, err := commands.NewLoop(domain.NewWorld(), commands.Options{Site: "test1", Log: &gatedLog{}, Clock: func() time.Time {
		now := time.Now()
		if d := time.Duration(jump.Load()); d != 0 {
			// As the kernel does it: the wall clock moves, the monotonic one does not.
			return jumped(now, d)
		}
		return now
	}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- l.Run(context.Background()) }()
	<-l.Started()
	admin := domaintest.Admin(submitTo(t, l), "admin")
	jump.Store(int64(10 * time.Second))
	reply := l.Submit(context.Background(), command(admin, &domain.CreateTenant{Name: "x", Currency: "USD"}))
	if reply.Err == nil {
		t.Fatal("decided after a jump of the clock")
	}
	if err := <-done; err == nil {
		t.Fatal("the loop went on")
	}
}

// A snapshot never knows more than the log: when the commit at its boundary does not
// become durable, there is none, and the next start goes on from what is there.
func TestNoSnapshotOfWhatIsNotDurable(t *testing.T) {
	t.Parallel()
	log := &gatedLog{}
	snaps, err := commands.OpenSnapshots(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	run := func(w *domain.World) (*commands.Loop, chan error, context.CancelFunc) {
		l, err := commands.NewLoop(w, commands.Options{Site: "test1", Log: log, SnapshotEvery: 4, Snapshot: func(h domain.Head, state []byte) {
			if err := snaps.Save(h, state); err != nil {
				t.Error(err)
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		<-l.Started()
		return l, done, cancel
	}
	l, done, _ := run(domain.NewWorld())
	admin := domaintest.Admin(submitTo(t, l), "admin") // commits 2 and 3
	log.set(nil, errors.New("the log is gone"))
	l.Submit(context.Background(), command(admin, &domain.CreateTenant{Name: "x", Currency: "USD"}))
	if err := <-done; err == nil {
		t.Fatal("the loop went on after an append failed")
	}
	if files := snaps.List(); len(files) > 0 {
		t.Fatalf("snapshot %s, and the log ends at commit %d", files[0].Name, log.commits())
	}

	log.set(nil, nil)
	w, err := commands.Recover(context.Background(), &log.log, snaps, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l, done, cancel := run(w) // commit 4
	for i := range 4 {
		submitTo(t, l)(admin, &domain.CreateTenant{Name: fmt.Sprintf("t%d", i), Currency: "USD"})
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if files := snaps.List(); len(files) == 0 || files[0].N > uint64(log.commits()) {
		t.Fatalf("after the restart: snapshots %v, the log ends at commit %d", files, log.commits())
	}
	w, err = commands.Recover(context.Background(), &log.log, snaps, nil, slog.New(slog.DiscardHandler))
	if err != nil || w.Head.N != uint64(log.commits()) {
		t.Fatalf("%v", err)
	}
}

// A deadline whose handling is refused is parked; the others go on, and so does the
// next start.
func TestRefusedTickIsParked(t *testing.T) {
	t.Parallel()
	log, hands := &gatedLog{}, new(clock)
	run := func(w *domain.World, refuse func(*domain.Tick) *domain.Error) (*commands.Loop, func()) {
		l, err := commands.NewLoop(w, commands.Options{Site: "test1", Log: log, Clock: hands.now})
		if err != nil {
			t.Fatal(err)
		}
		l.RefuseTicks(refuse)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		<-l.Started()
		return l, func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("the loop ended: %v", err)
			}
		}
	}
	alone := 0
	l, stop := run(domain.NewWorld(), func(k *domain.Tick) *domain.Error {
		switch {
		case k.Park != "":
			return nil
		case k.Limit == 1:
			if alone++; alone > 1 {
				return nil // only the first deadline is broken
			}
		}
		return domain.Errorf(domain.Internal, "invariant.broken", "for the test")
	})
	submit := submitTo(t, l)
	admin := domaintest.Admin(submit, "admin")
	domaintest.SKUs(submit, admin, 1)
	domaintest.NewHost(submit, admin, "h", "r", 8)
	expires := domain.TimeOf(time.Now().Add(time.Minute))
	for _, name := range []string{"a", "b", "c"} {
		tenant := domaintest.NewTenant(submit, admin, name, name, 1e9)
		submit(tenant.Key, &domain.CreateAllocation{Project: tenant.Project, SKUName: "gpu-1x", Count: 1, Expires: expires})
	}
	hands.forward(time.Minute)
	wiping := func(l *commands.Loop) (n int) {
		if _, err := l.Query(context.Background(), domain.System, func(w *domain.World, _ domain.Time) { n = w.Count().SlotStates["wiping"] }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	eventually(t, "the others expire", func() bool { return wiping(l) == 2 })
	stop()
	parked := 0
	w := domain.NewWorld()
	for _, b := range log.log.commits {
		c, err := domain.DecodeCommitEvents(b)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range c.Decisions {
			for _, e := range d.Events {
				if p, ok := e.Body.(*domain.TimerParked); ok {
					parked++
					if p.Kind != "expire" || p.Why != "invariant.broken: for the test" {
						t.Errorf("%+v", p)
					}
				}
			}
		}
		if err := commands.Fold(w, b); err != nil {
			t.Fatal(err)
		}
	}
	if parked != 1 {
		t.Errorf("%d deadlines are parked, one was broken", parked)
	}
	if _, err := commands.Verify(context.Background(), &log.log); err != nil {
		t.Errorf("decided again: %v", err)
	}
	l, stop = run(w, nil)
	if n := wiping(l); n != 2 {
		t.Errorf("%d slots are in a wipe after the restart", n)
	}
	stop()
}

// The loop lives in the time that it is told, deadlines too.
func TestDeadlinesFollowTheLoopsClock(t *testing.T) {
	t.Parallel()
	const ahead = 240 * time.Hour
	hands := new(clock)
	hands.forward(ahead)
	l, err := commands.NewLoop(domain.NewWorld(), commands.Options{Site: "test1", Log: &gatedLog{}, Clock: hands.now})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	defer func() { cancel(); <-done }()
	<-l.Started()
	submit := func(a domain.Actor, b domain.CommandBody) []domain.EventBody {
		c := command(a, b)
		c.ID = commands.NewCommandID(time.Now().Add(ahead), domain.Entropy(domain.DigestOf(c.ID[:])))
		r := l.Submit(context.Background(), c)
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		return r.Events
	}
	admin := domaintest.Admin(submit, "admin")
	domaintest.SKUs(submit, admin, 1)
	domaintest.NewHost(submit, admin, "h", "r", 1)
	tenant := domaintest.NewTenant(submit, admin, "a", "a", 1e9)
	submit(tenant.Key, &domain.CreateAllocation{Project: tenant.Project, SKUName: "gpu-1x", Count: 1, Expires: domain.TimeOf(hands.now().Add(time.Minute))})
	hands.forward(time.Minute)
	eventually(t, "it expires", func() bool {
		var wiping int
		_, _ = l.Query(context.Background(), domain.System, func(w *domain.World, _ domain.Time) { wiping = w.Count().SlotStates["wiping"] })
		return wiping == 1
	})
}

// Deadlines are handled without anyone asking.
func TestTicksComeByThemselves(t *testing.T) {
	t.Parallel()
	r := start(t, &gatedLog{}, 1, 1, 1)
	defer r.stop()
	tenant := r.tenants[0]
	reply := r.Submit(context.Background(), command(tenant.Key, &domain.CreateAllocation{
		Project: tenant.Project, Name: "short", SKUName: "gpu-1x", Count: 1, Expires: domain.TimeOf(time.Now().Add(2 * time.Second)), // it has to be decided before
	}))
	if reply.Err != nil {
		t.Fatal(reply.Err)
	}
	eventually(t, "it expires", func() bool {
		var wiping int
		if _, err := r.Query(context.Background(), domain.System, func(w *domain.World, _ domain.Time) { wiping = w.Count().SlotStates["wiping"] }); err != nil {
			t.Fatal(err)
		}
		return wiping == 1
	})
}

// A log, a snapshot and a fold on a real server: what was answered is there.
func TestRecover(t *testing.T) {
	t.Parallel()
	site := streamstest.New(t, 1)
	log := site.Log()
	snaps, err := commands.OpenSnapshots(t.TempDir(), slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, log, 2, 4, 4)
	for _, tn := range r.tenants {
		for range 5 {
			if reply := r.Submit(context.Background(), command(tn.Key, &domain.CreateAllocation{Project: tn.Project, SKUName: "gpu-1x", Count: 1})); reply.Err != nil {
				t.Fatal(reply.Err)
			}
		}
		var head domain.Head
		var state []byte
		if _, err := r.Query(context.Background(), domain.System, func(w *domain.World, _ domain.Time) { head, state = w.Head, w.Encode() }); err != nil {
			t.Fatal(err)
		}
		if err := snaps.Save(head, state); err != nil {
			t.Fatal(err)
		}
	}
	if reply := r.Submit(context.Background(), command(r.tenants[0].Key, &domain.CreateAllocation{Project: r.tenants[0].Project, SKUName: "gpu-2x", Count: 1})); reply.Err != nil {
		t.Fatal(reply.Err)
	}
	r.stop()
	ctx := streamstest.Context(t)
	full := domain.NewWorld()
	if err := commands.FoldLog(ctx, log, full); err != nil {
		t.Fatal(err)
	}
	check := func(what string) {
		t.Helper()
		w, err := commands.Recover(ctx, log, snaps, nil, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if w.Hash() != full.Hash() {
			t.Fatalf("%s: another world", what)
		}
	}
	check("from the newest snapshot")
	files := snaps.List()
	path := filepath.Join(snaps.Dir(), files[0].Name)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	check("the newest snapshot is damaged")
	if err := os.WriteFile(path, b[:40], 0o600); err != nil {
		t.Fatal(err)
	}
	check("the newest snapshot is cut short")
	// A snapshot of another history: same number, another commit.
	w := domain.NewWorld()
	if err := commands.FoldLog(ctx, log, w); err != nil {
		t.Fatal(err)
	}
	w.End(domain.Head{N: w.Head.N, Hash: domain.Digest{1}})
	if err := snaps.Save(w.Head, w.Encode()); err != nil {
		t.Fatal(err)
	}
	check("a snapshot that the log does not confirm")
	v, err := commands.Verify(ctx, log)
	if err != nil || v.Head != full.Head || v.State != full.Hash() {
		t.Fatalf("%+v %v", v, err)
	}
}

// The start says how far it has folded the log while it does.
func TestFoldProgress(t *testing.T) {
	t.Parallel()
	log := &gatedLog{}
	r := start(t, log, 1, 2, 2)
	r.stop()
	snaps, err := commands.OpenSnapshots(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	end := uint64(len(log.log.commits))
	progress := commands.NewFoldProgress(reg, end)
	half, goOn := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		_, err := commands.Recover(context.Background(), &haltingLog{&log.log, end / 2, half, goOn}, snaps, progress, slog.New(slog.DiscardHandler))
		done <- err
	}()
	<-half
	eventually(t, "half of it is folded", func() bool { at, to := progress.Position(); return at == end/2 && to == end })
	close(goOn)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	took := progress.Took()
	if at, _ := progress.Position(); at != end || took == 0 || took != progress.Took() {
		t.Errorf("at the end: commit %d of %d after %v", at, end, took)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		got[f.GetName()] = f.GetMetric()[0].GetGauge().GetValue()
	}
	if got["gpuaas_fold_commit"] != float64(end) || got["gpuaas_fold_end_commit"] != float64(end) || got["gpuaas_fold_events"] < float64(end) || got["gpuaas_fold_seconds"] != took.Seconds() {
		t.Errorf("%v", got)
	}
}

// haltingLog stands still after a commit.
type haltingLog struct {
	*memoryLog
	after      uint64
	half, goOn chan struct{}
}

func (h *haltingLog) Read(ctx context.Context, from uint64, fn func(uint64, []byte) error) error {
	return h.memoryLog.Read(ctx, from, func(seq uint64, b []byte) error {
		if seq == h.after+1 {
			close(h.half)
			<-h.goOn
		}
		return fn(seq, b)
	})
}

// A question writes to what is its caller's: it does not run any more once the caller
// has gone.
func TestAQuestionEndsBeforeItsCallerGoes(t *testing.T) {
	t.Parallel()
	r := start(t, &gatedLog{}, 1, 1, 1)
	defer r.stop()
	ctx, cancel := context.WithCancel(context.Background())
	began, release, gone := make(chan struct{}), make(chan struct{}), make(chan struct{})
	answered := false
	go func() {
		defer close(gone)
		_, _ = r.Query(ctx, domain.System, func(*domain.World, domain.Time) {
			close(began)
			<-release
			answered = true
		})
		answered = false
	}()
	<-began
	cancel()
	select {
	case <-gone:
		t.Error("the caller went while its question ran")
	case <-time.After(50 * time.Millisecond): // that nothing comes can only be waited for
	}
	close(release)
	<-gone
	if answered {
		t.Error("the question went on")
	}
}

// Who never ceases to ask does not keep the loop from its end.
func TestTheLoopEndsWhileItIsAsked(t *testing.T) {
	t.Parallel()
	l, stop := writing(t, domain.NewWorld(), commands.Options{Log: &gatedLog{}})
	var asking sync.WaitGroup
	var asked atomic.Int64
	var ask func()
	ask = func() {
		_, _ = l.Query(context.Background(), domain.System, func(*domain.World, domain.Time) {
			asked.Add(1)
			refused := make(chan struct{})
			asking.Go(func() { defer close(refused); ask() })
			for l.QueueLen() == 0 { // until the next one waits, too
				select {
				case <-refused:
					return
				default:
					runtime.Gosched()
				}
			}
		})
	}
	asking.Go(ask)
	eventually(t, "it is asked and asked", func() bool { return asked.Load() > 100 })
	if err := stop(); err != nil {
		t.Error(err)
	}
	asking.Wait()
}
