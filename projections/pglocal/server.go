package pglocal

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Options say where the server lives.
type Options struct {
	// DatabaseURL is a database that runs already. Nothing is started then.
	DatabaseURL string
	// DataDir is the cluster's directory; made when it does not exist. When the
	// process is root and the account Postgres runs as cannot reach it (a home with
	// mode 0700), a directory under /var/lib/gpuaas is used instead.
	DataDir string
	// SocketDir holds the unix socket, mode 0700. Default: DataDir + ".sock", or a
	// directory in /tmp when that path is too long for a socket.
	SocketDir string
	// Unsafe switches fsync off: for tests.
	Unsafe bool
	// Settings are further server settings: "shared_buffers=256MB".
	Settings []string
	// Log receives what the server prints; nil drops all but the last lines.
	Log io.Writer
}

// Server is a running Postgres.
type Server struct {
	external *url.URL
	dataDir  string
	socket   string
	ownSock  bool
	cmd      *exec.Cmd
	done     chan struct{} // closed when the process has ended
	exit     error         // valid after done
	tail     *tail
}

const (
	superuser = "gpuaas"
	port      = "5432" // only part of the socket's name
	// maxSocketPath is the size of sockaddr_un's path less its final zero.
	maxSocketPath = 107
	startTimeout  = 60 * time.Second
)

// Start finds or starts a server and returns when it answers. A server that was
// killed is recovered from its write-ahead log; one that a killed parent left
// running on the same directory is stopped first.
func Start(ctx context.Context, o Options) (*Server, error) {
	if o.DatabaseURL != "" {
		u, err := url.Parse(o.DatabaseURL)
		if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
			return nil, fmt.Errorf("database URL: want postgres://user:password@host:port/name")
		}
		return &Server{external: u}, nil
	}
	if o.DataDir == "" {
		return nil, errors.New("pglocal: no data directory given")
	}
	bin, err := findPrograms()
	if err != nil {
		return nil, err
	}
	as, err := chooseAccount()
	if err != nil {
		return nil, err
	}
	s := &Server{done: make(chan struct{}), tail: &tail{to: o.Log}}
	if s.dataDir, err = placeData(as, o.DataDir); err != nil {
		return nil, err
	}
	if err := s.placeSocket(as, o.SocketDir); err != nil {
		return nil, err
	}
	if err := s.create(ctx, bin, as); err != nil {
		return nil, fmt.Errorf("create Postgres cluster in %s: %w", s.dataDir, err)
	}
	if err := stopLeftover(ctx, s.dataDir); err != nil {
		return nil, err
	}
	if err := s.start(ctx, bin, as, o); err != nil {
		return nil, fmt.Errorf("start Postgres in %s: %w", s.dataDir, err)
	}
	return s, nil
}

// elsewhere is where data goes that may not be where it was asked to be.
const elsewhere = "/var/lib/gpuaas"

func placeData(as account, dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if as.canReach(dir) != "" {
		asked := dir
		dir = fmt.Sprintf(elsewhere+"/postgres-%x", sha256.Sum256([]byte(asked)))[:40]
		if closed := as.canReach(dir); closed != "" {
			return "", fmt.Errorf("Postgres runs as user %d, who may not enter %s: choose a data directory it can reach", as.uid, closed)
		}
		if err := sweep(elsewhere, dir, asked); err != nil {
			return "", err
		}
	}
	return dir, as.ownDir(dir)
}

func (s *Server) placeSocket(as account, dir string) error {
	if dir == "" {
		dir = s.dataDir + ".sock"
		if len(dir)+len("/.s.PGSQL.")+len(port) > maxSocketPath {
			tmp, err := os.MkdirTemp("/tmp", "gpuaas-pg-")
			if err != nil {
				return err
			}
			dir, s.ownSock = tmp, true
		}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if n := len(dir) + len("/.s.PGSQL.") + len(port); n > maxSocketPath {
		return fmt.Errorf("socket path in %s would have %d bytes, at most %d are possible: choose a shorter directory", dir, n, maxSocketPath)
	}
	s.socket = dir
	return as.ownDir(dir)
}

// create runs initdb unless a finished cluster is there. It is made under another
// name and renamed, so that a half-made one is never taken for a cluster.
func (s *Server) create(ctx context.Context, bin string, as account) error {
	if made, err := os.ReadFile(filepath.Join(s.dataDir, "PG_VERSION")); err == nil {
		return sameVersion(ctx, bin, strings.TrimSpace(string(made)))
	}
	making := s.dataDir + ".making"
	if err := os.RemoveAll(making); err != nil {
		return err
	}
	if err := as.ownDir(making); err != nil {
		return err
	}
	c := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", making, "-U", superuser,
		"--data-checksums", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")
	c.Dir, c.Env, c.SysProcAttr = making, environment(), as.attributes(false)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, bytes.TrimSpace(out))
	}
	if err := os.Remove(s.dataDir); err != nil {
		return fmt.Errorf("the directory is neither empty nor a Postgres cluster: %w", err)
	}
	return os.Rename(making, s.dataDir)
}

// sameVersion refuses a cluster of another major version with more help than
// Postgres gives.
func sameVersion(ctx context.Context, bin, made string) error {
	out, err := exec.CommandContext(ctx, filepath.Join(bin, "postgres"), "--version").Output()
	if err != nil {
		return err
	}
	version := strings.TrimPrefix(strings.TrimSpace(string(out)), "postgres (PostgreSQL) ")
	if version == made || strings.HasPrefix(version, made+".") || !strings.ContainsAny(version[:1], "0123456789") {
		return nil
	}
	return fmt.Errorf("it was made by Postgres %s, installed is %s: remove the directory if it holds nothing but read models (they are built again from the log)", made, version)
}

func environment() []string {
	return []string{"LC_ALL=C", "TZ=UTC", "PATH=" + os.Getenv("PATH")}
}

func (s *Server) start(ctx context.Context, bin string, as account, o Options) error {
	args := []string{
		"-D", s.dataDir, "-k", s.socket, "-p", port, "-c", "listen_addresses=", "-c", "unix_socket_permissions=0700",
		"-c", "timezone=UTC", "-c", "max_connections=100", "-c", "shared_buffers=128MB", "-c", "max_wal_size=2GB", "-c", "jit=off",
		"-c", "logging_collector=off", "-c", "log_destination=stderr",
	}
	if o.Unsafe {
		args = append(args, "-c", "fsync=off", "-c", "full_page_writes=off", "-c", "synchronous_commit=off")
	}
	for _, set := range o.Settings {
		args = append(args, "-c", set)
	}
	s.cmd = exec.Command(filepath.Join(bin, "postgres"), args...)
	s.cmd.Dir, s.cmd.Env, s.cmd.SysProcAttr = s.dataDir, environment(), as.attributes(true)
	s.cmd.Stderr = s.tail
	started := make(chan error, 1)
	go func() {
		// The thread must live as long as the server: its death is the parent's death.
		runtime.LockOSThread()
		err := s.cmd.Start()
		started <- err
		if err == nil {
			s.exit = s.cmd.Wait()
		}
		close(s.done)
	}()
	if err := <-started; err != nil {
		return err
	}
	if err := s.await(ctx); err != nil {
		s.signal(syscall.SIGQUIT)
		<-s.done
		return err
	}
	return nil
}

// await returns when the server answers a query: after a kill that is when
// recovery is done.
func (s *Server) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for { // ends with the context, the server's end or an answer
		c, err := pgx.Connect(ctx, s.URL("postgres"))
		if err == nil {
			return c.Close(ctx)
		}
		var said *pgconn.PgError
		if errors.As(err, &said) && strings.HasPrefix(said.Code, "XX") { // its files are damaged: it will say so again
			return err
		}
		select {
		case <-s.done:
			return fmt.Errorf("it ended (%v): %s", s.exit, s.tail) //nolint:errorlint // nil where it ended by itself
		case <-ctx.Done():
			return fmt.Errorf("no answer: %w (%w): %s", ctx.Err(), err, s.tail)
		case <-time.After(15 * time.Millisecond):
		}
	}
}

// URL is how to connect to a database of the server; "" is the one named by
// DatabaseURL, or gpuaas.
func (s *Server) URL(db string) string {
	if s.external != nil {
		u := *s.external
		if db != "" {
			u.Path = "/" + db
		}
		return u.String()
	}
	if db == "" {
		db = "gpuaas"
	}
	q := url.Values{"host": {s.socket}, "port": {port}, "user": {superuser}, "sslmode": {"disable"}}
	return "postgres:///" + url.PathEscape(db) + "?" + q.Encode()
}

// CreateDatabase makes a database of the server if it does not exist, and returns
// its URL. An outside server is left as it is.
func (s *Server) CreateDatabase(ctx context.Context, db string) (string, error) {
	if s.external != nil {
		return s.URL(""), nil
	}
	c, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return "", err
	}
	defer c.Close(context.WithoutCancel(ctx))
	var exists bool
	if err := c.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, db).Scan(&exists); err != nil {
		return "", err
	}
	if !exists {
		if _, err := c.Exec(ctx, `CREATE DATABASE `+pgx.Identifier{db}.Sanitize()); err != nil {
			return "", err
		}
	}
	return s.URL(db), nil
}

// DataDir is where the cluster really is; "" for an outside server.
func (s *Server) DataDir() string { return s.dataDir }

// Done is closed when the server has ended; nil for an outside server.
func (s *Server) Done() <-chan struct{} { return s.done }

// PID is the postmaster's process id; 0 for an outside server.
func (s *Server) PID() int {
	if s.cmd == nil || s.cmd.Process == nil {
		return 0
	}
	return s.cmd.Process.Pid
}

// Stop ends the server by a fast shutdown: transactions are rolled back, what was
// committed is on disk. When ctx ends first the server is killed.
func (s *Server) Stop(ctx context.Context) error {
	if s.external != nil {
		return nil
	}
	if s.ownSock {
		defer os.RemoveAll(s.socket)
	}
	s.signal(syscall.SIGINT)
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		s.signal(syscall.SIGQUIT)
		<-s.done
		return fmt.Errorf("stop Postgres: %w: it was killed, and will recover", ctx.Err())
	}
}

func (s *Server) signal(sig syscall.Signal) {
	select {
	case <-s.done:
	default:
		_ = s.cmd.Process.Signal(sig)
	}
}

// tail keeps the last of what the server printed, to explain its end.
type tail struct {
	mu  sync.Mutex
	buf []byte
	to  io.Writer
}

const tailBytes = 4 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if n := len(t.buf) - tailBytes; n > 0 {
		t.buf = append(t.buf[:0], t.buf[n:]...)
	}
	if t.to != nil {
		_, _ = t.to.Write(b)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.buf))
}
