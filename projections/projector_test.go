package projections

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/projections/pglocal"
)

// An allocation's whole life, seen in the tables, whatever the commits are cut into.
func TestLifeOfAnAllocation(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h1", 2)
	ten := s.tenant("acme")
	sku := s.sku("h100-1", 1)
	url := newDatabase(t)
	p, _ := run(t, openStore(t, url), s)
	see := func(what, sql, expect string, args ...any) {
		t.Helper()
		waitFor(t, p, s.w.Head.N)
		want(t, what, query(t, url, sql, args...), expect)
	}
	const slots = `SELECT state, generation FROM slots ORDER BY position`
	see("approved", slots, "wiping 0\nwiping 0")
	h.wipe()
	see("wiped", slots, "available 0\navailable 0")
	see("evidence of the first wipe", `SELECT count(*), min(wipe_result), bool_and(wiped_at IS NOT NULL AND evidence->'devices'->1->>'method' = 'sanitize-crypto') FROM leases WHERE generation = 0`, "2 verified true")

	a := s.launch(ten, sku, "one")
	vm := a.VMs[0].VM
	const life = `SELECT a.state, a.reason, v.state, v.address, a.hold_micros FROM allocations a JOIN vms v ON v.allocation_id = a.id`
	see("placed", life, "provisioning  provisioning  2000000")
	see("reserved", slots, "reserved 1\navailable 0")
	see("hold", `SELECT account, amount_micros FROM balances WHERE tenant_id <> '' ORDER BY account`, fmt.Sprintf("hold 2000000\nlot:%s 998000000", ten.grant))
	h.vm(domain.ReportStarted, vm, 1)
	see("active", slots, "active 1\navailable 0")
	h.vm(domain.ReportReady, vm, 1)
	see("running", life, "running  running 10.0.0.5 2000000")
	see("billed", `SELECT bill_start IS NOT NULL, usage_number > 0, bill_end IS NULL FROM vms`, "true true true")
	s.system(&domain.ActOnAllocation{Allocation: a.ID, Action: domain.ActionStop})
	see("stopping", life, "stopping  stopping 10.0.0.5 2000000")
	h.vm(domain.ReportStopped, vm, 1)
	see("stopped", life, "stopped  stopped 10.0.0.5 2000000")
	see("power off", `SELECT power, boot FROM vms`, "off 1")
	s.system(&domain.ActOnAllocation{Allocation: a.ID, Action: domain.ActionStart})
	see("power on", `SELECT power, boot FROM vms`, "on 2")
	see("starting", life, "starting  starting 10.0.0.5 2000000")
	h.vm(domain.ReportStarted, vm, 2)
	h.vm(domain.ReportReady, vm, 2)
	h.vm(domain.ReportStopped, vm, 2)
	see("the guest's own power-off", `SELECT state, power, boot FROM vms`, "stopped off 2")
	s.system(&domain.ActOnAllocation{Allocation: a.ID, Action: domain.ActionRelease})
	see("releasing", life, "releasing requested releasing 10.0.0.5 0")
	see("lease over", `SELECT generation, ended_at IS NOT NULL, wiped_at IS NULL FROM leases WHERE allocation_id <> ''`, "1 true true")
	h.vm(domain.ReportRemoved, vm, 2)
	see("released", life, "released requested released 10.0.0.5 0")
	h.wipe()
	see("free again", slots, "available 1\navailable 0")
	see("proof", `SELECT wipe_result, evidence->>'result', evidence->>'nonce' LIKE 'sha256:%' FROM leases WHERE allocation_id = $1`, "verified verified true", a.ID.String())
	see("ledger balances", `SELECT sum(amount_micros)::bigint, count(*) > 4 FROM ledger_entries`, "0 true")
	see("balances are the sums", `SELECT (SELECT sum(amount_micros)::bigint FROM balances), (SELECT amount_micros FROM balances WHERE account = 'hold')`, "0 0")
	see("audit", `SELECT count(*), bool_and(type <> '') FROM audit`, fmt.Sprintf("%d true", s.w.Head.N))
	see("checkpoint", `SELECT n, number, encode(hash, 'hex') FROM checkpoint`, fmt.Sprintf("%d %d %x", s.w.Head.N, s.w.Number, s.w.Head.Hash[:]))
}

// A gang is as far as its slowest VM; each VM holds all its slots.
func TestGang(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h1", 4)
	h.wipe()
	ten := s.tenant("acme")
	sku := s.sku("h100-2", 2)
	a := one[*domain.AllocationPlaced](s, s.system(&domain.CreateAllocation{Project: ten.project, Name: "gang", SKU: sku, Count: 2, Image: "tiny", LockPrice: true}))
	url := newDatabase(t)
	store := openStore(t, url)
	p, _ := run(t, store, s)
	see := func(expect string) {
		t.Helper()
		waitFor(t, p, s.w.Head.N)
		got, _, err := store.Reader(nil).Allocation(t.Context(), platform, a.ID)
		if err != nil {
			t.Fatal(err)
		}
		want(t, "gang", fmt.Sprint(got.State, " ", got.VMs[0].State, " ", got.VMs[1].State, " ", len(got.VMs[0].SlotIDs), " ", *got.LockedMicros), expect+" 2 2000000")
	}
	see("provisioning provisioning provisioning")
	for _, v := range a.VMs {
		h.vm(domain.ReportStarted, v.VM, 1)
	}
	want(t, "leases", query(t, url, `SELECT count(*), count(DISTINCT vm_id) FROM leases WHERE tenant_id <> ''`), "4 2")
	h.vm(domain.ReportReady, a.VMs[1].VM, 1)
	see("provisioning provisioning running")
	h.vm(domain.ReportReady, a.VMs[0].VM, 1)
	see("running running running")
	s.system(&domain.ActOnAllocation{Allocation: a.ID, Action: domain.ActionReboot})
	see("starting starting starting")
	h.vm(domain.ReportFailed, a.VMs[0].VM, 2)
	see("starting stopped starting")
}

// A wipe that failed leads to quarantine with its evidence on the lease, a slot that
// was condemned while in use goes there after a good wipe, and both come back.
func TestQuarantine(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h1", 1)
	h.wipe()
	ten := s.tenant("acme")
	a := s.launch(ten, s.sku("h100-1", 1), "one")
	h.vm(domain.ReportStarted, a.VMs[0].VM, 1)
	s.system(&domain.QuarantineSlot{Slot: h.slots[0], Reason: "ecc"})
	url := newDatabase(t)
	p, _ := run(t, openStore(t, url), s)
	see := func(expect string) {
		t.Helper()
		waitFor(t, p, s.w.Head.N)
		want(t, "slot", query(t, url, `SELECT s.state, s.condemned, s.reason, s.attempt, l.wipe_result, l.wiped_at IS NOT NULL, coalesce(l.evidence->>'reason', '-')
			FROM slots s JOIN leases l ON l.slot_id = s.id AND l.generation = s.generation`), expect)
	}
	see("active true operator.ecc 0  false -")
	s.system(&domain.ActOnAllocation{Allocation: a.ID, Action: domain.ActionRelease})
	see("wiping true operator.ecc 0  false -")
	h.wipe()
	see("quarantined false condemned 0 quarantined false condemned")
	s.system(&domain.RewipeSlot{Slot: h.slots[0]})
	see("wiping false  1 quarantined false condemned")
	h.specs[0].NVMe.Serial = "another"
	h.wipe()
	see("quarantined false wipe.wrong_serial 1 quarantined false wipe.wrong_serial")
	h.specs[0].NVMe.Serial = "h1-nvme0"
	s.system(&domain.RewipeSlot{Slot: h.slots[0]})
	h.wipe()
	see("available false  0 verified true -")
}

// However the log is cut into transactions, the tables come out the same.
func TestCutsDoNotMatter(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	story(s)
	digest := ""
	for _, batch := range []int{1, 3, 7, 1000} {
		url := newDatabase(t)
		p := openStore(t, url).Projector(s)
		p.batch = batch
		stop := start(t, p)
		waitFor(t, p, s.w.Head.N)
		stop()
		got := query(t, url, contents)
		if digest == "" {
			digest = got
		}
		if got != digest {
			t.Errorf("batches of %d events:\n%s\nwant\n%s", batch, got, digest)
		}
	}
}

// contents is a digest of all tables.
var contents = func() string {
	var parts []string
	for _, t := range strings.Fields("organizations tenant_memberships projects project_memberships operators api_keys policies skus prices hosts slots allocations vms leases ledger_entries balances grants audit images wipe_duties device_places earlier_wipes") {
		parts = append(parts, fmt.Sprintf("SELECT '%s', count(*), md5(string_agg(t::text, ' ' ORDER BY t::text)) FROM %[1]s t", t))
	}
	return strings.Join(parts, " UNION ALL ") + " ORDER BY 1"
}()

// images fill the catalog: the site's own, a project's, one that is retired.
func (s *site) images(ten tenant) {
	for i, owner := range []domain.ProjectID{{}, {}, ten.project} {
		e := one[*domain.ImageRegistered](s, s.system(&domain.RegisterImage{Image: domain.ImageSpec{
			Project: owner, Name: "tiny", Version: strconv.Itoa(i), Digest: domain.Digest{byte(i + 1)}, SizeBytes: 1 << 30, Format: domain.ImageQCOW2, DiskBytes: 2 << 30,
			Driver: "nvidia-570", Fabric: "doca-2.9", SecureBoot: true, ReportsReady: i == 2,
		}}))
		if i == 1 {
			s.system(&domain.RetireImage{Image: e.ID})
		}
	}
}

// story is a site's life with a bit of everything.
func story(s *site) (tenant, *fleetHost) {
	h, h2 := s.host("h1", 4), s.host("h2", 4)
	h.wipe()
	h2.wipe()
	ten, other := s.tenant("acme"), s.tenant("other")
	sku := s.sku("h100-1", 1)
	s.images(ten)
	user := one[*domain.TenantMemberSet](s, s.system(&domain.SetTenantMember{Tenant: ten.id, Role: domain.TenantViewer})).User
	s.system(&domain.SetProjectMember{Project: ten.project, User: user, Role: domain.ProjectMember})
	gone := one[*domain.TenantMemberSet](s, s.system(&domain.SetTenantMember{Tenant: ten.id, Role: domain.TenantAdmin})).User
	s.system(&domain.SetProjectMember{Project: ten.project, User: gone, Role: domain.ProjectAdmin})
	s.system(&domain.SetTenantMember{Tenant: ten.id, User: gone, Role: domain.TenantNone})
	key := one[*domain.APIKeyCreated](s, s.system(&domain.CreateAPIKey{Tenant: ten.id, User: ten.owner, Name: "ci", Hash: domain.DigestOf([]byte("k1"))}))
	s.system(&domain.CreateAPIKey{Tenant: ten.id, Role: domain.TenantViewer, Name: "svc", Hash: domain.DigestOf([]byte("k2"))})
	s.system(&domain.RevokeAPIKey{Key: key.ID})
	s.system(&domain.SetOperator{User: domain.UserID{1}, Roles: domain.RoleOperator | domain.RoleAuditor})
	var value domain.PolicyValue
	_ = value.UnmarshalJSON([]byte("12"))
	s.system(&domain.SetPolicy{Key: "quota.gpus", Value: value})
	s.system(&domain.SetPolicy{Scope: domain.PolicyScope{Tenant: ten.id}, Key: "quota.gpus", Value: value})
	s.system(&domain.SetPolicy{Scope: domain.PolicyScope{Tenant: ten.id}, Key: "quota.gpus", Remove: true})
	s.system(&domain.PublishPrice{SKU: sku, Tenant: other.id, Currency: "USD", Micros: 1_500_000, Effective: s.at.Add(domain.Hour)})
	hosts := map[domain.HostID]*fleetHost{h.id: h, h2.id: h2}
	for i := range 3 {
		a := s.launch(ten, sku, fmt.Sprintf("job-%d", i))
		on := hosts[a.VMs[0].Host]
		on.vm(domain.ReportStarted, a.VMs[0].VM, 1)
		if i > 0 {
			on.vm(domain.ReportReady, a.VMs[0].VM, 1)
		}
		if i == 2 {
			s.system(&domain.ActOnAllocation{Allocation: a.ID, Action: domain.ActionRelease})
			on.vm(domain.ReportRemoved, a.VMs[0].VM, 1)
			on.wipe()
		}
	}
	s.launch(other, sku, "theirs")
	s.system(&domain.ActOnHost{Host: h2.id, Action: domain.HostCordon})
	s.system(&domain.QuarantineSlot{Slot: h2.slots[3], Reason: "noise"})
	s.at = s.at.Add(2 * domain.Hour)
	for s.w.NextDeadline() != 0 && s.w.NextDeadline() <= s.at {
		if s.system(&domain.Tick{}) == nil {
			break
		}
	}
	s.latePrice(sku)
	s.hardware()
	s.system(&domain.ActOnHost{Host: h.id, Action: domain.HostSilent, Since: s.at})
	return ten, h
}

// latePrice publishes a price that holds since an hour, and corrects what is posted.
func (s *site) latePrice(sku domain.SKUID) {
	s.system(&domain.PublishPrice{SKU: sku, Currency: "USD", Micros: 1_000_000, Effective: s.at.Add(-domain.Hour)})
	s.system(&domain.Tick{})
}

// A connection that dies in the middle of a transaction costs nothing and doubles
// nothing.
func TestKilledMidTransaction(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	story(s)
	clean := newDatabase(t)
	p, _ := run(t, openStore(t, clean), s)
	waitFor(t, p, s.w.Head.N)

	url := newDatabase(t)
	store := openStore(t, url)
	p = store.Projector(s)
	p.batch = 5
	admin, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	watch, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close(context.Background())
	// Holding a lock on what every transaction writes stops the projector in the
	// middle of one; then its connection is killed.
	stop := func() error { return nil }
	for i := range 4 {
		tx, err := admin.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), `LOCK TABLE rm_1.audit IN SHARE MODE`); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			stop = start(t, p)
		}
		killed := 0
		for killed == 0 && p.Applied().N < s.w.Head.N {
			if err := watch.QueryRow(t.Context(), `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&killed); err != nil {
				t.Fatal(err)
			}
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		if i == 0 && killed == 0 {
			t.Fatal("nothing was killed")
		}
	}
	waitFor(t, p, s.w.Head.N)
	stop()
	want(t, "after kills", query(t, url, contents), query(t, clean, contents))
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.tenant("acme")
	url := newDatabase(t)
	store := openStore(t, url)
	p, stop := run(t, store, s)
	waitFor(t, p, s.w.Head.N)
	stop()

	runs := func(src Source) error {
		p := store.Projector(src)
		p.grace = 0
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		return p.Run(ctx)
	}
	shorter := newLog()
	for _, d := range s.commits[:2] {
		shorter.append(d.commit)
	}
	if err := runs(shorter); !errors.Is(err, ErrAhead) {
		t.Errorf("a log that lost its tail: %v", err)
	}
	forked := newSite(t)
	forked.tenant("other")
	if err := runs(forked); !errors.Is(err, ErrForked) {
		t.Errorf("another log of the same length: %v", err)
	}
	forked.tenant("more")
	if err := runs(forked); !errors.Is(err, ErrForked) {
		t.Errorf("another, longer log: %v", err)
	}
	if _, err := Open(t.Context(), Config{URL: url, Site: "elsewhere"}); !errors.Is(err, ErrForeignSite) || !strings.Contains(err.Error(), `"test"`) {
		t.Errorf("another site: %v", err)
	}
	// Somebody takes over, or writes into the checkpoint, while one runs.
	for _, c := range []struct {
		sql string
		err error
	}{
		{`UPDATE rm_1.checkpoint SET run = run + 1`, ErrSuperseded},
		{`UPDATE rm_1.checkpoint SET hash = '\x00'`, ErrForked},
	} {
		p, ended := store.Projector(s), make(chan error, 1)
		p.grace = 0
		go func() { ended <- p.Run(t.Context()) }()
		s.tenant("t" + fmt.Sprint(s.made))
		waitFor(t, p, s.w.Head.N)
		admin, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := admin.Exec(t.Context(), c.sql); err != nil {
			t.Fatal(err)
		}
		admin.Close(t.Context())
		s.tenant("t" + fmt.Sprint(s.made))
		if err := <-ended; !errors.Is(err, c.err) { // by itself
			t.Errorf("%s: %v", c.sql, err)
		}
	}
}

// A second projector stands by, sees what the first one does, and goes on when it
// ends.
func TestStandby(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.tenant("acme")
	store := openStore(t, newDatabase(t))
	first, stop := run(t, store, s)
	waitFor(t, first, s.w.Head.N)
	second, _ := run(t, store, s)
	waitFor(t, second, s.w.Head.N)
	if second.Active() || !first.Active() {
		t.Fatal("both are active")
	}
	stop()
	s.tenant("more")
	waitFor(t, second, s.w.Head.N)
	if l := second.Lag(); l.Commits != 0 || l.Behind != 0 {
		t.Errorf("lag %+v", l)
	}
}

// The whole server goes away in the middle, by kill -9, and comes back: projecting
// goes on by itself, and nothing is missing or doubled.
func TestServerKilled(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("/tmp", "prk-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	o := pglocal.Options{DataDir: filepath.Join(dir, "pg")}
	own, err := pglocal.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	url, err := own.CreateDatabase(t.Context(), "gpuaas")
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t)
	story(s)
	p, _ := run(t, openStore(t, url), s)
	for i := range 3 {
		waitFor(t, p, s.w.Head.N/2)
		if err := syscall.Kill(own.PID(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-own.Done()
		s.tenant(fmt.Sprint("while-away-", i))
		if own, err = pglocal.Start(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		waitFor(t, p, s.w.Head.N)
	}
	clean := newDatabase(t)
	fresh, _ := run(t, openStore(t, clean), s)
	waitFor(t, fresh, s.w.Head.N)
	want(t, "after kills", query(t, url, contents), query(t, clean, contents))
	if err := own.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// hardware is a drive that could not be wiped, the spare in its place, and slots and
// a host that go.
func (s *site) hardware() {
	h := s.host("old", 2)
	m := domain.SlotMap{GPUClass: "h100", Nodes: []domain.NUMANode{{Node: 0, MemoryMiB: 1 << 20, Threads: []uint16{999, 0, 1}}}}
	m.Slots = append(m.Slots, h.specs...)
	h.quarantine()
	m.Slots[1].NVMe.Serial = "spare"
	h.report(domain.ReportInventory, func(r *domain.Report) { r.Inventory = &m })
	s.system(&domain.ApproveMap{Host: h.id, Digest: m.Digest()})
	h.specs = m.Slots
	h.quarantine()
	for _, slot := range h.slots {
		s.system(&domain.RetireSlot{Slot: slot, Reason: "old"})
	}
	s.system(&domain.RemoveHost{Host: h.id})
}

// quarantine reports every wipe as evidence of nothing.
func (h *fleetHost) quarantine() {
	p, _ := h.s.w.PlacementOf(h.id)
	for _, pw := range p.Desired.Wipes {
		h.report(domain.ReportWiped, func(r *domain.Report) {
			r.Wipe = &domain.WipeReport{Slot: pw.Lease.Slot, Generation: pw.Lease.Generation, Nonce: pw.Lease.Nonce, Attempt: pw.Attempt}
		})
	}
}

// Serials of what is owed are those of the slot at the time, whether its row was
// written long ago or in the same transaction.
func TestWipeDutiesNameTheSerial(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.hardware()
	for _, batch := range []int{1, 4000} {
		store := openStore(t, newDatabase(t))
		p := store.Projector(s)
		p.batch = batch
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		waitFor(t, p, s.w.Head.N)
		cancel()
		<-done
		var serials []string
		for _, d := range items[WipeDuty](t)(store.Reader([]byte("key")).WipeDuties(t.Context(), platform, "owed", ListOptions{})) {
			serials = append(serials, d.Cause+" "+d.Component+" "+d.Serial)
		}
		want(t, "duties", strings.Join(serials, "\n"), "replaced nvme old-nvme1\nretired gpu old-gpu0\nretired nvme old-nvme0\nretired gpu old-gpu1\nretired nvme spare")
	}
}
