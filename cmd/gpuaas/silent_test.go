package main_test

import (
	"encoding/json"
	"testing"
	"time"
)

// TestHostLostInAnOutage kills the host and then the control plane. The host does not
// come back: it is silent since a moment that is proven, and its tenant does not pay
// for the time in which nobody listened.
func TestHostLostInAnOutage(t *testing.T) {
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
	r := newRack(t, s, 1, "")
	s.slotBecomes(r.slots[0].ID, "available")
	began := time.Now().Add(-time.Second)
	a := te.launch(obj{"sku": "gpu-1x"})
	te.becomes(a.ID, "running")

	r.hostd.kill()
	s.kill()
	died := time.Now()
	eventually(t, limit, "an outage", func() error { return errNo(time.Since(died) > 5*time.Second, "not long enough") })
	s.start()
	te.becomes(a.ID, "unreachable")
	var since time.Time
	for _, e := range op.events("/v1/events") {
		if e.Type != "host.silent" {
			continue
		}
		var d struct {
			Since time.Time `json:"since"`
		}
		if err := json.Unmarshal(e.Data, &d); err != nil {
			t.Fatal(err)
		}
		since = d.Since
	}
	if since.After(died) || since.Before(began) {
		t.Errorf("silent since %s, the host was killed before %s and launched on after %s", since, died, began)
	}
	op.do(202, "POST", "/v1/hosts/"+r.id+"/confirm-power-off", nil)
	te.becomes(a.ID, "failed")
	if _, to := billed(t, te.events("/v1/allocations/"+a.ID+"/events"), a.ID); to.After(died) {
		t.Errorf("billed to %s, the host died before %s", to, died)
	}
	exactBalance(t, te, credit, a.ID)
	verified(t, s)
	s.interrupt()
}
