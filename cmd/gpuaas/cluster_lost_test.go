package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestClusterIsLost loses all three NATS servers with their disks. What is left is a backup,
// older than what processes, read models and hosts know: it is restored onto new servers, two
// operators open an epoch, and the site converges.
func TestClusterIsLost(t *testing.T) {
	t.Parallel()
	tr := newTrial(t)
	op, te := tr.sites[0].operator(), tr.tenants[0]
	stays, ends := te.launch(obj{"sku": "gpu-1x", "user_data": "#!/bin/sh\n"}), te.launch(obj{"sku": "gpu-1x"})
	te.becomes(stays.ID, "running")
	te.becomes(ends.ID, "running")
	keys := tr.operatorKeys(op)
	backup := filepath.Join(dataDir(t), "backup")
	want := func(code int, says string, args ...string) {
		t.Helper()
		if out, stderr, got := tr.tool(args...); got != code || !strings.Contains(out+stderr, says) {
			t.Fatalf("%v: exit code %d, want %d and %q: %s%s", args, got, code, says, out, stderr)
		}
	}
	open := func(commit uint64) []string {
		return []string{"site", "open-epoch", "--epoch", "2", "--commit", fmt.Sprint(commit), "--reason", "lost-disk", "--key-file", keys[0], "--key-file", keys[1]}
	}
	want(0, "ok: commit ", "site", "backup", "--to", backup)
	want(0, "on both sides", "site", "drill", "--log-level", "error")
	want(1, "is not empty", "site", "restore", "--from", backup)
	want(1, "the site runs", open(1)...)

	// What only the tail knows.
	te.do(202, "DELETE", "/v1/allocations/"+ends.ID, nil)
	te.becomes(ends.ID, "released")
	unknown := te.becomes(te.launch(obj{"sku": "gpu-1x"}).ID, "running")

	for _, m := range tr.members {
		m.rest(t, syscall.SIGTERM)
	}
	for i, n := range tr.nats {
		n.rest(t, syscall.SIGKILL)
		if err := os.RemoveAll(filepath.Join(tr.dir, fmt.Sprintf("nats%d", i), "jetstream")); err != nil {
			t.Fatal(err)
		}
		n.goOn()
	}

	// A process that is started too early writes nothing.
	serve := []string{"serve", "--listen", "127.0.0.1:0", "--log-level", "error"}
	eventually(t, startLimit, "the new cluster", func() error {
		_, stderr, code := tr.tool(serve...)
		return errNo(code == 1 && strings.Contains(stderr, "see gpuaas site open-epoch"), stderr)
	})
	// A restore that fails leaves what no process starts on, and is asked for again.
	cut := filepath.Join(dataDir(t), "cut")
	b, err := os.ReadFile(filepath.Join(backup, "site.backup"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(cut, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cut, "site.backup"), b[:len(b)-40], 0o600); err != nil {
		t.Fatal(err)
	}
	want(1, "the backup is", "site", "restore", "--from", cut)
	want(1, "run gpuaas site restore again", serve...)
	want(0, "ok: commit ", "site", "restore", "--from", backup)
	want(1, "is not empty", "site", "restore", "--from", backup)
	want(1, "see gpuaas site open-epoch", serve...)

	commits := tr.commits()
	end := commits[len(commits)-1].N
	for i := range tr.sites { // each process may have a snapshot of its own that knows more
		tr.sites[0].dir, tr.sites[i].dir = tr.sites[i].dir, tr.sites[0].dir
		want(0, "ok: epoch 2 of site "+trialName, open(end)...)
		tr.sites[0].dir, tr.sites[i].dir = tr.sites[i].dir, tr.sites[0].dir
	}
	if commits = tr.commits(); commits[len(commits)-1].N != end+1 {
		t.Errorf("the log ends at commit %d, want one more than %d", commits[len(commits)-1].N, end)
	}
	for _, m := range tr.members {
		m.goOn()
	}
	for i := range tr.members {
		tr.ready(i)
	}
	var e epochState
	eventually(t, limit, "the hosts' accounts", func() error {
		op.get("/v1/epoch", &e)
		return errNo(e.Epoch == 2 && len(e.Awaited) == 0 && len(e.Ahead) == 0, fmt.Sprintf("%+v", e))
	})
	if len(e.Unknown) != 1 || e.Unknown[0].VM != unknown.VMs[0].ID {
		t.Errorf("unknown VMs: %+v", e.Unknown)
	}
	te.becomes(stays.ID, "running")
	if a := te.becomes(ends.ID, "failed"); a.Reason != "epoch.not_on_host" {
		t.Errorf("what the host has no more: %+v", a)
	}
	te.becomes(te.launch(obj{"sku": "gpu-1x"}).ID, "running")
	want(0, "ok: ", "log", "verify")
	want(0, "ok: ", "projections", "reconcile", "--log-level", "error")
}

// operatorKeys are files with the keys of two operators.
func (tr *trial) operatorKeys(op caller) (files []string) {
	t := tr.t
	t.Helper()
	for i, secret := range []string{op.key, op.secondOperator()} {
		path := filepath.Join(dataDir(t), fmt.Sprint("key", i))
		if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, path)
	}
	return files
}
