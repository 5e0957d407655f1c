package server_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"go.uber.org/goleak"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, o server.Options) *server.Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := server.Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	return s
}

// TestRestartInPlace: a connection within the process, and one from outside, outlive a
// restart of the server that they are to.
func TestRestartInPlace(t *testing.T) {
	t.Parallel()
	s := start(t, server.Options{Dir: t.TempDir(), Site: "lab"})
	url := s.ClientURL()
	again := func(nc *nats.Conn, err error) *nats.Conn {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	patient := []nats.Option{nats.MaxReconnects(-1), nats.ReconnectWait(10 * time.Millisecond)}
	inside := again(s.Dial(server.Runtime)(patient...))
	outside := again(nats.Connect(url, append(patient, nats.UserCredentials(s.Trust().CredsFile(server.Responder)))...))
	if stuck := s.Stuck(); len(stuck) != 0 {
		t.Errorf("streams %v are stuck", stuck)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if s.ClientURL() != url {
		t.Errorf("listens on %s, was %s", s.ClientURL(), url)
	}
	for _, nc := range []*nats.Conn{inside, outside} {
		for ctx.Err() == nil && (nc.Stats().Reconnects == 0 || nc.FlushTimeout(time.Second) != nil) {
			time.Sleep(10 * time.Millisecond)
		}
	}
	if ctx.Err() != nil {
		t.Error("a connection did not come back")
	}
}

func TestRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, server.Options{Dir: dir, Site: "lab"})
	url := s.ClientURL()
	if !strings.HasPrefix(url, "nats://127.0.0.1:") {
		t.Fatalf("listens on %s", url)
	}
	for _, role := range []server.Role{server.Admin, server.Runtime, server.Responder, server.System} {
		nc, err := s.Dial(role)()
		if err != nil {
			t.Fatalf("%s: %v", role, err)
		}
		nc.Close()
	}
	if nc, err := nats.Connect(url); err == nil {
		nc.Close()
		t.Fatal("connected without a credential")
	}
	s.Shutdown()
	if again := start(t, server.Options{Dir: dir, Site: "lab"}); again.ClientURL() != url {
		t.Fatalf("listens on %s after a restart, was %s", again.ClientURL(), url)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := server.Start(ctx, server.Options{Dir: dir, Site: "other"}); err == nil {
		t.Fatal("started for another site on the same folder")
	}
}

func TestTrustFiles(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "trust")
	trust, err := server.OpenTrust(dir, "lab")
	if err != nil {
		t.Fatal(err)
	}
	read := func() string {
		b, err := os.ReadFile(filepath.Join(dir, "SITE.jwt"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	before := read()
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", path, info.Mode().Perm())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}

	// Opened again nothing is signed again, and nothing but the public files is needed.
	for _, secret := range []string{"operator.nk", "SITE.nk", "SYS.nk", "sign-host.nk"} {
		if err := os.Remove(filepath.Join(dir, secret)); err != nil {
			t.Fatal(err)
		}
	}
	trust2, err := server.OpenTrust(dir, "lab")
	if err != nil {
		t.Fatal(err)
	}
	if read() != before {
		t.Fatal("the account was signed again")
	}
	k, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	key, err := k.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	for _, tr := range []*server.Trust{trust, trust2} {
		if _, err := tr.HostCredential(domain.HostID{1}, key); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("a host credential without the signing key: %v", err)
		}
		if err := tr.Revoke(context.Background(), nil, key); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("a revocation without the operator's key: %v", err)
		}
	}
	if _, err := server.OpenTrust(dir, "other"); err == nil {
		t.Fatal("opened the trust of another site")
	}
	if _, err := server.OpenTrust(dir, "Not A Site"); err == nil {
		t.Fatal("took a site name that is no subject token")
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	began := time.Now()
	s, err := server.Start(ctx, server.Options{Dir: t.TempDir(), Site: "lab"})
	if err == nil { // it was ready at once
		s.Shutdown()
		return
	}
	if !errors.Is(err, context.Canceled) || time.Since(began) > 30*time.Second {
		t.Fatalf("after %s: %v", time.Since(began), err)
	}
}
