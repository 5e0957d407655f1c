package main_test

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestFullDisk fills the disk of a site, with its log, read models and hosts, while
// somebody writes: nothing that was acknowledged is lost, and when there is room again
// everything goes on by itself.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, no disk was filled: it takes root to mount one")
	}
	// A disk in memory can be made as small as what is on it.
	dir := dataDir(t)
	if err := syscall.Mount("gpuaas-test", dir, "tmpfs", 0, "size=4g,mode=755"); err != nil {
		t.Skipf("SKIPPED, no disk was filled: cannot mount one: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	size := func(bytes uint64) {
		t.Helper()
		if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT, fmt.Sprintf("size=%d", bytes)); err != nil {
			t.Fatal(err)
		}
	}
	s := &site{t: t, dir: dir, args: []string{"dev", "--hosts", "1", "--gpus-per-host", "2", "--log-level", "warn"}}
	t.Cleanup(s.gone)
	s.start()
	te := s.newTenant("acme", 100_000_000)
	a := te.launch(obj{"sku": "gpu-1x"})
	te.becomes(a.ID, "running")
	op := s.operator()

	// Somebody writes all the time; the one command that meets the full disk waits.
	var mu sync.Mutex
	wrote := map[string]bool{}
	acknowledged := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(wrote)
	}
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for n := 0; ; n++ { // ends with stop
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			name := fmt.Sprintf("full-%d", n)
			got, err := op.ask("POST", "/v1/tenants", obj{"name": name, "currency": "USD"}, "Idempotency-Key", name)
			switch {
			case err == nil && got.status == 201:
				mu.Lock()
				wrote[name] = true
				mu.Unlock()
			case err == nil && got.status != 503:
				t.Errorf("a command on a full disk: %s", got.body)
			}
		}
	})
	eventually(t, limit, "something to meet the full disk", func() error {
		var st syscall.Statfs_t
		if err := syscall.Statfs(dir, &st); err != nil {
			return err
		}
		if st.Bavail > 0 {
			size((st.Blocks - st.Bfree) * uint64(st.Bsize))
		}
		return errNo(strings.Contains(s.out.String(), "LOG_dev' critical write error"), "not yet")
	})
	te.get("/v1/allocations/"+a.ID, &struct{}{}) // reads go on
	before := acknowledged()

	size(4 << 30)
	began := time.Now()
	eventually(t, limit, "writing to go on", func() error { return errNo(acknowledged() > before+1, s.out.tail()) })
	t.Logf("%d commands were acknowledged until the disk was full; the next %v after there was room", before, time.Since(began).Round(time.Millisecond))
	close(stop)
	writer.Wait()
	te.do(202, "DELETE", "/v1/allocations/"+a.ID, nil)
	te.becomes(a.ID, "released")
	exactBalance(t, te, 100_000_000, a.ID)
	seen := map[string]int{}
	for _, x := range list[struct{ Name string }](op, "/v1/tenants") {
		seen[x.Name]++
	}
	for name := range wrote {
		if seen[name] != 1 {
			t.Errorf("tenant %s was acknowledged and is there %d times", name, seen[name])
		}
	}
	s.interrupt()
	verified(t, s)
}
