package main_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/projections/pglocal"
	"github.com/gpuaas/gpuaas/streams/streamstest"
)

// database is a Postgres of somebody else, which comes and goes.
type database struct {
	t      *testing.T
	o      pglocal.Options
	server *pglocal.Server
	url    string
}

func newDatabase(t *testing.T) *database {
	t.Helper()
	d := &database{t: t, o: pglocal.Options{DataDir: filepath.Join(dataDir(t), "pg"), Unsafe: true}}
	d.start()
	t.Cleanup(d.stop)
	made, err := d.server.CreateDatabase(t.Context(), "models")
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(made)
	if err != nil {
		t.Fatal(err)
	}
	d.url, d.o.SocketDir = made, u.Query().Get("host")
	return d
}

func (d *database) start() {
	d.t.Helper()
	var err error
	if d.server, err = pglocal.Start(d.t.Context(), d.o); err != nil {
		d.t.Fatal(err)
	}
}

func (d *database) stop() {
	if d.server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := d.server.Stop(ctx); err != nil {
		d.t.Error(err)
	}
	d.server = nil
	if d.o.SocketDir != "" {
		if err := os.MkdirAll(d.o.SocketDir, 0o755); err != nil {
			d.t.Error(err)
		}
	}
}

// look asks without a key.
func look(base, path string) (status int, body string, err error) {
	res, err := httpClient.Get(base + path)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

// TestStartsWithoutItsDatabase starts a site whose Postgres is away: a probe is
// answered all the while, the site decides, and reads come back with the database;
// one that knows more than the log ends the site before it is read.
func TestStartsWithoutItsDatabase(t *testing.T) {
	t.Parallel()
	db := newDatabase(t)
	s := newSite(t, "serve", "--log-level", "warn", "--database-url", db.url)
	te := s.newTenant("acme", 5)
	te.get(fmt.Sprintf("/v1/projects/%s?at_least=%d", te.project, te.head()), &struct{}{})
	s.interrupt()
	backup := filepath.Join(dataDir(t), "nats")
	copyDir(t, filepath.Join(s.dir, "nats"), backup)
	db.stop()

	address := fmt.Sprintf("127.0.0.1:%d", streamstest.Port(t))
	probed, started := make(chan error, 1), make(chan struct{})
	go func() { probed <- probe("http://"+address, started) }()
	s.start("--listen", address)
	close(started)
	if err := <-probed; err != nil {
		t.Error(err)
	}
	if status, body, err := look(s.address(), "/readyz"); err != nil || status != 503 || !strings.Contains(body, "Postgres does not answer") {
		t.Errorf("readiness: %d %s %v", status, body, err)
	}
	te.do(200, "GET", "/v1/tenants/"+te.id+"/balance", nil)
	made := te.do(201, "POST", "/v1/tenants/"+te.id+"/projects", obj{"name": "more"})
	te.refused(503, "read_model.unavailable", "GET", "/v1/projects/"+te.project, nil)

	db.start()
	eventually(t, limit, "reads", func() error {
		a, err := te.ask("GET", fmt.Sprintf("/v1/projects/%s?at_least=%d", te.project, made.seq), nil)
		if err != nil {
			return err
		}
		return errNo(a.status == 200, string(a.body))
	})
	eventually(t, limit, "readiness", func() error {
		status, body, err := look(s.address(), "/readyz")
		return errors.Join(err, errNo(status == 200, body))
	})
	s.interrupt()

	db.stop()
	for _, dir := range []string{"nats", "snapshots"} {
		if err := os.RemoveAll(filepath.Join(s.dir, dir)); err != nil {
			t.Fatal(err)
		}
	}
	copyDir(t, backup, filepath.Join(s.dir, "nats"))
	s.start()
	db.start()
	if code := s.ended(t, limit); code != 1 || !strings.Contains(s.out.String(), "but the read models show commit") {
		t.Errorf("with read models that know more than the log: exit code %d\n%s", code, s.out.tail())
	}
}

// probe asks from before the listener is there until the site has started: what is
// asked is always answered, and "not yet" is seen.
func probe(base string, started <-chan struct{}) error {
	client := &http.Client{Timeout: 5 * time.Second}
	notYet, tick := false, time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-started:
			return errNo(notYet, "nobody answered before the site was ready")
		case <-tick.C:
		}
		res, err := client.Get(base + "/healthz")
		if err != nil {
			var refused *net.OpError
			if errors.As(err, &refused) && !notYet {
				continue // not listening yet
			}
			return fmt.Errorf("healthz: %w", err)
		}
		res.Body.Close()
		if res.StatusCode != 200 {
			return fmt.Errorf("healthz: %s", res.Status)
		}
		status, body, err := look(base, "/readyz")
		if err != nil {
			return err
		}
		asked, problem, err := look(base, "/v1/whoami")
		if err != nil {
			return err
		}
		if status == 503 && strings.Contains(body, "are being opened") && asked == 503 && strings.Contains(problem, "site.starting") {
			notYet = true
		}
	}
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
