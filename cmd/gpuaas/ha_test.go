package main_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams/server"
	"github.com/gpuaas/gpuaas/streams/streamstest"
)

// These tests run several control-plane processes on one NATS: one server, or three.

var (
	haRounds  = flag.Int("ha.rounds", 1, "how often each writer is killed, and how often it hands over")
	haUpgrade = flag.Bool("ha.upgrade", false, "build a release with the next logic level, and upgrade a site to it")
)

// cluster is a site with three processes.
type cluster struct {
	t       *testing.T
	nats    *streamstest.Site
	members []*site
	tenants []string // a tenant has at most 1000 live credits
	te      tenant   // with a host to launch on
}

func newCluster(t *testing.T, replicas int) *cluster {
	t.Helper()
	c := &cluster{t: t, nats: streamstest.New(t, replicas)}
	urls := make([]string, len(c.nats.Servers))
	for i, s := range c.nats.Servers {
		urls[i] = s.ClientURL()
	}
	db := newDatabase(t)
	args := []string{
		"serve", "--site", string(c.nats.Names), "--log-level", "info", "--nats-url", strings.Join(urls, ","), "--replicas", fmt.Sprint(replicas),
		"--nats-creds", filepath.Dir(c.nats.Trust.CredsFile(server.Admin)), "--database-url", db.url,
	}
	for i := range 3 {
		s := &site{t: t, dir: dataDir(t), args: args}
		t.Cleanup(s.gone)
		if i > 0 { // the site's secret is every process's
			copyFile(t, filepath.Join(c.members[0].dir, "site.secret"), filepath.Join(s.dir, "site.secret"))
		}
		s.start()
		c.members = append(c.members, s)
	}
	t.Cleanup(func() {
		for i, m := range c.members {
			if t.Failed() {
				t.Logf("process %d said:\n%s", i, m.out.tail())
			}
		}
	})
	for i := range 3 + 3**haRounds {
		c.tenants = append(c.tenants, c.members[0].newTenant(fmt.Sprintf("acme%d", i), 0).id)
	}
	c.host()
	return c
}

// host enrols a simulated host, and a tenant that can launch on it.
func (c *cluster) host() {
	t, s := c.t, c.members[0]
	t.Helper()
	op := s.operator()
	var made struct {
		ID    string `json:"id"`
		Token string `json:"enrolment_token"`
	}
	enrolled := op.do(201, "POST", "/v1/hosts", obj{"name": "h1", "rack": "r1"})
	enrolled.into(t, &made)
	dir := filepath.Join(s.dir, "h1")
	if out, err := hostdOnce(t, "enroll", "--server", c.members[1].address(), "--token", made.Token, "--dir", dir); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	run(t, nil, "hostd", "run", "--machine", "sim", "--slots", "8", "--dir", dir)
	var m struct {
		Digest string `json:"proposal_digest"`
	}
	eventually(t, limit, "a slot map", func() error {
		op.get(fmt.Sprintf("/v1/hosts/%s/slot-map?at_least=%d", made.ID, enrolled.seq), &m)
		return errNo(m.Digest != "", "no proposal")
	})
	op.do(202, "POST", "/v1/hosts/"+made.ID+"/slot-map/approve", obj{"digest": m.Digest, "wipe_policy": "auto"})
	var sku struct {
		ID string `json:"id"`
	}
	op.do(201, "POST", "/v1/skus", obj{"name": "gpu-1x", "shape": 1}).into(t, &sku)
	op.do(201, "POST", "/v1/skus/"+sku.ID+"/prices", obj{"currency": "USD", "micros_per_unit_hour": price})
	c.te = s.newTenant("renter", 1_000_000_000)
	eventually(t, limit, "slots", func() error {
		free := 0
		for _, sl := range list[slot](op, "/v1/slots") {
			if sl.State == "available" {
				free++
			}
		}
		return errNo(free == 8, fmt.Sprintf("%d are available", free))
	})
}

// launched asks for a VM, whoever writes, until it is there.
func (c *cluster) launched(key string, without ...int) (a allocation) {
	c.t.Helper()
	eventually(c.t, limit, "a launch", func() error {
		for i := range c.members {
			if slices.Contains(without, i) {
				continue
			}
			status, _, body, err := c.post(i, c.te.key, "/v1/projects/"+c.te.project+"/allocations", obj{"sku": "gpu-1x"}, key)
			if err == nil && status == 201 {
				return json.Unmarshal(body, &a)
			}
		}
		return errors.New("nobody launches it")
	})
	return a
}

// role is what a process says of itself; "" when it does not answer.
func (c *cluster) role(i int) string {
	res, err := httpClient.Get(c.members[i].address() + "/readyz")
	if err != nil {
		return ""
	}
	defer res.Body.Close()
	var r struct {
		Role string `json:"role"`
	}
	_ = json.NewDecoder(res.Body).Decode(&r)
	return r.Role
}

// writer is the process that decides.
func (c *cluster) writer() (w int) {
	c.t.Helper()
	eventually(c.t, limit, "one writer", func() error {
		var writers []int
		for i := range c.members {
			if c.role(i) == "writer" {
				writers = append(writers, i)
			}
		}
		if len(writers) != 1 {
			return fmt.Errorf("%v write", writers)
		}
		w = writers[0]
		return nil
	})
	return w
}

// same wants every process that runs to show exactly what was acknowledged.
func (c *cluster) same(l *load) {
	c.t.Helper()
	op := c.members[0].operator()
	for i, m := range c.members {
		var micros, credits int64
		for _, te := range c.tenants {
			var b balance
			caller{m, op.key}.get(fmt.Sprintf("/v1/tenants/%s/balance?currency=USD&at_least=%d", te, l.head), &b)
			micros += b.Available
			credits += int64(len(list[json.RawMessage](caller{m, op.key}, fmt.Sprintf("/v1/tenants/%s/credits?at_least=%d", te, l.head))))
		}
		c.gapless(caller{m, op.key})
		if want := l.acked.Load(); micros != want || credits != want {
			c.t.Errorf("process %d shows %d micros in %d credits, %d of one micro were acknowledged", i, micros, credits, want)
		}
	}
}

// gapless reads all events of one process. While the feed chooses a leader, it is
// asked again.
func (c *cluster) gapless(op caller) {
	c.t.Helper()
	n := uint64(0)
	for after, more := "", true; more; {
		var page struct {
			Items []event `json:"items"`
			Next  string  `json:"next_cursor"`
		}
		eventually(c.t, limit, "a page of events", func() error {
			a, err := op.ask("GET", "/v1/events?limit=500"+after, nil)
			if err != nil || a.status != 200 {
				return fmt.Errorf("%v, %+v", err, a)
			}
			return json.Unmarshal(a.body, &page)
		})
		for _, e := range page.Items {
			if n++; e.Number != n {
				c.t.Fatalf("event %d where %d should be", e.Number, n)
			}
		}
		after, more = "&after="+page.Next, len(page.Items) > 0
	}
}

// TestFailover kills the writer under load, lets it hand over, and pauses it, on one
// NATS server and on three: nothing that was acknowledged is lost or done twice, and
// standbys show it.
func TestFailover(t *testing.T) {
	t.Parallel()
	for _, replicas := range []int{1, 3} {
		t.Run(fmt.Sprintf("R%d", replicas), func(t *testing.T) {
			t.Parallel()
			if replicas == 1 && *haRounds == 1 {
				t.Skip("once, three replicas are enough: -ha.rounds")
			}
			c := newCluster(t, replicas)
			l := c.load(4)
			var killed, handed []time.Duration
			for round := range *haRounds {
				l.more(50)
				w := c.writer()
				a := c.launched(fmt.Sprint("vm ", round))
				at := time.Now()
				c.members[w].kill()
				l.more(50)
				killed = append(killed, l.gap(at))
				c.slow("kill", at, killed[len(killed)-1], 1200*time.Millisecond)
				c.members[w].start()
				c.te.becomes(a.ID, "running")

				w = c.writer()
				l.more(50)
				at = time.Now()
				if err := c.members[w].cmd.Process.Signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
				if code := c.members[w].ended(t, limit); code != 0 {
					t.Fatalf("exit code %d after SIGTERM:\n%s", code, c.members[w].out.tail())
				}
				l.more(50)
				handed = append(handed, l.gap(at))
				c.slow("hand-over", at, handed[len(handed)-1], 400*time.Millisecond)
				c.members[w].start()
				c.te.do(202, "DELETE", "/v1/allocations/"+a.ID, nil)
				c.te.becomes(a.ID, "released")
			}
			paused := c.pause(l)
			l.end()
			c.same(l)
			slices.Sort(killed)
			slices.Sort(handed)
			t.Logf("%d acknowledged, %d repeated; gap after kill -9: median %v, longest %v; after SIGTERM: median %v, longest %v; after SIGSTOP: %v", l.acked.Load(), l.retried.Load(),
				killed[len(killed)/2], killed[len(killed)-1], handed[len(handed)/2], handed[len(handed)-1], paused)
			c.verified()
		})
	}
}

// pause stops the writer for longer than its claim lives: another one writes. When it
// goes on it answers nothing that it decided meanwhile, and ends.
func (c *cluster) pause(l *load) time.Duration {
	c.t.Helper()
	w := c.writer()
	m, at := c.members[w], time.Now()
	if err := m.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		c.t.Fatal(err)
	}
	defer m.cmd.Process.Signal(syscall.SIGCONT) // it has ended, unless the test fails here
	eventually(c.t, limit, "another writer", func() error {
		for i := range c.members {
			if i != w && c.role(i) == "writer" {
				return nil
			}
		}
		return errors.New("none")
	})
	l.c.launched("while it is paused", w)
	gap := time.Since(at)
	if err := m.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		c.t.Fatal(err)
	}
	if code := m.ended(c.t, limit); code != 1 {
		c.t.Errorf("a writer that was deposed ended with code %d:\n%s", code, m.out.tail())
	}
	m.start()
	l.more(50)
	return gap
}

// slow says what the processes did in a gap that was longer than usual.
func (c *cluster) slow(what string, at time.Time, gap, usual time.Duration) {
	if gap < usual {
		return
	}
	for i, m := range c.members {
		c.t.Logf("%s at %s, gap %v: process %d said:\n%s", what, at.UTC().Format(time.RFC3339Nano), gap, i, m.out.tail())
	}
}

// verified decides the whole log again.
func (c *cluster) verified() {
	c.t.Helper()
	m := c.members[0]
	out, stderr, code := tool(c.t, append([]string{"log", "verify", "--data-dir", m.dir}, natsArgs(m.args)...)...)
	if code != 0 {
		c.t.Errorf("log verify: %s%s", out, stderr)
	}
}

// natsArgs are the arguments of a start that say where the log is.
func natsArgs(args []string) (out []string) {
	for i, a := range args[:len(args)-1] {
		if slices.Contains([]string{"--site", "--nats-url", "--nats-creds", "--replicas"}, a) {
			out = append(out, a, args[i+1])
		}
	}
	return out
}

// TestRollingUpgrade upgrades a site under load, one process after another, the
// writer first, to a build with the next logic level: old and new ones work side by
// side, nobody sees a failed command, and the log is raised when the last is new. An
// old build is refused then.
func TestRollingUpgrade(t *testing.T) {
	t.Parallel()
	if !*haUpgrade {
		t.Skip("it builds another gpuaas: -ha.upgrade")
	}
	next := nextRelease(t)
	c := newCluster(t, 1)
	l := c.load(2)
	level := func() int {
		t.Helper()
		newest := 0
		for _, e := range c.members[0].operator().events("/v1/events") {
			if e.Type == "site.writer_started" {
				var d struct {
					Level int `json:"logic_level"`
				}
				if err := json.Unmarshal(e.Data, &d); err != nil {
					t.Fatal(err)
				}
				newest = d.Level
			}
		}
		return newest
	}
	l.more(20)
	first := c.writer()
	for i := range c.members {
		m := c.members[(first+i)%len(c.members)]
		if err := m.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if code := m.ended(t, limit); code != 0 {
			t.Fatalf("exit code %d:\n%s", code, m.out.tail())
		}
		if i > 0 && level() != domain.LogicLevel {
			t.Errorf("after %d of 3 the log is at level %d", i, level())
		}
		m.prog = next
		m.start()
		l.more(20)
	}
	l.end()
	eventually(t, 2*limit, "the log to be raised", func() error {
		return errNo(level() == domain.LogicLevel+1, fmt.Sprintf("it is at %d", level()))
	})
	c.same(l)
	w := c.writer()
	old := c.members[(w+1)%len(c.members)]
	old.interrupt()
	old.prog = ""
	if err := old.tryStart(); err == nil || !strings.Contains(err.Error(), "upgrade it") {
		t.Errorf("an old build stands by a log of the next level: %v", err)
	}
	old.prog = next
	old.start()
}
