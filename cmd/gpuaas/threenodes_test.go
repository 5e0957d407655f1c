package main_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

// TestThreeNodeSite is a site's bad afternoon, on three NATS servers and under load
// all the time: it is upgraded to a build of the next logic level, process after
// process, the writer first; then it loses its writer, then each NATS server, one
// after another, then Postgres. Clients see nothing but answers and reasons to
// repeat, and the campaign's judgement follows.
func TestThreeNodeSite(t *testing.T) {
	t.Parallel()
	if !*haUpgrade {
		t.Skip("it builds another gpuaas: -ha.upgrade")
	}
	next := nextRelease(t)
	tr := newTrial(t)
	seed := seedOfRun()
	t.Logf("seed %d", seed)
	c := tr.clients(seed)
	c.more(restAcks)
	first := tr.writer()
	for i := range tr.members {
		m := (first + i) % len(tr.members)
		tr.step(c, fmt.Sprintf("upgrade of %s", tr.members[m].name), func() {
			before := tr.members[m].started()
			tr.members[m].becomes(filepath.Join(bin, next))
			eventually(t, limit, "the new build to start", func() error { return errNo(tr.members[m].started() > before, "not yet") })
			tr.ready(m)
		})
	}
	tr.release = next
	eventually(t, 2*limit, "the log to be raised", func() error {
		level := tr.level()
		return errNo(level == domain.LogicLevel+1, fmt.Sprintf("it is at %d", level))
	})
	tr.step(c, "kill of the writer", func() { killed(tr.members[tr.writer()]) })
	for _, n := range tr.nats { // one of them leads the log
		tr.step(c, "kill of "+n.name, func() { killed(n) })
	}
	tr.step(c, "kill of Postgres", func() { tr.postgres.signal(syscall.SIGKILL) })
	v := tr.judge(c.end())
	t.Logf("%d operations, %d decided after a refusal", v.operations, v.late)
}

// step does something to the site, and waits until clients are answered again.
func (tr *trial) step(c *clients, what string, f func()) {
	tr.t.Helper()
	began := time.Now()
	f()
	done := time.Since(began)
	c.more(restAcks)
	tr.t.Logf("%s: %v, and %d answers after %v more", what, done.Round(time.Millisecond), restAcks, (time.Since(began) - done).Round(time.Millisecond))
}

// more waits for so many further answers.
func (c *clients) more(n int64) {
	c.tr.t.Helper()
	want := c.acked.Load() + n
	eventually(c.tr.t, limit, "clients are answered", func() error {
		return errNo(c.acked.Load() >= want, fmt.Sprintf("%d of %d", c.acked.Load(), want))
	})
}

// level is the newest logic level of the log.
func (tr *trial) level() (newest int) {
	commits := tr.commits()
	for _, c := range slices.Backward(commits) {
		for _, d := range c.Decisions {
			for _, e := range d.Events {
				if started, ok := e.Body.(*domain.WriterStarted); ok {
					return int(started.LogicLevel)
				}
			}
		}
	}
	return 0
}
