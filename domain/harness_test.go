package domain

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"testing"
)

// site is a world under test with an actor for each part. Every accepted decision
// is encoded, decoded and applied from the decoded form, and all invariants are
// checked after it: what a test sees is what a fold of the log would see.
type site struct {
	t     testing.TB
	w     *World
	now   Time
	seq   uint64
	log   [][]byte
	admin Actor
	check bool
	seen  func([]EventBody) // hears every committed event
}

const t0 = Time(1772445600000) // 2026-03-02T10:00:00Z

func newSite(t testing.TB) *site { return newSiteAt(t, t0) }

func newSiteAt(t testing.TB, start Time) *site {
	s := &site{t: t, w: NewWorld(), now: start, check: true}
	s.must(System, &StartWriter{Site: "test", Build: "test", LogicLevel: LogicLevel})
	user := UserID{1}
	s.must(System, &SetOperator{User: user, Roles: RoleOperator | RoleFinance})
	s.must(System, &CreateAPIKey{User: user, Name: "admin", Hash: Digest{1}})
	s.admin = Actor{Kind: ActorKey, Key: s.w.keyByHash[Digest{1}]}
	return s
}

func (s *site) command(a Actor, b CommandBody) *Command {
	s.seq++
	c := &Command{Actor: a, Body: b}
	h := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("entropy"), s.seq))
	c.Entropy = h
	binary.BigEndian.PutUint64(c.ID[:8], uint64(s.now)<<16)
	copy(c.ID[8:], h[:8])
	return c
}

// try decides and, if accepted, commits.
func (s *site) try(a Actor, b CommandBody) ([]EventBody, *Error) {
	s.t.Helper()
	return s.tryCommand(s.command(a, b))
}

func (s *site) tryCommand(c *Command) ([]EventBody, *Error) {
	s.t.Helper()
	out := s.w.Decide(max(s.now, s.w.At), c)
	if out.Err != nil || len(out.Events) == 0 {
		if out.Err != nil && out.Err.Kind == Internal {
			s.t.Fatalf("%s: %v", c.Body.CommandType(), out.Err)
		}
		return nil, out.Err
	}
	d := Decision{Command: *c}
	for i, e := range out.Events {
		d.Events = append(d.Events, Event{Number: s.w.Number + 1 + uint64(i), Body: e})
	}
	b := EncodeCommit(&Commit{N: s.w.Head.N + 1, At: max(s.now, s.w.At), Prev: s.w.Head.Hash, Decisions: []Decision{d}})
	decoded, err := DecodeCommit(b)
	if err != nil {
		s.t.Fatalf("decode: %v", err)
	}
	if again := EncodeCommit(decoded); string(again) != string(b) {
		s.t.Fatalf("%s: encoding is not stable", c.Body.CommandType())
	}
	if err := s.w.ApplyCommit(decoded, sha256.Sum256(b)); err != nil {
		s.t.Fatalf("apply: %v", err)
	}
	s.log = append(s.log, b)
	if s.check {
		if err := s.w.CheckAll(); err != nil {
			s.t.Fatalf("after %s: %v", c.Body.CommandType(), err)
		}
	}
	if s.seen != nil {
		s.seen(out.Events)
	}
	return out.Events, nil
}

func (s *site) must(a Actor, b CommandBody) []EventBody {
	s.t.Helper()
	events, err := s.try(a, b)
	if err != nil {
		s.t.Fatalf("%s: %v", b.CommandType(), err)
	}
	return events
}

func (s *site) refused(a Actor, b CommandBody, code string) {
	s.t.Helper()
	before := s.w.Hash()
	_, err := s.try(a, b)
	if err == nil || err.Code != code {
		s.t.Fatalf("%s: got %v, want %s", b.CommandType(), err, code)
	}
	if s.w.Hash() != before {
		s.t.Fatalf("%s: refused, and the world changed", b.CommandType())
	}
}

// to moves the clock, handling what falls due on the way.
func (s *site) to(at Time) {
	s.t.Helper()
	for n := 0; ; n++ {
		next := s.w.NextDeadline()
		if next == 0 || next > at {
			break
		}
		s.now = max(s.now, next)
		if len(s.must(System, &Tick{})) == 0 || n > 100_000 {
			s.t.Fatalf("deadline %s is due and nothing happens", next)
		}
	}
	s.now = at
}

func (s *site) after(d Duration) { s.t.Helper(); s.to(s.now.Add(d)) }

// tenant makes a tenant with a key, a project and credit.
type tenantFixture struct {
	id      TenantID
	project ProjectID
	key     Actor
}

func (s *site) tenant(name string, credit Micros) tenantFixture {
	s.t.Helper()
	return s.tenantOf(&CreateTenant{Name: name, Currency: "USD"}, credit)
}

func (s *site) tenantOf(m *CreateTenant, credit Micros) tenantFixture {
	s.t.Helper()
	f, name := tenantFixture{}, m.Name
	events := s.must(s.admin, m)
	f.id = events[len(events)-1].(*TenantCreated).ID
	hash := DigestOf([]byte("key of " + name))
	s.must(s.admin, &CreateAPIKey{Tenant: f.id, Name: "k", Hash: hash, Role: TenantOwner})
	f.key = Actor{Kind: ActorKey, Key: s.w.keyByHash[hash]}
	f.project = s.must(f.key, &CreateProject{Tenant: f.id, Name: "main"})[0].(*ProjectCreated).ID
	if credit > 0 {
		s.must(s.admin, &GrantCredit{Tenant: f.id, Currency: m.Currency, Amount: credit, Kind: GrantPaid})
	}
	return f
}

func (s *site) sku(name string, shape uint32, price Micros) SKUID {
	s.t.Helper()
	id := s.must(s.admin, &CreateSKU{Name: name, Shape: shape})[0].(*SKUCreated).ID
	s.must(s.admin, &PublishPrice{SKU: id, Currency: "USD", Micros: price})
	return id
}

func testMap(host string, slots int) *SlotMap {
	m := &SlotMap{GPUClass: "sim-gpu"}
	for n := range 2 {
		node := NUMANode{Node: uint8(n), MemoryMiB: 1 << 20}
		for i := range 64 {
			node.Threads = append(node.Threads, uint16(n*64+i))
		}
		m.Nodes = append(m.Nodes, node)
	}
	for i := range slots {
		n := i * 2 / max(slots, 2)
		sp := SlotSpec{
			Index: uint32(i), NUMANode: uint8(n), MemoryMiB: 1 << 15, IOMMUGroups: []uint32{uint32(i)},
			GPU:  Device{Address: fmt.Sprintf("0000:%02x:00.0", i+1), Serial: fmt.Sprintf("GPU-%s-%d", host, i)},
			NVMe: Device{Address: fmt.Sprintf("0000:%02x:00.0", i+0x41), Serial: fmt.Sprintf("NVME-%s-%d", host, i), SizeBytes: 1 << 40},
			IBVF: Device{Address: fmt.Sprintf("0000:%02x:00.1", i+0x81), Serial: fmt.Sprintf("VF-%s-%d", host, i)},
		}
		for k := range 7 {
			sp.Threads = append(sp.Threads, uint16(n*64+(i%4)*8+k))
		}
		m.Slots = append(m.Slots, sp)
	}
	return m
}

// fakeHost reports as a well-behaved host would.
type fakeHost struct {
	s       *site
	id      HostID
	m       *SlotMap
	journal JournalID
	n       uint64
}

func (s *site) host(name string, slots int, rack string) *fakeHost {
	s.t.Helper()
	return s.hostOf(name, testMap(name, slots), rack)
}

func (s *site) hostOf(name string, m *SlotMap, rack string) *fakeHost {
	s.t.Helper()
	h := &fakeHost{s: s, m: m}
	token := DigestOf([]byte("token " + name))
	h.id = s.must(s.admin, &EnrollHost{Name: name, Rack: rack, TokenID: token})[0].(*HostEnrolled).ID
	copy(h.journal[:], name+"-journal-------")
	s.must(System, &AdmitHost{TokenID: token, NATSKey: "U" + fmt.Sprintf("%055d", 1), SignKey: make([]byte, 32)})
	h.report(Report{Kind: ReportInventory, Inventory: h.m})
	s.must(s.admin, &ApproveMap{Host: h.id, Digest: h.m.Digest(), Policy: WipeAuto})
	h.wipe()
	return h
}

func (h *fakeHost) placement() *Placement {
	p, _ := h.s.w.PlacementOf(h.id)
	return p
}

func (h *fakeHost) report(r Report) []EventBody {
	h.s.t.Helper()
	h.n++
	p := h.placement()
	r.Host, r.Journal, r.Number, r.At, r.Epoch, r.Generation = h.id, h.journal, h.n, h.s.now, p.Desired.Epoch, p.Desired.Generation
	return h.s.must(Actor{Kind: ActorHost, Host: h.id}, &RecordReport{Host: h.id, Report: EncodeReport(&r)})
}

func (h *fakeHost) vm(kind ReportKind, v PlacedVM, at Time) []EventBody {
	h.s.t.Helper()
	return h.report(Report{Kind: kind, VM: &VMReport{VM: v.VM, Boot: v.Boot, At: at, Address: "10.0.0.9"}})
}

func (h *fakeHost) evidence(w PlacedWipe) *WipeReport {
	sp := h.m.Slots[w.Lease.Index]
	return &WipeReport{
		Slot: w.Lease.Slot, Generation: w.Lease.Generation, Nonce: w.Lease.Nonce, Attempt: w.Attempt, StartedAt: h.s.now, EndedAt: h.s.now,
		Devices: []DeviceWipe{
			{Component: "gpu", Serial: sp.GPU.Serial, Method: "flr", Result: WipeVerified},
			{Component: "nvme", Serial: sp.NVMe.Serial, Method: "sanitize-crypto", Result: WipeVerified, BytesRead: sp.NVMe.SizeBytes},
			{Component: "ib_vf", Serial: sp.IBVF.Serial, Method: "reset", Result: WipeVerified},
		},
	}
}

// wipe reports every awaited wipe as verified.
func (h *fakeHost) wipe() {
	h.s.t.Helper()
	for _, w := range h.placement().Desired.Wipes {
		h.report(Report{Kind: ReportWiped, Wipe: h.evidence(w)})
	}
}

// boot brings every VM that should run up to ready.
func (h *fakeHost) boot() {
	h.s.t.Helper()
	for _, v := range h.placement().Desired.VMs {
		if v.Power == PowerOn {
			h.vm(ReportStarted, v, h.s.now)
			h.vm(ReportAlive, v, h.s.now)
			h.vm(ReportReady, v, h.s.now)
		}
	}
}

func (s *site) launch(f tenantFixture, name, sku string, count uint32) AllocationID {
	s.t.Helper()
	return s.must(f.key, &CreateAllocation{Project: f.project, Name: name, SKUName: sku, Count: count})[0].(*AllocationPlaced).ID
}

func (s *site) release(f tenantFixture, id AllocationID, hosts ...*fakeHost) {
	s.t.Helper()
	vms := append([]uint32(nil), s.w.allocations.get(id).vms...)
	removed := map[HostID][]VMID{}
	for _, row := range vms {
		v := s.w.vms.row(row)
		removed[s.w.hosts.row(v.host).ID] = append(removed[s.w.hosts.row(v.host).ID], v.ID)
	}
	s.must(f.key, &ActOnAllocation{Allocation: id, Action: ActionRelease})
	for _, h := range hosts {
		for _, vm := range removed[h.id] {
			h.report(Report{Kind: ReportRemoved, VM: &VMReport{VM: vm, Boot: 1, At: s.now}})
		}
		h.wipe()
	}
}

func (s *site) balance(f tenantFixture) Balance {
	b, err := s.w.TenantBalance(f.id, s.now)
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

func (s *site) account(kind AccountKind) (sum Micros) {
	for a, n := range s.w.platform {
		if a.Account.Kind == kind {
			sum += n
		}
	}
	return sum
}
