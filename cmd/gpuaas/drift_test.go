package main_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// TestDriftStopsWriting changes the log's stream under a running site: nothing is
// written any more, not even for a deadline, reads go on, and when the stream is put
// back the site goes on by itself.
func TestDriftStopsWriting(t *testing.T) {
	t.Parallel()
	s := dev(t, 1, 2)
	te := s.newTenant("acme", 1_000_000_000)
	expires := time.Now().Add(25 * time.Second) // while it stands still
	a := te.launch(obj{"sku": "gpu-1x", "expires_at": expires.UTC().Format(time.RFC3339Nano)})
	te.becomes(a.ID, "running")

	js, err := jetstream.New(s.connect(t, "admin"))
	if err != nil {
		t.Fatal(err)
	}
	log := func() *jetstream.StreamInfo {
		t.Helper()
		st, err := js.Stream(t.Context(), "LOG_dev")
		if err != nil {
			t.Fatal(err)
		}
		return st.CachedInfo()
	}
	was := log().Config
	drifted := was
	drifted.MaxMsgs = 1 << 20 // one day it would begin to forget
	if _, err := js.UpdateStream(t.Context(), drifted); err != nil {
		t.Fatal(err)
	}
	eventually(t, limit, "the drift is noticed", func() error {
		got, err := te.ask("POST", "/v1/tenants/"+te.id+"/projects", obj{"name": fmt.Sprintf("p%d", time.Now().UnixNano())})
		if err != nil {
			return err
		}
		return errNo(got.status == 503 && got.code == "site.drift", string(got.body))
	})
	before := log().State.LastSeq
	ready := func() (status int, why string) {
		t.Helper()
		status, why, err := look(s.address(), "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		return status, why
	}
	if status, why := ready(); status != 503 || !strings.Contains(why, "the site has stopped writing") {
		t.Errorf("readiness: %d %s", status, why)
	}
	eventually(t, 2*limit, "the deadline passes", func() error {
		return errNo(time.Now().After(expires.Add(2*time.Second)), "not yet")
	})
	var now allocation
	te.get("/v1/allocations/"+a.ID, &now)
	te.do(200, "GET", "/v1/tenants/"+te.id+"/balance", nil)
	if seq := log().State.LastSeq; seq != before || now.State != "running" {
		t.Errorf("while the log drifted: messages %d to %d, the allocation is %s", before, seq, now.State)
	}
	s.operator().refused(503, "site.drift", "POST", "/v1/hosts", obj{"name": "h2", "rack": "r1"})

	if _, err := js.UpdateStream(t.Context(), was); err != nil {
		t.Fatal(err)
	}
	te.becomes(a.ID, "released")
	te.do(201, "POST", "/v1/tenants/"+te.id+"/projects", obj{"name": "after"})
	if status, why := ready(); status != 200 {
		t.Errorf("readiness after it: %d %s", status, why)
	}
	verified(t, s)
}
