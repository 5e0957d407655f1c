package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDrill backs a site up while tenants launch and release, and compares the copy with
// it; then a copy is started, and goes on with what was acknowledged before.
func TestDrill(t *testing.T) {
	t.Parallel()
	s := dev(t, 2, 4)
	te := s.newTenant("acme", 1_000_000_000)
	kept := te.launch(obj{"name": "kept", "sku": "gpu-1x", "user_data": "#!/bin/sh\necho s3cret\n"})
	te.becomes(kept.ID, "running")

	stop, worked := make(chan struct{}), make(chan int)
	go func() { // until the drill is over
		n := 0
		for {
			select {
			case <-stop:
				worked <- n
				return
			default:
			}
			a, err := te.ask("POST", "/v1/projects/"+te.project+"/allocations", obj{"sku": "gpu-1x"})
			if err == nil && a.status == 201 {
				var made allocation
				a.into(t, &made)
				if _, err := te.ask("DELETE", "/v1/allocations/"+made.ID, nil); err == nil {
					n++
				}
			}
		}
	}()
	out, stderr, code := tool(t, "site", "drill", "--data-dir", s.dir, "--log-level", "error")
	if code != 0 || !strings.HasPrefix(out, "ok: commit ") || !strings.Contains(out, "on both sides") {
		t.Errorf("exit code %d: %s%s", code, out, stderr)
	}
	t.Log("drill: " + strings.TrimSpace(out))
	backup := filepath.Join(dataDir(t), "backup")
	out, stderr, code = tool(t, "site", "backup", "--data-dir", s.dir, "--to", backup)
	if code != 0 {
		t.Fatalf("exit code %d: %s%s", code, out, stderr)
	}
	close(stop)
	if n := <-worked; n == 0 {
		t.Error("nobody worked meanwhile: this test tested little")
	}
	if _, stderr, code := tool(t, "site", "backup", "--data-dir", s.dir, "--to", backup); code != 1 || !strings.Contains(stderr, "is there already") {
		t.Errorf("over another backup: exit code %d: %s", code, stderr)
	}
	s.interrupt()

	// A damaged file is noticed.
	file := filepath.Join(backup, "site.backup")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := dataDir(t)
	for name, bad := range map[string][]byte{"cut": b[:len(b)-1], "flipped": append(append([]byte{}, b[:len(b)-1]...), b[len(b)-1]^1)} {
		damaged := filepath.Join(dataDir(t), name)
		if err := os.CopyFS(damaged, os.DirFS(backup)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(damaged, "site.backup"), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		// The right one goes into the same directory: nothing may be left in it.
		if _, stderr, code := tool(t, "site", "restore", "--from", damaged, "--data-dir", dir, "--site", "dev"); code != 1 || !strings.Contains(stderr, "damaged") {
			t.Errorf("%s: exit code %d: %s", name, code, stderr)
		}
	}

	c := &site{t: t, dir: dir, args: []string{"serve", "--log-level", "warn", "--site", "dev"}}
	t.Cleanup(c.gone)
	if out, stderr, code := tool(t, "site", "restore", "--from", backup, "--data-dir", c.dir, "--site", "dev"); code != 0 {
		t.Fatalf("exit code %d: %s%s", code, out, stderr)
	}
	for _, name := range []string{"site.secret", "admin.key"} {
		copyFile(t, filepath.Join(s.dir, name), filepath.Join(c.dir, name))
	}
	c.start()
	again := tenant{caller: caller{c, te.key}, id: te.id, project: te.project}
	var got allocation
	again.get(fmt.Sprintf("/v1/allocations/%s?at_least=%d", kept.ID, again.head()), &got)
	if got.Name != "kept" {
		t.Errorf("%+v", got)
	}
	gapless(t, c.operator())
	verified(t, c)
}
