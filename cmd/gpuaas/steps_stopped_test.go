package main_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams/server"
	"github.com/gpuaas/gpuaas/streams/streamstest"
)

// shelf has a stopped site, of which each run of a process gets a fresh copy: files, a NATS
// server on them, a database.
type shelf struct {
	t      *testing.T
	from   string // the site's data directory; "": a site that was never started
	models *database
	name   string // of its database; "": none
	prog   string // a build of gpuaas that judges; "": this one

	port     int
	toLog    *proxy
	toModels *proxy

	dir, streams string // of the present copy: the site's, and the NATS server's
	nats         *server.Server
	made         int
}

func newShelf(t *testing.T, l *line) *shelf {
	t.Helper()
	s := &shelf{t: t, models: newDatabase(t), port: streamstest.Port(t)}
	s.toLog, s.toModels = l.between(t, fmt.Sprint("127.0.0.1:", s.port), filepath.Join(s.models.o.SocketDir, ".s.PGSQL.5432"), always)
	t.Cleanup(s.clear)
	return s
}

// clear takes the present copy away.
func (s *shelf) clear() {
	if s.nats != nil {
		s.nats.Shutdown()
		if err := errors.Join(os.RemoveAll(s.dir), os.RemoveAll(s.streams)); err != nil {
			s.t.Error(err)
		}
		s.sql(`DROP DATABASE ` + s.database() + ` WITH (FORCE)`)
	}
	s.nats = nil
}

func (s *shelf) database() string { return fmt.Sprint("copy", s.made) }

func (s *shelf) sql(statement string) {
	s.t.Helper()
	conn, err := pgx.Connect(context.Background(), s.models.server.URL("postgres"))
	if err == nil {
		_, err = conn.Exec(context.Background(), statement)
		conn.Close(context.Background())
	}
	if err != nil {
		s.t.Error(err)
	}
}

// again makes a fresh copy.
func (s *shelf) again(t *testing.T) {
	t.Helper()
	s.clear()
	s.made++
	s.dir, s.streams = dataDir(t), filepath.Join(dataDir(t), "nats")
	template := "template0"
	if s.from != "" {
		template = s.name
		copyTree(t, s.from, s.dir)
		if err := os.Rename(filepath.Join(s.dir, "nats"), s.streams); err != nil {
			t.Fatal(err)
		}
	}
	s.sql(`CREATE DATABASE ` + s.database() + ` TEMPLATE ` + template)
	var err error
	if s.nats, err = server.Start(t.Context(), server.Options{Dir: s.streams, Site: "dev", Port: s.port}); err != nil {
		t.Fatal(err)
	}
}

// direct are the arguments that say where log and read models are.
func (s *shelf) direct() []string {
	return []string{"--nats-url", s.nats.ClientURL(), "--nats-creds", filepath.Join(s.streams, "trust"), "--database-url", s.models.server.URL(s.database()), "--log-level", "error"}
}

// counted are the same, behind the line.
func (s *shelf) counted() []string {
	return []string{
		"--nats-url", "nats://" + s.toLog.address(), "--nats-creds", filepath.Join(s.streams, "trust"), "--log-level", "error",
		"--database-url", "postgres://gpuaas@" + s.toModels.address() + "/" + s.database() + "?sslmode=disable&connect_timeout=5",
	}
}

// ok runs a tool on the copy.
func (s *shelf) ok(t *testing.T, words ...string) (out string) {
	t.Helper()
	p := run(t, nil, cmp.Or(s.prog, "gpuaas"), append(append(words, "--data-dir", s.dir), s.direct()...)...)
	if code := p.ended(t, startLimit); code != 0 {
		t.Errorf("%v: %s", words, p.out.tail())
	}
	return p.out.String()
}

// starts wants the site to start, to show these tenants, and to be whole.
func (s *shelf) starts(t *testing.T, tenants ...string) {
	t.Helper()
	sv := &site{t: t, dir: s.dir, args: append([]string{"serve"}, s.direct()...), prog: s.prog}
	defer sv.gone()
	if err := sv.tryStart(); err != nil {
		t.Error(err)
		return
	}
	op := sv.operator()
	te := sv.newTenant("last", 5)
	var names []string
	for _, o := range list[struct{ Name string }](op, fmt.Sprint("/v1/tenants?at_least=", te.head())) {
		names = append(names, o.Name)
	}
	if got, want := strings.Join(names, " "), strings.Join(append(tenants, "last"), " "); got != want {
		t.Errorf("its tenants are %s, want %s", got, want)
	}
	if n := len(list[struct{}](op, "/v1/operators")); n < 1 || s.from == "" && n != 1 {
		t.Errorf("%d operators", n)
	}
	eventually(t, limit, "the feed", func() error {
		events := op.events("/v1/events")
		return errNo(len(events) > 0 && events[len(events)-1].Sequence >= te.head(), fmt.Sprint(len(events)))
	})
	gapless(t, op)
	s.ok(t, "log", "verify")
	s.ok(t, "projections", "reconcile")
	sv.interrupt()
}

// openLostTail opens an epoch on a log whose end is lost, while snapshots, feed and read
// models know more.
func openLostTail(t *testing.T, l *line) stage {
	s := newShelf(t, l)
	old := newSite(t, "serve", "--log-level", "warn", "--database-url", s.models.url, "--snapshot-every", "2")
	s.from, s.name = old.dir, "models"
	old.newTenant("kept", 5)
	keys := []string{filepath.Join(dataDir(t), "key"), filepath.Join(old.dir, "admin.key")}
	if err := os.WriteFile(keys[0], []byte(old.operator().secondOperator()), 0o600); err != nil {
		t.Fatal(err)
	}
	old.interrupt()
	logs, err := filepath.Glob(filepath.Join(old.dir, "nats", "jetstream", "jetstream", "*", "streams", "LOG_dev"))
	if err != nil || len(logs) != 1 {
		t.Fatalf("no log: %v", err)
	}
	kept := filepath.Join(dataDir(t), "log")
	copyTree(t, logs[0], kept)
	end := 0
	count := func(out string) (n int) {
		t.Helper()
		if _, err := fmt.Sscanf(out, "ok: %d commits", &n); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return n
	}
	out, _, _ := tool(t, "log", "verify", "--data-dir", old.dir)
	end = count(out)
	old.start()
	lost := old.newTenant("lost", 5)
	lost.get(fmt.Sprintf("/v1/projects/%s?at_least=%d", lost.project, lost.head()), &struct{}{}) // the read models have it too
	old.interrupt()
	copyTree(t, kept, logs[0])
	return stage{
		again: s.again,
		run: func(t *testing.T) bool {
			args := append([]string{"site", "open-epoch", "--data-dir", s.dir, "--epoch", "2", "--commit", fmt.Sprint(end), "--reason", "lost-disk", "--key-file", keys[0], "--key-file", keys[1]}, s.counted()...)
			_, ok := runTool(t, l, args...)
			return ok
		},
		judge: func(t *testing.T) {
			if n := count(s.ok(t, "log", "verify")); n != end+1 {
				t.Errorf("the log has %d commits, want %d and the one that opens the epoch", n, end)
			}
			s.starts(t, "kept")
		},
	}
}

// openFirstStart starts a site for the first time, has it decide one command, and stops it.
func openFirstStart(t *testing.T, l *line) stage {
	s := newShelf(t, l)
	return stage{
		again: s.again,
		run: func(t *testing.T) bool {
			sv := &site{t: t, dir: s.dir, args: append([]string{"serve"}, s.counted()...)}
			defer sv.gone()
			l.begin(func() func() { return func() { killAll(s.dir) } })
			if err := sv.tryStart(); err != nil {
				t.Log(err)
				return false
			}
			a, err := sv.operator().ask("POST", "/v1/tenants", obj{"name": "first", "currency": "USD"}, "Idempotency-Key", "first")
			if err != nil || a.status != 201 || sv.cmd.Process.Signal(os.Interrupt) != nil {
				return false
			}
			return sv.ended(t, limit) == 0
		},
		judge: func(t *testing.T) { s.starts(t, "first") },
	}
}

// killAll is kill -9 of all processes of a data directory.
func killAll(dir string) {
	for pid := range processesOf(dir) {
		_ = syscall.Kill(pid, syscall.SIGKILL) // an error: it has ended
	}
}

// openUpgrade takes a site from a build to the next one, which has a higher logic level,
// process by process: the new one's steps count, from its start beside the old one until
// the log is raised and it stops.
func openUpgrade(t *testing.T, l *line) stage {
	s := newShelf(t, l)
	old := newSite(t, "serve", "--log-level", "warn", "--database-url", s.models.url)
	old.newTenant("kept", 5)
	old.interrupt()
	s.from, s.name, s.prog = old.dir, "models", hastyRelease(t)
	var beside *site // the other process: of the old build, then of the new
	dir := ""        // of the one whose steps count
	return stage{
		again: func(t *testing.T) {
			s.again(t)
			dir = dataDir(t)
			copyFile(t, filepath.Join(s.dir, "site.secret"), filepath.Join(dir, "site.secret"))
			beside = &site{t: t, dir: s.dir, args: append([]string{"serve"}, s.direct()...)}
			beside.start()
		},
		run: func(t *testing.T) (ok bool) {
			if beside.program == nil { // repeated
				return true
			}
			sv := &site{t: t, dir: dir, prog: s.prog, args: append([]string{"serve"}, s.counted()...)}
			defer sv.gone()
			l.begin(func() func() { return func() { killAll(dir) } })
			if sv.tryStart() != nil {
				return false
			}
			sv.key = beside.key
			a, err := sv.operator().ask("POST", "/v1/tenants", obj{"name": "first", "currency": "USD"}, "Idempotency-Key", "first")
			if err != nil || a.status != 201 {
				return false
			}
			if beside.prog == "" {
				beside.interrupt()
				beside.prog = s.prog
				beside.start()
			}
			raised := false
			eventually(t, limit, "the log to be raised", func() error {
				for _, e := range beside.operator().events("/v1/events") {
					raised = raised || e.Type == "site.writer_started" && strings.Contains(string(e.Data), fmt.Sprintf(`"logic_level":%d`, domain.LogicLevel+1))
				}
				return errNo(raised, "not yet")
			})
			if sv.cmd.Process.Signal(os.Interrupt) != nil || sv.ended(t, limit) != 0 {
				return false
			}
			beside.interrupt()
			beside.program = nil
			return true
		},
		judge: func(t *testing.T) { s.starts(t, "kept", "first") },
	}
}

// openHandOver has the writer hand over while clients ask for things.
func openHandOver(t *testing.T, l *line) stage {
	c := &cluster{t: t, nats: streamstest.New(t, 1)}
	db := newDatabase(t)
	var writer atomic.Int64
	for i := range 2 {
		counts := func() bool { return writer.Load() == int64(i) }
		toLog, toModels := l.between(t, strings.TrimPrefix(c.nats.Servers[0].ClientURL(), "nats://"), filepath.Join(db.o.SocketDir, ".s.PGSQL.5432"), counts)
		m := &site{t: t, dir: dataDir(t), args: []string{
			"serve", "--site", string(c.nats.Names), "--nats-url", "nats://" + toLog.address(), "--replicas", "1",
			"--nats-creds", filepath.Dir(c.nats.Trust.CredsFile(server.Admin)), "--database-url", "postgres://gpuaas@" + toModels.address() + "/models?sslmode=disable&connect_timeout=5",
		}}
		t.Cleanup(m.gone)
		if i > 0 {
			copyFile(t, filepath.Join(c.members[0].dir, "site.secret"), filepath.Join(m.dir, "site.secret"))
		}
		m.start()
		c.members = append(c.members, m)
	}
	v := newVisitors(c)
	return stage{
		run: func(t *testing.T) bool {
			w := c.writer()
			m := c.members[w]
			writer.Store(int64(w))
			l.begin(func() func() {
				if err := m.cmd.Process.Signal(syscall.SIGTERM); err != nil {
					t.Error(err)
				}
				return m.kill
			})
			code := m.ended(t, limit)
			l.over()
			m.start()
			v.load.more(2)
			return code == 0
		},
		judge: func(t *testing.T) {
			v.asking.Lock()
			defer v.asking.Unlock()
			v.answered()
			c.verified()
		},
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
