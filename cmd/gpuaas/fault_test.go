package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// rack is one simulated host that an operator enrols by hand, with a fault script.
type rack struct {
	s     *site
	id    string
	slots []slot
	hostd *program
}

// newRack enrols a host, starts it with a script, looks at its slot map and
// approves it.
func newRack(t *testing.T, s *site, slots int, script string) *rack {
	t.Helper()
	op := s.operator()
	var made struct {
		ID    string `json:"id"`
		Token string `json:"enrolment_token"`
	}
	enrolled := op.do(201, "POST", "/v1/hosts", obj{"name": "h1", "rack": "r1"})
	enrolled.into(t, &made)
	r := &rack{s: s, id: made.ID}
	fleet, err := json.Marshal([]obj{{"dir": r.dir(), "slots": slots, "seed": "h1", "server": s.address(), "token": made.Token, "faults": r.dir() + "/faults"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(r.dir(), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.dir+"/hosts/fleet.json", fleet, 0o600); err != nil {
		t.Fatal(err)
	}
	r.suffers(t, script)
	var m struct {
		Digest string `json:"proposal_digest"`
	}
	eventually(t, limit, "a slot map", func() error {
		op.get(fmt.Sprintf("/v1/hosts/%s/slot-map?at_least=%d", r.id, enrolled.seq), &m)
		return errNo(m.Digest != "", "no proposal")
	})
	op.refused(422, "slot.no_wipe_policy", "POST", "/v1/hosts/"+r.id+"/slot-map/approve", obj{"digest": m.Digest})
	seq := op.do(202, "POST", "/v1/hosts/"+r.id+"/slot-map/approve", obj{"digest": m.Digest, "wipe_policy": "auto"}).seq
	r.slots = list[slot](op, fmt.Sprintf("/v1/slots?at_least=%d", seq))
	slices.SortFunc(r.slots, func(a, b slot) int { return a.Index - b.Index })
	return r
}

func (r *rack) dir() string { return filepath.Join(r.s.dir, "hosts", "h1") }

// suffers starts hostd, again if it runs, with a fault script.
func (r *rack) suffers(t *testing.T, script string) {
	t.Helper()
	if r.hostd != nil {
		r.hostd.kill()
	}
	if err := os.WriteFile(r.dir()+"/faults", []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	r.hostd = run(t, nil, "hostd", "run", "--machine", "sim", "--fleet", r.s.dir+"/hosts/fleet.json")
}

// TestFaultyHost takes a host through faults, one after another: no slot is free
// again without proof, and only the provider's failures are free.
func TestFaultyHost(t *testing.T) {
	t.Parallel()
	const credit = 100_000_000
	s := newSite(t, "dev", "--bare", "--host-silent-seconds", "3", "--log-level", "warn")
	op := s.operator()
	var sku struct {
		ID string `json:"id"`
	}
	op.do(201, "POST", "/v1/skus", obj{"name": "gpu-1x", "shape": 1}).into(t, &sku)
	op.do(201, "POST", "/v1/skus/"+sku.ID+"/prices", obj{"currency": "USD", "micros_per_unit_hour": price})
	te := s.newTenant("acme", credit)

	// The first wipes: one does not come to an end and is tried again, one speaks of
	// another drive, one says that it failed.
	r := newRack(t, s, 4, "wipe slot=0 fail=nvme.timeout times=1\nwipe slot=1 component=nvme serial=LIAR times=1\nwipe slot=2 result=failed times=1\n")
	s.slotBecomes(r.slots[0].ID, "available")
	s.slotBecomes(r.slots[3].ID, "available")
	for _, sl := range r.slots[1:3] {
		if got := s.slotBecomes(sl.ID, "quarantined"); got.Reason == "" || got.Component == "" {
			t.Errorf("slot %d is in quarantine without saying why: %+v", sl.Index, got)
		}
	}
	te.refused(409, "capacity.exhausted", "POST", "/v1/projects/"+te.project+"/allocations", obj{"sku": "gpu-1x", "count": 3})
	for _, sl := range r.slots[1:3] {
		te.refused(403, "auth.platform_only", "POST", "/v1/slots/"+sl.ID+"/rewipe", nil)
		op.do(202, "POST", "/v1/slots/"+sl.ID+"/rewipe", nil)
		s.slotBecomes(sl.ID, "available")
	}

	// A wipe after a lease fails: the allocation has ended, its slot is not free.
	failed := te.launch(obj{"sku": "gpu-1x"})
	sl := s.slotBecomes(te.becomes(failed.ID, "running").VMs[0].SlotIDs[0], "active")
	r.suffers(t, "wipe result=failed times=1\n")
	te.do(202, "DELETE", "/v1/allocations/"+failed.ID, nil)
	te.becomes(failed.ID, "released")
	s.slotBecomes(sl.ID, "quarantined")
	if proof := string(te.do(200, "GET", "/v1/allocations/"+failed.ID+"/erasure", nil).body); !strings.Contains(proof, `"erased":false`) || strings.Contains(proof, `"wipe_result":"verified"`) {
		t.Errorf("erasure after a failed wipe: %s", proof)
	}
	op.do(202, "POST", "/v1/slots/"+sl.ID+"/rewipe", nil)
	s.slotBecomes(sl.ID, "available")
	erased(t, te, failed.ID, sl)

	// The host disappears for a while: its VM runs on, and is billed.
	away := te.launch(obj{"sku": "gpu-1x"})
	te.becomes(away.ID, "running")
	r.suffers(t, "host silent for=8s\n")
	gone := te.becomes(away.ID, "unreachable")
	s.slotBecomes(gone.VMs[0].SlotIDs[0], "active")
	back := te.becomes(away.ID, "running")
	if got := boots(te, away.ID); len(got) != 1 || back.VMs[0].ID != gone.VMs[0].ID {
		t.Errorf("it came back with boots %v as %s", got, back.VMs[0].ID)
	}
	te.do(202, "DELETE", "/v1/allocations/"+away.ID, nil)

	// A guest that shows life but never says ready is billed from its first sign of
	// life; one that shows none is not billed in its first five minutes.
	r.suffers(t, "ready never\n")
	mute := te.launch(obj{"sku": "gpu-1x"})
	billable := func(id string) (reason string) {
		for _, e := range te.events("/v1/allocations/" + id + "/events") {
			var d struct {
				Reason string `json:"reason"`
			}
			if e.Type == "allocation.vm_billable" {
				_ = json.Unmarshal(e.Data, &d)
				reason = d.Reason
			}
		}
		return reason
	}
	eventually(t, limit, "a sign of life", func() error { return errNo(billable(mute.ID) == "alive", "reason "+billable(mute.ID)) })
	var now allocation
	te.get("/v1/allocations/"+mute.ID, &now)
	if now.State == "running" {
		t.Errorf("it never said ready, and is %s", now.State)
	}
	te.do(202, "DELETE", "/v1/allocations/"+mute.ID, nil)
	te.becomes(mute.ID, "released")
	te.becomes(away.ID, "released")

	r.suffers(t, "alive never\n")
	dead := te.launch(obj{"sku": "gpu-1x"})
	eventually(t, limit, "its start", func() error {
		return errNo(slices.ContainsFunc(te.events("/v1/allocations/"+dead.ID+"/events"), func(e event) bool { return e.Type == "allocation.vm_started" }), "not started")
	})
	te.do(202, "DELETE", "/v1/allocations/"+dead.ID, nil)
	te.becomes(dead.ID, "released")
	exactBalance(t, te, credit, failed.ID, away.ID, mute.ID)

	// The provider's failure is free, and leaves nothing behind.
	r.suffers(t, "start fail=domain.start_failed\n")
	broken := te.launch(obj{"sku": "gpu-1x"})
	if got := te.becomes(broken.ID, "failed"); got.Reason != "domain.start_failed" {
		t.Errorf("it failed because of %q", got.Reason)
	}
	exactBalance(t, te, credit, failed.ID, away.ID, mute.ID)
	for _, sl := range r.slots {
		s.slotBecomes(sl.ID, "available")
	}
	verified(t, s)
	s.interrupt()
}
