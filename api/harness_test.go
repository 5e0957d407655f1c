package api

import (
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

	"go.uber.org/goleak"

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
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

var (
	started   atomic.Bool
	databases atomic.Int64
)

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

// site is a whole site in memory with a listener, an operator and what a test
// adds.
type site struct {
	t        testing.TB
	secret   [32]byte
	log      *memoryLog
	loop     *commands.Loop
	vault    *memoryVault
	audit    *memoryAudit
	images   *memoryImages
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
	s := &site{t: t, reading: reading, secret: [32]byte{1, 2, 3}, log: newMemoryLog(), vault: &memoryVault{docs: map[domain.Digest][]byte{}}, audit: &memoryAudit{}, images: &memoryImages{uploads: map[string]*Upload{}, parts: map[string][]byte{}}, op: domain.UserID{1}}
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
		Consoles: stubs{}, Hosts: stubs{}, Heartbeats: stubs{}, Images: s.images, NATSURL: "tls://nats.test:4222",
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
		*key = s.want(201, s.admin, "POST", "/v1/tenants/"+t.id+"/api-keys", fmt.Sprintf(`{"name":"k-%s","role":%q,"reason":"test"}`, role, role)).get("secret")
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
	m := &domain.SlotMap{GPUClass: "sim-gpu", Features: domain.SecureBoot | domain.VTPM}
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
				{Component: "nvme", Serial: sp.NVMe.Serial, Method: "sanitize-crypto", Result: domain.WipeVerified, BytesRead: sp.NVMe.SizeBytes, Fresh: w.Lease.Generation == 1},
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
