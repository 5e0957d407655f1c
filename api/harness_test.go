package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/projections"
	"github.com/gpuaas/gpuaas/projections/pglocal"
)

// postgres is one server for all tests, started by the first that reads.
var postgres = sync.OnceValues(func() (*pglocal.Server, error) {
	return pglocal.Start(context.Background(), pglocal.Options{DataDir: filepath.Join(scratch, "pg"), Unsafe: true})
})

var scratch string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	var err error
	if scratch, err = os.MkdirTemp("/tmp", "api-"); err != nil {
		panic(err)
	}
	defer os.RemoveAll(scratch)
	if err := os.Chmod(scratch, 0o755); err != nil {
		panic(err)
	}
	code := m.Run()
	if started.Load() {
		if pg, err := postgres(); err == nil {
			pg.Stop(context.Background())
		}
	}
	return code
}

var started atomic.Bool
var databases atomic.Int64

// readModel gives the site a read model of its own.
func (s *site) readModel(o *Options) (stop func()) {
	s.t.Helper()
	started.Store(true)
	pg, err := postgres()
	if err != nil {
		s.t.Fatal(err)
	}
	if s.database == "" {
		if s.database, err = pg.CreateDatabase(context.Background(), fmt.Sprintf("t%d_%d", os.Getpid(), databases.Add(1))); err != nil {
			s.t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	store, err := projections.Open(ctx, projections.Config{URL: s.database, Site: "test", Region: "auh1", ReadConns: 4})
	if err != nil {
		s.t.Fatal(err)
	}
	p := store.Projector(s.log)
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	o.Reads, o.Wait = store.Reader(s.secret[:]), p
	return func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			s.t.Errorf("projector: %v", err)
		}
		store.Close()
	}
}

// Follow implements projections.Source.
func (l *memoryLog) Follow(ctx context.Context, after domain.Head, fn func(*domain.Commit, domain.Head) error) error {
	for n := after.N; ; {
		l.mu.Lock()
		rest, more := l.commits[n:], l.more
		l.mu.Unlock()
		for _, b := range rest {
			c, err := domain.DecodeCommit(b)
			if err != nil {
				return err
			}
			if err := fn(c, domain.Head{N: c.N, Hash: domain.DigestOf(b)}); err != nil {
				return err
			}
			n++
		}
		if len(rest) > 0 {
			continue
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// End implements projections.Source.
func (l *memoryLog) End(context.Context) (projections.End, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.commits) == 0 {
		return projections.End{}, nil
	}
	return projections.End{Head: domain.Head{N: uint64(len(l.commits)), Hash: domain.DigestOf(l.commits[len(l.commits)-1])}, Number: uint64(len(l.events))}, nil
}

// memoryLog is a log that is durable as long as the test: commits, and what the
// feed and history make of them.
type memoryLog struct {
	mu      sync.Mutex
	commits [][]byte
	events  []FeedEvent
	owners  []string
	more    chan struct{} // closed and renewed with every commit
}

func newMemoryLog() *memoryLog { return &memoryLog{more: make(chan struct{})} }

func (l *memoryLog) Seq(n uint64) uint64 { return n }

func (l *memoryLog) Append(_ context.Context, expected uint64, commit []byte) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if uint64(len(l.commits)) != expected {
		return 0, errors.New("wrong last sequence")
	}
	b := bytes.Clone(commit)
	c, err := domain.DecodeCommit(b)
	if err != nil {
		return 0, err
	}
	l.commits = append(l.commits, b)
	for i := range c.Decisions {
		for _, e := range c.Decisions[i].Events {
			data, err := json.Marshal(e.Body)
			if err != nil {
				return 0, err
			}
			l.events = append(l.events, FeedEvent{Number: e.Number, Commit: c.N, Type: e.Body.EventType(), Resource: e.Body.Resource(), At: c.At, Data: data})
			l.owners = append(l.owners, e.Body.Owner())
		}
	}
	close(l.more)
	l.more = make(chan struct{})
	return uint64(len(l.commits)), nil
}

func (l *memoryLog) last() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(len(l.commits))
}

func (l *memoryLog) Decision(_ context.Context, pos domain.Position) (domain.Decision, domain.Time, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, err := domain.DecodeCommit(l.commits[pos.N-1])
	if err != nil {
		return domain.Decision{}, 0, err
	}
	return c.Decisions[pos.Index], c.At, nil
}

func (l *memoryLog) from(after uint64, limit int, f FeedFilter) (out []FeedEvent, next uint64, more chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	next = after
	for i := int(after); i < len(l.events) && len(out) < limit; i++ {
		next = l.events[i].Number
		if f.Tenant.IsZero() && f.Host.IsZero() || !f.Tenant.IsZero() && l.owners[i] == f.Tenant.String() || !f.Host.IsZero() && l.owners[i] == f.Host.String() {
			out = append(out, l.events[i])
		}
	}
	return out, next, l.more
}

func (l *memoryLog) Page(_ context.Context, after uint64, limit int, f FeedFilter) ([]FeedEvent, uint64, error) {
	out, next, _ := l.from(after, limit, f)
	return out, next, nil
}

func (l *memoryLog) Last(context.Context) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(len(l.events)), nil
}

func (l *memoryLog) Subscribe(ctx context.Context, after uint64, f FeedFilter, fn func(FeedEvent) error) error {
	for {
		out, next, more := l.from(after, 100, f)
		for _, e := range out {
			if err := fn(e); err != nil {
				return err
			}
		}
		if next > after {
			after = next
			continue
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

type memoryVault struct {
	mu   sync.Mutex
	docs map[domain.Digest][]byte
}

func (v *memoryVault) Put(_ context.Context, subject string, plain []byte) (domain.Digest, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	d := domain.DigestOf(fmt.Appendf(nil, "%d %s %s", len(v.docs), subject, plain))
	v.docs[d] = plain
	return d, nil
}

func (v *memoryVault) Get(_ context.Context, d domain.Digest) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.docs[d], nil
}

func (v *memoryVault) len() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.docs)
}

type memoryAudit struct {
	mu      sync.Mutex
	records []AuditRecord
}

func (a *memoryAudit) Record(kind string, data []byte) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.records = append(a.records, AuditRecord{Cursor: uint64(len(a.records) + 1), Kind: kind, At: time.Now(), Data: data})
	return true
}

func (a *memoryAudit) Page(_ context.Context, after uint64, limit int, _ ...string) ([]AuditRecord, uint64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	rest := a.records[min(int(after), len(a.records)):]
	rest = rest[:min(limit, len(rest))]
	return append([]AuditRecord(nil), rest...), after + uint64(len(rest)), nil
}

func (a *memoryAudit) all() []AuditRecord {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]AuditRecord(nil), a.records...)
}

type stubs struct{}

func (stubs) Read(_ context.Context, _ domain.HostID, vm domain.VMID, offset int64, limit int) ([]byte, int64, error) {
	text := "console of " + vm.String() + "\n"
	if offset < 0 {
		offset = max(0, int64(len(text))+offset)
	}
	part := text[min(int64(len(text)), offset):]
	part = part[:min(limit, len(part))]
	return []byte(part), offset + int64(len(part)), nil
}

func (stubs) Issue(host domain.HostID, key string) (string, error) {
	return "jwt." + host.String() + "." + key, nil
}

func (stubs) Resolve(name string) (domain.Digest, error) {
	if name == "tiny" || name == "ubuntu-24.04" {
		return domain.DigestOf([]byte(name)), nil
	}
	return domain.Digest{}, domain.Errorf(domain.Invalid, "image.not_found", "no such image")
}

// site is a whole site in memory with a listener, an operator and what a test
// adds.
type site struct {
	t        testing.TB
	secret   [32]byte
	log      *memoryLog
	loop     *commands.Loop
	vault    *memoryVault
	audit    *memoryAudit
	server   *Server
	http     *httptest.Server
	admin    string // the operator's key
	op       domain.UserID
	stop     func()
	change   func(*Options)
	database string
	reading  bool // has a read model
}

func newSite(t testing.TB, change ...func(*Options)) *site {
	t.Helper()
	return newSiteWith(t, false, change...)
}

// newReadingSite is a site with a read model.
func newReadingSite(t testing.TB, change ...func(*Options)) *site {
	t.Helper()
	return newSiteWith(t, true, change...)
}

func newSiteWith(t testing.TB, reading bool, change ...func(*Options)) *site {
	t.Helper()
	s := &site{t: t, reading: reading, secret: [32]byte{1, 2, 3}, log: newMemoryLog(), vault: &memoryVault{docs: map[domain.Digest][]byte{}}, audit: &memoryAudit{}, op: domain.UserID{1}}
	s.change = func(o *Options) {
		for _, f := range change {
			f(o)
		}
	}
	s.start()
	t.Cleanup(func() { s.stop() })
	s.system(&domain.SetOperator{User: s.op, Roles: domain.RoleOperator | domain.RoleFinance})
	s.admin = s.key(domain.TenantID{}, s.op, 0, 0)
	return s
}

// start folds the log and opens the listener.
func (s *site) start() {
	s.t.Helper()
	w := domain.NewWorld()
	for _, b := range s.log.commits {
		if err := commands.Fold(w, b); err != nil {
			s.t.Fatal(err)
		}
	}
	loop, err := commands.NewLoop(w, commands.Options{Site: "test", Build: "test", Log: s.log})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- loop.Run(ctx) }()
	<-loop.Started()
	s.loop = loop
	o := Options{
		Site: "test", Region: "auh1", Secret: s.secret, Decider: loop, Callers: loop.Directory(), History: s.log, Feed: s.log, Vault: s.vault, Audit: s.audit,
		Consoles: stubs{}, Hosts: stubs{}, Images: stubs{}, NATSURL: "tls://nats.test:4222",
	}
	s.change(&o)
	stopReads := func() {}
	if s.reading {
		stopReads = s.readModel(&o)
	}
	var h http.Handler
	s.server, h = New(o)
	s.http = httptest.NewUnstartedServer(h)
	s.http.Config = HTTPServer(h)
	s.http.Start()
	s.stop = func() {
		s.server.Close()
		s.http.Close()
		stopReads()
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("loop: %v", err)
		}
	}
}

// restart stops the process and starts the next one on the same log.
func (s *site) restart() {
	s.t.Helper()
	s.stop()
	s.start()
}

func (s *site) system(b domain.CommandBody) []domain.EventBody {
	s.t.Helper()
	return s.as(domain.System, b)
}

func (s *site) as(a domain.Actor, b domain.CommandBody) []domain.EventBody {
	s.t.Helper()
	var e domain.Entropy
	r := s.loop.Submit(context.Background(), &domain.Command{ID: commands.NewCommandID(time.Now(), e), Actor: a, Body: b})
	if r.Err != nil {
		s.t.Fatalf("%s: %v", b.CommandType(), r.Err)
	}
	return r.Events
}

var keys struct {
	sync.Mutex
	n int
}

// key makes an API key behind the API's back and returns its secret.
func (s *site) key(t domain.TenantID, u domain.UserID, role domain.TenantRole, expires domain.Time) string {
	s.t.Helper()
	keys.Lock()
	keys.n++
	secret := fmt.Sprintf("gpk_test_%d", keys.n)
	keys.Unlock()
	s.system(&domain.CreateAPIKey{Tenant: t, User: u, Role: role, Name: "k", Hash: SecretHash(secret), Expires: expires})
	return secret
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a *answer) get(path string) string {
	var v any
	if json.Unmarshal(a.body, &v) != nil {
		return ""
	}
	for _, p := range strings.Split(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[p]
		case []any:
			var i int
			if _, err := fmt.Sscan(p, &i); err != nil || i >= len(x) {
				return ""
			}
			v = x[i]
		default:
			return ""
		}
	}
	if v == nil {
		return ""
	}
	if s, ok := v.(string); ok {
		return s
	}
	b, _ := json.Marshal(v)
	return string(b)
}

type header struct{ name, value string }

func (s *site) do(key, method, path, body string, headers ...header) *answer {
	s.t.Helper()
	a, err := s.try(key, method, path, body, headers...)
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

func (s *site) try(key, method, path, body string, headers ...header) (*answer, error) {
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, s.http.URL+path, r)
	if err != nil {
		return nil, err
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		req.Header.Set(h.name, h.value)
	}
	res, err := s.http.Client().Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return &answer{res.StatusCode, res.Header, b}, err
}

// want sends a request that must be answered with the status.
func (s *site) want(status int, key, method, path, body string, headers ...header) *answer {
	s.t.Helper()
	a := s.do(key, method, path, body, headers...)
	if a.status != status {
		s.t.Fatalf("%s %s: %d, want %d: %s", method, path, a.status, status, a.body)
	}
	return a
}

// refused sends a request that must be refused with the code, and write nothing.
func (s *site) refused(status int, code, key, method, path, body string, headers ...header) *answer {
	s.t.Helper()
	before := s.log.last()
	a := s.want(status, key, method, path, body, headers...)
	if got := a.get("code"); got != code {
		s.t.Fatalf("%s %s: code %q, want %q: %s", method, path, got, code, a.body)
	}
	if ct := a.header.Get("Content-Type"); ct != "application/problem+json" {
		s.t.Fatalf("%s %s: content type %q", method, path, ct)
	}
	if got := s.log.last(); got != before {
		s.t.Fatalf("%s %s: refused, and the log grew by %d", method, path, got-before)
	}
	return a
}

// tenant is a tenant made over REST, with people in all roles.
type tenant struct {
	id, project                   string
	owner, admin, billing, viewer string // keys
}

func (s *site) tenant(name string, credit int64) *tenant {
	s.t.Helper()
	t := &tenant{id: s.want(201, s.admin, "POST", "/v1/tenants", fmt.Sprintf(`{"name":%q,"currency":"USD"}`, name)).get("id")}
	for role, key := range map[string]*string{"owner": &t.owner, "admin": &t.admin, "billing": &t.billing, "viewer": &t.viewer} {
		*key = s.want(201, s.admin, "POST", "/v1/tenants/"+t.id+"/api-keys", fmt.Sprintf(`{"name":"k-%s","role":%q}`, role, role)).get("secret")
	}
	t.project = s.want(201, t.owner, "POST", "/v1/tenants/"+t.id+"/projects", `{"name":"main"}`).get("id")
	if credit > 0 {
		s.want(201, s.admin, "POST", "/v1/tenants/"+t.id+"/credits", fmt.Sprintf(`{"currency":"USD","amount_micros":%d,"kind":"paid"}`, credit))
	}
	return t
}

func (s *site) sku(name string, shape int, price int64) string {
	s.t.Helper()
	id := s.want(201, s.admin, "POST", "/v1/skus", fmt.Sprintf(`{"name":%q,"shape":%d}`, name, shape)).get("id")
	s.want(201, s.admin, "POST", "/v1/skus/"+id+"/prices", fmt.Sprintf(`{"currency":"USD","micros_per_unit_hour":%d}`, price))
	return id
}

func testMap(host string, slots int) *domain.SlotMap {
	m := &domain.SlotMap{GPUClass: "sim-gpu"}
	node := domain.NUMANode{MemoryMiB: 1 << 20}
	for i := range 1 + slots {
		node.Threads = append(node.Threads, uint16(i))
	}
	m.Nodes = append(m.Nodes, node)
	for i := range slots {
		m.Slots = append(m.Slots, domain.SlotSpec{
			Index: uint32(i), MemoryMiB: 1 << 10, IOMMUGroups: []uint32{uint32(i)}, Threads: []uint16{uint16(i)},
			GPU:  domain.Device{Address: fmt.Sprintf("0000:%02x:00.0", i+1), Serial: fmt.Sprintf("GPU-%s-%d", host, i)},
			NVMe: domain.Device{Address: fmt.Sprintf("0000:%02x:00.0", i+0x41), Serial: fmt.Sprintf("NVME-%s-%d", host, i), SizeBytes: 1 << 40},
			IBVF: domain.Device{Address: fmt.Sprintf("0000:%02x:00.1", i+0x81), Serial: fmt.Sprintf("VF-%s-%d", host, i)},
		})
	}
	return m
}

// fakeHost reports as a well-behaved host would.
type fakeHost struct {
	s       *site
	id      domain.HostID
	m       *domain.SlotMap
	journal domain.JournalID
	n       uint64
}

// host enrols a host over REST, approves its map and wipes its slots.
func (s *site) host(name string, slots int) *fakeHost {
	s.t.Helper()
	h := &fakeHost{s: s, m: testMap(name, slots)}
	token := s.want(201, s.admin, "POST", "/v1/hosts", fmt.Sprintf(`{"name":%q,"rack":"r1"}`, name)).get("enrolment_token")
	e := s.want(200, "", "POST", "/v1/enroll", fmt.Sprintf(`{"token":%q,"signing_public_key":%q,"nats_public_key":"U%055d"}`, token, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", 1))
	if err := h.id.UnmarshalText([]byte(e.get("host_id"))); err != nil || h.id.IsZero() {
		s.t.Fatal(err, string(e.body))
	}
	copy(h.journal[:], name+"-journal-------")
	h.report(domain.Report{Kind: domain.ReportInventory, Inventory: h.m})
	s.want(202, s.admin, "POST", "/v1/hosts/"+h.id.String()+"/slot-map/approve", fmt.Sprintf(`{"digest":%q,"wipe_policy":"auto"}`, h.m.Digest()))
	h.wipe()
	return h
}

func (h *fakeHost) placement() *domain.Placement {
	var p *domain.Placement
	if _, err := h.s.loop.Query(context.Background(), domain.System, func(w *domain.World, _ domain.Time) { p, _ = w.PlacementOf(h.id) }); err != nil {
		h.s.t.Fatal(err)
	}
	return p
}

func (h *fakeHost) report(r domain.Report) {
	h.s.t.Helper()
	h.n++
	p := h.placement()
	r.Host, r.Journal, r.Number, r.At, r.Epoch, r.Generation = h.id, h.journal, h.n, domain.TimeOf(time.Now()), p.Desired.Epoch, p.Desired.Generation
	h.s.as(domain.Actor{Kind: domain.ActorHost, Host: h.id}, &domain.RecordReport{Host: h.id, Report: domain.EncodeReport(&r)})
}

func (h *fakeHost) wipe() {
	h.s.t.Helper()
	now := domain.TimeOf(time.Now())
	for _, w := range h.placement().Desired.Wipes {
		sp := h.m.Slots[w.Lease.Index]
		h.report(domain.Report{Kind: domain.ReportWiped, Wipe: &domain.WipeReport{
			Slot: w.Lease.Slot, Generation: w.Lease.Generation, Nonce: w.Lease.Nonce, Attempt: w.Attempt, StartedAt: now, EndedAt: now,
			Devices: []domain.DeviceWipe{
				{Component: "gpu", Serial: sp.GPU.Serial, Method: "flr", Result: domain.WipeVerified},
				{Component: "nvme", Serial: sp.NVMe.Serial, Method: "sanitize-crypto", Result: domain.WipeVerified, BytesRead: sp.NVMe.SizeBytes},
				{Component: "ib_vf", Serial: sp.IBVF.Serial, Method: "reset", Result: domain.WipeVerified},
			},
		}})
	}
}

// boot brings every VM that should run up to ready.
func (h *fakeHost) boot() {
	h.s.t.Helper()
	for _, v := range h.placement().Desired.VMs {
		if v.Power == domain.PowerOn {
			for _, k := range []domain.ReportKind{domain.ReportStarted, domain.ReportAlive, domain.ReportReady} {
				h.report(domain.Report{Kind: k, VM: &domain.VMReport{VM: v.VM, Boot: v.Boot, At: domain.TimeOf(time.Now()), Address: "10.0.0.9"}})
			}
		}
	}
}

func readyWith(reasons *[]string) func(context.Context) []string {
	return func(context.Context) []string { return *reasons }
}
