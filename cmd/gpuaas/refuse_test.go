package main_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/projections/pglocal"
	"github.com/gpuaas/gpuaas/streams"
)

// TestRefusesToStart damages copies of a site: each refuses to start, and says what
// is wrong and where.
func TestRefusesToStart(t *testing.T) {
	t.Parallel()
	original := newSite(t, "serve", "--site", "alpha", "--log-level", "warn")
	original.newTenant("acme", 5)
	original.interrupt()

	t.Run("drifted stream", func(t *testing.T) {
		t.Parallel()
		s := original.copy(t)
		s.start()
		js, err := jetstream.New(s.connect(t, "admin"))
		if err != nil {
			t.Fatal(err)
		}
		log, err := js.Stream(t.Context(), "LOG_alpha")
		if err != nil {
			t.Fatal(err)
		}
		c := log.CachedInfo().Config
		c.MaxMsgs = 1 << 20 // one day it would begin to forget
		if _, err := js.UpdateStream(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		s.interrupt()
		s.refuses(t, "stream LOG_alpha: MaxMsgs is 1048576, want -1")
	})
	t.Run("drifted streams are repaired, all but the log", func(t *testing.T) {
		t.Parallel()
		s := original.copy(t)
		s.start()
		js, err := jetstream.New(s.connect(t, "admin"))
		if err != nil {
			t.Fatal(err)
		}
		drift := func(name string, change func(*jetstream.StreamConfig)) {
			t.Helper()
			st, err := js.Stream(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			c := st.CachedInfo().Config
			change(&c)
			if _, err := js.UpdateStream(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
		streams := func(command string, code int, says ...string) {
			t.Helper()
			out, stderr, have := tool(t, "streams", command, "--data-dir", s.dir, "--site", "alpha")
			for _, text := range says {
				if !strings.Contains(out, text) {
					t.Errorf("streams %s does not say %q", command, text)
				}
			}
			if have != code || code != 0 && !strings.Contains(stderr, "gpuaas streams repair puts back all streams but the log") {
				t.Errorf("streams %s: exit code %d: %s%s", command, have, out, stderr)
			}
		}
		const log, audit = "stream LOG_alpha: MaxMsgSize is 1000000, want ", "stream AUDIT_alpha: MaxBytes is 1000000, want 1073741824\n"
		streams("check", 0, "ok: the 8 streams of site alpha")
		drift("AUDIT_alpha", func(c *jetstream.StreamConfig) { c.MaxBytes = 1e6 })
		drift("LOG_alpha", func(c *jetstream.StreamConfig) { c.MaxMsgSize = 1e6 })
		streams("check", 1, log, audit)
		streams("repair", 1, log, "repaired: stream AUDIT_alpha: MaxBytes was 1000000, is 1073741824\n")
		drift("AUDIT_alpha", func(c *jetstream.StreamConfig) { c.MaxBytes = 1e6 })
		s.interrupt()
		streams("check", 1, log, audit) // a stopped site is opened
		streams("repair", 1, log, "repaired: stream AUDIT_alpha")
		s.refuses(t, strings.TrimSuffix(log, ", want "))
	})
	t.Run("unknown event", func(t *testing.T) {
		t.Parallel()
		s := original.copy(t)
		s.start()
		s.appendUnknownEvent(t)
		// The writer finds that the log went on without it, and ends.
		if code := s.ended(t, limit); code != 1 {
			t.Errorf("exit code %d: %s", code, s.out.tail())
		}
		s.refuses(t, `unknown event type "tenant.creaked"`)
		if out, stderr, code := tool(t, "log", "verify", "--data-dir", s.dir, "--site", "alpha"); code != 1 || !strings.Contains(stderr, `unknown event type "tenant.creaked"`) {
			t.Errorf("log verify: exit code %d: %s%s", code, out, stderr)
		}
	})
	t.Run("damaged secret", func(t *testing.T) {
		t.Parallel()
		s := original.copy(t)
		secret := filepath.Join(s.dir, "site.secret")
		if err := os.WriteFile(secret, []byte("short"), 0o600); err != nil {
			t.Fatal(err)
		}
		s.refuses(t, secret+" has 5 bytes, want 32: restore it from the backup")
	})
	t.Run("lost secret", func(t *testing.T) {
		t.Parallel()
		s := original.copy(t)
		secret := filepath.Join(s.dir, "site.secret")
		if err := os.Remove(secret); err != nil {
			t.Fatal(err)
		}
		s.refuses(t, secret+" is missing")
		if _, err := os.Stat(secret); err == nil {
			t.Error("it made a new one, with which no document of the vault can be read")
		}
	})
	t.Run("another secret", func(t *testing.T) {
		t.Parallel()
		s := original.copy(t)
		secret := filepath.Join(s.dir, "site.secret")
		right, err := os.ReadFile(secret)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(secret, bytes.Repeat([]byte{7}, 32), 0o600); err != nil {
			t.Fatal(err)
		}
		before := blocks(t, s.dir)
		s.refuses(t, secret+" is not the secret of this site")
		if after := blocks(t, s.dir); !bytes.Equal(before, after) {
			t.Error("it wrote to the log")
		}
		if err := os.WriteFile(secret, right, 0o600); err != nil {
			t.Fatal(err)
		}
		s.start()
		s.interrupt()
	})
	t.Run("damaged log", func(t *testing.T) {
		t.Parallel()
		s := original.copy(t)
		flipLogByte(t, s.dir)
		s.refuses(t, "LOG_alpha: message ")
		if out, stderr, code := tool(t, "log", "verify", "--data-dir", s.dir, "--site", "alpha"); code == 0 {
			t.Errorf("log verify found nothing: %s%s", out, stderr)
		} else {
			t.Logf("log verify: %s", stderr)
		}
	})
	t.Run("older log", func(t *testing.T) {
		t.Parallel()
		s := original.copy(t)
		log := logDir(t, s.dir)
		backup := filepath.Join(dataDir(t), "log")
		move := func(from, to string) {
			if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		move(log, backup)
		s.start()
		te := s.newTenant("later", 5)
		te.get(fmt.Sprintf("/v1/projects/%s?at_least=%d", te.project, te.head()), &struct{}{}) // the read models have it too
		s.interrupt()
		if err := os.RemoveAll(log); err != nil {
			t.Fatal(err)
		}
		move(backup, log)
		before := blocks(t, s.dir)
		for _, r := range []struct{ made, message string }{
			{"snapshots", "was made after commit"}, {"postgres", "but the read models show commit"}, {"", "but the feed holds event"},
		} {
			s.refuses(t, r.message)
			if r.made != "" { // without it the next one knows
				if err := os.RemoveAll(filepath.Join(s.dir, r.made)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if after := blocks(t, s.dir); !bytes.Equal(before, after) {
			t.Error("it wrote to a log that has lost its tail")
		}
	})
	t.Run("another site", func(t *testing.T) {
		t.Parallel()
		s := original.copy(t)
		s.args = []string{"serve", "--site", "beta"}
		s.refuses(t, "alpha")
	})
	t.Run("another site's database", func(t *testing.T) {
		t.Parallel()
		pg, err := pglocal.Start(t.Context(), pglocal.Options{DataDir: filepath.Join(dataDir(t), "pg"), Unsafe: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = pg.Stop(context.Background()) })
		url, err := pg.CreateDatabase(t.Context(), "models")
		if err != nil {
			t.Fatal(err)
		}
		s := original.copy(t)
		s.args = append(s.args, "--database-url", url)
		s.start()
		s.interrupt()
		other := &site{t: t, dir: dataDir(t), args: []string{"serve", "--site", "beta", "--database-url", url}}
		t.Cleanup(other.gone)
		other.refuses(t, `the database holds the read models of another site: it belongs to "alpha", this is "beta"`)
	})
}

// copy is a copy of a stopped site, without its Postgres.
func (s *site) copy(t *testing.T) *site {
	t.Helper()
	c := &site{t: t, dir: dataDir(t), args: s.args}
	for _, part := range []string{"nats", "site.secret", "admin.key"} {
		if out, err := exec.Command("cp", "-a", filepath.Join(s.dir, part), c.dir).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	// Its server takes a port of its own.
	if err := os.Remove(filepath.Join(c.dir, "nats", "port")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.gone)
	return c
}

// refuses wants the start to fail with a message.
func (s *site) refuses(t *testing.T, message string) {
	t.Helper()
	if err := s.tryStart(); err == nil {
		t.Fatalf("it started, and should have refused with %q", message)
	}
	if code := s.ended(t, limit); code != 1 {
		t.Errorf("exit code %d", code)
	}
	last := strings.TrimSpace(s.out.String())
	last = last[strings.LastIndexByte(last, '\n')+1:]
	if !strings.HasPrefix(last, "gpuaas: ") || !strings.Contains(last, message) {
		t.Errorf("it said\n%s\nwant %q", last, message)
	}
	t.Log(last)
}

// connect is a connection with one of the credentials in the data directory.
func (s *site) connect(t *testing.T, role string) *nats.Conn {
	t.Helper()
	url, err := os.ReadFile(filepath.Join(s.dir, "nats.url"))
	if err != nil {
		t.Fatal(err)
	}
	nc, err := s.dial(strings.TrimSpace(string(url)), role)()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func (s *site) dial(url, role string) streams.Dial {
	return streams.DialCreds(url, filepath.Join(s.dir, "nats", "trust", role+".creds"))
}

// appendUnknownEvent appends a commit that is right in everything but an event of
// a type that this build does not know.
func (s *site) appendUnknownEvent(t *testing.T) {
	t.Helper()
	js, err := jetstream.New(s.connect(t, "runtime"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := js.Stream(t.Context(), "LOG_alpha")
	if err != nil {
		t.Fatal(err)
	}
	info := log.CachedInfo()
	var commit *domain.Commit
	var last []byte
	for seq := uint64(1); seq <= info.State.LastSeq; seq++ {
		m, err := log.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		last = m.Data
		if commit == nil && bytes.Contains(last, []byte("tenant.created")) {
			if commit, err = domain.DecodeCommit(bytes.Clone(last)); err != nil {
				t.Fatal(err)
			}
		}
	}
	head, _, err := domain.DecodeCommitHeader(last)
	if err != nil {
		t.Fatal(err)
	}
	commit.N, commit.At, commit.Prev = head.N+1, head.At, sha256.Sum256(last)
	b := bytes.Replace(domain.EncodeCommit(commit), []byte("tenant.created"), []byte("tenant.creaked"), 1)
	if _, err := js.Publish(t.Context(), "log.alpha", b, jetstream.WithExpectLastSequence(info.State.LastSeq)); err != nil {
		t.Fatal(err)
	}
}

// logDir is where JetStream keeps the log.
func logDir(t *testing.T, dir string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "nats", "jetstream", "jetstream", "*", "streams", "LOG_alpha"))
	if err != nil || len(found) != 1 {
		t.Fatalf("no log in %s: %v", dir, err)
	}
	return found[0]
}

// blocks are the log's messages as they are on disk.
func blocks(t *testing.T, dir string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(logDir(t, dir), "msgs", "1.blk"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// flipLogByte changes one byte in the middle of the log's file.
func flipLogByte(t *testing.T, dir string) {
	t.Helper()
	b := blocks(t, dir)
	b[len(b)/2] ^= 1
	if err := os.WriteFile(filepath.Join(logDir(t, dir), "msgs", "1.blk"), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestDiskNearlyFull keeps reads going and refuses what would be written, but for what
// only ends something: an allocation that is released is not billed any more.
func TestDiskNearlyFull(t *testing.T) {
	t.Parallel()
	s := newSite(t, "dev", "--log-level", "warn")
	te := s.newTenant("acme", 5_000_000)
	a := te.launch(obj{"name": "a", "sku": "gpu-1x"})
	te.becomes(a.ID, "running")
	s.interrupt()
	s.start("--min-free-percent", "100")
	op := s.operator()
	eventually(t, limit, "admission to stop", func() error {
		a, err := op.ask("POST", "/v1/tenants", obj{"name": "more", "currency": "USD"}, "Idempotency-Key", "more")
		if err != nil {
			return err
		}
		return errNo(a.status == 503 && a.code == "site.disk_nearly_full", string(a.body))
	})
	te.refused(503, "site.disk_nearly_full", "POST", "/v1/tenants/"+te.id+"/projects", obj{"name": "more"})
	te.refused(503, "site.disk_nearly_full", "POST", "/v1/allocations/"+a.ID+"/reboot", nil)
	te.get(fmt.Sprintf("/v1/projects/%s?at_least=%d", te.project, te.head()), &struct{}{})
	te.do(202, "POST", "/v1/allocations/"+a.ID+"/stop", nil)
	te.do(202, "DELETE", "/v1/allocations/"+a.ID, nil)
	te.becomes(a.ID, "released")
	if status, body, err := look(s.address(), "/readyz"); err != nil || status != 503 || !strings.Contains(body, "disk is nearly full") {
		t.Errorf("readyz: %d %s (%v)", status, body, err)
	}
	s.interrupt()
}
