package emuhost

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"github.com/gpuaas/gpuaas/hostd/emuhost/wire"
	"github.com/gpuaas/gpuaas/hostd/program"
)

// maxOutputBytes bounds what is kept of each of a command's two outputs.
const maxOutputBytes = 16 << 20

// Command is a program to run in the host.
type Command struct {
	Args  []string // looked up on the host's PATH
	Env   []string // NAME=value, added to the host's
	Dir   string
	Stdin []byte
}

// Process is a command that runs in the host.
type Process struct {
	agent *agent
	id    uint64
	done  chan struct{}

	mu     sync.Mutex
	stdout []byte
	stderr []byte
	exit   int
	err    error
}

// ExitError is how a command ended that did not end well.
type ExitError struct {
	Code   int    // 128 + the signal's number if a signal ended it
	Stderr string // its last words
}

func (e *ExitError) Error() string { return fmt.Sprintf("exit code %d: %s", e.Code, e.Stderr) }

// Run runs a program in the host to its end and returns what it printed; its form is
// [program.Run]'s. When ctx ends the program is killed with all it started.
// Errors: *[ExitError], [ErrOff], [ErrRestarted].
func (h *Host) Run(ctx context.Context, name string, args ...string) ([]byte, error) {
	p, err := h.Start(Command{Args: append([]string{name}, args...)})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	err = p.Wait(ctx)
	if ctx.Err() != nil {
		_ = p.Signal(syscall.SIGKILL)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return p.Stdout(), err
}

// Start starts a program in the host and does not wait for it. It lives until it
// ends, is killed, or the host goes down.
func (h *Host) Start(c Command) (*Process, error) {
	m := h.machine
	if m == nil || m.agent == nil {
		return nil, ErrOff
	}
	return m.agent.start(&wire.Command{Args: c.Args, Env: c.Env, Dir: c.Dir, Stdin: c.Stdin})
}

// Wait waits for the end. Errors: *[ExitError], [ErrOff], [ErrRestarted], ctx's.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil && p.exit != 0 {
		return &ExitError{Code: p.exit, Stderr: program.LastWords(string(p.stderr) + string(p.stdout))}
	}
	return p.err
}

// Done is closed at the end of the program.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends a signal to the program and all in its process group.
func (p *Process) Signal(s syscall.Signal) error {
	return p.agent.say(wire.Request{ID: p.id, Signal: int(s)})
}

// Stdout is what the program has printed so far.
func (p *Process) Stdout() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]byte(nil), p.stdout...)
}

// Stderr is what the program has printed to its standard error so far.
func (p *Process) Stderr() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]byte(nil), p.stderr...)
}

func (p *Process) take(v *wire.Answer) {
	p.mu.Lock()
	p.stdout = append(p.stdout, v.Stdout...)
	p.stderr = append(p.stderr, v.Stderr...)
	var err error
	if len(p.stdout) > maxOutputBytes || len(p.stderr) > maxOutputBytes {
		p.stdout, p.stderr = p.stdout[:min(len(p.stdout), maxOutputBytes)], p.stderr[:min(len(p.stderr), maxOutputBytes)]
		p.err = fmt.Errorf("emuhost: more than %d bytes of output: the rest was thrown away", maxOutputBytes)
	}
	p.mu.Unlock()
	if v.Done {
		if v.Error != "" {
			err = errors.New(v.Error)
		}
		p.end(v.Exit, err)
	}
}

func (p *Process) end(exit int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.exit = exit
	if err != nil {
		p.err = err
	}
	close(p.done)
}
