package emuhost

import (
	"bufio"
	"encoding/json"
	"errors"
	"net"
	"testing"

	"github.com/gpuaas/gpuaas/hostd/emuhost/wire"
)

// guestEnd is the other end of the port.
type guestEnd struct {
	t *testing.T
	c net.Conn
	r *bufio.Reader
}

func (g *guestEnd) say(text string) {
	g.t.Helper()
	if _, err := g.c.Write([]byte(text)); err != nil {
		g.t.Fatal(err)
	}
}

func (g *guestEnd) hear() (q wire.Request) {
	g.t.Helper()
	line, err := g.r.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &q)
	}
	if err != nil {
		g.t.Fatal(err)
	}
	return q
}

func connected(t *testing.T) (*Host, *guestEnd) {
	here, there := net.Pipe()
	a := listen(here)
	t.Cleanup(func() { _ = here.Close(); <-a.closed })
	return &Host{machine: &machine{agent: a}}, &guestEnd{t, there, bufio.NewReader(there)}
}

// run starts a command; the pipe has no buffer, so the guest has to read meanwhile.
func (g *guestEnd) run(h *Host) (*Process, wire.Request) {
	g.t.Helper()
	type started struct {
		p   *Process
		err error
	}
	c := make(chan started)
	go func() {
		p, err := h.Start(Command{Args: []string{"cmd"}})
		c <- started{p, err}
	}()
	q := g.hear()
	s := <-c
	if s.err != nil {
		g.t.Fatal(s.err)
	}
	return s.p, q
}

// TestRestartEndsCommands: whatever was half said when the host went down, its
// commands end with the reason, and the next boot is understood.
func TestRestartEndsCommands(t *testing.T) {
	t.Parallel()
	h, g := connected(t)
	g.say("\n{\"hello\":\"one\"}\n")
	if err := h.machine.agent.await(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	p, q := g.run(h)
	g.say(`{"id":1,"stdout":"aGFsZg=="}` + "\n" + `{"id":1,"std`)
	g.say("\n{\"hello\":\"two\"}\n")
	if err := p.Wait(t.Context()); !errors.Is(err, ErrRestarted) || q.ID != 1 || string(p.Stdout()) != "half" {
		t.Errorf("the command %d ended with %v after %q", q.ID, err, p.Stdout())
	}
	if err := h.machine.agent.await(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	p, q = g.run(h)
	g.say(`{"id":1,"done":true,"exit":3}` + "\n") // the first command's: it is nobody's now
	g.say(`{"id":2,"stderr":"d2h5","done":true,"exit":5}` + "\n")
	var exit *ExitError
	if err := p.Wait(t.Context()); !errors.As(err, &exit) || exit.Code != 5 || exit.Stderr != "why" || q.ID != 2 {
		t.Errorf("the command %d ended with %v", q.ID, err)
	}
}

// TestPowerEndsCommands: when QEMU goes, commands end and new ones are refused.
func TestPowerEndsCommands(t *testing.T) {
	t.Parallel()
	h, g := connected(t)
	p, _ := g.run(h)
	_ = g.c.Close()
	if err := p.Wait(t.Context()); !errors.Is(err, ErrOff) {
		t.Errorf("the command ended with %v", err)
	}
	if _, err := h.Start(Command{Args: []string{"cmd"}}); !errors.Is(err, ErrOff) {
		t.Errorf("a command of a host that is off: %v", err)
	}
	if err := h.machine.agent.await(t.Context(), ""); !errors.Is(err, ErrOff) {
		t.Errorf("waiting for it: %v", err)
	}
}
