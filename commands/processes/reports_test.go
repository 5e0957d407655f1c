package processes_test

import (
	"bytes"
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/commands/processes"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/domain/domaintest"
	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
)

// brokenFor is a loop whose decision of some reports fails inside.
type brokenFor struct {
	*commands.Loop
	broken func(*domain.RecordReport) bool
	tries  atomic.Int64
}

func (b *brokenFor) Submit(ctx context.Context, cmd *domain.Command) commands.Reply {
	if m, ok := cmd.Body.(*domain.RecordReport); ok && m.Refused == "" && b.broken(m) {
		b.tries.Add(1)
		return commands.Reply{Err: domain.Errorf(domain.Internal, "invariant.broken", "for the test")}
	}
	return b.Loop.Submit(ctx, cmd)
}

// consume runs the report process on the site's reports stream.
func (r *rig) consume(reports *processes.Reports) {
	in, err := streams.OpenReports(r.site.Dial(server.Runtime), r.site.Names)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(in.Close)
	r.background(func(ctx context.Context) {
		_ = in.Consume(ctx, func(m streams.ReportMsg) error { return reports.Handle(ctx, m.Host, m.Data, m.Delivery) })
	})
}

// What is not the host's own word is not believed: it moves nothing, is in the audit
// stream, and the host's true reports after it are taken.
func TestReportsThatAreNotTheHosts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.consume(&processes.Reports{Loop: r.loop, Keys: r.loop.Directory().Host, Audit: r.deny, Clock: time.Now})
	good, other := r.newHost("good"), r.newHost("other")
	inventory := func(h *host) domain.Report {
		return domain.Report{Kind: domain.ReportInventory, Inventory: domaintest.Map(h.id.String(), 2)}
	}

	forged := good.sign(good.next(inventory(good)))
	forged = bytes.Replace(forged, []byte("sim-gpu"), []byte("sim-gpv"), 1)
	good.send(domain.ReportInventory, forged)
	r.denied(good.id, "report.bad_signature", "")

	theirs := other.next(inventory(other))
	good.send(domain.ReportInventory, good.sign(theirs)) // by its own key, about another host
	r.denied(good.id, "report.foreign_host", "")
	good.send(domain.ReportInventory, other.sign(theirs)) // the other's own words, replayed
	r.denied(good.id, "report.bad_signature", "")

	good.send(domain.ReportInventory, []byte("nonsense"))
	r.denied(good.id, "report.malformed", "")

	stranger := r.site.NewHost(7)
	if err := r.site.Link(stranger).Report(t.Context(), domain.ReportInventory, good.sign(theirs)); err != nil {
		t.Fatal(err)
	}
	r.denied(stranger.ID, "host.unknown", "")

	if a, b := good.acked(), other.acked(); a != 0 || b != 0 {
		t.Fatalf("reports %d and %d were recorded", a, b)
	}
	good.n = 0
	future := good.next(inventory(good))
	future.Generation = 99
	good.send(domain.ReportInventory, good.sign(future)) // its own, and not true: recorded as refused
	r.denied(good.id, "report.from_the_future", "inventory report 1")
	good.send(domain.ReportInventory, good.sign(good.next(inventory(good))))
	r.eventually("the true report is recorded", func() bool { return good.acked() == 2 })
}

// A report whose decision fails inside is tried a few times, and then recorded as
// refused: what the host says after it is taken. Other hosts do not notice.
func TestBrokenReportIsParked(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	bad, calm := r.newHost("bad"), r.newHost("calm")
	loop := &brokenFor{Loop: r.loop, broken: func(m *domain.RecordReport) bool {
		x, err := domain.DecodeReport(m.Report)
		return err == nil && m.Host == bad.id && x.Number == 1
	}}
	reports := &processes.Reports{Loop: loop, Keys: r.loop.Directory().Host, Audit: r.deny, Clock: time.Now}
	r.consume(reports)
	for _, h := range []*host{bad, calm} {
		for range 3 {
			h.send(domain.ReportInventory, h.sign(h.next(domain.Report{Kind: domain.ReportInventory, Inventory: domaintest.Map(h.id.String(), 2)})))
		}
	}
	r.eventually("the calm host's reports", func() bool { return calm.acked() == 3 })
	r.denied(bad.id, "invariant.broken", "inventory report 1")
	resend := func() { // as its journal does with what is not acknowledged
		for n := bad.acked() + 1; n <= 3; n++ {
			bad.n = n - 1
			bad.send(domain.ReportInventory, bad.sign(bad.next(domain.Report{Kind: domain.ReportInventory, Inventory: domaintest.Map(bad.id.String(), 2)})))
		}
	}
	resend()
	r.eventually("the reports after it", func() bool { return bad.acked() == 3 })
	if n := reports.Parked(); n != 1 {
		t.Errorf("%d reports parked", n)
	}
	if n := loop.tries.Load(); n < 2 || n > 5 {
		t.Errorf("it was tried %d times", n)
	}
	r.see(func(w *domain.World) {
		if proposal, _, _ := w.MapOf(bad.id); proposal != domaintest.Map(bad.id.String(), 2).Digest() {
			t.Error("the report after it was not judged")
		}
	})
}

// Reports that come before those they follow wait for them, but not any number of one
// host's: all hosts' wait in one stream.
func TestFewReportsWaitForTheOnesBefore(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	wild, calm := r.newHost("wild"), r.newHost("calm")
	var refused atomic.Int64
	reports := &processes.Reports{Loop: r.loop, Keys: r.loop.Directory().Host, Clock: time.Now, Audit: func(d processes.Denied) {
		if d.Code == "report.out_of_order" {
			refused.Add(1)
		}
	}}
	inventory := func(h *host) []byte {
		return h.sign(h.next(domain.Report{Kind: domain.ReportInventory, Inventory: domaintest.Map(h.id.String(), 2)}))
	}
	first := inventory(wild)
	var early [][]byte
	for range 70 {
		early = append(early, inventory(wild))
	}
	handle := func(h *host, signed []byte, delivery uint64) (waits bool) {
		return reports.Handle(t.Context(), h.id, signed, delivery) != nil
	}
	for i, signed := range early {
		if waits := handle(wild, signed, 1); waits != (i < 64) {
			t.Fatalf("number %d of those out of order waits: %v", i, waits)
		}
	}
	if n := refused.Load(); n != 6 {
		t.Errorf("%d refused", n)
	}
	if handle(calm, inventory(calm), 1) || calm.acked() != 1 {
		t.Error("another host's report is not taken")
	}
	inventory(calm)
	if !handle(calm, inventory(calm), 1) {
		t.Error("another host's report does not wait")
	}
	if !handle(wild, early[0], 6) || handle(wild, early[0], 7) {
		t.Error("one waits seven times")
	}
	if !handle(wild, early[64], 1) {
		t.Error("another one does not wait in its place")
	}
	for _, signed := range append([][]byte{first}, early...) { // as the host's journal repeats them
		if handle(wild, signed, 1) {
			t.Fatal("in order, one waits")
		}
	}
	if n := wild.acked(); n != 71 {
		t.Errorf("%d are recorded", n)
	}
}

// A report over which the process panics is audited and counted, once: it is not
// delivered again, and does not end the process for the other hosts. The same holds
// for what a host asks.
func TestPanicOverAHost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	bad, calm := r.newHost("bad"), r.newHost("calm")
	var tries atomic.Int64
	reports := &processes.Reports{Loop: r.loop, Audit: r.deny, Clock: time.Now, Keys: func(h domain.HostID) (commands.HostKeys, bool) {
		if h == bad.id {
			tries.Add(1)
			panic("over a report")
		}
		return r.loop.Directory().Host(h)
	}}
	r.consume(reports)
	for range 3 {
		for _, h := range []*host{bad, calm} {
			h.send(domain.ReportInventory, h.sign(h.next(domain.Report{Kind: domain.ReportInventory, Inventory: domaintest.Map(h.id.String(), 2)})))
		}
	}
	r.eventually("the calm host's reports", func() bool { return calm.acked() == 3 })
	r.denied(bad.id, "internal", "over a report")
	info := r.site.JetStream()
	r.eventually("an empty stream: none of them comes again", func() bool {
		s, err := info.Stream(t.Context(), r.site.Names.Reports())
		return err == nil && s.CachedInfo().State.Msgs == 0
	})
	if n := tries.Load(); n != 3 || reports.Parked() != 3 {
		t.Errorf("3 reports were tried %d times, %d are parked", n, reports.Parked())
	}

	asked := &processes.HostRequests{Loop: r.loop, Audit: r.deny, Clock: func() time.Time { panic("over a request") }}
	if _, err := asked.ServeImage(t.Context(), bad.id, []byte(`{"offset":0,"length":1}`)); domain.AsError(err).Code != "internal" || domain.AsError(err).Retryable {
		t.Errorf("%v", err)
	}
	r.denied(bad.id, "internal", "over a request")
}
