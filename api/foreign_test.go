package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
)

// counting counts the work of a request that is not SQL.
type counting struct {
	Decider
	vault                  Vault
	submits, queries, puts atomic.Int64
}

func (c *counting) Submit(ctx context.Context, cmd *domain.Command) commands.Reply {
	c.submits.Add(1)
	return c.Decider.Submit(ctx, cmd)
}

func (c *counting) Query(ctx context.Context, a domain.Actor, f func(*domain.World, domain.Time)) (uint64, *domain.Error) {
	c.queries.Add(1)
	return c.Decider.Query(ctx, a, f)
}

func (c *counting) Put(ctx context.Context, subject string, b []byte) (domain.Digest, error) {
	c.puts.Add(1)
	return c.vault.Put(ctx, subject, b)
}

func (c *counting) Get(ctx context.Context, d domain.Digest) ([]byte, error) {
	return c.vault.Get(ctx, d)
}

func (c *counting) work() [3]int64 {
	return [3]int64{c.submits.Load(), c.queries.Load(), c.puts.Load()}
}

// foreigners are two tenants: acme, whose things are asked for, and other, whose
// people ask.
type foreigners struct {
	*world
	api       *openAPI
	routes    []documented // that need a key
	work      *counting
	attackers []string // keys of other's people
	lower     []string // keys of acme's people who may only look
	ended     []string // keys that are none
	own       map[string]string
	took      map[bool]time.Duration // by whether it is there, of pairs
	calls     map[string]uint64
	n         uint64
}

func newForeigners(t testing.TB) *foreigners {
	f := &foreigners{world: newTestWorld(t), own: map[string]string{}, took: map[bool]time.Duration{}, calls: map[string]uint64{}}
	f.server.denials.mu.Lock()
	f.server.denials.each = 1 << 30
	f.server.denials.mu.Unlock()
	f.work = &counting{Decider: f.server.o.Decider, vault: f.server.o.Vault}
	f.server.o.Decider, f.server.o.Vault = f.work, f.work
	f.api = f.openAPI()
	for _, d := range f.api.routes {
		if !d.open {
			f.routes = append(f.routes, d)
		}
	}
	begin := func(x *tenant) string {
		return f.want(201, x.owner, "POST", "/v1/projects/"+x.project+"/images/uploads", `{"digest":"sha256:`+strings.Repeat("2", 64)+`","size_bytes":9}`).get("id")
	}
	f.ids["b"] = begin(f.acme)
	o := f.other
	alloc := f.want(201, o.owner, "POST", "/v1/projects/"+o.project+"/allocations", `{"sku":"gpu-1x","image":"tiny"}`)
	key := f.want(201, o.owner, "POST", "/v1/tenants/"+o.id+"/api-keys", `{"name":"spare","role":"viewer"}`)
	member := f.want(201, o.owner, "POST", "/v1/tenants/"+o.id+"/members", `{"role":"viewer"}`).get("id")
	var project domain.ProjectID
	_ = project.UnmarshalText([]byte(o.project))
	e := f.system(&domain.RegisterImage{Image: domain.ImageSpec{Project: project, Name: "tiny", Digest: domain.Digest{1}, SizeBytes: 1, Format: domain.ImageRaw, DiskBytes: 1}})
	f.own = map[string]string{
		"t": o.id, "p": o.project, "a": alloc.get("id"), "vm": alloc.get("vms.0.id"), "k": key.get("id"), "u": member, "i": e[0].(*domain.ImageRegistered).ID.String(), "b": begin(o),
		"h": f.hostID, "d": domain.WipeDutyID{1}.String(), "c": domain.CorrectionID{1}.String(), "key": "quota.gpus", "slot": alloc.get("vms.0.slot_ids.0"), "sku": f.sku,
	}
	f.ids["vm"] = f.want(200, f.acme.owner, "GET", fmt.Sprintf("/v1/allocations/%s?at_least=%d", f.alloc, f.log.last()), "").get("vms.0.id")
	f.ids["slot"], f.ids["sku"] = f.slot, f.sku
	f.strangers["vm"], f.strangers["slot"], f.strangers["sku"] = domain.VMID{9}.String(), domain.SlotID{9}.String(), domain.SKUID{9}.String()
	f.attackers = []string{o.owner, o.admin, o.billing, o.viewer}
	f.lower = []string{f.acme.viewer, f.acme.billing}
	for kind, mine := range map[string]*tenant{"attackers": o, "lower": f.acme} {
		u := f.want(201, mine.owner, "POST", "/v1/tenants/"+mine.id+"/members", `{"role":"viewer"}`).get("id")
		role := map[string]string{"attackers": "admin", "lower": "viewer"}[kind]
		f.want(201, mine.owner, "POST", "/v1/projects/"+mine.project+"/members", fmt.Sprintf(`{"user_id":%q,"role":%q}`, u, role))
		k := f.want(201, mine.owner, "POST", "/v1/tenants/"+mine.id+"/api-keys", fmt.Sprintf(`{"name":"p","user_id":%q}`, u)).get("secret")
		if kind == "attackers" {
			f.attackers = append(f.attackers, k)
		} else {
			f.lower = append(f.lower, k)
		}
	}
	f.ended = []string{"", f.revoked, f.expired, "gpk_garbage"}
	f.want(200, o.owner, "GET", fmt.Sprintf("/v1/tenants/%s?at_least=%d", o.id, f.log.last()), "")
	return f
}

// whose is one of a request's ids: the caller's own, acme's, or nobody's.
type whose int

const (
	owned whose = iota
	foreign
	nobodys
)

// kindOf is what a name of the document's stands for, "" if it is no id.
func (f *foreigners) kindOf(path, name string) string {
	switch {
	case name == "s" && strings.Contains(path, "/skus/"):
		return "sku"
	case name == "v":
		return "vm"
	case name == "s" || name == "slot_id":
		return "slot"
	case name == "upload_id":
		return "b"
	case strings.HasSuffix(name, "_id"):
		return name[:1] // tenant_id: t
	}
	if _, ok := f.ids[name]; ok && name != "a" {
		return name
	}
	return map[bool]string{true: name}[name == "a"]
}

// request is one call with the ids left open.
type request struct {
	d       *documented
	ids     map[string]whose // by hole: "path p", "query tenant_id", "body user_id"
	query   url.Values
	body    any
	headers []header
}

// hole marks an id that is filled in later.
func hole(kind string, w whose) string { return fmt.Sprintf("<%s/%d>", kind, w) }

// make makes a random request of a route, with ids as pick says.
func (f *foreigners) make(r *rand.Rand, d *documented, pick func() whose) *request {
	q := &request{d: d, ids: map[string]whose{}, query: url.Values{}}
	id := func(in string) func(string) (string, bool) {
		return func(name string) (string, bool) {
			kind := f.kindOf(d.path, name)
			if kind == "" || kind == "key" || in != "path" && len(name) == 1 {
				return "", false
			}
			w := pick()
			q.ids[in+" "+kind] = w
			return hole(kind, w), true
		}
	}
	for _, p := range d.params {
		if p.In == "query" && p.Name != "at_least" && p.Name != "cursor" && p.Name != "after" && (p.Required || r.IntN(3) == 0) {
			q.query.Set(p.Name, fmt.Sprint(f.api.value(r, p.Name, p.Schema, id("query"))))
		}
	}
	for _, name := range d.holes() {
		_, _ = id("path")(name)
	}
	if d.body != nil && !d.bytes {
		q.body = f.api.value(r, "", d.body, id("body"))
	}
	if r.IntN(4) == 0 {
		q.headers = append(q.headers, header{"Idempotency-Key", fmt.Sprintf("k-%d", r.IntN(100))})
	}
	if d.bytes {
		q.headers = append(q.headers, bytesOfImage, header{"Upload-Offset", "0"})
	}
	return q
}

// theirs reports whether an id of acme's is asked for, other than things everybody
// may see.
func (q *request) theirs() bool {
	for where, w := range q.ids {
		if w == foreign && !strings.HasSuffix(where, " sku") {
			return true
		}
	}
	return false
}

// fill puts ids in; swap makes acme's those of nobody.
func (f *foreigners) fill(s string, swap bool) string {
	for w, ids := range map[whose]map[string]string{owned: f.own, foreign: f.ids, nobodys: f.strangers} {
		if w == foreign && swap {
			ids = f.strangers
		}
		for kind, id := range ids {
			s = strings.ReplaceAll(s, hole(kind, w), id)
		}
	}
	return s
}

// send makes the call; its time counts as one of a pair's.
func (f *foreigners) send(q *request, key string, swap, pair bool) (*answer, string, [3]int64) {
	f.t.Helper()
	path := q.d.path
	for _, name := range q.d.holes() {
		kind := f.kindOf(q.d.path, name)
		path = strings.ReplaceAll(path, "{"+name+"}", hole(kind, q.ids["path "+kind]))
	}
	path = strings.ReplaceAll(f.fill(path, swap), hole("key", 0), "quota.gpus")
	if len(q.query) > 0 {
		values := url.Values{}
		for k, v := range q.query {
			values.Set(k, f.fill(v[0], swap))
		}
		path += "?" + values.Encode()
	}
	body := ""
	if q.body != nil {
		b, err := encodeBody(q.body)
		if err != nil {
			f.t.Fatal(err)
		}
		body = f.fill(string(b), swap)
	} else if q.d.bytes {
		body = "x"
	}
	f.n++
	request := fmt.Sprintf("foreign-%09d", f.n)
	before, work := f.log.last(), f.work.work()
	f.audit.mu.Lock()
	f.audit.records = f.audit.records[:0]
	f.audit.mu.Unlock()
	at := time.Now()
	a := f.do(key, q.d.method, path, body, append(q.headers, header{"X-Request-Id", request})...)
	took := time.Since(at)
	f.calls[q.d.name()]++
	if pair {
		f.took[!swap] += took
	}
	did := f.work.work()
	for i := range did {
		did[i] -= work[i]
	}
	what := fmt.Sprintf("%s %s %.300s: %d %.500s", q.d.method, path, body, a.status, a.body)
	if f.byKeys(before) && a.status >= 300 {
		f.t.Errorf("refused, and in the log: %s", what)
	}
	if a.status >= 500 {
		f.t.Errorf("failed: %s", what)
	}
	records := f.audit.all()
	on := len(records) == 1 && records[0].Kind == "denial" && bytes.Contains(records[0].Data, []byte(`"request_id":"`+request+`"`))
	if denied := a.status == 401 || a.status == 403 || a.status == 404; denied != on {
		f.t.Errorf("on record: %v, of %s", on, what)
	}
	return a, what, did
}

// encodeBody leaves the marks of holes as they are.
func encodeBody(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSpace(b.Bytes()), err
}

// byKeys reports whether somebody with a key wrote into the log since; the site's own
// deadlines go on.
func (f *foreigners) byKeys(since uint64) bool {
	f.log.mu.Lock()
	defer f.log.mu.Unlock()
	for _, b := range f.log.commits[since:] {
		c, err := domain.DecodeCommit(b)
		if err != nil {
			f.t.Fatal(err)
		}
		for i := range c.Decisions {
			if c.Decisions[i].Command.Actor.Kind == domain.ActorKey {
				return true
			}
		}
	}
	return false
}

// plain is an answer without what is its own: ids that were sent, of the request, of
// the command, and the time.
func (f *foreigners) plain(a *answer) string {
	h := a.header.Clone()
	for _, name := range []string{"Date", "X-Request-Id", "Log-Sequence", "Command-Id"} {
		if h.Get(name) != "" {
			h.Set(name, "there")
		}
	}
	s := fmt.Sprintf("%d %v %s", a.status, h, withoutID(a))
	for kind := range f.ids {
		s = strings.ReplaceAll(s, f.strangers[kind], f.ids[kind])
	}
	return s
}

// part makes n random calls, all from one seed.
func (f *foreigners) part(seed uint64, n int) {
	r := rand.New(rand.NewPCG(seed, 0))
	for done := 0; done < n; {
		d := &f.routes[r.IntN(len(f.routes))]
		switch r.IntN(8) {
		case 0: // a key that is none: what is asked for does not matter
			q := f.make(r, d, func() whose { return whose(r.IntN(3)) })
			if a, what, did := f.send(q, f.ended[r.IntN(len(f.ended))], false, false); a.status != 401 || did != [3]int64{} {
				f.t.Errorf("without a key, with work %v: %s", did, what)
			}
			done++
		case 1: // acme's own people, who may only look
			if !d.changes() || len(d.holes()) == 0 {
				continue
			}
			q := f.make(r, d, func() whose { return foreign })
			if a, what, _ := f.send(q, f.lower[r.IntN(len(f.lower))], false, false); a.status < 400 {
				f.t.Errorf("done by who may only look: %s", what)
			}
			done++
		default:
			q := f.make(r, d, func() whose { return []whose{owned, foreign, foreign, nobodys}[r.IntN(4)] })
			if !q.theirs() {
				continue
			}
			f.pair(r, q, f.attackers[r.IntN(len(f.attackers))])
			done += 2
		}
	}
}

// pair asks for acme's and for what is not there, in either order.
func (f *foreigners) pair(r *rand.Rand, q *request, key string) {
	swap := r.IntN(2) == 0
	a, what, did := f.send(q, key, swap, true)
	b, also, alike := f.send(q, key, !swap, true)
	if x, y := f.plain(a), f.plain(b); x != y {
		f.t.Errorf("what is not theirs and what is not there differ:\n%s\n%s\n%s\n%s", what, also, x, y)
	}
	if did != alike {
		f.t.Errorf("commands, questions and documents %v and %v of\n%s\n%s", did, alike, what, also)
	}
	if a.status < 300 && q.d.changes() {
		f.t.Errorf("done, to another tenant's: %s", what)
	}
}

// TestForeign: whatever is asked of another tenant's things, by whomever, is answered
// as if they were not there, is on record, and writes nothing.
func TestForeign(t *testing.T) {
	t.Parallel()
	f := newForeigners(t)
	if !*hostileLong {
		f.part(1, 3000)
		for _, d := range f.routes {
			if f.calls[d.name()] == 0 {
				t.Logf("not in this slice: %s", d.name())
			}
		}
		return
	}
	const each, goal = 1000, 100_000
	c := openCampaign(t, "foreign")
	for began := time.Now(); time.Since(began) < *hostileFor && c.Counts["calls"] < goal && !t.Failed(); {
		f.part(1000+c.Parts, each)
		c.Parts++
		c.Counts["calls"] += each
		if !t.Failed() {
			c.keep(t)
		}
	}
	t.Logf("%d calls of %d to another tenant's things, none told apart from what is not there; the pairs of this part took %v for what is there, %v for what is not (%s)",
		c.Counts["calls"], goal, f.took[true].Round(time.Millisecond), f.took[false].Round(time.Millisecond), c.file)
}
