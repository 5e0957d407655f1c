package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/domain/domaintest"
	"github.com/gpuaas/gpuaas/streams/streamstest"
)

// A stopped site's files are damaged, one place in a copy of all of them, and the real
// programs are started on it. What was acknowledged is there, as it was; or the damage is
// said, with the place.

// damageTally is how far the campaign is.
type damageTally struct {
	Damages int            `json:"damages"`
	Ends    map[string]int `json:"ends"` // kind of file: how it ended
	Newest  []trialRun     `json:"newest"`
}

// damageable are the kinds of files, and what a message about one of them says.
var damageable = []struct {
	kind  string
	files []string // patterns in the data directory
	says  []string
}{
	{"log", []string{"nats/jetstream/jetstream/*/streams/LOG_*/msgs/*.blk"}, []string{"LOG_", "the log ends at"}},
	{"log's small files", []string{"nats/jetstream/jetstream/*/streams/LOG_*/meta.*", "nats/jetstream/jetstream/*/streams/LOG_*/msgs/index.db"}, []string{"LOG_", "the log ends at"}},
	{"feed", []string{"nats/jetstream/jetstream/*/streams/FEED_*/msgs/*", "nats/jetstream/jetstream/*/streams/FEED_*/meta.*"}, []string{"FEED_"}},
	{"vault", []string{"nats/jetstream/jetstream/*/streams/VAULT*/msgs/*", "nats/jetstream/jetstream/*/streams/VAULT*/meta.*"}, []string{"VAULT", "vault"}},
	{"audit", []string{"nats/jetstream/jetstream/*/streams/AUDIT_*/msgs/*", "nats/jetstream/jetstream/*/streams/AUDIT_*/meta.*"}, []string{"AUDIT_"}},
	{"other streams", []string{"nats/jetstream/jetstream/*/streams/[CPR]*/msgs/*", "nats/jetstream/jetstream/*/streams/[CPR]*/meta.*", "nats/jetstream/jetstream/*/streams/*/obs/*/*"}, []string{"CLAIM_", "PLACEMENTS_", "REPORTS_", "AUDIT_"}},
	{"snapshots", []string{"snapshots/*.world"}, []string{"snapshot"}},
	{"trust", []string{"nats/trust/*", "nats/trust/*/*", "nats/trust/*/*/*"}, []string{"trust"}},
	{"site's secrets", []string{"site.secret", "admin.key", "process.name", "audit.head"}, []string{"site.secret", "admin.key", "audit.head", "AUDIT_"}},
	{"Postgres", []string{"postgres/base/[0-9][0-9]*/*", "postgres/global/*", "postgres/pg_wal/*", "postgres/pg_xact/*"}, []string{"postgres", "Postgres", "read model", "checksum verification failed", "could not read block"}},
}

// wreck is a stopped site, and what it had acknowledged.
type wreck struct {
	*site
	te    tenant
	log   string            // every commit, as JSON
	feed  string            // every event, as JSON
	audit string            // every refusal, as JSON
	reads map[string]string // path: what was shown
}

var wreckPaths = []string{"/v1/tenants", "/v1/skus", "/v1/slots", "/v1/tenants/{t}/ledger", "/v1/tenants/{t}/credits", "/v1/tenants/{t}/api-keys", "/v1/projects/{p}/allocations"}

// wreckVMs are launched, and every other one released.
const wreckVMs = 8

// wreckDenials are asked for: no more than are kept of one caller in a second.
const wreckDenials = 8

// newWreck has a site work a little, and stops it: cleanly, or by kill -9.
func newWreck(t *testing.T, clean bool) *wreck {
	t.Helper()
	// Its hosts find each copy at the same address.
	w := &wreck{site: dev(t, 2, 4, "--snapshot-every", "40", "--nats-listen", fmt.Sprint("127.0.0.1:", streamstest.Port(t))), reads: map[string]string{}}
	w.te = w.newTenant("acme", 1_000_000_000)
	for i := range wreckVMs {
		a := w.te.launch(obj{"name": fmt.Sprint("vm", i), "sku": "gpu-1x", "user_data": fmt.Sprintf("#!/bin/sh\necho s3cret %d\n", i)})
		w.te.becomes(a.ID, "running")
		if i%2 == 0 {
			w.te.do(202, "DELETE", "/v1/allocations/"+a.ID, nil)
			w.te.becomes(a.ID, "released")
			w.slotBecomes(a.VMs[0].SlotIDs[0], "available")
		}
	}
	least := w.te.head()
	for _, p := range wreckPaths {
		path := strings.NewReplacer("{t}", w.te.id, "{p}", w.te.project).Replace(p)
		a := w.operator().do(200, "GET", path+fmt.Sprintf("?limit=100&at_least=%d", least), nil)
		w.reads[path] = steady(a.body)
	}
	w.te.denied(wreckDenials)
	failed := func(format string, args ...any) { t.Errorf(format, args...) }
	eventually(t, limit, "refusals in the audit stream", func() error {
		w.audit = w.denials(w.site, failed)
		return errNo(strings.Count(w.audit, "\n") >= wreckDenials, w.audit)
	})
	w.auditKept(strings.Count(w.audit, "\n"))
	w.feed = w.events(w.site, failed)
	var code int
	if w.log, _, code = tool(t, "log", "export", "--data-dir", w.dir, "--to", fmt.Sprint(least)); code != 0 {
		t.Fatal("no export")
	}
	if clean {
		w.interrupt()
	}
	w.gone()
	eventually(t, limit, "the end of Postgres, whose processes outlive their parent by a moment", func() error {
		all, _ := filepath.Glob("/proc/[0-9]*/cwd")
		return errNo(!slices.ContainsFunc(all, func(p string) bool {
			at, _ := os.Readlink(p)
			return strings.HasPrefix(at, w.dir)
		}), "not yet")
	})
	_ = os.Remove(filepath.Join(w.dir, "postgres", "postmaster.pid")) // of another machine, as it were
	return w
}

// denied asks for so many things that are not there.
func (te tenant) denied(n int) {
	te.s.t.Helper()
	for i := range n {
		te.refused(404, "allocation.not_found", "GET", fmt.Sprintf("/v1/allocations/alloc_%026d", i), nil)
	}
}

// auditKept waits until it is written down that the audit stream has so many records.
func (s *site) auditKept(n int) {
	s.t.Helper()
	eventually(s.t, limit, "the audit stream's end to be written down", func() error {
		head, _ := os.ReadFile(filepath.Join(s.dir, "audit.head"))
		return errNo(string(head) == fmt.Sprintln(n), string(head))
	})
}

// steady is an answer without what time changes.
func steady(body []byte) string {
	var v any
	if json.Unmarshal(body, &v) != nil {
		return string(body)
	}
	var drop func(any)
	drop = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, k := range []string{"as_of", "runway", "health", "ends_at"} {
				delete(v, k)
			}
			for _, x := range v {
				drop(x)
			}
		case []any:
			for _, x := range v {
				drop(x)
			}
		}
	}
	drop(v)
	b, _ := json.Marshal(v)
	return string(b)
}

// damage changes one place of one file. It returns which, and what was done to it.
func damage(t *testing.T, dir string, patterns []string, r *rand.Rand) (file, what string) {
	t.Helper()
	var files []string
	for _, p := range patterns {
		found, _ := filepath.Glob(filepath.Join(dir, p))
		for _, f := range found {
			if st, err := os.Stat(f); err == nil && st.Mode().IsRegular() && st.Size() > 0 {
				files = append(files, f)
			}
		}
	}
	if len(files) == 0 {
		t.Fatalf("no file in %s is like %v", dir, patterns)
	}
	file = files[r.IntN(len(files))]
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	bad, at := slices.Clone(b), r.IntN(len(b))
	for bytes.Equal(bad, b) {
		switch r.IntN(4) {
		case 0:
			bad[at] ^= 1 << r.IntN(8)
			what = fmt.Sprintf("a bit of byte %d flipped", at)
		case 1:
			bad[at] = byte(r.IntN(256))
			what = fmt.Sprintf("byte %d is another", at)
		case 2:
			bad = bad[:at]
			what = fmt.Sprintf("torn off after byte %d of %d", at, len(b))
		default:
			from := at / 512 * 512
			clear(bad[from:min(from+512, len(bad))])
			what = fmt.Sprintf("the sector of byte %d is zero", from)
		}
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_TRUNC, 0) // owner and mode stay
	if err == nil {
		_, err = f.Write(bad)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(file, dir+"/"), what
}

// survives starts the site on a damaged copy. It returns how that ended.
func (w *wreck) survives(t *testing.T, kind int, r *rand.Rand) (end string) {
	t.Helper()
	c := &site{t: t, dir: dataDir(t), args: w.args}
	t.Cleanup(c.gone)
	if out, err := exec.Command("cp", "-a", w.dir+"/.", c.dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	d := damageable[kind]
	file, what := damage(t, c.dir, d.files, r)
	t.Logf("%s: %s, %s", d.kind, file, what)
	var said strings.Builder
	for round := range 2 { // what a start has repaired the next one finds in order
		if err := c.tryStart(); err != nil {
			fmt.Fprintf(&said, "REFUSED: %v\n", err)
			c.gone()
			break
		}
		said.WriteString(w.check(t, c, round == 1))
		if err := c.cmd.Process.Signal(os.Interrupt); err == nil {
			c.ended(t, limit)
		}
		fmt.Fprintf(&said, "it said:\n%s\n", c.out.tail())
		c.gone()
	}
	if checks, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pg_checksums"); len(checks) > 0 && strings.HasPrefix(file, "postgres/") {
		// A page that nobody has read is not said by the site, but by Postgres's own tool.
		if out, err := exec.Command(checks[len(checks)-1], "--check", "-D", filepath.Join(c.dir, "postgres")).CombinedOutput(); err != nil {
			fmt.Fprintf(&said, "CHECK pg_checksums: %v: %s\n", err, out)
		}
	}
	text := said.String()
	named := slices.ContainsFunc(d.says, func(s string) bool { return strings.Contains(text, s) })
	switch {
	case strings.Contains(text, "REFUSED"):
		end = "refused to start"
	case strings.Contains(text, "CHECK"):
		end = "named by a check"
	case named:
		end = "repaired, and said"
	default:
		end = "nothing wrong"
	}
	t.Logf("%s\n%s", end, text)
	verify, reconcile := strings.Contains(text, "CHECK verify"), strings.Contains(text, "CHECK reconcile")
	silent := strings.Contains(text, "LOST") && !verify || strings.Contains(text, "WRONG read") && !reconcile || strings.Contains(text, "WRONG feed") && !verify || strings.Contains(text, "WRONG audit") && !named
	if silent || end != "nothing wrong" && !named {
		t.Errorf("%s, and that does not name it", end)
	}
	return end
}

// check has every check look at a site that runs, and returns what they object to.
func (w *wreck) check(t *testing.T, c *site, launch bool) string {
	t.Helper()
	var out strings.Builder
	object := func(format string, args ...any) { fmt.Fprintf(&out, "CHECK "+format+"\n", args...) }
	c.client = newClient(nil)
	c.client.Timeout = 5 * time.Second
	op := caller{c, w.key}
	for path, before := range w.reads {
		a, err := op.ask("GET", path+"?limit=100&at_least="+fmt.Sprint(w.head()), nil)
		if err != nil || a.status != 200 {
			object("read %s: %v %+v", path, err, a)
			launch = false
			break // the others are not answered either
		}
		if steady(a.body) != before {
			object("WRONG read %s:\n%s\nwas\n%s", path, steady(a.body), before)
		}
	}
	a, err := caller{c, w.te.key}.ask("POST", "/v1/tenants/"+w.te.id+"/projects", obj{"name": fmt.Sprint("n", time.Now().UnixNano())})
	if err != nil || a.status != 201 {
		object("write: %v %+v", err, a)
	}
	export, stderr, code := tool(t, "log", "export", "--site", "dev", "--data-dir", c.dir)
	if code != 0 {
		object("log export: %s", stderr)
	} else if !strings.HasPrefix(export, w.log) {
		object("LOST: the log does not begin with what was acknowledged")
	}
	for _, args := range [][]string{{"log", "verify"}, {"projections", "reconcile", "--log-level", "error"}, {"site", "backup", "--to", filepath.Join(dataDir(t), "backup")}} {
		// It waits a minute for a database that may come back.
		if out, stderr, code := toolWithin(t, 3*startLimit, append(args, "--site", "dev", "--data-dir", c.dir)...); code != 0 || strings.Contains(out, "DAMAGED") {
			object("%s: %s%s", args[1], out, stderr)
		}
	}
	if launch {
		te := tenant{caller: caller{c, w.te.key}, id: w.te.id, project: w.te.project}
		for range wreckVMs / 2 { // on every slot that is free
			te.launches(object)
		}
	}
	if audit := w.denials(c, object); !strings.HasPrefix(audit, w.audit) {
		object("WRONG audit: it does not begin as it did:\n%s\nwas\n%s", audit, w.audit)
	}
	feed := w.events(c, object)
	if !strings.HasPrefix(feed, w.feed) {
		object("WRONG feed: it does not begin as it did")
	}
	return out.String()
}

// launches wants a VM to run.
func (te tenant) launches(object func(string, ...any)) {
	a, err := te.ask("POST", "/v1/projects/"+te.project+"/allocations", obj{"sku": "gpu-1x", "user_data": "more"})
	if err != nil || a.status != 201 {
		object("launch: %v %+v", err, a)
		return
	}
	var made allocation
	a.into(te.s.t, &made)
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); made.State != "running"; <-tick.C {
		if a, err = te.ask("GET", "/v1/allocations/"+made.ID, nil); err == nil && a.status == 200 {
			a.into(te.s.t, &made)
		}
		if time.Now().After(deadline) {
			object("launch: %v %+v", err, a)
			return
		}
	}
}

// page asks for one page of a list; ok is false when it is not answered.
func (w *wreck) page(c *site, path string, object func(string, ...any)) (items []json.RawMessage, next string, ok bool) {
	a, err := caller{c, w.key}.ask("GET", path, nil)
	if err != nil || a.status != 200 {
		object("%s: %v %+v", path, err, a)
		return nil, "", false
	}
	var page struct {
		Items []json.RawMessage
		Next  string `json:"next_cursor"`
	}
	a.into(c.t, &page)
	return page.Items, page.Next, true
}

// denials reads the whole of what was refused.
func (w *wreck) denials(c *site, object func(string, ...any)) string {
	var all strings.Builder
	for cursor := ""; ; { // ends with the last page
		items, next, ok := w.page(c, "/v1/audit/denials?limit=5"+cursor, object)
		for _, item := range items {
			fmt.Fprintf(&all, "%s\n", item)
		}
		if !ok || next == "" {
			return all.String()
		}
		cursor = "&cursor=" + next
	}
}

// events reads the whole feed.
func (w *wreck) events(c *site, object func(string, ...any)) string {
	var all strings.Builder
	number := uint64(0)
	for after := ""; ; {
		items, next, ok := w.page(c, "/v1/events?limit=100&after="+after, object)
		for _, item := range items {
			var e event
			if err := json.Unmarshal(item, &e); err != nil {
				object("feed: %v", err)
			}
			if number++; e.Number != number {
				object("WRONG feed: event %d where %d should be", e.Number, number)
				return all.String()
			}
			fmt.Fprintf(&all, "%s\n", item)
		}
		if after = next; !ok || len(items) == 0 {
			return all.String()
		}
	}
}

func (w *wreck) head() int { return strings.Count(w.log, "\n") }

// TestDamageSlice damages a few files.
func TestDamageSlice(t *testing.T) {
	t.Parallel()
	someDamage(t, seedOfRun(), 2)
}

// someDamage damages one site in a few ways. It returns how each ended.
func someDamage(t *testing.T, seed uint64, n int) (ends map[string]int) {
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 4))
	ends = map[string]int{}
	w := newWreck(t, r.IntN(2) == 0)
	order := r.Perm(len(damageable))
	for i := range n {
		kind := order[i%len(order)]
		t.Run(damageable[kind].kind, func(t *testing.T) { ends[damageable[kind].kind+": "+w.survives(t, kind, r)]++ })
	}
	return ends
}

// TestDamage goes on where it ended the last time.
func TestDamage(t *testing.T) {
	if !*campaignLong {
		t.Skip("make test-long")
	}
	file := filepath.Join(*campaignCache, "damage.json")
	sum := damageTally{Ends: map[string]int{}}
	if err := domaintest.ReadCount(file, &sum); err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); time.Since(began) < *campaignFor; {
		var ends map[string]int
		seed, n := seedOfRun(), 2*len(damageable)
		if !t.Run(fmt.Sprint(seed), func(t *testing.T) { ends = someDamage(t, seed, n) }) {
			t.FailNow()
		}
		sum.Damages += n
		for end, k := range ends {
			sum.Ends[end] += k
		}
		sum.Newest = append(sum.Newest, trialRun{time.Now().UTC().Format(time.DateOnly), domaintest.Commit(), seed, n})
		sum.Newest = sum.Newest[max(0, len(sum.Newest)-keepRuns):]
		if err := domaintest.WriteCount(file, sum); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d damages: %s (%s)", sum.Damages, describe(sum.Ends), file)
}

// TestDamageIsRepaired goes the ways out: tables and feed are made anew from the log, beside
// which a damaged database does not keep the site from starting.
func TestDamageIsRepaired(t *testing.T) {
	t.Parallel()
	s := newSite(t, "serve", "--log-level", "warn")
	te := s.newTenant("acme", 5)
	shown := func() (name string, events string) {
		t.Helper()
		var p struct{ Name string }
		again := tenant{caller: caller{s, te.key}, id: te.id, project: te.project}
		again.get(fmt.Sprintf("/v1/projects/%s?at_least=%d", te.project, again.head()), &p)
		return p.Name, (&wreck{site: s}).events(s, func(format string, args ...any) { t.Errorf(format, args...) })
	}
	name, events := shown()
	te.denied(3)
	s.auditKept(3)
	s.interrupt()
	each := func(pattern string, at func(b []byte)) {
		t.Helper()
		files, err := filepath.Glob(filepath.Join(s.dir, pattern))
		if err != nil || len(files) == 0 {
			t.Fatal(pattern, err)
		}
		b, err := os.ReadFile(files[len(files)-1])
		if err != nil {
			t.Fatal(err)
		}
		at(b)
		if err := os.WriteFile(files[len(files)-1], b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	each("postgres/base/[0-9][0-9]*/1259", func(b []byte) { // pg_class
		for i := 4096; i < len(b); i += 8192 {
			b[i] ^= 1
		}
	})
	each("nats/jetstream/jetstream/*/streams/FEED_*/msgs/1.blk", func(b []byte) { b[len(b)/2] ^= 1 })
	each("nats/jetstream/jetstream/*/streams/AUDIT_*/msgs/1.blk", func(b []byte) { clear(b[len(b)/2:]) }) // from the second of three on

	began := time.Now()
	s.start()
	if took := time.Since(began); took > startLimit/2 {
		t.Errorf("the start waited %v for a database that is damaged", took)
	}
	if status, body, err := look(s.address(), "/readyz"); err != nil || status != 503 || !strings.Contains(body, "Postgres does not answer") {
		t.Errorf("readyz: %d %s (%v)", status, body, err)
	}
	if !strings.Contains(s.out.String(), "invalid page in block") {
		t.Errorf("it does not say what is damaged: %s", s.out.tail())
	}
	s.newTenant("written", 5)
	eventually(t, limit, "what the audit stream lost to be said", func() error {
		return errNo(strings.Contains(s.out.String(), "the audit stream lost its end"), s.out.tail())
	})
	verify := func() (string, int) {
		out, stderr, code := tool(t, "log", "verify", "--data-dir", s.dir)
		return out + stderr, code
	}
	if said, code := verify(); code == 0 || !strings.Contains(said, "FEED_dev: message ") || !strings.Contains(said, "streams rebuild-feed") {
		t.Errorf("log verify: exit code %d: %s", code, said)
	}
	if out, stderr, code := tool(t, "streams", "rebuild-feed", "--data-dir", s.dir); code != 0 {
		t.Errorf("rebuild-feed: exit code %d: %s%s", code, out, stderr)
	}
	s.interrupt()
	if err := os.RemoveAll(filepath.Join(s.dir, "postgres")); err != nil {
		t.Fatal(err)
	}
	s.start()
	againName, againEvents := shown()
	if againName != name || !strings.HasPrefix(againEvents, events) {
		t.Errorf("it shows %q and %d bytes of events, before %q and %d", againName, len(againEvents), name, len(events))
	}
	if said, code := verify(); code != 0 || !strings.Contains(said, "audit: DAMAGED: AUDIT_dev ends with record 1, and record 3 was kept") {
		t.Errorf("log verify: exit code %d: %s", code, said)
	}
	s.interrupt()
}
