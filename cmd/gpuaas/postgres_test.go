package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// TestPostgresKilled kills the postmaster while tenants launch: commands go on,
// since nothing is decided from tables, and reads come back by themselves.
func TestPostgresKilled(t *testing.T) {
	t.Parallel()
	const launches = 24
	s := dev(t, 4, 8)
	te := s.newTenant("acme", 1_000_000_000)
	ids := make([]string, launches)
	var repeats atomic.Int64
	var wg sync.WaitGroup
	half := make(chan struct{})
	for w := range 4 {
		wg.Go(func() {
			for i := w; i < launches; i += 4 {
				if i == launches/2 {
					close(half)
				}
				a := te.persist(201, "POST", "/v1/projects/"+te.project+"/allocations", obj{"sku": "gpu-1x"}, strconv.Itoa(i), &repeats)
				if a == nil {
					return
				}
				var made allocation
				a.into(t, &made)
				ids[i] = made.ID
			}
		})
	}
	<-half
	killPostgres(t, s)
	// What is asked of the world is answered, and a launch is decided, with Postgres dead.
	te.head()
	wg.Wait()
	if n := repeats.Load(); n > 0 {
		t.Errorf("%d launches were refused while Postgres was away", n)
	}
	for _, id := range ids {
		eventually(t, limit, "reads", func() error {
			a, err := te.ask("GET", "/v1/allocations/"+id, nil)
			if err != nil || a.status != 200 && a.status != 503 && a.status != 404 {
				t.Fatalf("%v %s", err, a.body) // nothing worse than "try again", or not there yet
			}
			return errNo(a.status == 200, a.code)
		})
		te.becomes(id, "running")
	}
	eventually(t, limit, "readiness", func() error {
		a, err := te.ask("GET", "/v1/whoami", nil)
		if err != nil || a.status != 200 {
			return fmt.Errorf("%v", err)
		}
		res, err := httpClient.Get(s.address() + "/readyz")
		if err != nil {
			return err
		}
		res.Body.Close()
		return errNo(res.StatusCode == 200, res.Status)
	})
	verified(t, s)
}

// killPostgres is kill -9 of the postmaster.
func killPostgres(t *testing.T, s *site) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, "postgres", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil || !strings.Contains(processesOf(s.dir)[pid], "postgres") {
		t.Fatalf("%q is no postmaster of this site (%v)", line, err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// TestReadModelsAreAFunctionOfTheLog throws Postgres away, and has the read models
// built beside themselves: they are byte for byte what they were.
func TestReadModelsAreAFunctionOfTheLog(t *testing.T) {
	t.Parallel()
	s := dev(t, 2, 4)
	te := s.newTenant("acme", 1_000_000_000)
	s.newTenant("other", 5)
	var ids []string
	for i := range 5 {
		ids = append(ids, te.launch(obj{"name": fmt.Sprintf("a-%d", i), "sku": "gpu-1x"}).ID)
	}
	for i, id := range ids {
		te.becomes(id, "running")
		switch i {
		case 0:
			te.do(202, "DELETE", "/v1/allocations/"+id, nil)
			s.slotBecomes(te.becomes(id, "released").VMs[0].SlotIDs[0], "available")
		case 1:
			te.do(202, "POST", "/v1/allocations/"+id+"/stop", nil)
			te.becomes(id, "stopped")
		}
	}
	before := s.reads(te)
	_, stderr, code := tool(t, "projections", "rebuild", "--data-dir", s.dir) // while it runs
	if code != 0 {
		t.Errorf("rebuild: exit code %d: %s", code, stderr)
	}
	s.sameReads(te, before)

	s.interrupt()
	for _, dir := range []string{"postgres", "postgres.sock"} {
		if err := os.RemoveAll(filepath.Join(s.dir, dir)); err != nil {
			t.Fatal(err)
		}
	}
	s.start()
	s.sameReads(te, before)

	s.interrupt()
	if err := os.RemoveAll(filepath.Join(s.dir, "snapshots")); err != nil { // costs start-up time only
		t.Fatal(err)
	}
	if _, stderr, code = tool(t, "projections", "rebuild", "--data-dir", s.dir); code != 0 { // while it is stopped
		t.Errorf("rebuild: exit code %d: %s", code, stderr)
	}
	s.start()
	s.sameReads(te, before)
}
