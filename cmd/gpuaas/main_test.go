package main_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// These tests run the real programs: gpuaas with its embedded JetStream and its own
// Postgres, and hostd with simulated hosts, on free ports and in directories of
// their own. They see what users and operators see: REST, files, exit codes.

// bin is where the programs were built.
var bin string

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	if to := os.Getenv(floodEnv); to != "" {
		return beFlood(to)
	}
	dir, err := os.MkdirTemp("", "gpuaas-e2e-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-o", dir+"/", "github.com/gpuaas/gpuaas/cmd/gpuaas", "github.com/gpuaas/gpuaas/cmd/hostd", "github.com/gpuaas/gpuaas/cmd/gpuctl")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		return 1
	}
	bin = dir
	return m.Run()
}

const (
	startLimit = 60 * time.Second // from exec to "ready", on a busy machine
	limit      = 60 * time.Second // anything else
	pollEvery  = 10 * time.Millisecond
)

// eventually asks until f has no objection, and fails with its last one. It is the
// only wait of these tests.
func eventually(t testing.TB, within time.Duration, what string, f func() error) {
	t.Helper()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for deadline := time.Now().Add(within); ; {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %v", what, within, err)
		}
		<-tick.C
	}
}

// dataDir is an empty data directory that Postgres, which root runs as another
// user, can reach; and whose path is short enough for its socket.
func dataDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "gpuaas-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the Postgres of a site that was killed writes until it has stopped
		eventually(t, limit, "empty "+dir, func() error { return os.RemoveAll(dir) })
	})
	return dir
}

// output keeps what a program printed.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// tail is the end of it, for a failure's message.
func (o *output) tail() string {
	s := o.String()
	return s[max(0, len(s)-4000):]
}

// program is a program that runs, or has run.
type program struct {
	cmd  *exec.Cmd
	out  output        // both streams
	done chan struct{} // closed when it has ended
	err  error         // valid after done
}

// run starts a program. It dies with the tests, and at the end of this one.
func run(t testing.TB, stdout *os.File, name string, args ...string) *program {
	t.Helper()
	p := &program{cmd: exec.Command(filepath.Join(bin, name), args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	if stdout != nil {
		p.cmd.Stdout = stdout
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // Pdeathsig follows the thread that started the child
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	return p
}

// kill is kill -9, and waits.
func (p *program) kill() {
	_ = p.cmd.Process.Kill() // an error: it has ended
	<-p.done
}

// ended waits for the end and returns the exit code.
func (p *program) ended(t testing.TB, within time.Duration) int {
	t.Helper()
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-timer.C:
		t.Fatalf("%s still runs after %v:\n%s", p.cmd, within, p.out.tail())
		return 0
	}
}

// tool runs a program to its end and returns what it printed on stdout.
func tool(t testing.TB, args ...string) (stdout string, stderr string, code int) {
	t.Helper()
	return toolWithin(t, startLimit, args...)
}

func toolWithin(t testing.TB, within time.Duration, args ...string) (stdout string, stderr string, code int) {
	t.Helper()
	return toolOf(t, "gpuaas", within, args...)
}

func toolOf(t testing.TB, program string, within time.Duration, args ...string) (stdout string, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	var o, e bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(bin, program), args...)
	cmd.Stdout, cmd.Stderr = &o, &e
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	runtime.LockOSThread() // as in run: whoever else got this thread could end it, and with it the child
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("%s %v: %v: %s", program, args, err, &e)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// site is a control plane on a data directory, over all its starts.
type site struct {
	t    testing.TB
	dir  string
	args []string // of every start
	prog string   // another build of gpuaas than this one; "": this one
	*program

	mu   sync.Mutex
	base string // http://127.0.0.1:port of the present start
	key  string // the bootstrap operator's

	client *http.Client // of a site with TLS; nil: httpClient
}

// newSite runs a site of its own: args begin with the subcommand.
func newSite(t testing.TB, args ...string) *site {
	t.Helper()
	s := &site{t: t, dir: dataDir(t), args: args}
	t.Cleanup(s.gone)
	s.start()
	return s
}

// start runs gpuaas and returns when it says that it is ready.
func (s *site) start(more ...string) {
	s.t.Helper()
	if err := s.tryStart(more...); err != nil {
		s.t.Fatal(err)
	}
}

// tryStart returns an error when it ends before it is ready.
func (s *site) tryStart(more ...string) error {
	s.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	args := append([]string{s.args[0], "--data-dir", s.dir, "--listen", "127.0.0.1:0"}, s.args[1:]...)
	s.program = run(s.t, w, cmp.Or(s.prog, "gpuaas"), append(args, more...)...)
	w.Close()
	if err := r.SetReadDeadline(time.Now().Add(startLimit)); err != nil {
		return err
	}
	line, err := bufio.NewReader(r).ReadString('\n')
	base, keyFile, ok := strings.Cut(strings.TrimSpace(strings.TrimPrefix(line, "ready ")), " key ")
	if err != nil || !ok {
		s.kill()
		return fmt.Errorf("it said %q (%v) and not that it is ready:\n%s", line, err, s.out.tail())
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.base, s.key = base, strings.TrimSpace(string(key))
	return nil
}

// address is where the present start listens.
func (s *site) address() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.base
}

// interrupt is Ctrl-C: the exit code has to be 0.
func (s *site) interrupt() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		s.t.Fatal(err)
	}
	if code := s.ended(s.t, limit); code != 0 {
		s.t.Fatalf("exit code %d after SIGINT:\n%s", code, s.out.tail())
	}
}

// gone kills what is left of the site and waits until nothing is.
func (s *site) gone() {
	if s.program != nil {
		s.kill()
	}
	eventually(s.t, limit, "end of the site's processes", func() error {
		left := processesOf(s.dir)
		for pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if len(left) > 0 {
			return fmt.Errorf("%v", left)
		}
		return nil
	})
}

// processesOf finds the processes whose command line names the directory, and a
// lab's daemons, which carry it in their environment.
func processesOf(dir string) map[int]string {
	out := map[int]string{}
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		line, _ := os.ReadFile(f)
		env, _ := os.ReadFile(filepath.Join(filepath.Dir(f), "environ"))
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		ours := bytes.Contains(line, []byte(dir)) || bytes.Contains(env, []byte("GPUAAS_LAB="+dir))
		if err == nil && pid != os.Getpid() && ours && len(line) > 0 {
			out[pid] = strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return out
}

// child finds the one process of the site whose command line has a word.
func (s *site) child(word string) (pid int, err error) {
	for p, line := range processesOf(s.dir) {
		if p != s.cmd.Process.Pid && strings.Contains(line, word) {
			if pid != 0 {
				return 0, fmt.Errorf("two processes %q", word)
			}
			pid = p
		}
	}
	if pid == 0 {
		return 0, fmt.Errorf("no process %q", word)
	}
	return pid, nil
}

// dev is a site with simulated hosts.
func dev(t testing.TB, hosts, gpus int, more ...string) *site {
	t.Helper()
	return newSite(t, append([]string{"dev", "--hosts", strconv.Itoa(hosts), "--gpus-per-host", strconv.Itoa(gpus), "--log-level", "warn"}, more...)...)
}
