package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestKilledWhileLaunching kills the control plane again and again while 8 workers
// launch and release: nothing that was acknowledged is lost, nothing happens twice.
func TestKilledWhileLaunching(t *testing.T) {
	t.Parallel()
	const workers, each, kills = 8, 6, 3
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s := dev(t, 6, 8)
	te := s.newTenant("acme", 1_000_000_000)

	// The kills come when so many answers have been given, whatever is under way then.
	at := map[int]bool{}
	for len(at) < kills {
		at[1+random.IntN(workers*each-1)] = true
	}
	acks, killNow := make(chan struct{}), make(chan struct{}, kills)
	go func() {
		for n := 1; ; n++ {
			if _, ok := <-acks; !ok {
				close(killNow)
				return
			}
			if at[n] {
				killNow <- struct{}{}
			}
		}
	}()
	var wg sync.WaitGroup
	var repeats atomic.Int64
	launched, releasing := make([][]string, workers), make([][]string, workers)
	for w := range workers {
		wg.Go(func() {
			for i := range each { // without a name, which would keep a second launch out by itself
				key := fmt.Sprintf("w%d-%d", w, i)
				a := te.persist(201, "POST", "/v1/projects/"+te.project+"/allocations", obj{"sku": "gpu-1x"}, key, &repeats)
				if a == nil {
					return
				}
				var made allocation
				if err := json.Unmarshal(a.body, &made); err != nil {
					t.Errorf("launch %s: %v %s", key, err, a.body)
				}
				launched[w] = append(launched[w], made.ID)
				acks <- struct{}{}
				if i%3 == 2 {
					if te.persist(202, "DELETE", "/v1/allocations/"+made.ID, nil, "release "+key, &repeats) == nil {
						return
					}
					releasing[w] = append(releasing[w], made.ID)
				}
			}
		})
	}
	go func() { wg.Wait(); close(acks) }()
	for range killNow {
		s.program.kill()
		s.start()
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	t.Logf("%d requests were repeated", repeats.Load())
	if repeats.Load() == 0 {
		t.Error("no request met a dead control plane: this test tested nothing")
	}

	s.program.kill() // and once more, with everything answered
	s.start()
	want, gone := slices.Concat(launched...), slices.Concat(releasing...)
	var all []allocation
	eventually(t, limit, "every allocation in its final state", func() error {
		all = list[allocation](te.caller, fmt.Sprintf("/v1/projects/%s/allocations?at_least=%d", te.project, te.head()))
		for _, a := range all {
			final := "running"
			if slices.Contains(gone, a.ID) {
				final = "released"
			}
			if a.State != final {
				return fmt.Errorf("%s %s is %s, want %s", a.Name, a.ID, a.State, final)
			}
		}
		return nil
	})
	vms := map[string]bool{}
	for _, a := range all {
		if !slices.Contains(want, a.ID) {
			t.Errorf("%s exists and was never acknowledged: a key launched twice", a.ID)
		}
		if a.State == "running" {
			vms[a.VMs[0].ID] = true
		}
	}
	if len(all) != workers*each || len(want) != workers*each {
		t.Errorf("%d allocations, %d acknowledged, want %d", len(all), len(want), workers*each)
	}
	eventually(t, limit, "the hosts to run exactly these VMs", func() error {
		have := simVMs(t, s.dir)
		if !reflect.DeepEqual(have, vms) {
			return fmt.Errorf("%d VMs run, want %d", len(have), len(vms))
		}
		return nil
	})
	gapless(t, s.operator())
	before := s.reads(te)
	s.program.kill()
	s.start()
	s.sameReads(te, before)
	verified(t, s)
}

// persist repeats a request with the same key until it is answered, over as many
// restarts as it takes. It runs beside the test, and reports instead of ending it.
func (te tenant) persist(status int, method, path string, body any, key string, repeats *atomic.Int64) *answer {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for deadline := time.Now().Add(2 * startLimit); time.Now().Before(deadline); <-tick.C {
		a, err := te.ask(method, path, body, "Idempotency-Key", key)
		switch {
		case err != nil, a.status == 503, a.status == 429: // it may have happened
			repeats.Add(1)
		case a.status == status:
			return a
		default:
			te.s.t.Errorf("%s %s: status %d: %s", method, path, a.status, a.body)
			return nil
		}
	}
	te.s.t.Errorf("%s %s: no answer", method, path)
	return nil
}

// simVMs are the VMs that run on the simulated hosts, from their state files.
func simVMs(t testing.TB, dir string) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	files, err := filepath.Glob(dir + "/hosts/*/sim.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no simulated hosts in %s: %v", dir, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		b = b[:bytes.LastIndexByte(b, '\n')+1]
		b = bytes.TrimSpace(b)
		var state struct {
			VMs map[string]struct {
				Running bool `json:"running"`
			} `json:"vms"`
		}
		if err := json.Unmarshal(b[bytes.LastIndexByte(b, '\n')+1:], &state); err != nil {
			t.Fatal(err)
		}
		for id, v := range state.VMs {
			if v.Running {
				out[id] = true
			}
		}
	}
	return out
}

// reads are what the read models show, byte for byte; a site at rest is meant.
func (s *site) reads(te tenant) map[string]string {
	s.t.Helper()
	op, out := s.operator(), map[string]string{}
	least := fmt.Sprintf("at_least=%d", te.head())
	for _, r := range []struct {
		by   caller
		path string
	}{
		{te.caller, "/v1/projects/" + te.project + "/allocations"},
		{te.caller, "/v1/tenants/" + te.id + "/ledger"},
		{te.caller, "/v1/tenants/" + te.id + "/credits"},
		{te.caller, "/v1/tenants/" + te.id + "/api-keys"},
		{op, "/v1/slots"},
		{op, "/v1/hosts"},
		{op, "/v1/tenants"},
		{op, "/v1/skus"},
	} {
		b, err := json.Marshal(list[json.RawMessage](r.by, r.path+"?"+least))
		if err != nil {
			s.t.Fatal(err)
		}
		out[r.path] = string(b)
	}
	return out
}

// sameReads wants the reads as they were. Hosts report again after a restart; of
// them only what does not move is compared.
func (s *site) sameReads(te tenant, before map[string]string) {
	s.t.Helper()
	still := func(m map[string]string) map[string]string {
		var hosts []map[string]any
		if err := json.Unmarshal([]byte(m["/v1/hosts"]), &hosts); err != nil {
			s.t.Fatal(err)
		}
		for _, h := range hosts {
			for _, field := range []string{"reported_at", "silent_since", "state", "health"} {
				delete(h, field)
			}
		}
		b, _ := json.Marshal(hosts)
		m["/v1/hosts"] = string(b)
		return m
	}
	after := still(s.reads(te))
	for path, b := range still(before) {
		if a := after[path]; a != b {
			s.t.Errorf("%s was\n%s\nis\n%s", path, b, a)
		}
	}
}

// verified decides the whole log again.
func verified(t testing.TB, s *site) {
	t.Helper()
	out, stderr, code := tool(t, "log", "verify", "--data-dir", s.dir)
	if code != 0 || !strings.HasPrefix(out, "ok: ") {
		t.Errorf("log verify: exit code %d: %s%s", code, out, stderr)
	}
	t.Log(strings.SplitN(out, "\n", 2)[0])
}

// TestHostdKilled kills hostd while VMs come and go: it is started again, adopts
// what runs, and everything gets where it should be.
func TestHostdKilled(t *testing.T) {
	t.Parallel()
	s := dev(t, 2, 8)
	te := s.newTenant("acme", 1_000_000_000)
	kill := func(during string) {
		t.Helper()
		pid := 0
		eventually(t, limit, "hostd", func() (err error) { pid, err = s.child("hostd run"); return err })
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, limit, "a new hostd while "+during, func() error {
			again, err := s.child("hostd run")
			if err == nil && again == pid {
				err = fmt.Errorf("still the old one")
			}
			return err
		})
	}
	var ids []string
	for i := range 8 {
		ids = append(ids, te.launch(obj{"name": fmt.Sprintf("a-%d", i), "sku": "gpu-1x"}).ID)
	}
	kill("provisioning")
	running := map[string]bool{}
	for _, id := range ids {
		running[te.becomes(id, "running").VMs[0].ID] = true
	}
	if have := simVMs(t, s.dir); !reflect.DeepEqual(have, running) {
		t.Errorf("the hosts run %v, want %v", have, running)
	}
	kill("running")
	for i, id := range ids {
		a := te.becomes(id, "running")
		if got := boots(te, id); len(got) != 1 || got[0] != 1 {
			t.Errorf("%s: boots %v: hostd's end touched a VM", a.Name, got)
		}
		if i%2 == 0 {
			te.do(202, "DELETE", "/v1/allocations/"+id, nil)
		}
	}
	kill("releasing")
	for i, id := range ids {
		if i%2 != 0 {
			te.becomes(id, "running")
			continue
		}
		a := te.becomes(id, "released")
		s.slotBecomes(a.VMs[0].SlotIDs[0], "available")
		delete(running, a.VMs[0].ID)
	}
	if have := simVMs(t, s.dir); !reflect.DeepEqual(have, running) {
		t.Errorf("the hosts run %v, want %v", have, running)
	}
	for _, sl := range list[slot](s.operator(), "/v1/slots") {
		if sl.State != "available" && sl.State != "active" {
			t.Errorf("slot %s is %s (%s)", sl.ID, sl.State, sl.Reason)
		}
	}
	verified(t, s)
}
