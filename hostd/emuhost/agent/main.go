// The agent runs inside the emulated host: it does what the test outside asks for
// over the virtio-serial port of package wire.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gpuaas/gpuaas/hostd/emuhost/wire"
)

func main() {
	port, err := open()
	if err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
	a := &agent{port: port, groups: map[uint64]int{}}
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	_, _ = port.WriteString("\n") // ends what an earlier boot left unfinished
	a.say(wire.Answer{Hello: strings.TrimSpace(string(boot))})
	a.serve()
}

// open finds the port by its name.
func open() (*os.File, error) {
	names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
	for _, n := range names {
		if b, _ := os.ReadFile(n); strings.TrimSpace(string(b)) == wire.PortName {
			return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(n)), os.O_RDWR, 0)
		}
	}
	return nil, fmt.Errorf("no virtio-serial port %s", wire.PortName)
}

type agent struct {
	port *os.File

	mu     sync.Mutex // of the port's writing end and groups
	groups map[uint64]int
}

func (a *agent) say(v wire.Answer) {
	line, err := json.Marshal(v)
	if err != nil {
		return // there is nothing in an Answer that cannot be encoded
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	_, _ = a.port.Write(append(line, '\n'))
}

// serve reads requests as long as the machine runs. The port reads as ended while
// nobody outside is connected.
func (a *agent) serve() {
	var line []byte
	r := bufio.NewReaderSize(a.port, 64<<10)
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			var q wire.Request
			if json.Unmarshal(line, &q) == nil {
				a.do(q)
			}
			line = line[:0]
		case errors.Is(err, bufio.ErrBufferFull) && len(line) <= 64*wire.MaxLineBytes: // stdin can be large
		case errors.Is(err, io.EOF):
			time.Sleep(50 * time.Millisecond)
		default:
			fmt.Fprintln(os.Stderr, "agent:", err)
			os.Exit(1)
		}
	}
}

func (a *agent) do(q wire.Request) {
	switch {
	case q.Run != nil:
		a.run(q.ID, q.Run)
	case q.Signal != 0:
		a.mu.Lock()
		if group := a.groups[q.ID]; group != 0 {
			_ = syscall.Kill(-group, syscall.Signal(q.Signal))
		}
		a.mu.Unlock()
	case q.Power != "":
		power(q.Power)
	}
}

// run starts a command in a process group of its own. Its end is said when the
// process itself ends and nobody of its group writes any more, at most a second later.
func (a *agent) run(id uint64, c *wire.Command) {
	if len(c.Args) == 0 {
		a.say(wire.Answer{ID: id, Done: true, Error: "no program named"})
		return
	}
	cmd := exec.Command(c.Args[0], c.Args[1:]...)
	cmd.Env, cmd.Dir, cmd.Stdin = append(os.Environ(), c.Env...), c.Dir, bytes.NewReader(c.Stdin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second
	cmd.Stdout = pipe(func(b []byte) { a.say(wire.Answer{ID: id, Stdout: b}) })
	cmd.Stderr = pipe(func(b []byte) { a.say(wire.Answer{ID: id, Stderr: b}) })
	if err := cmd.Start(); err != nil {
		a.say(wire.Answer{ID: id, Done: true, Error: err.Error()})
		return
	}
	a.mu.Lock()
	a.groups[id] = cmd.Process.Pid
	a.mu.Unlock()
	go func() {
		_ = cmd.Wait() // what it says beside the state is that output was left open
		a.mu.Lock()
		delete(a.groups, id)
		a.mu.Unlock()
		exit := cmd.ProcessState.ExitCode()
		if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() {
			exit = 128 + int(s.Signal())
		}
		a.say(wire.Answer{ID: id, Done: true, Exit: exit})
	}()
}

// pipe is a writer that passes on pieces which fit into a line.
type pipe func([]byte)

func (p pipe) Write(b []byte) (int, error) {
	for at := 0; at < len(b); at += wire.MaxLineBytes / 4 {
		p(b[at:min(len(b), at+wire.MaxLineBytes/4)])
	}
	return len(b), nil
}

// power stops everything, writes what is not written, and ends the machine.
func power(what string) {
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		signalAll(s)
		for i := 0; i < 20 && anyLeft(); i++ { // up to 2 s
			time.Sleep(100 * time.Millisecond)
		}
	}
	syscall.Sync()
	_ = syscall.Mount("", "/", "", syscall.MS_REMOUNT|syscall.MS_RDONLY, "")
	how := syscall.LINUX_REBOOT_CMD_POWER_OFF
	if what == wire.Reboot {
		how = syscall.LINUX_REBOOT_CMD_RESTART
	}
	if err := syscall.Reboot(how); err != nil {
		fmt.Fprintln(os.Stderr, "agent: reboot:", err)
	}
}

// others are the processes beside this one, process 1 and the kernel's threads.
func others() []int {
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		var pid int
		_, _ = fmt.Sscanf(filepath.Base(d), "%d", &pid)
		if _, err := os.Readlink(d + "/exe"); err == nil && pid > 1 && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

func anyLeft() bool { return len(others()) > 0 }

func signalAll(s syscall.Signal) {
	for _, pid := range others() {
		_ = syscall.Kill(pid, s)
	}
}
