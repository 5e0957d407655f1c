package main_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestLife is the whole life of an allocation over REST, to the last micro.
func TestLife(t *testing.T) {
	t.Parallel()
	s := dev(t, 1, 2)
	op, credit := s.operator(), int64(50_000_000)
	te := s.newTenant("acme", credit)

	var offers struct {
		Items []struct {
			SKU      string `json:"sku"`
			Quantity int    `json:"quantity"`
		} `json:"items"`
	}
	te.get("/v1/offers", &offers)
	if !slices.ContainsFunc(offers.Items, func(o struct {
		SKU      string `json:"sku"`
		Quantity int    `json:"quantity"`
	},
	) bool {
		return o.SKU == "gpu-1x" && o.Quantity == 2
	}) {
		t.Errorf("offers %+v, want two of gpu-1x", offers.Items)
	}

	// A dry run is planned, and nothing is written.
	body := obj{"name": "train-1", "sku": "gpu-1x", "image": "tiny", "user_data": "#!/bin/sh\necho hello\n", "ssh_keys": []string{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me"}}
	before := te.head()
	body["dry_run"] = true
	var plan allocation
	dry := te.do(200, "POST", "/v1/projects/"+te.project+"/allocations", body)
	dry.into(t, &plan)
	if plan.State != "planned" || plan.ID != "" || dry.seq != before {
		t.Errorf("dry run: %s, Log-Sequence %d, was %d", dry.body, dry.seq, before)
	}
	if after := te.head(); after != before {
		t.Errorf("a dry run wrote: commit %d became %d", before, after)
	}
	delete(body, "dry_run")

	a := te.launch(body)
	got := te.becomes(a.ID, "running")
	sl := s.slotBecomes(got.VMs[0].SlotIDs[0], "active")
	says(te, a.ID, "echo hello")

	te.do(202, "POST", "/v1/allocations/"+a.ID+"/stop", nil)
	if off := te.becomes(a.ID, "stopped"); got.VMs[0].BilledSince == "" || off.VMs[0].BilledSince != got.VMs[0].BilledSince {
		t.Errorf("billed since %q while it runs, since %q while it is stopped", got.VMs[0].BilledSince, off.VMs[0].BilledSince)
	}
	te.do(202, "POST", "/v1/allocations/"+a.ID+"/start", nil)
	te.becomes(a.ID, "running")
	te.do(202, "POST", "/v1/allocations/"+a.ID+"/reboot", nil)
	eventually(t, limit, "third boot", func() error {
		return errNo(slices.Equal(boots(te, a.ID), []int{1, 2, 3}), fmt.Sprint("boots ", boots(te, a.ID)))
	})
	te.becomes(a.ID, "running")

	// Read your own writes: the state that the command led to, at once.
	release := te.do(202, "DELETE", "/v1/allocations/"+a.ID, nil)
	var now allocation
	read := te.get(fmt.Sprintf("/v1/allocations/%s?at_least=%d", a.ID, release.seq), &now)
	if now.State != "releasing" && now.State != "released" || read.seq < release.seq {
		t.Errorf("read at commit %d after %d: %s", read.seq, release.seq, now.State)
	}
	if gone := te.becomes(a.ID, "released"); gone.VMs[0].BilledSince != "" {
		t.Errorf("released, and billed since %s", gone.VMs[0].BilledSince)
	}
	if again := s.slotBecomes(sl.ID, "available"); again.Generation != sl.Generation {
		t.Errorf("slot generation %d after the wipe, was %d", again.Generation, sl.Generation)
	}
	exactBalance(t, te, credit, a.ID)
	erased(t, te, a.ID, sl)
	story(t, te, a.ID)
	gapless(t, op)
}

// head is the log's head: a balance is computed from the world as it is now.
func (te tenant) head() uint64 {
	te.s.t.Helper()
	return te.do(200, "GET", "/v1/tenants/"+te.id+"/balance", nil).seq
}

// says waits until the console has a text.
func says(te tenant, id, text string) string {
	te.s.t.Helper()
	var console string
	eventually(te.s.t, limit, "console with "+text, func() error {
		a, err := te.ask("GET", "/v1/allocations/"+id+"/console?offset=0&limit=524288", nil)
		if err != nil || a.status != 200 {
			return fmt.Errorf("%v %s", err, a.body)
		}
		var c struct {
			Data string `json:"data"`
		}
		a.into(te.s.t, &c)
		b, err := base64.StdEncoding.DecodeString(c.Data)
		console = string(b)
		if err != nil || !strings.Contains(console, text) {
			return fmt.Errorf("%v: %q", err, console[max(0, len(console)-2000):])
		}
		return nil
	})
	return console
}

// boots are the boots that became ready, from the events.
func boots(te tenant, id string) (out []int) {
	te.s.t.Helper()
	for _, e := range te.events("/v1/allocations/" + id + "/events") {
		var d struct {
			Boot int `json:"boot"`
		}
		if e.Type == "allocation.vm_running" {
			if err := json.Unmarshal(e.Data, &d); err != nil {
				te.s.t.Fatal(err)
			}
			out = append(out, d.Boot)
		}
	}
	return out
}

type entry struct {
	TxID    string `json:"tx_id"`
	Kind    string `json:"kind"`
	Account string `json:"account"`
	Amount  int64  `json:"amount_micros"`
}

// exactBalance holds the tenant's money against the ledger and against arithmetic:
// all of its allocations have ended.
func exactBalance(t *testing.T, te tenant, credit int64, ids ...string) {
	t.Helper()
	var want int64
	events := te.events("/v1/events")
	for _, id := range ids {
		from, to := billed(t, events, id)
		if !to.After(from) {
			t.Errorf("%s was billed from %v to %v", id, from, to)
		}
		want += cost(from, to)
	}
	var b balance
	read := te.get("/v1/tenants/"+te.id+"/balance", &b)
	if b != (balance{Available: credit - want}) {
		t.Errorf("balance %+v, want %d available: %d less %d", b, credit-want, credit, want)
	}
	sums, txs := map[string]int64{}, map[string]int64{}
	for _, e := range list[entry](te.caller, fmt.Sprintf("/v1/tenants/%s/ledger?at_least=%d", te.id, read.seq)) {
		kind, _, _ := strings.Cut(e.Account, ":")
		sums[kind] += e.Amount
		txs[e.TxID] += e.Amount
	}
	for tx, sum := range txs {
		if sum != 0 {
			t.Errorf("transaction %s sums to %d", tx, sum)
		}
	}
	if sums["revenue"] != want || sums["lot"] != credit-want || sums["hold"] != 0 {
		t.Errorf("ledger %v, want revenue %d and the rest in the lot", sums, want)
	}
}

// erased wants the proof that nothing of the allocation is left on the slot.
func erased(t *testing.T, te tenant, id string, sl slot) (bytesRead uint64) {
	t.Helper()
	var proof struct {
		Items []struct {
			SlotID     string    `json:"slot_id"`
			Generation uint64    `json:"generation"`
			WipeResult string    `json:"wipe_result"`
			WipedAt    time.Time `json:"wiped_at"`
			Evidence   struct {
				Devices []struct {
					Component string `json:"component"`
					Serial    string `json:"serial"`
					Method    string `json:"method"`
					Result    string `json:"result"`
					BytesRead uint64 `json:"bytes_read"`
				} `json:"devices"`
			} `json:"evidence"`
		} `json:"items"`
	}
	a := te.get("/v1/allocations/"+id+"/erasure", &proof)
	if len(proof.Items) != 1 {
		t.Fatalf("erasure has %d leases: %s", len(proof.Items), a.body)
	}
	l := proof.Items[0]
	if l.SlotID != sl.ID || l.Generation != sl.Generation || l.WipeResult != "verified" || l.WipedAt.IsZero() {
		t.Errorf("erasure: %s", a.body)
	}
	for _, d := range l.Evidence.Devices {
		if d.Component == "nvme" && d.Serial == sl.NVMe.Serial && d.Result == "verified" {
			bytesRead = d.BytesRead
		}
	}
	if bytesRead == 0 {
		t.Errorf("no evidence of the drive %s: %s", sl.NVMe.Serial, a.body)
	}
	return bytesRead
}

// story wants the allocation's events in their order.
func story(t *testing.T, te tenant, id string) {
	t.Helper()
	var types []string
	last := uint64(0)
	for _, e := range te.events("/v1/allocations/" + id + "/events") {
		if e.Subject != id || e.Number != 0 {
			t.Errorf("a tenant sees %+v among the events of %s", e, id)
		}
		if e.Sequence < last {
			t.Errorf("commit %d after %d", e.Sequence, last)
		}
		last = e.Sequence
		types = append(types, strings.TrimPrefix(e.Type, "allocation."))
	}
	types = slices.DeleteFunc(types, func(s string) bool { return s == "vm_alive" }) // once a boot, before or after ready
	want := "placed vm_started vm_billable vm_running " +
		"stop_requested vm_stopped start_requested vm_started vm_running reboot_requested vm_started vm_running " +
		"releasing vm_removed released"
	if got := strings.Join(types, " "); got != want {
		t.Errorf("the story is\n%s\nwant\n%s", got, want)
	}
}

// gapless wants every event of the site once, in order.
func gapless(t *testing.T, op caller) (n uint64) {
	t.Helper()
	for _, e := range op.events("/v1/events") {
		if n++; e.Number != n {
			t.Fatalf("event %d where %d should be", e.Number, n)
		}
	}
	return n
}
