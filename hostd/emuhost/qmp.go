package emuhost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// qmpLimit is how long QEMU may take to answer.
const qmpLimit = 20 * time.Second

// monitor is QEMU's machine protocol (docs/interop/qmp-spec.rst of QEMU).
type monitor struct {
	conn net.Conn

	mu      sync.Mutex
	next    int
	waiting map[int]chan reply
	err     error // why there are no more replies
	events  chan string
}

type reply struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	ID    int    `json:"id"`
	Event string `json:"event"`
	Data  struct {
		Device string `json:"device"`
	} `json:"data"`
}

// talk starts the conversation on a fresh connection.
func talk(ctx context.Context, conn net.Conn) (*monitor, error) {
	m := &monitor{conn: conn, waiting: map[int]chan reply{}, events: make(chan string, 64)}
	go m.read()
	if _, err := m.execute(ctx, "qmp_capabilities", nil); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return m, nil
}

// read hands out replies and events until the connection ends.
func (m *monitor) read() {
	d := json.NewDecoder(m.conn)
	for {
		var r reply
		err := d.Decode(&r)
		m.mu.Lock()
		switch {
		case err != nil:
			m.err = fmt.Errorf("emuhost: QEMU's monitor ended: %w", err)
			for id, c := range m.waiting {
				close(c)
				delete(m.waiting, id)
			}
			close(m.events)
		case r.Event != "":
			select {
			case m.events <- r.Event + " " + r.Data.Device:
			default: // nobody listens, and nobody has to
			}
		case m.waiting[r.ID] != nil:
			m.waiting[r.ID] <- r
			delete(m.waiting, r.ID)
		}
		m.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (m *monitor) execute(ctx context.Context, command string, arguments any) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, qmpLimit)
	defer cancel()
	m.mu.Lock()
	if m.err != nil {
		m.mu.Unlock()
		return nil, m.err
	}
	m.next++
	c := make(chan reply, 1)
	m.waiting[m.next] = c
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        int    `json:"id"`
	}{command, arguments, m.next})
	if err == nil {
		_, err = m.conn.Write(append(line, '\n'))
	}
	m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	select {
	case r, ok := <-c:
		switch {
		case !ok:
			return nil, m.err
		case r.Error != nil:
			return nil, fmt.Errorf("emuhost: QEMU refuses %s: %s", command, r.Error.Desc)
		}
		return r.Return, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("emuhost: QEMU does not answer %s: %w", command, ctx.Err())
	}
}
