package projections

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/projections/pglocal"
)

var server *pglocal.Server

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("/tmp", "prj-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		panic(err)
	}
	server, err = pglocal.Start(context.Background(), pglocal.Options{DataDir: filepath.Join(dir, "pg"), Unsafe: true})
	if err != nil {
		panic(err)
	}
	code := m.Run()
	if err := server.Stop(context.Background()); err != nil {
		panic(err)
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

var databases atomic.Int64

// newDatabase makes an empty database of the test's own.
func newDatabase(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("t%d_%d", os.Getpid(), databases.Add(1))
	url, err := server.CreateDatabase(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c, err := pgx.Connect(context.Background(), server.URL("postgres"))
		if err != nil {
			return
		}
		defer c.Close(context.Background())
		_, _ = c.Exec(context.Background(), `DROP DATABASE `+name+` WITH (FORCE)`)
	})
	return url
}

func openStore(t testing.TB, url string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{URL: url, Site: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// run starts a projector and returns it with a function that stops it and gives
// its error.
func run(t testing.TB, s *Store, src Source) (*Projector, func() error) {
	t.Helper()
	p := s.Projector(src)
	p.grace = 0
	return p, start(t, p)
}

func start(t testing.TB, p *Projector) func() error {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	var once sync.Once
	var err error
	stop := func() error {
		once.Do(func() { cancel(); err = <-done })
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return stop
}

func waitFor(t testing.TB, p *Projector, n uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := p.WaitFor(ctx, n); err != nil {
		t.Fatal(err)
	}
}

// query reads one value as text, in the current schema.
func query(t testing.TB, url, sql string, args ...any) string {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	schema, _, err := current(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(t.Context(), `SELECT set_config('search_path', $1, false)`, schema); err != nil {
		t.Fatal(err)
	}
	rows, err := c.Query(t.Context(), sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (string, error) {
		v, err := r.Values()
		parts := make([]string, len(v))
		for i := range v {
			parts[i] = fmt.Sprint(v[i])
		}
		return strings.Join(parts, " "), err
	})
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return strings.Join(got, "\n")
}

func want(t testing.TB, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n got %s\nwant %s", what, got, want)
	}
}

// memoryLog is a log in memory.
type memoryLog struct {
	mu      sync.Mutex
	commits []delivery
	end     End
	more    chan struct{}
}

func newLog() *memoryLog { return &memoryLog{more: make(chan struct{})} }

func (l *memoryLog) append(c *domain.Commit) domain.Head {
	b := domain.EncodeCommit(c)
	decoded, err := domain.DecodeCommit(b)
	if err != nil {
		panic(err)
	}
	head := domain.Head{N: c.N, Hash: domain.DigestOf(b)}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.commits = append(l.commits, delivery{decoded, head, countEvents(decoded)})
	l.end.Head = head
	for _, d := range c.Decisions {
		for _, e := range d.Events {
			l.end.Number = e.Number
		}
	}
	close(l.more)
	l.more = make(chan struct{})
	return head
}

// Newest implements Source.
func (l *memoryLog) Newest(context.Context) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end.Head.N, nil
}

func (l *memoryLog) End(context.Context) (End, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end, nil
}

func (l *memoryLog) Follow(ctx context.Context, after domain.Head, fn func(*domain.Commit, domain.Head) error) error {
	for n := after.N; ; n++ {
		l.mu.Lock()
		for uint64(len(l.commits)) <= n {
			more := l.more
			l.mu.Unlock()
			select {
			case <-more:
			case <-ctx.Done():
				return ctx.Err()
			}
			l.mu.Lock()
		}
		d := l.commits[n]
		l.mu.Unlock()
		if err := fn(d.commit, d.head); err != nil {
			return err
		}
	}
}

// site decides commands and appends what follows to a log.
type site struct {
	*memoryLog
	t    testing.TB
	w    *domain.World
	at   domain.Time
	made uint64
}

func newSite(t testing.TB) *site {
	s := &site{memoryLog: newLog(), t: t, w: domain.NewWorld(), at: domain.TimeOf(time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC))}
	s.system(&domain.StartWriter{Site: "test", Build: "test", LogicLevel: domain.LogicLevel})
	return s
}

// do decides one command in a commit of its own, and returns its events.
func (s *site) do(a domain.Actor, body domain.CommandBody) []domain.EventBody {
	s.t.Helper()
	s.made++
	s.at = s.at.Add(domain.Second)
	c := domain.Command{ID: s.commandID(), Actor: a, Body: body}
	for i := range 8 {
		c.Entropy[i] = byte(s.made >> (8 * i))
	}
	out := s.w.Decide(s.at, &c)
	if out.Err != nil {
		s.t.Fatalf("%s: %v", body.CommandType(), out.Err)
	}
	d := domain.Decision{Command: c}
	for i, e := range out.Events {
		d.Events = append(d.Events, domain.Event{Number: s.w.Number + 1 + uint64(i), Body: e})
	}
	if len(d.Events) == 0 {
		return nil
	}
	commit := &domain.Commit{N: s.w.Head.N + 1, At: s.at, Prev: s.w.Head.Hash, Decisions: []domain.Decision{d}}
	head := s.append(commit)
	if err := s.w.ApplyCommit(commit, head.Hash); err != nil {
		s.t.Fatal(err)
	}
	return out.Events
}

// commandID is a UUIDv7 of now.
func (s *site) commandID() (id domain.CommandID) {
	for i := range 6 {
		id[i] = byte(uint64(s.at) >> (8 * (5 - i)))
	}
	id[6] = 0x70
	for i := range 8 {
		id[8+i] = byte(s.made >> (8 * i))
	}
	return id
}

func (s *site) system(body domain.CommandBody) []domain.EventBody { return s.do(domain.System, body) }

// one returns the first event of a type.
func one[E any](s *site, events []domain.EventBody) E {
	s.t.Helper()
	for _, e := range events {
		if e, ok := e.(E); ok {
			return e
		}
	}
	s.t.Fatalf("no %T among the events", *new(E))
	panic("unreachable")
}

// fleetHost is a host of the site, with what it needs to report.
type fleetHost struct {
	s       *site
	id      domain.HostID
	journal domain.JournalID
	number  uint64
	slots   []domain.SlotID
	specs   []domain.SlotSpec
}

func (h *fleetHost) report(kind domain.ReportKind, fill func(*domain.Report)) []domain.EventBody {
	h.s.t.Helper()
	h.number++
	p, ok := h.s.w.PlacementOf(h.id)
	if !ok {
		h.s.t.Fatal("no placement")
	}
	r := &domain.Report{Host: h.id, Journal: h.journal, Number: h.number, At: h.s.at, Epoch: p.Desired.Epoch, Generation: p.Desired.Generation, Kind: kind}
	fill(r)
	events := h.s.do(domain.Actor{Kind: domain.ActorHost, Host: h.id}, &domain.RecordReport{Host: h.id, Report: domain.EncodeReport(r), Signature: make([]byte, 64)})
	if done := one[*domain.HostReported](h.s, events); done.Refused != "" {
		h.s.t.Fatalf("report %s refused: %s", kind, done.Refused)
	}
	return events
}

func (h *fleetHost) vm(kind domain.ReportKind, id domain.VMID, boot uint32) []domain.EventBody {
	h.s.t.Helper()
	return h.report(kind, func(r *domain.Report) {
		r.VM = &domain.VMReport{VM: id, Boot: boot, At: h.s.at, Address: "10.0.0.5"}
	})
}

// wipe reports a verified erasure of everything the host should wipe.
func (h *fleetHost) wipe() {
	h.s.t.Helper()
	p, _ := h.s.w.PlacementOf(h.id)
	for _, pw := range p.Desired.Wipes {
		spec := h.specs[pw.Lease.Index]
		h.report(domain.ReportWiped, func(r *domain.Report) {
			r.Wipe = &domain.WipeReport{
				Slot: pw.Lease.Slot, Generation: pw.Lease.Generation, Nonce: pw.Lease.Nonce, Attempt: pw.Attempt, StartedAt: h.s.at, EndedAt: h.s.at,
				Devices: []domain.DeviceWipe{
					{Component: "gpu", Serial: spec.GPU.Serial, Method: "flr", Result: domain.WipeVerified},
					{Component: "nvme", Serial: spec.NVMe.Serial, Method: "sanitize-crypto", Result: domain.WipeVerified, BytesRead: 1 << 20},
				},
			}
		})
	}
}

// host enrolls, admits, maps, approves; its slots are not wiped yet.
func (s *site) host(name string, slots int) *fleetHost {
	s.t.Helper()
	h := &fleetHost{s: s}
	token := domain.DigestOf([]byte(name))
	h.id = one[*domain.HostEnrolled](s, s.system(&domain.EnrollHost{Name: name, Rack: "r1", TokenID: token})).ID
	copy(h.journal[:], h.id[:])
	s.system(&domain.AdmitHost{TokenID: token, NATSKey: "U" + strings.Repeat("A", 55), SignKey: make([]byte, 32)})
	m := domain.SlotMap{GPUClass: "h100", Nodes: []domain.NUMANode{{Node: 0, MemoryMiB: 1 << 20, Threads: []uint16{999}}}}
	for i := range slots {
		t := uint16(i)
		m.Nodes[0].Threads = append(m.Nodes[0].Threads, t)
		m.Slots = append(m.Slots, domain.SlotSpec{
			Index: uint32(i), Threads: []uint16{t}, MemoryMiB: 1024,
			GPU:  domain.Device{Address: fmt.Sprintf("g%d", i), Serial: fmt.Sprintf("%s-gpu%d", name, i)},
			NVMe: domain.Device{Address: fmt.Sprintf("n%d", i), Serial: fmt.Sprintf("%s-nvme%d", name, i)},
		})
	}
	h.specs = m.Slots
	h.report(domain.ReportInventory, func(r *domain.Report) { r.Inventory = &m })
	approved := one[*domain.MapApproved](s, s.system(&domain.ApproveMap{Host: h.id, Digest: m.Digest(), Policy: domain.WipeSanitize}))
	for _, a := range approved.Slots {
		h.slots = append(h.slots, a.ID)
	}
	return h
}

// tenant makes a tenant with an owner, a project and money.
type tenant struct {
	id      domain.TenantID
	project domain.ProjectID
	owner   domain.UserID
	grant   domain.GrantID
}

func (s *site) tenant(name string) tenant {
	s.t.Helper()
	var t tenant
	t.id = one[*domain.TenantCreated](s, s.system(&domain.CreateTenant{Name: name, Currency: "USD"})).ID
	t.owner = one[*domain.TenantMemberSet](s, s.system(&domain.SetTenantMember{Tenant: t.id, Role: domain.TenantOwner})).User
	t.project = one[*domain.ProjectCreated](s, s.system(&domain.CreateProject{Tenant: t.id, Name: name + "-main"})).ID
	t.grant = one[*domain.CreditGranted](s, s.system(&domain.GrantCredit{Tenant: t.id, Currency: "USD", Amount: 1_000_000_000, Kind: domain.GrantPaid})).ID
	return t
}

func (s *site) sku(name string, shape uint32) domain.SKUID {
	s.t.Helper()
	id := one[*domain.SKUCreated](s, s.system(&domain.CreateSKU{Name: name, Shape: shape, GPUClass: "h100"})).ID
	s.system(&domain.PublishPrice{SKU: id, Currency: "USD", Micros: 2_000_000})
	return id
}

func (s *site) launch(t tenant, sku domain.SKUID, name string) *domain.AllocationPlaced {
	s.t.Helper()
	return one[*domain.AllocationPlaced](s, s.system(&domain.CreateAllocation{Project: t.project, Name: name, SKU: sku, Count: 1, Image: "tiny"}))
}
