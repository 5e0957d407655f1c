package domain

import "testing"

// An operator makes a tenant's first key. For another it has to say why, and the
// tenant reads it.
func TestOperatorKeysNeedAReason(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	f := s.tenant("acme", 0) // with its first key, made by the operator
	n := byte(10)
	key := func(reason string) *CreateAPIKey {
		n++
		return &CreateAPIKey{Tenant: f.id, Name: "k", Hash: Digest{n}, Role: TenantViewer, Reason: reason}
	}
	s.refused(s.admin, key(""), "support.reason_required")
	s.refused(s.admin, key("two words"), "word.invalid")
	made := ofType[*APIKeyCreated](s.must(s.admin, key("ticket-4711")))[0]
	if made.Reason != "ticket-4711" || made.Owner() != f.id.String() {
		t.Fatalf("%+v", made)
	}
	s.must(f.key, key("")) // the tenant's own people need none
	s.must(System, key(""))
	s.replays()
}

// Old history decides as it did: at level 1 nobody asked for a reason, and the start
// of a newer build raises the level.
func TestLogicLevels(t *testing.T) {
	t.Parallel()
	s := &site{t: t, w: NewWorld(), now: t0, check: true}
	s.must(System, &StartWriter{Site: "test", Build: "old", LogicLevel: 1})
	user := UserID{1}
	s.must(System, &SetOperator{User: user, Roles: RoleOperator | RoleFinance})
	s.must(System, &CreateAPIKey{User: user, Name: "admin", Hash: Digest{1}})
	s.admin = Actor{Kind: ActorKey, Key: s.w.keyByHash[Digest{1}]}
	h := s.host("h", 2, "r")
	sku := s.sku("gpu-1x", 1, 1_000_000)
	f := s.tenant("acme", 1e9)
	id := s.running(h, f, "gpu-1x", at("2026-03-31T22:30:00Z"))
	s.must(s.admin, &CreateAPIKey{Tenant: f.id, Name: "k", Hash: Digest{2}})
	s.refused(s.admin, &PublishPrice{SKU: sku, Currency: "USD", Micros: 2, Effective: s.now - 1}, "price.in_the_past")
	s.to(at("2026-04-01T03:10:00Z"))
	for _, tx := range s.ledger(TxAccrual) {
		if tx.Effective == at("2026-04-01T00:00:00Z") {
			t.Fatal("a posting was split at the month's end")
		}
	}
	s.must(System, &StartWriter{Site: "test", Build: "new", LogicLevel: LogicLevel})
	s.refused(System, &StartWriter{Site: "test", Build: "old", LogicLevel: 1}, "writer.too_old")
	s.refused(s.admin, &CreateAPIKey{Tenant: f.id, Name: "k", Hash: Digest{3}}, "support.reason_required")
	s.must(s.admin, &PublishPrice{SKU: sku, Currency: "USD", Micros: 2_000_000, Effective: s.now.Add(-Hour)})
	s.release(f, id, h)
	if got := s.used(f); got != accrued(1_000_000, 1, 90*Minute)+accrued(1_000_000, 1, 130*Minute)+accrued(2_000_000, 1, Hour) {
		t.Fatalf("used %d", got)
	}
	s.replays()
}
