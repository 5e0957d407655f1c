package projections

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/gpuaas/gpuaas/domain"
)

var platform = Scope{Platform: true}

func code(err error) string {
	var e *domain.Error
	if !errors.As(err, &e) {
		return fmt.Sprint(err)
	}
	return e.Code
}

func must[T any](t *testing.T) func(T, uint64, error) T {
	return func(v T, _ uint64, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func items[T any](t *testing.T) func(Page[T], error) []T {
	return func(p Page[T], err error) []T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return p.Items
	}
}

// What a late price changes is posted beside what it corrects, and names it.
func TestCorrectionsNameTheOriginal(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ten, _ := story(s)
	store := openStore(t, newDatabase(t))
	p, _ := run(t, store, s)
	waitFor(t, p, s.w.Head.N)
	r, ctx := store.Reader([]byte("key")), t.Context()
	ledger := map[string]Entry{}
	corrections := 0
	for _, e := range items[Entry](t)(r.Ledger(ctx, Scope{User: ten.owner, Tenant: ten.id}, ten.id, ListOptions{Limit: 100})) {
		if _, seen := ledger[e.TxID]; !seen {
			ledger[e.TxID] = e
		}
		if e.Kind != "correction" {
			continue
		}
		corrections++
		if original := ledger[e.Corrects]; original.Kind != "capture" && original.Kind != "accrual" && original.Kind != "close" {
			t.Errorf("%+v corrects %+v", e, original)
		}
		if e.PriceID == "" || e.UsageFrom == 0 || e.UsageTo <= e.UsageFrom || e.EffectiveAt != e.UsageTo {
			t.Errorf("%+v", e)
		}
	}
	if corrections < 2 {
		t.Fatalf("%d legs of corrections", corrections)
	}
}

// Every query, by an operator and by a tenant's owner, over a site with a story.
func TestQueries(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ten, host := story(s)
	store := openStore(t, newDatabase(t))
	p, _ := run(t, store, s)
	waitFor(t, p, s.w.Head.N)
	r, ctx := store.Reader([]byte("key")), t.Context()
	owner := Scope{User: ten.owner, Tenant: ten.id}

	all := items[Tenant](t)(r.Tenants(ctx, platform, ListOptions{}))
	own := items[Tenant](t)(r.Tenants(ctx, owner, ListOptions{}))
	if len(all) != 2 || len(own) != 1 || own[0].CRN != "core42:aicloud:test:"+ten.id.String()+"::tenant:"+ten.id.String() || own[0].State != "active" {
		t.Errorf("tenants: %+v, own %+v", all, own)
	}
	if m := items[Member](t)(r.Members(ctx, owner, ten.id, ListOptions{})); len(m) != 3 { // owner, viewer, service user
		t.Errorf("members %+v", m)
	}
	if m := items[ProjectMember](t)(r.ProjectMembers(ctx, owner, ten.project, ListOptions{})); len(m) != 1 || m[0].Role != "member" {
		t.Errorf("project members %+v", m)
	}
	viewer := Scope{User: parseUser(t, items[Member](t)(r.Members(ctx, owner, ten.id, ListOptions{}))[1].UserID), Tenant: ten.id}
	if k := items[APIKey](t)(r.APIKeys(ctx, owner, ten.id, ListOptions{})); len(k) != 2 || k[0].RevokedAt == 0 {
		t.Errorf("keys %+v", k)
	}
	if k := items[APIKey](t)(r.APIKeys(ctx, viewer, ten.id, ListOptions{})); len(k) != 0 {
		t.Errorf("a viewer sees others' keys: %+v", k)
	}
	if pol := must[[]Policy](t)(r.Policies(ctx, owner, ten.id, ten.project)); len(pol) != 1 || pol[0].Scope != "global" || string(pol[0].Value) != "12" {
		t.Errorf("policies %+v", pol)
	}
	if k := must[[]SKU](t)(r.SKUs(ctx, owner)); len(k) != 1 || len(k[0].Prices) != 2 {
		t.Errorf("the other tenant's price shows: %+v", k)
	}
	if k := must[[]SKU](t)(r.SKUs(ctx, platform)); len(k[0].Prices) != 3 {
		t.Errorf("prices %+v", k)
	}
	hosts := items[Host](t)(r.Hosts(ctx, platform, ListOptions{}))
	if len(hosts) != 2 || hosts[0].State != "silent" || hosts[1].State != "cordoned" || hosts[1].Slots != 4 || hosts[1].SlotsAvailable != 0 {
		t.Errorf("hosts %+v", hosts)
	}
	maps := must[SlotMaps](t)(r.SlotMaps(ctx, platform, host.id))
	var approved domain.MapApproved
	if err := json.Unmarshal(maps.Approved, &approved); err != nil || len(approved.Slots) != 4 || maps.Proposal != nil {
		t.Errorf("slot maps %+v: %v", maps, err)
	}
	for _, c := range []struct {
		by   SlotFilter
		want int
	}{{SlotFilter{}, 10}, {SlotFilter{States: []string{"retired"}}, 2}, {SlotFilter{Host: host.id}, 4}, {SlotFilter{States: []string{"cordoned"}}, 3}, {SlotFilter{States: []string{"quarantined"}}, 1}, {SlotFilter{States: []string{"active"}, Host: host.id}, 1}} {
		if got := items[Slot](t)(r.Slots(ctx, platform, c.by, ListOptions{})); len(got) != c.want {
			t.Errorf("slots %+v: %d, want %d", c.by, len(got), c.want)
		}
	}
	allocations := items[Allocation](t)(r.Allocations(ctx, owner, ten.project, AllocationFilter{}, ListOptions{}))
	states := []string{}
	for _, a := range allocations {
		states = append(states, a.State+"/"+a.VMs[0].State)
	}
	if got := strings.Join(states, " "); !strings.Contains(got, "unreachable/unreachable") || !strings.Contains(got, "released/released") {
		t.Errorf("states %s", got)
	}
	released := items[Allocation](t)(r.Allocations(ctx, owner, ten.project, AllocationFilter{States: []string{"released"}}, ListOptions{}))
	if len(released) != 1 || released[0].SKU != "h100-1" || released[0].VMs[0].SlotIDs[0] == "" || released[0].LockedMicros != nil || released[0].ReleasedAt == 0 {
		t.Fatalf("released %+v", released)
	}
	b, err := json.Marshal(released[0])
	if err != nil || !strings.Contains(string(b), `"vms":[{"vm_id":"vm_`) || strings.Contains(string(b), "expires_at") {
		t.Errorf("%s: %v", b, err)
	}
	var id domain.AllocationID
	if err := id.UnmarshalText([]byte(released[0].ID)); err != nil {
		t.Fatal(err)
	}
	if proof := must[[]Lease](t)(r.Erasure(ctx, owner, id)); len(proof) != 1 || proof[0].Result != "verified" || !strings.Contains(string(proof[0].Evidence), "nvme") {
		t.Errorf("erasure %+v", proof)
	}
	if u := items[UsageLine](t)(r.Usage(ctx, owner, ten.id, UsageFilter{From: 1, To: s.at}, ListOptions{})); len(u) == 0 || u[0].GPUs != 1 || u[0].Start == 0 {
		t.Errorf("usage %+v", u)
	}
	entries := items[Entry](t)(r.Ledger(ctx, owner, ten.id, ListOptions{Limit: 500, Descending: true}))
	var sum, available int64
	for _, e := range entries {
		sum += e.AmountMicros
		if strings.HasPrefix(e.Account, "lot:") || e.Account == "receivable" {
			available += e.AmountMicros
		}
	}
	balance := must[Balance](t)(r.Balance(ctx, owner, ten.id))
	if sum != 0 || balance.AvailableMicros != available || balance.AsOf != s.at {
		t.Errorf("sum %d, balance %+v, want available %d", sum, balance, available)
	}
	if g := items[Grant](t)(r.Grants(ctx, owner, ten.id, ListOptions{})); len(g) != 1 || g[0].BalanceMicros != balance.LotsMicros {
		t.Errorf("grants %+v", g)
	}
	if a := items[AuditEntry](t)(r.Audit(ctx, owner, AuditFilter{Tenant: ten.id}, ListOptions{Limit: 3})); len(a) != 3 || a[0].Type != "tenant.create" {
		t.Errorf("audit %+v", a)
	}
	if a := items[AuditEntry](t)(r.Audit(ctx, platform, AuditFilter{Actor: "host"}, ListOptions{})); len(a) == 0 || a[0].Type != "host.report" {
		t.Errorf("audit of the site %+v", a)
	}
	if o := items[Operator](t)(r.Operators(ctx, platform, ListOptions{})); len(o) != 1 || fmt.Sprint(o[0].Roles) != "[operator auditor]" {
		t.Errorf("operators %+v", o)
	}
	if _, err := r.Hosts(ctx, Scope{Platform: true, User: domain.UserID{1}}, ListOptions{}); err != nil {
		t.Errorf("an operator by its own row: %v", err)
	}
}

func parseUser(t *testing.T, s string) (u domain.UserID) {
	t.Helper()
	if err := u.UnmarshalText([]byte(s)); err != nil {
		t.Fatal(err)
	}
	return u
}

// What is not yours is not there: the same answer as for what never was.
func TestStrangersSeeNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ten, host := story(s)
	var other domain.TenantID
	store := openStore(t, newDatabase(t))
	p, _ := run(t, store, s)
	waitFor(t, p, s.w.Head.N)
	r, ctx := store.Reader(nil), t.Context()
	for _, x := range items[Tenant](t)(r.Tenants(ctx, platform, ListOptions{})) {
		if x.ID != ten.id.String() {
			_ = other.UnmarshalText([]byte(x.ID))
		}
	}
	stranger := parseUser(t, items[Member](t)(r.Members(ctx, platform, other, ListOptions{}))[0].UserID)
	allocation := items[Allocation](t)(r.Allocations(ctx, platform, ten.project, AllocationFilter{}, ListOptions{}))[0]
	var id domain.AllocationID
	_ = id.UnmarshalText([]byte(allocation.ID))
	o := ListOptions{}
	for name, scope := range map[string]Scope{
		"member of another tenant":    {User: stranger, Tenant: other},
		"claims the tenant":           {User: stranger, Tenant: ten.id},
		"claims a platform role":      {User: stranger, Platform: true},
		"nobody":                      {},
		"nobody who names the tenant": {Tenant: ten.id},
		"unknown user":                {User: domain.UserID{9}, Tenant: ten.id, Platform: true},
	} {
		check := func(what, want string, err error) {
			t.Helper()
			if code(err) != want {
				t.Errorf("%s: %s: %v, want %s", name, what, err, want)
			}
		}
		_, _, err := r.Tenant(ctx, scope, ten.id)
		check("tenant", "tenant.not_found", err)
		_, err = r.Members(ctx, scope, ten.id, o)
		check("members", "tenant.not_found", err)
		_, err = r.Projects(ctx, scope, ten.id, o)
		check("projects", "tenant.not_found", err)
		_, _, err = r.Project(ctx, scope, ten.project)
		check("project", "project.not_found", err)
		_, err = r.ProjectMembers(ctx, scope, ten.project, o)
		check("project members", "project.not_found", err)
		_, err = r.APIKeys(ctx, scope, ten.id, o)
		check("keys", "tenant.not_found", err)
		_, _, err = r.Policies(ctx, scope, ten.id, domain.ProjectID{})
		check("policies", "tenant.not_found", err)
		_, _, err = r.Policies(ctx, scope, domain.TenantID{}, ten.project)
		check("policies of a project", "project.not_found", err)
		_, err = r.Allocations(ctx, scope, ten.project, AllocationFilter{}, o)
		check("allocations", "project.not_found", err)
		_, _, err = r.Allocation(ctx, scope, id)
		check("allocation", "allocation.not_found", err)
		_, _, never := r.Allocation(ctx, scope, domain.AllocationID{1})
		if fmt.Sprint(err) != fmt.Sprint(never) {
			t.Errorf("%s: %v and %v tell apart what is not theirs from what is not there", name, err, never)
		}
		_, _, err = r.Erasure(ctx, scope, id)
		check("erasure", "allocation.not_found", err)
		_, err = r.Ledger(ctx, scope, ten.id, o)
		check("ledger", "tenant.not_found", err)
		_, _, err = r.Balance(ctx, scope, ten.id)
		check("balance", "tenant.not_found", err)
		_, err = r.Usage(ctx, scope, ten.id, UsageFilter{}, o)
		check("usage", "tenant.not_found", err)
		_, err = r.Grants(ctx, scope, ten.id, o)
		check("grants", "tenant.not_found", err)
		_, err = r.Audit(ctx, scope, AuditFilter{Tenant: ten.id}, o)
		check("audit", "tenant.not_found", err)
		_, err = r.Audit(ctx, scope, AuditFilter{}, o)
		check("audit of the site", "auth.platform_only", err)
		_, err = r.Hosts(ctx, scope, o)
		check("hosts", "auth.platform_only", err)
		_, _, err = r.Host(ctx, scope, host.id)
		check("host", "host.not_found", err)
		_, err = r.Slots(ctx, scope, SlotFilter{}, o)
		check("slots", "auth.platform_only", err)
		_, _, err = r.Device(ctx, scope, "h1-gpu0", o)
		check("device", "device.not_found", err)
		if got := items[Tenant](t)(r.Tenants(ctx, scope, o)); len(got) > 1 || len(got) == 1 && got[0].ID == ten.id.String() {
			t.Errorf("%s: tenants %+v", name, got)
		}
	}
}

// Row-level security holds even for a query that forgot to ask whose rows it reads.
func TestRowSecurity(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ten, _ := story(s)
	store := openStore(t, newDatabase(t))
	p, _ := run(t, store, s)
	waitFor(t, p, s.w.Head.N)
	r := store.Reader(nil)
	count := func(scope Scope, table string) (own, foreign int) {
		t.Helper()
		_, err := r.view(t.Context(), scope, func(ctx context.Context, v *view) error {
			column := "tenant_id"
			if table == "organizations" {
				column = "id"
			}
			return v.conn.QueryRow(ctx, fmt.Sprintf(`SELECT count(*) FILTER (WHERE %s = $1), count(*) FILTER (WHERE %[1]s <> $1 AND %[1]s <> '') FROM %s`, column, table), ten.id.String()).Scan(&own, &foreign)
		})
		if err != nil {
			t.Fatal(err)
		}
		return own, foreign
	}
	for _, table := range strings.Fields("organizations tenant_memberships projects allocations vms leases ledger_entries balances grants audit") {
		if own, foreign := count(Scope{User: ten.owner}, table); own == 0 || foreign != 0 {
			t.Errorf("%s: the owner sees %d own rows and %d of others", table, own, foreign)
		}
		if own, foreign := count(Scope{}, table); own != 0 || foreign != 0 {
			t.Errorf("%s: nobody sees %d and %d rows", table, own, foreign)
		}
		if _, foreign := count(platform, table); foreign == 0 {
			t.Errorf("%s: the platform sees nothing of others", table)
		}
	}
	for _, sql := range []string{`SELECT hash FROM api_keys`, `UPDATE allocations SET state = 'x'`, `SELECT * FROM goose_db_version`} {
		_, err := r.view(t.Context(), platform, func(ctx context.Context, v *view) error {
			_, err := v.conn.Exec(ctx, sql)
			return err
		})
		if err == nil {
			t.Errorf("a reader may %s", sql)
		}
	}
	var rows int
	_, err := r.view(t.Context(), Scope{User: ten.owner}, func(ctx context.Context, v *view) error {
		return v.conn.QueryRow(ctx, `SELECT (SELECT count(*) FROM hosts) + (SELECT count(*) FROM slots) + (SELECT count(*) FROM operators) + (SELECT count(*) FROM device_places) + (SELECT count(*) FROM earlier_wipes)`).Scan(&rows)
	})
	if err != nil || rows != 0 {
		t.Errorf("a tenant sees %d rows of the fleet: %v", rows, err)
	}
}

func TestPages(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ten, _ := story(s)
	store := openStore(t, newDatabase(t))
	p, _ := run(t, store, s)
	waitFor(t, p, s.w.Head.N)
	r, ctx := store.Reader([]byte("k")), t.Context()
	whole := items[Entry](t)(r.Ledger(ctx, platform, ten.id, ListOptions{Limit: 500}))
	for _, descending := range []bool{false, true} {
		var got []Entry
		o := ListOptions{Limit: 3, Descending: descending}
		for {
			page, err := r.Ledger(ctx, platform, ten.id, o)
			if err != nil || page.N != s.w.Head.N {
				t.Fatal(page.N, err)
			}
			got = append(got, page.Items...)
			if o.Cursor = page.NextCursor; o.Cursor == "" {
				break
			}
		}
		if len(got) != len(whole) {
			t.Fatalf("%d entries in pages, %d at once", len(got), len(whole))
		}
		for i := range got {
			k := i
			if descending {
				k = len(whole) - 1 - i
			}
			if got[i] != whole[k] {
				t.Fatalf("entry %d differs", i)
			}
		}
	}
	page, err := r.Ledger(ctx, platform, ten.id, ListOptions{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]ListOptions{
		"garbage": {Cursor: "x"}, "other order": {Cursor: page.NextCursor, Descending: true}, "too many": {Limit: 501}, "negative": {Limit: -1},
	} {
		if _, err := r.Ledger(ctx, platform, ten.id, o); code(err) != "list.cursor" && code(err) != "list.limit" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := r.Grants(ctx, platform, ten.id, ListOptions{Cursor: page.NextCursor}); code(err) != "list.cursor" {
		t.Errorf("another list's cursor: %v", err)
	}
}

// Reads survive connections that were cut, and say so when they cannot.
func TestReadsAfterDisconnect(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.tenant("acme")
	url := newDatabase(t)
	store := openStore(t, url)
	p, _ := run(t, store, s)
	waitFor(t, p, s.w.Head.N)
	r := store.Reader(nil)
	var held []*pgxpool.Conn // so many connections lie idle and then are dead
	for range 8 {
		c, err := store.reads.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	for _, c := range held {
		c.Release()
	}
	admin, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	if _, err := admin.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`); err != nil {
		t.Fatal(err)
	}
	var reads sync.WaitGroup
	for range 20 { // more than there are connections
		reads.Go(func() {
			if got, err := r.Tenants(t.Context(), platform, ListOptions{}); err != nil || len(got.Items) != 1 {
				t.Errorf("tenants %+v: %v", got, err)
			}
		})
	}
	reads.Wait()
	s.tenant("more")
	waitFor(t, p, s.w.Head.N)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Tenants(ctx, platform, ListOptions{}); code(err) != "read_model.unavailable" {
		t.Error(err)
	}
	if err := p.WaitFor(ctx, s.w.Head.N+1); code(err) != "read_model.behind" {
		t.Error(err)
	}
}

// The tenant reads why an operator made a key in it.
func TestSupportShowsInTheTenantsAudit(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ten := s.tenant("acme")
	s.system(&domain.CreateAPIKey{Tenant: ten.id, Name: "support", Role: domain.TenantViewer, Hash: domain.DigestOf([]byte("k")), Reason: "ticket-4711"})
	store := openStore(t, newDatabase(t))
	p, _ := run(t, store, s)
	waitFor(t, p, s.w.Head.N)
	found := false
	for _, e := range items[AuditEntry](t)(store.Reader([]byte("key")).Audit(t.Context(), Scope{User: ten.owner, Tenant: ten.id}, AuditFilter{Tenant: ten.id}, ListOptions{})) {
		found = found || e.Type == "api_key.create" && e.Reason == "ticket-4711"
	}
	if !found {
		t.Fatal("the reason is not in the tenant's audit")
	}
}
