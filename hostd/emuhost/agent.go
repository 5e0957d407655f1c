package emuhost

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/gpuaas/gpuaas/hostd/emuhost/wire"
)

// ErrRestarted: the host started again while a command ran.
var ErrRestarted = errors.New("emuhost: the host started again while the command ran")

// agent is this end of the port to the agent inside.
type agent struct {
	conn   net.Conn
	closed chan struct{}

	mu        sync.Mutex
	current   string        // boot id of the last hello; "": none yet
	changed   chan struct{} // closed at the next hello
	next      uint64
	processes map[uint64]*Process
	over      bool
}

func listen(conn net.Conn) *agent {
	a := &agent{conn: conn, closed: make(chan struct{}), changed: make(chan struct{}), processes: map[uint64]*Process{}}
	go a.read()
	return a
}

// read takes what the agent says until QEMU ends.
func (a *agent) read() {
	defer close(a.closed)
	r := bufio.NewScanner(a.conn)
	r.Buffer(make([]byte, 64<<10), 2*wire.MaxLineBytes)
	for r.Scan() {
		var v wire.Answer
		if json.Unmarshal(r.Bytes(), &v) != nil {
			continue // the end of a line from before a reset
		}
		a.take(&v)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over = true
	a.drop(ErrOff)
}

func (a *agent) take(v *wire.Answer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if v.Hello != "" {
		a.drop(ErrRestarted)
		a.current = v.Hello
		close(a.changed)
		a.changed = make(chan struct{})
		return
	}
	p := a.processes[v.ID]
	if p == nil {
		return
	}
	p.take(v)
	if v.Done {
		delete(a.processes, v.ID)
	}
}

// drop ends the commands that nobody will speak of any more. The caller holds a.mu.
func (a *agent) drop(err error) {
	for id, p := range a.processes {
		p.end(0, err)
		delete(a.processes, id)
	}
}

func (a *agent) boot() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.current
}

// await waits for the hello of another boot than before.
func (a *agent) await(ctx context.Context, before string) error {
	for {
		a.mu.Lock()
		current, changed := a.current, a.changed
		a.mu.Unlock()
		if current != "" && current != before {
			return nil
		}
		select {
		case <-changed:
		case <-a.closed:
			return ErrOff
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (a *agent) start(c *wire.Command) (*Process, error) {
	a.mu.Lock()
	if a.over {
		a.mu.Unlock()
		return nil, ErrOff
	}
	a.next++
	p := &Process{agent: a, id: a.next, done: make(chan struct{})}
	a.processes[p.id] = p
	a.mu.Unlock()
	return p, a.say(wire.Request{ID: p.id, Run: c})
}

func (a *agent) power(how string) error { return a.say(wire.Request{Power: how}) }

// say writes one request; QEMU takes it when the guest has room.
func (a *agent) say(q wire.Request) error {
	line, err := json.Marshal(q)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.conn.SetWriteDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return errors.Join(ErrOff, err)
	}
	if _, err := a.conn.Write(append(line, '\n')); err != nil {
		return errors.Join(ErrOff, err)
	}
	return nil
}
