package emuhost

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// ErrOff: the host is switched off, or was while a command ran.
var ErrOff = errors.New("emuhost: the host is off")

// emulator is how a program of the image's QEMU is started: by its own dynamic loader, with
// its own libraries, whatever this machine has.
func emulator(program string, args ...string) (string, []string) {
	q := Image("qemu")
	all := []string{
		"--library-path", filepath.Join(q, "lib/x86_64-linux-gnu") + ":" + filepath.Join(q, "usr/lib/x86_64-linux-gnu"),
		filepath.Join(q, "usr/bin", program),
	}
	if program == "qemu-system-x86_64" {
		all = append(all, "-L", filepath.Join(q, "usr/share/qemu"), "-L", filepath.Join(q, "usr/share/seabios"))
	}
	return filepath.Join(q, "lib64/ld-linux-x86-64.so.2"), append(all, args...)
}

// machine is one run of QEMU, from power on to power off.
type machine struct {
	process *os.Process
	ended   chan struct{} // closed when QEMU has ended
	words   *words
	monitor *monitor
	agent   *agent
}

// launch starts QEMU and connects to its monitor and to the port of the agent. QEMU
// dies with this process.
func launch(ctx context.Context, h *Host, args []string) (*machine, error) {
	m := &machine{ended: make(chan struct{}), words: &words{}}
	name, args := emulator("qemu-system-x86_64", args...)
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "QEMU_MODULE_DIR="+Image("qemu/usr/lib/x86_64-linux-gnu/qemu"))
	cmd.Stdout, cmd.Stderr = m.words, m.words
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the death of the thread that started it is what Pdeathsig means
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
			close(m.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	m.process = cmd.Process
	err := m.connect(ctx, h)
	if err != nil {
		m.kill()
		return nil, errors.Join(err, errors.New(m.said()))
	}
	return m, nil
}

func (m *machine) connect(ctx context.Context, h *Host) error {
	conn, err := m.dial(ctx, h.socket("qmp"))
	if err != nil {
		return err
	}
	if m.monitor, err = talk(ctx, conn); err != nil {
		return err
	}
	if conn, err = m.dial(ctx, h.socket("agent")); err != nil {
		return err
	}
	m.agent = listen(conn)
	return nil
}

// dial connects to a socket that QEMU is about to make, for up to 20 s.
func (m *machine) dial(ctx context.Context, path string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-m.ended:
			return nil, errors.New("emuhost: QEMU ended at once")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// kill ends QEMU and waits for it.
func (m *machine) kill() {
	_ = m.process.Kill()
	<-m.ended
	if m.monitor != nil {
		_ = m.monitor.conn.Close()
	}
	if m.agent != nil {
		_ = m.agent.conn.Close()
		<-m.agent.closed
	}
}

func (m *machine) said() string { return m.words.String() }

// words keeps the last of what QEMU prints.
type words struct {
	mu sync.Mutex
	b  []byte
}

func (w *words) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.b = append(w.b, p...)
	w.b = w.b[max(0, len(w.b)-8192):]
	return len(p), nil
}

func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(bytes.TrimSpace(w.b))
}
