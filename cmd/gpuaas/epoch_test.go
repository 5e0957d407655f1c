package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

// past is a running site with a tail that is about to be lost.
type past struct {
	*site
	acme, other tenant
	stays, ends allocation
	keys        []string // files of two operators, and again of the first
	jetstream   string   // where the streams are
	backup      string
	vms         map[string]bool // what the host runs after the backup
	unknown     []string        // VMs of the tail
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// newPast backs the streams up, goes on (a release, launches onto what came free) and
// stops.
func newPast(t *testing.T) *past {
	t.Helper()
	p := &past{site: dev(t, 1, 4)}
	p.acme, p.other = p.newTenant("acme", 100_000_000), p.newTenant("other", 100_000_000)
	p.stays, p.ends = p.acme.launch(obj{"sku": "gpu-1x"}), p.acme.launch(obj{"sku": "gpu-1x"})
	p.acme.becomes(p.stays.ID, "running")
	p.acme.becomes(p.ends.ID, "running")
	op := p.operator()
	second := op.secondOperator()
	for i, secret := range []string{op.key, second, op.key, "gpk_unknown"} {
		path := filepath.Join(dataDir(t), fmt.Sprint("key", i))
		if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		p.keys = append(p.keys, path)
	}
	p.interrupt()
	p.jetstream, p.backup = filepath.Join(p.dir, "nats", "jetstream"), filepath.Join(dataDir(t), "backup")
	copyTree(t, p.jetstream, p.backup)

	p.start()
	p.acme.do(202, "DELETE", "/v1/allocations/"+p.ends.ID, nil)
	p.acme.becomes(p.ends.ID, "released")
	p.slotBecomes(p.acme.becomes(p.stays.ID, "running").VMs[0].SlotIDs[0], "active")
	eventually(t, limit, "three free slots", func() error {
		free := list[slot](p.operator(), "/v1/slots?state=available")
		return errNo(len(free) == 3, fmt.Sprint(len(free)))
	})
	for range 3 {
		a := p.other.becomes(p.other.launch(obj{"sku": "gpu-1x"}).ID, "running")
		p.unknown = append(p.unknown, a.VMs[0].ID)
	}
	eventually(t, limit, "four VMs", func() error {
		p.vms = simVMs(t, p.dir)
		return errNo(len(p.vms) == 4, fmt.Sprint(len(p.vms)))
	})
	p.interrupt()
	return p
}

// secondOperator makes another operator, and returns its key.
func (op caller) secondOperator() string {
	var user, key struct {
		UserID string `json:"user_id"`
		Secret string `json:"secret"`
	}
	op.do(201, "POST", "/v1/operators", obj{"roles": []string{"operator"}}).into(op.s.t, &user)
	op.do(201, "POST", "/v1/operators/"+user.UserID+"/api-keys", obj{"name": "second"}).into(op.s.t, &key)
	return key.Secret
}

func (p *past) log(dir string) string {
	p.t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "LOG_*"))
	if err != nil || len(found) != 1 {
		p.t.Fatalf("no log in %s: %v", dir, err)
	}
	return found[0]
}

// open asks for the epoch.
func (p *past) open(epoch, commit uint64, keys ...string) (string, string, int) {
	args := []string{"site", "open-epoch", "--data-dir", p.dir, "--log-level", "error", "--reason", "restored-backup", "--epoch", fmt.Sprint(epoch), "--commit", fmt.Sprint(commit)}
	for _, k := range keys {
		args = append(args, "--key-file", k)
	}
	return tool(p.t, args...)
}

// refused wants the epoch not to be opened, for a reason, and nothing written.
func (p *past) refused(t *testing.T, message string, epoch, commit uint64, keys ...string) {
	t.Helper()
	before, err := os.ReadFile(filepath.Join(p.log(p.jetstream), "msgs", "1.blk"))
	if err != nil {
		t.Fatal(err)
	}
	out, stderr, code := p.open(epoch, commit, keys...)
	if code != 1 || !strings.Contains(stderr, message) {
		t.Errorf("exit code %d, want %q: %s%s", code, message, out, stderr)
	}
	t.Log(strings.TrimSpace(stderr))
	if after, _ := os.ReadFile(filepath.Join(p.log(p.jetstream), "msgs", "1.blk")); string(after) != string(before) {
		t.Error("it wrote to the log")
	}
}

// end is the number of the last commit.
func (p *past) end(t *testing.T) (n uint64) {
	t.Helper()
	out, stderr, code := tool(t, "log", "verify", "--data-dir", p.dir)
	if _, err := fmt.Sscanf(out, "ok: %d commits", &n); err != nil || code != 0 {
		t.Fatalf("%v: %s%s", err, out, stderr)
	}
	return n
}

type epochState struct {
	Epoch   int      `json:"epoch"`
	Awaited []string `json:"awaited_host_ids"`
	Ahead   []string `json:"ahead_host_ids"`
	Unknown []struct {
		VM     string `json:"vm_id"`
		Host   string `json:"host_id"`
		Tenant string `json:"tenant_id"`
	} `json:"unknown_vms"`
}

// converges starts the site in its new epoch and wants it to be whole again.
func (p *past) converges(t *testing.T) {
	t.Helper()
	p.start()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(p.out.tail())
		}
	})
	op := p.operator()
	var e epochState
	eventually(t, limit, "the host's account", func() error {
		op.get("/v1/epoch", &e)
		return errNo(e.Epoch == 2 && len(e.Awaited) == 0 && len(e.Ahead) == 0, fmt.Sprintf("%+v", e))
	})
	if len(e.Unknown) != 3 {
		t.Fatalf("unknown VMs: %+v", e.Unknown)
	}
	for _, v := range e.Unknown {
		if v.Tenant != p.other.id || !reflect.DeepEqual(p.vms[v.VM], true) {
			t.Errorf("unknown is %+v", v)
		}
	}
	ended := p.acme.becomes(p.ends.ID, "failed")
	if ended.Reason != "epoch.not_on_host" {
		t.Errorf("what the host has no more: %+v", ended)
	}
	p.acme.becomes(p.stays.ID, "running")
	quarantined := func(want int) {
		t.Helper()
		eventually(t, limit, fmt.Sprint(want, " slots in quarantine"), func() error {
			q := list[slot](op, "/v1/slots?state=quarantined")
			for _, sl := range q {
				if sl.Reason != "epoch.unknown_vm" {
					return fmt.Errorf("%+v", sl)
				}
			}
			return errNo(len(q) == want, fmt.Sprint(len(q)))
		})
	}
	quarantined(3)
	if now := simVMs(t, p.dir); !reflect.DeepEqual(now, p.vms) {
		t.Errorf("the host runs %v, before it were %v", now, p.vms)
	}
	q := list[slot](op, "/v1/slots?state=quarantined")
	op.refused(409, "slot.unknown_vm", "POST", "/v1/slots/"+q[0].ID+"/rewipe", nil)
	p.acme.refused(409, "capacity.exhausted", "POST", "/v1/projects/"+p.acme.project+"/allocations", obj{"sku": "gpu-1x"})

	// hostd starts again: it keeps what it was told to keep.
	pid, err := p.child("hostd run")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, limit, "another hostd", func() error {
		now, err := p.child("hostd run")
		return errNo(err == nil && now != pid, fmt.Sprint(err))
	})

	destroy := func(i int) {
		t.Helper()
		op.do(202, "POST", "/v1/hosts/"+e.Unknown[i].Host+"/unknown-vms/"+e.Unknown[i].VM+"/destroy", obj{"reason": "tenant-agreed"})
	}
	destroy(0)
	quarantined(2)
	again := p.acme.becomes(p.launchWhenFree(t), "running")
	if sl := p.slotBecomes(again.VMs[0].SlotIDs[0], "active"); sl.Generation < 3 { // the first wipe counts none
		t.Logf("generation %d", sl.Generation)
	}
	for _, c := range []struct {
		says string
		args []string
	}{
		{p.other.id, []string{"epoch", "unknown-vms"}},
		{"destroying", []string{"epoch", "destroy-vm", e.Unknown[1].Host, e.Unknown[1].VM, "--reason", "tenant-agreed", "--yes"}},
		{`"vm_id": "` + e.Unknown[2].VM, []string{"epoch", "unknown-vms", "-o", "json"}},
		{"destroying", []string{"epoch", "destroy-vm", e.Unknown[2].Host, e.Unknown[2].VM, "--reason", "tenant-agreed", "--yes", "-o", "json"}},
	} {
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "gpuctl"), c.args...)
		cmd.Env = append(os.Environ(), "GPUCTL_SERVER="+p.address(), "GPUCTL_KEY_FILE="+p.keys[1])
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), c.says) {
			t.Errorf("gpuctl %v: %v: %s", c.args, err, out)
		}
	}
	quarantined(0)
	eventually(t, limit, "two VMs", func() error {
		now := simVMs(t, p.dir)
		return errNo(len(now) == 2 && now[again.VMs[0].ID], fmt.Sprint(now))
	})
	var b balance
	p.other.get("/v1/tenants/"+p.other.id+"/balance", &b)
	if b.Available != 100_000_000 || b.Held != 0 || b.Receivable != 0 || b.Unbilled != 0 {
		t.Errorf("the tenant whose VMs the log forgot is billed: %+v", b)
	}
	gapless(t, op)
	verified(t, p.site)
	if out, stderr, code := tool(t, "projections", "reconcile", "--data-dir", p.dir, "--log-level", "error"); code != 0 {
		t.Errorf("reconcile: %s%s", out, stderr)
	}
	p.interrupt()
	p.refused(t, "epoch.nothing_lost", 3, p.end(t), p.keys[0], p.keys[1])
	p.start()
	p.acme.becomes(p.stays.ID, "running")
}

// launchWhenFree launches as soon as a wipe has ended.
func (p *past) launchWhenFree(t *testing.T) (id string) {
	t.Helper()
	eventually(t, limit, "a free slot", func() error {
		a, err := p.acme.ask("POST", "/v1/projects/"+p.acme.project+"/allocations", obj{"sku": "gpu-1x"})
		if err != nil || a.status != 201 {
			return fmt.Errorf("%v: %s", err, a.body)
		}
		var made allocation
		a.into(t, &made)
		id = made.ID
		return nil
	})
	return id
}

// TestOpenEpoch brings an older copy of the log back while feed, snapshots, read models
// and the host know more: the site refuses to start, two operators open an epoch, and it
// converges. Whoever may not, cannot.
func TestOpenEpoch(t *testing.T) {
	t.Parallel()
	p := newPast(t)
	p.refused(t, "epoch.nothing_lost", 2, p.end(t), p.keys[0], p.keys[1])
	copyTree(t, p.log(p.backup), p.log(p.jetstream))
	p.refuses(t, "see gpuaas site open-epoch")
	end := p.end(t)
	p.refused(t, "two operators, 1 approved", 2, end, p.keys[0])
	p.refused(t, "two different operators", 2, end, p.keys[0], p.keys[0])
	p.refused(t, "two different operators", 2, end, p.keys[0], p.keys[2])
	p.refused(t, "is not a key that the log knows", 2, end, p.keys[0], p.keys[3])
	p.refused(t, "the next one is 2, not 3", 3, end, p.keys[0], p.keys[1])
	p.refused(t, fmt.Sprintf("the log ends at commit %d", end), 2, end+1, p.keys[0], p.keys[1])
	out, stderr, code := p.open(2, end, p.keys[0], p.keys[1])
	if code != 0 || !strings.Contains(out, fmt.Sprintf("ok: epoch 2 of site dev begins with commit %d; 1 hosts", end+1)) {
		t.Fatalf("exit code %d: %s%s", code, out, stderr)
	}
	t.Log(out)
	if out, stderr, code := p.open(2, end, p.keys[0], p.keys[1]); code != 0 || p.end(t) != end+1 {
		t.Errorf("asked again: exit code %d: %s%s", code, out, stderr)
	}
	p.converges(t)
}

// TestOpenEpochWhenOnlyHostsKnow brings back everything but what the hosts know: the site
// starts, hears of it, and places nothing there; then an epoch is opened.
func TestOpenEpochWhenOnlyHostsKnow(t *testing.T) {
	t.Parallel()
	p := newPast(t)
	copyTree(t, p.backup, p.jetstream)
	for _, made := range []string{"snapshots", "postgres"} {
		if err := os.RemoveAll(filepath.Join(p.dir, made)); err != nil {
			t.Fatal(err)
		}
	}
	p.start()
	op := p.operator()
	eventually(t, limit, "the host to be heard", func() error {
		var e epochState
		op.get("/v1/epoch", &e)
		return errNo(e.Epoch == 1 && len(e.Ahead) == 1, fmt.Sprintf("%+v", e))
	})
	p.acme.refused(409, "capacity.exhausted", "POST", "/v1/projects/"+p.acme.project+"/allocations", obj{"sku": "gpu-1x"})
	p.interrupt()
	if out, stderr, code := p.open(2, p.end(t), p.keys[0], p.keys[1]); code != 0 {
		t.Fatalf("exit code %d: %s%s", code, out, stderr)
	}
	p.converges(t)
}
