package commands_test

import (
	"context"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/domain/domaintest"
)

// A loop that is held appends nothing: not for tenants, not for the site itself, not
// for a deadline. It answers questions, and when it goes on the time is given back.
func TestHold(t *testing.T) {
	t.Parallel()
	log, hands := &gatedLog{}, new(clock)
	l, err := commands.NewLoop(domain.NewWorld(), commands.Options{Site: "test1", Log: log, Clock: hands.now})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	defer func() { cancel(); <-done }()
	<-l.Started()
	submit := submitTo(t, l)
	admin := domaintest.Admin(submit, "admin")
	domaintest.SKUs(submit, admin, 1)
	domaintest.NewHost(submit, admin, "h", "r", 2)
	tenant := domaintest.NewTenant(submit, admin, "a", "a", 1e9)
	expires := domain.TimeOf(time.Now().Add(time.Minute))
	submit(tenant.Key, &domain.CreateAllocation{Project: tenant.Project, SKUName: "gpu-1x", Count: 1, Expires: expires})
	see := func() (wiping int, term uint64) {
		t.Helper()
		if _, err := l.Query(context.Background(), domain.System, func(w *domain.World, _ domain.Time) {
			wiping, term = w.Count().SlotStates["wiping"], w.Term
		}); err != nil {
			t.Fatalf("a question while the loop is held: %v", err)
		}
		return wiping, term
	}

	l.Hold(domain.Errorf(domain.Unavailable, "site.drift", "for the test"))
	before := log.commits()
	for _, who := range []domain.Actor{tenant.Key, admin, domain.System} {
		if r := l.Submit(context.Background(), command(who, &domain.CreateProject{Tenant: tenant.ID, Name: "p"})); r.Err == nil || r.Err.Code != "site.drift" {
			t.Errorf("%v: %+v", who.Kind, r)
		}
	}
	hands.forward(time.Minute + time.Second)
	if wiping, term := see(); wiping != 0 || term != 1 || log.commits() != before {
		t.Fatalf("while the loop was held: %d wipes, term %d, %d commits", wiping, term, log.commits()-before)
	}

	l.Hold(nil)
	eventually(t, "it goes on", func() bool { wiping, _ := see(); return wiping == 1 })
	if _, term := see(); term != 2 {
		t.Errorf("it goes on in term %d", term)
	}
	c, err := domain.DecodeCommit(log.log.commits[before])
	if err != nil {
		t.Fatal(err)
	}
	if e, ok := c.Decisions[0].Events[0].Body.(*domain.WriterStarted); !ok || e.Outage < 60*domain.Second {
		t.Errorf("the first event after it: %+v", c.Decisions[0].Events[0].Body)
	}
	submit(tenant.Key, &domain.CreateProject{Tenant: tenant.ID, Name: "p"})
}
