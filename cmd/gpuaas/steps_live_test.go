package main_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

var steppedProcesses = []stepped{
	{name: "projections rebuild", slice: 61, open: openRebuild},
	{name: "streams rebuild-feed", slice: 1, open: openRebuildFeed},
	{name: "site backup", slice: 5, open: func(t *testing.T, l *line) stage { return openBackup(t, l, false) }},
	{name: "site backup's files", slice: 10, files: true, open: func(t *testing.T, l *line) stage { return openBackup(t, l, true) }},
	{name: "site restore", slice: 40, files: true, open: openRestore},
	{name: "site open-epoch", slice: 150, also: "E.FEED_dev", open: openLostTail},
	{name: "first start", slice: 150, also: " log.dev", open: openFirstStart},
	{name: "hand-over", slice: 6, vary: true, open: openHandOver},
	{name: "rolling upgrade", open: openUpgrade},
}

// live is a site that works and is read while something is done to it.
type live struct {
	*site
	*visitors
	line     *line
	follower *follower
}

// visitors grant and read, one after another, until the test ends.
type visitors struct {
	t      *testing.T
	c      *cluster
	load   *load
	asking sync.Mutex // held while somebody is about to be answered
}

// newLive runs a site and tells programs that look for it that it is behind the line.
func newLive(t *testing.T, l *line) *live {
	t.Helper()
	s := newSite(t, "serve", "--log-level", "warn")
	v := &live{site: s, line: l, follower: &follower{te: tenant{caller: s.operator()}}}
	direct := func(name string) *url.URL {
		b, err := os.ReadFile(filepath.Join(s.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(strings.TrimSpace(string(b)))
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	db := direct("database.url")
	q := db.Query()
	nats, models := l.between(t, direct("nats.url").Host, filepath.Join(q.Get("host"), ".s.PGSQL."+q.Get("port")), always)
	for name, text := range map[string]string{
		"nats.url": "nats://" + nats.address(), "database.url": "postgres://" + q.Get("user") + "@" + models.address() + db.Path + "?sslmode=disable",
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var following sync.WaitGroup
	done := make(chan struct{})
	t.Cleanup(func() {
		close(done)
		v.kill()
		following.Wait()
	})
	following.Go(func() {
		again := time.NewTicker(stepEvery)
		defer again.Stop()
		for { // a stream that ends is followed on with the last id
			_ = v.follower.follow()
			select {
			case <-done:
				return
			case <-again.C:
			}
		}
	})
	v.visitors = newVisitors(&cluster{t: t, members: []*site{s}})
	return v
}

// stepEvery is the pace of those who work at a site, so that the machine is left to it.
const stepEvery = 50 * time.Millisecond

// newVisitors go on until the test ends. A read that cannot be answered now is asked again;
// what is answered never goes back.
func newVisitors(c *cluster) *visitors {
	tenants := 8 // each may have 1000 credits, and ten a second are granted
	if *stepsLong {
		tenants = max(tenants, int(*stepsFor/time.Minute))
	}
	for i := range tenants {
		c.tenants = append(c.tenants, c.members[0].newTenant(fmt.Sprint("acme", i), 0).id)
	}
	done := make(chan struct{})
	v := &visitors{t: c.t, c: c, load: &load{c: c, over: done}}
	v.grant(0) // what is read in the end is at least as new, however soon that is
	key, last := c.members[0].operator().key, uint64(0)
	var working sync.WaitGroup
	each := func(every time.Duration, f func(i int)) {
		working.Go(func() {
			tick := time.NewTicker(every)
			defer tick.Stop()
			for i := 0; ; i++ { // ends with the test
				select {
				case <-done:
					return
				case <-tick.C:
					f(i)
				}
			}
		})
	}
	each(2*stepEvery, v.grant)
	each(stepEvery, func(i int) {
		a, err := caller{c.members[i%len(c.members)], key}.ask("GET", "/v1/tenants?limit=10", nil)
		if err != nil || a.status == 503 {
			if len(c.members) == 1 {
				c.t.Errorf("a read fails: %v: %+v", err, a)
			}
			return // it may be about to end, or to start
		}
		if a.status != 200 || a.seq < last {
			c.t.Errorf("a read after one that showed commit %d: %+v", last, a)
		}
		last = max(last, a.seq)
	})
	c.t.Cleanup(func() {
		close(done)
		working.Wait()
	})
	return v
}

func (v *visitors) grant(i int) {
	v.asking.Lock()
	defer v.asking.Unlock()
	v.load.grant(v.c.tenants[i%len(v.c.tenants)], i, fmt.Sprint("g", i, "-", time.Now().UnixNano()))
}

// answered wants all that was acknowledged to be there once, whoever is asked.
func (v *visitors) answered() {
	v.t.Helper()
	if bad := v.load.bad.Load(); bad != nil {
		v.t.Fatal(*bad)
	}
	v.c.same(v.load)
}

// runTool is a run of one of the site's tools.
func runTool(t *testing.T, l *line, args ...string) (out string, ok bool) {
	t.Helper()
	var p *program
	l.begin(func() func() { p = run(t, nil, "gpuaas", args...); return p.kill })
	code := p.ended(t, 2*startLimit)
	return p.out.String(), code == 0
}

// tool runs one beside the site.
func (v *live) tool(words ...string) func(t *testing.T) bool {
	return func(t *testing.T) bool {
		_, ok := runTool(t, v.line, append(words, "--data-dir", v.dir, "--log-level", "error")...)
		return ok
	}
}

// whole wants the site to be as if nothing had happened: all that was acknowledged once in
// read models, feed and log.
func (v *live) whole(t *testing.T) {
	t.Helper()
	v.asking.Lock()
	defer v.asking.Unlock()
	v.followed(t)
	v.answered()
	for _, args := range [][]string{{"log", "verify"}, {"projections", "reconcile"}} {
		if out, stderr, code := tool(t, append(args, "--data-dir", v.dir, "--log-level", "error")...); code != 0 {
			t.Errorf("%v: %s%s", args, out, stderr)
		}
	}
}

// followed wants the feed to have all events, and the follower each of them once.
func (v *live) followed(t *testing.T) {
	t.Helper()
	var is []event
	eventually(t, limit, "the feed and its follower", func() error {
		is = v.operator().events("/v1/events")
		if n := len(is); n == 0 || is[n-1].Sequence < v.load.head {
			return fmt.Errorf("%d events are in the feed, not yet all of commit %d", n, v.load.head)
		}
		return errNo(v.follower.count() >= len(is), fmt.Sprintf("%d events, %d are followed", len(is), v.follower.count()))
	})
	v.follower.mu.Lock()
	defer v.follower.mu.Unlock()
	for i, e := range v.follower.got[:len(is)] {
		if a, b := mustJSON(t, e), mustJSON(t, is[i]); a != b {
			t.Fatalf("event %d: followed was %s, the feed has %s", i+1, a, b)
		}
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func openRebuild(t *testing.T, l *line) stage {
	v := newLive(t, l)
	return stage{run: v.tool("projections", "rebuild"), judge: func(t *testing.T) {
		v.whole(t)
		if left := v.schemas(t); len(left) != 1 {
			t.Errorf("read models are left behind: %q", left)
		}
	}}
}

func (v *live) schemas(t *testing.T) (names []string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(v.dir, "database.url"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	rows, err := conn.Query(t.Context(), `SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'rm%'`)
	if err == nil {
		names, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func openRebuildFeed(t *testing.T, l *line) stage {
	v := newLive(t, l)
	return stage{run: v.tool("streams", "rebuild-feed"), judge: v.whole}
}

// openBackup backs up, and judges by what a restore makes of it.
func openBackup(t *testing.T, l *line, files bool) stage {
	v := newLive(t, l)
	to := ""
	run := func(t *testing.T) bool {
		out, ok := runTool(t, l, "site", "backup", "--data-dir", v.dir, "--log-level", "error", "--to", to)
		return ok || strings.Contains(out, "is there already") // it was whole
	}
	again := func(t *testing.T) {
		to = filepath.Join(dataDir(t), "backup")
		if err := os.Mkdir(to, 0o755); err != nil {
			t.Fatal(err)
		}
		if files {
			l.files(t, to)
		}
	}
	return stage{again: again, run: run, judge: func(t *testing.T) {
		v.whole(t)
		restored(t, to)
	}}
}

// restored makes a site of a backup and wants its log to be whole.
func restored(t *testing.T, backup string) {
	t.Helper()
	dir := dataDir(t)
	for _, args := range [][]string{{"site", "restore", "--from", backup}, {"log", "verify"}} {
		if out, stderr, code := tool(t, append(args, "--data-dir", dir, "--log-level", "error")...); code != 0 {
			t.Errorf("%v: %s%s", args, out, stderr)
		}
	}
}

func openRestore(t *testing.T, l *line) stage {
	v := newLive(t, l)
	backup := filepath.Join(dataDir(t), "backup")
	if out, stderr, code := tool(t, "site", "backup", "--data-dir", v.dir, "--to", backup); code != 0 {
		t.Fatalf("%s%s", out, stderr)
	}
	verify := func(dir string) (string, error) {
		out, stderr, code := tool(t, "log", "verify", "--data-dir", dir, "--log-level", "error")
		if code != 0 {
			return "", errors.New(stderr)
		}
		_, state, _ := strings.Cut(out, "head ")
		return strings.SplitN(state, "vault", 2)[0], nil
	}
	want, dir := "", ""
	return stage{
		again: func(t *testing.T) {
			dir = dataDir(t)
			l.files(t, dir)
		},
		run: func(t *testing.T) bool {
			out, ok := runTool(t, l, "site", "restore", "--from", backup, "--data-dir", dir, "--log-level", "error")
			return ok || strings.Contains(out, "is there already")
		},
		judge: func(t *testing.T) {
			is, err := verify(dir)
			if want == "" {
				want = is
			}
			if err != nil || is != want {
				t.Errorf("restored is %s (%v), want %s", is, err, want)
			}
		},
	}
}
