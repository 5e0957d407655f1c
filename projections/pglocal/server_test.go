package pglocal

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func testDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pgl-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func start(t *testing.T, o Options) *Server {
	t.Helper()
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop(context.Background()) })
	return s
}

func exec1(t *testing.T, s *Server, sql string) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), s.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	if _, err := c.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func TestDataSurvivesStopAndKill(t *testing.T) {
	t.Parallel()
	o := Options{DataDir: filepath.Join(testDir(t), "pg")}
	s := start(t, o)
	exec1(t, s, `CREATE TABLE one (v text)`)
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	s = start(t, o)
	exec1(t, s, `INSERT INTO one VALUES ('kept')`)
	if err := syscall.Kill(s.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-s.Done()
	s = start(t, o)
	if err := sameVersion(t.Context(), filepath.Dir(s.cmd.Path), "9"); err == nil || !strings.Contains(err.Error(), "made by Postgres 9") {
		t.Errorf("another version: %v", err)
	}
	exec1(t, s, `DO $$ BEGIN IF (SELECT count(*) FROM one) <> 1 THEN RAISE 'lost'; END IF; END $$`)
}

// A server whose parent was killed without taking it along is stopped before the
// next one starts; a pid file that names another program is no obstacle.
// TestDamagedPage: a page that changed on the disk is noticed, and a start does not wait for
// it to get well.
func TestDamagedPage(t *testing.T) {
	t.Parallel()
	o := Options{DataDir: filepath.Join(testDir(t), "pg")}
	s := start(t, o)
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(o.DataDir, "global", "1262") // the databases
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[1877] ^= 1 // nothing is there
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout/2)
	defer cancel()
	if s, err := Start(ctx, o); err == nil {
		_ = s.Stop(context.Background())
		t.Error("it is not noticed")
	} else if ctx.Err() != nil || !strings.Contains(err.Error(), "invalid page in block 0") {
		t.Error(err)
	}
}

func TestLeftovers(t *testing.T) {
	t.Parallel()
	o := Options{DataDir: filepath.Join(testDir(t), "pg"), Unsafe: true}
	first := start(t, o)
	second := start(t, o)
	select {
	case <-first.Done():
	case <-time.After(time.Minute):
		t.Fatal("two servers run on one directory")
	}
	if err := second.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	foreign := strconv.Itoa(os.Getpid()) + "\n" + o.DataDir + "\n"
	if err := os.WriteFile(filepath.Join(o.DataDir, "postmaster.pid"), []byte(foreign), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, o)
}

func TestLongPathAndClosedHome(t *testing.T) {
	t.Parallel()
	long := filepath.Join(testDir(t), strings.Repeat("long-", 20), "pg")
	s := start(t, Options{DataDir: long, Unsafe: true})
	exec1(t, s, `SELECT 1`)
	if os.Geteuid() != 0 {
		return
	}
	closed := testDir(t)
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	s = start(t, Options{DataDir: filepath.Join(closed, "pg"), Unsafe: true})
	if !strings.HasPrefix(s.DataDir(), "/var/lib/gpuaas/") {
		t.Fatalf("data directory %s, want one the account can reach", s.DataDir())
	}
	t.Cleanup(func() { os.RemoveAll(s.DataDir()); os.RemoveAll(s.socket) })
}

func TestNotInstalled(t *testing.T) {
	t.Setenv("PATH", "/nonexistent")
	old := wellKnown
	wellKnown = nil
	defer func() { wellKnown = old }()
	_, err := Start(t.Context(), Options{DataDir: "/tmp/none"})
	if !errors.Is(err, ErrNotInstalled) || !strings.Contains(err.Error(), "apt-get install postgresql") {
		t.Fatalf("got %v", err)
	}
}

func TestOutsideDatabase(t *testing.T) {
	s, err := Start(t.Context(), Options{DatabaseURL: "postgres://u:p@db.example:5432/prod?sslmode=require"})
	if err != nil {
		t.Fatal(err)
	}
	if got := s.URL(""); got != "postgres://u:p@db.example:5432/prod?sslmode=require" {
		t.Fatal(got)
	}
	if got := s.URL("x"); got != "postgres://u:p@db.example:5432/x?sslmode=require" {
		t.Fatal(got)
	}
}

// TestMain is also the program whose server must die with it.
func TestMain(m *testing.M) {
	if dir := os.Getenv("PGLOCAL_TEST_CHILD"); dir != "" {
		s, err := Start(context.Background(), Options{DataDir: dir, Unsafe: true})
		if err != nil {
			panic(err)
		}
		os.Stdout.WriteString(strconv.Itoa(s.PID()) + "\n")
		select {}
	}
	os.Exit(m.Run())
}

// A server dies with the process that started it, however that ends.
func TestDiesWithParent(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells a process of its parent's death; elsewhere the next start stops it")
	}
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "PGLOCAL_TEST_CHILD="+filepath.Join(testDir(t), "pg"))
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	deadline := time.Now().Add(time.Minute)
	for alive(pid) {
		if time.Now().After(deadline) {
			t.Fatalf("postgres (pid %d) outlived its parent", pid)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestDataOfDeletedDirectoriesGoes(t *testing.T) {
	t.Parallel()
	root, site := t.TempDir(), t.TempDir()
	kept, gone := filepath.Join(root, "postgres-kept"), filepath.Join(root, "postgres-gone")
	for dir, asked := range map[string]string{kept: filepath.Join(site, "postgres"), gone: filepath.Join(site, "deleted", "postgres")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+ofSuffix, []byte(asked), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := sweep(root, filepath.Join(root, "postgres-new"), filepath.Join(site, "new", "postgres")); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(root, "*"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{kept, kept + ofSuffix, filepath.Join(root, "postgres-new"+ofSuffix)}
	if !slices.Equal(left, want) {
		t.Errorf("left are %v, want %v", left, want)
	}
}
