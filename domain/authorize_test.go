package domain

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// people are a site's actors by what they are.
type people struct {
	s        *site
	f        tenantFixture
	actors   map[string]Actor
	users    map[string]UserID
	keys     map[string]APIKeyID
	alloc    AllocationID
	image    ImageID
	host     *fakeHost
	sku      SKUID
	slots    []SlotID // available ones
	broken   SlotID   // in quarantine
	empty    HostID
	proposed *fakeHost
	duty     WipeDutyID
	token    Digest
}

// key makes an actor of a user, with a key of the tenant or of the site.
func (p *people) key(name string, tenant TenantID, user UserID) {
	p.s.t.Helper()
	k := ofType[*APIKeyCreated](p.s.must(System, &CreateAPIKey{Tenant: tenant, User: user, Name: "k", Hash: DigestOf([]byte(name))}))[0]
	p.actors[name], p.users[name], p.keys[name] = Actor{Kind: ActorKey, Key: k.ID}, user, k.ID
}

// newPeople is a site with somebody in every role, and with one of everything that
// a command is about.
func newPeople(t *testing.T) *people {
	s := newSite(t)
	p := &people{s: s, actors: map[string]Actor{"system": System}, users: map[string]UserID{}, keys: map[string]APIKeyID{}}
	p.sku = s.sku("gpu-1x", 1, 1_000_000)
	p.f = s.tenant("acme", 1e9)
	for name, roles := range map[string]PlatformRoles{"operator": RoleOperator, "finance": RoleFinance, "auditor": RoleAuditor} {
		user := UserID(DigestOf([]byte(name)).first16())
		s.must(System, &SetOperator{User: user, Roles: roles})
		p.key(name, TenantID{}, user)
	}
	member := func(name string, tenant TenantID, role TenantRole) {
		e := s.must(System, &SetTenantMember{Tenant: tenant, Role: role})[0].(*TenantMemberSet)
		p.key(name, tenant, e.User)
	}
	for name, role := range map[string]TenantRole{"owner": TenantOwner, "admin": TenantAdmin, "billing": TenantBilling, "viewer": TenantViewer, "left": TenantOwner, "revoked": TenantOwner} {
		member(name, p.f.id, role)
	}
	for name, role := range map[string]ProjectRole{"padmin": ProjectAdmin, "pmember": ProjectMember, "pviewer": ProjectViewer} {
		member(name, p.f.id, TenantViewer)
		s.must(System, &SetProjectMember{Project: p.f.project, User: p.users[name], Role: role})
	}
	other := s.tenant("other", 1e9)
	member("stranger", other.id, TenantOwner)
	s.must(System, &SetTenantMember{Tenant: p.f.id, User: p.users["left"], Role: TenantNone})
	s.must(System, &SetTenantMember{Tenant: other.id, User: p.users["left"], Role: TenantOwner})
	s.must(System, &RevokeAPIKey{Key: p.keys["revoked"]})

	p.host = s.host("h1", 8, "r1")
	p.actors["host"] = Actor{Kind: ActorHost, Host: p.host.id}
	p.alloc = s.launch(p.f, "a", "gpu-1x", 1)
	second := s.launch(p.f, "b", "gpu-1x", 1)
	third := s.launch(p.f, "c", "gpu-1x", 1)
	p.host.boot()
	for _, row := range s.w.hosts.get(p.host.id).slots {
		if sl := s.w.slots.row(row); sl.State == SlotIsAvailable {
			p.slots = append(p.slots, sl.ID)
		}
	}
	p.broken, p.slots = p.slots[0], p.slots[1:]
	s.must(System, &QuarantineSlot{Slot: p.broken, Reason: "test"})
	p.image = s.must(System, &RegisterImage{image("own", "1", p.f.project, 1)})[0].(*ImageRegistered).ID
	p.empty = s.must(System, &EnrollHost{Name: "empty", TokenID: Digest{1}})[0].(*HostEnrolled).ID
	p.token = Digest{2}
	waiting := s.must(System, &EnrollHost{Name: "waiting", TokenID: p.token})[0].(*HostEnrolled).ID
	p.proposed = &fakeHost{s: s, id: waiting, m: testMap("waiting", 2)}
	(&MapProposed{Host: waiting, Digest: p.proposed.m.Digest(), Map: *p.proposed.m}).apply(s.w, &Applied{})
	s.must(p.f.key, &ActOnAllocation{Allocation: second, Action: ActionRelease}) // and its VM is on its way out
	leaving := s.w.vms.row(s.w.allocations.get(third).vms[0])
	left, gone := leaving.ID, s.w.slots.row(leaving.slots[0]).ID
	s.must(p.f.key, &ActOnAllocation{Allocation: third, Action: ActionRelease})
	p.host.report(Report{Kind: ReportRemoved, VM: &VMReport{VM: left, Boot: 1, At: s.now}})
	s.must(System, &QuarantineSlot{Slot: gone, Reason: "test"}) // before its wipe
	p.duty = ofType[*WipeOwed](s.must(System, &RetireSlot{Slot: gone, Reason: "test"}))[0].ID
	return p
}

func (d Digest) first16() (b [16]byte) { return [16]byte(d[:16]) }

// Who may do what: everybody who is not named in may is refused, with the code of
// what they are to the object.
func TestWhoMayDoWhat(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	const (
		platform = "auth.platform_only"
		low      = "auth.role_too_low"
	)
	type row struct {
		name     string
		body     func() CommandBody
		may      string
		members  string // the code for the tenant's other members
		site     string // for the platform's other people
		stranger string
		then     string // an event that follows
	}
	site := func(name, may, then string, body CommandBody) row {
		return row{name, func() CommandBody { return body }, may, platform, platform, platform, then}
	}
	system := func(name, code, then string, body CommandBody) row {
		return row{name, func() CommandBody { return body }, "system", code, code, code, then}
	}
	tenant := func(name, may, then string, body CommandBody) row {
		return row{name, func() CommandBody { return body }, may, low, low, "tenant.not_found", then}
	}
	project := func(name, may, then string, body CommandBody) row {
		return row{name, func() CommandBody { return body }, may, low, "project.not_found", "project.not_found", then}
	}
	const (
		operators = "system operator"
		money     = operators + " finance"
		admins    = operators + " owner admin"
		padmins   = admins + " padmin"
		pmembers  = padmins + " pmember"
	)
	f := p.f
	p.s.w.hosts.get(p.host.id).unknown = []HeldVM{{VM: VMID{5}}}
	_, c := p.s.w.corrections.add(CorrectionID{6})
	*c = Correction{ID: CorrectionID{6}, Field: FieldGrantBalance, Resource: p.s.w.grants.row(0).ID.String(), Before: fmt.Sprint(p.s.w.grants.row(0).Balance), After: "1", By: UserID{99}, Until: p.s.now.Add(9 * Hour)}
	rows := []row{
		site("world.propose_correction", "operator", "world.correction_proposed", &ProposeCorrection{Field: c.Field, Resource: c.Resource, Before: c.Before, After: c.After, Reason: "test"}),
		site("world.approve_correction", "operator", "world.corrected", &ApproveCorrection{Correction: c.ID}),
		site("world.approve_correction, withdrawn", "operator", "world.correction_withdrawn", &ApproveCorrection{Correction: c.ID, Withdraw: true}),
		system("site.open_epoch", "command.not_found", "site.epoch_opened", p.s.openEpoch(p.actors["operator"])),
		system("host.note_ahead", "host.not_found", "host.ahead", &NoteHostAhead{Host: p.host.id, Epoch: 9}),
		site("host.destroy_unknown_vm", operators, "host.unknown_vm_destroyed", &DestroyUnknownVM{Host: p.host.id, VM: VMID{5}, Reason: "test"}),
		system("writer.start", "command.not_found", "site.writer_started", &StartWriter{Site: "test", LogicLevel: LogicLevel}),
		system("tick", "command.not_found", "allocation.vm_removed", &Tick{}),
		system("host.admit", "host.not_found", "host.admitted", &AdmitHost{TokenID: p.token, NATSKey: "U" + strings.Repeat("A", 55), SignKey: make([]byte, 32)}),
		system("host.act silent", "host.not_found", "host.silent", &ActOnHost{Host: p.host.id, Action: HostSilent}),
		{
			"host.report", func() CommandBody {
				return &RecordReport{Host: p.host.id, Report: EncodeReport(&Report{Host: p.host.id, Journal: p.host.journal, Number: p.host.n + 1, Kind: ReportInventory, Inventory: p.host.m})}
			},
			"host", "host.not_found", "host.not_found", "host.not_found", "host.reported",
		},

		site("tenant.create", operators, "tenant.created", &CreateTenant{Name: "new", Currency: "USD"}),
		site("operator.set", operators, "site.operator_set", &SetOperator{User: UserID{77}, Roles: RoleAuditor}),
		site("api_key.create of the site", operators, "tenant.api_key_created", &CreateAPIKey{User: p.users["auditor"], Name: "k", Hash: Digest{9}}),
		site("policy.set global", operators, "policy.set", &SetPolicy{Key: "quota.gpus", Value: PolicyValue{kind: policyInt, Int: 4}}),
		site("sku.create", operators, "catalog.sku_created", &CreateSKU{Name: "gpu-2x", Shape: 2}),
		site("price.publish", money, "catalog.price_published", &PublishPrice{SKU: p.sku, Currency: "USD", Micros: 5}),
		site("credit.grant", money, "ledger.posted", &GrantCredit{Tenant: f.id, Currency: "USD", Amount: 5, Kind: GrantPaid}),
		site("host.enroll", operators, "host.enrolled", &EnrollHost{Name: "new", TokenID: Digest{8}}),
		site("host.act cordon", operators, "host.cordoned", &ActOnHost{Host: p.host.id, Action: HostCordon}),
		site("host.approve_map", operators, "host.map_approved", &ApproveMap{Host: p.proposed.id, Digest: p.proposed.m.Digest(), Policy: WipeAuto}),
		site("host.remove", operators, "host.removed", &RemoveHost{Host: p.empty}),
		site("slot.quarantine", operators, "slot.quarantined", &QuarantineSlot{Slot: p.slots[0], Reason: "test"}),
		site("slot.rewipe", operators, "slot.wipe_started", &RewipeSlot{Slot: p.broken}),
		site("slot.retire", operators, "slot.retired", &RetireSlot{Slot: p.broken, Reason: "old"}),
		site("image.register of the site", operators, "image.registered", &RegisterImage{image("tiny", "1", ProjectID{}, 3)}),

		tenant("tenant.set_member", admins, "tenant.member_set", &SetTenantMember{Tenant: f.id, Role: TenantViewer}),
		tenant("project.create", admins, "project.created", &CreateProject{Tenant: f.id, Name: "second"}),
		tenant("policy.set of a tenant", admins, "policy.set", &SetPolicy{Scope: PolicyScope{Tenant: f.id}, Key: "quota.gpus", Value: PolicyValue{kind: policyInt, Int: 4}}),

		project("project.set_member", padmins, "project.member_set", &SetProjectMember{Project: f.project, User: p.users["viewer"], Role: ProjectMember}),
		project("policy.set of a project", padmins, "policy.set", &SetPolicy{Scope: PolicyScope{Project: f.project}, Key: "quota.gpus", Value: PolicyValue{kind: policyInt, Int: 4}}),
		project("allocation.create", pmembers, "allocation.placed", &CreateAllocation{Project: f.project, SKU: p.sku, Count: 1, Image: "own"}),
		project("image.register", padmins, "image.registered", &RegisterImage{image("own", "2", f.project, 2)}),
	}
	hidden := func(what string, r row) row {
		r.site, r.stranger = what+".not_found", what+".not_found"
		return r
	}
	for _, a := range []struct {
		action AllocationAction
		then   string
	}{{ActionStop, "allocation.stop_requested"}, {ActionReboot, "allocation.reboot_requested"}, {ActionRelease, "allocation.releasing"}} {
		rows = append(rows, hidden("allocation", project("allocation.act "+a.action.String(), pmembers, a.then, &ActOnAllocation{Allocation: p.alloc, Action: a.action})))
	}
	rows = append(rows, hidden("image", project("image.retire", padmins, "image.retired", &RetireImage{p.image})))

	// Owners alone make owners; for keys it is the user that counts.
	owners := tenant("tenant.set_member owner", "system operator owner", "tenant.member_set", &SetTenantMember{Tenant: f.id, Role: TenantOwner})
	rows = append(rows, owners)
	keys := tenant("api_key.create for another", admins, "tenant.api_key_created", &CreateAPIKey{Tenant: f.id, User: p.users["billing"], Name: "k", Hash: Digest{9}, Reason: "ticket"})
	keys.members = "api_key.not_yours"
	keys.may += " billing" // itself
	rows = append(rows, keys)
	services := tenant("api_key.create for a service", admins, "tenant.api_key_created", &CreateAPIKey{Tenant: f.id, Role: TenantAdmin, Name: "k", Hash: Digest{9}, Reason: "ticket"})
	services.members = "api_key.role_too_high"
	rows = append(rows, services)
	revoke := hidden("api_key", tenant("api_key.revoke", admins+" viewer", "tenant.api_key_revoked", &RevokeAPIKey{Key: p.keys["viewer"]}))
	revoke.members, revoke.site = "api_key.not_yours", low
	rows = append(rows, revoke)
	// Two operators, who are people: the system itself may not.
	destroyed := site("wipe_duty.report_destroyed", "operator", "slot.destruction_reported", &ReportDestroyed{Duty: p.duty, Evidence: "paper-1"})
	rows = append(rows, destroyed)

	p.s.now = p.s.now.Add(2 * Hour) // so that a tick has something to do
	covered := map[string]bool{}
	for _, r := range rows {
		body := r.body()
		covered[body.CommandType()] = true
		for name, actor := range p.actors {
			want := r.members
			switch {
			case slices.Contains(strings.Fields(r.may), name):
				want = ""
			case name == "system" && slices.Contains([]string{"wipe_duty.report_destroyed", "world.propose_correction", "world.approve_correction"}, body.CommandType()):
				want = platform
			case name == "system":
				want = r.stranger
			case name == "operator" || name == "finance" || name == "auditor":
				want = r.site
			case name == "stranger":
				want = r.stranger
			case name == "host" || name == "left" || name == "revoked":
				want = "auth.invalid_key"
				if strings.HasPrefix(r.may, "system") && !strings.Contains(r.may, " ") || r.may == "host" {
					want = r.stranger // what only the system does is there for nobody
				}
			case name == "admin" && r.name == owners.name:
				want = "tenant.owner_only"
			}
			out := p.s.w.Decide(p.s.now, p.s.command(actor, body))
			got := ""
			if out.Err != nil {
				got = out.Err.Code
			}
			if got != want {
				t.Errorf("%s by %s: %q, want %q (%v)", r.name, name, got, want, out.Err)
			}
			if want == "" && !slices.ContainsFunc(out.Events, func(e EventBody) bool { return e.EventType() == r.then }) {
				t.Errorf("%s by %s: no %s follows", r.name, name, r.then)
			}
		}
	}
	for _, typ := range CommandTypes() {
		if !covered[typ] {
			t.Errorf("nobody says who may do %s: it has no row", typ)
		}
	}
}

// What one may read follows the same roles.
func TestWhoMayRead(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	for name, want := range map[string][2]string{ // of the tenant, of its project
		"system": {}, "operator": {}, "finance": {}, "auditor": {}, "owner": {}, "admin": {}, "billing": {}, "viewer": {}, "padmin": {}, "pmember": {}, "pviewer": {},
		"stranger": {"tenant.not_found", "project.not_found"}, "left": {"auth.invalid_key", "auth.invalid_key"},
		"revoked": {"auth.invalid_key", "auth.invalid_key"}, "host": {"auth.invalid_key", "auth.invalid_key"},
	} {
		for i, err := range []*Error{p.s.w.MayRead(p.actors[name], p.s.now, p.f.id, ProjectID{}), p.s.w.MayRead(p.actors[name], p.s.now, TenantID{}, p.f.project)} {
			code := ""
			if err != nil {
				code = err.Code
			}
			if code != want[i] {
				t.Errorf("%s: %q, want %q", name, code, want[i])
			}
		}
	}
}

// A key ends with the membership it was made for. At level 1 it followed its user.
func TestKeyDoesNotFollowItsUser(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a, b := s.tenant("a", 0), s.tenant("b", 0)
	user := s.w.keys.get(a.key.Key).User
	s.must(System, &SetTenantMember{Tenant: a.id, Role: TenantOwner}) // a tenant keeps an owner
	move := func(from, to TenantID) {
		s.must(System, &SetTenantMember{Tenant: from, User: user, Role: TenantNone})
		s.refused(a.key, &CreateProject{Tenant: a.id, Name: "x"}, "auth.invalid_key")
		s.must(System, &SetTenantMember{Tenant: to, User: user, Role: TenantAdmin})
	}
	move(a.id, b.id)
	for _, tenant := range []TenantID{a.id, b.id} {
		s.refused(a.key, &CreateProject{Tenant: tenant, Name: "x"}, "auth.invalid_key")
	}
	s.w.LogicLevel = 1
	s.refused(a.key, &CreateProject{Tenant: a.id, Name: "x"}, "tenant.not_found")
	s.w.LogicLevel = LogicLevel

	// Nor does it become an operator's, with whom it shares that it is of no tenant.
	s.must(System, &SetTenantMember{Tenant: b.id, User: user, Role: TenantNone})
	s.must(System, &SetOperator{User: user, Roles: RoleOperator})
	s.refused(a.key, &CreateTenant{Name: "c", Currency: "USD"}, "auth.invalid_key")
	s.replays()
}
