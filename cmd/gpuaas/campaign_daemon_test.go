package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// daemon is a program under a supervisor: when it ends it is started again, as
// systemd would. What it says goes to a file.
type daemon struct {
	name string
	log  string
	args []string
	done chan struct{}

	mu      sync.Mutex
	program string      // of the next start
	proc    *os.Process // nil: it does not run
	starts  int
	rests   bool // not to be started again
	over    bool
}

const restartPause = 200 * time.Millisecond

func newDaemon(t testing.TB, dir, name string, program string, args ...string) *daemon {
	t.Helper()
	d := &daemon{name: name, log: filepath.Join(dir, name+".log"), program: program, args: args, done: make(chan struct{})}
	go d.supervise()
	t.Cleanup(func() {
		d.mu.Lock()
		d.over = true
		d.kill(syscall.SIGKILL)
		d.mu.Unlock()
		<-d.done
	})
	return d
}

func (d *daemon) supervise() {
	runtime.LockOSThread() // Pdeathsig follows the thread that started the child
	defer close(d.done)
	for { // ends with the daemon's end
		log, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return
		}
		d.mu.Lock()
		cmd := exec.Command(d.program, d.args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
		cmd.Stdout, cmd.Stderr = log, log
		if d.over {
			d.mu.Unlock()
			log.Close()
			return
		}
		if d.rests {
			d.mu.Unlock()
			log.Close()
			time.Sleep(restartPause)
			continue
		}
		if err = cmd.Start(); err == nil {
			d.proc = cmd.Process
			d.starts++
		}
		d.mu.Unlock()
		if err == nil {
			err = cmd.Wait()
			d.mu.Lock()
			d.proc = nil
			d.mu.Unlock()
		}
		fmt.Fprintf(log, "--- %s ended: %v\n", time.Now().UTC().Format(time.RFC3339Nano), err)
		log.Close()
		time.Sleep(restartPause) // not a wait for anything: a supervisor's pause
	}
}

// kill sends a signal to what runs now; d.mu is held.
func (d *daemon) kill(sig syscall.Signal) bool {
	return d.proc != nil && d.proc.Signal(sig) == nil
}

// signal reports whether something ran that got it.
func (d *daemon) signal(sig syscall.Signal) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.kill(sig)
}

// rest ends what runs, and waits for that; it is not started again before goOn.
func (d *daemon) rest(t testing.TB, sig syscall.Signal) {
	t.Helper()
	d.mu.Lock()
	d.rests = true
	d.kill(sig)
	d.mu.Unlock()
	eventually(t, limit, d.name+" to end", func() error {
		d.mu.Lock()
		defer d.mu.Unlock()
		return errNo(d.proc == nil, "it runs")
	})
}

func (d *daemon) goOn() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rests = false
}

// becomes has another program in the place of this one, which is told to end.
func (d *daemon) becomes(program string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.program = program
	d.kill(syscall.SIGTERM)
}

// started is how often it was started.
func (d *daemon) started() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.starts
}

// said is the end of what it printed.
func (d *daemon) said(n int) string {
	b, err := os.ReadFile(d.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-n):])
}
