package main_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/gpuaas/gpuaas/domain/domaintest"
)

// line is where a process does its steps: what it asks NATS and Postgres, and what it
// changes of its files. It counts them, and one of them goes wrong.
type line struct {
	mu    sync.Mutex
	only  string            // what a step has in its name that counts
	next  *domaintest.Fault // of the process that begins next; nil: nothing is counted
	fault *domaintest.Fault // of the one that runs
	kill  func()
	steps []string          // that were counted
	watch *fsnotify.Watcher // of files
}

func (l *line) arm(f *domaintest.Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next, l.fault, l.steps = f, nil, nil
}

// begin counts from here on. What start starts does no step before.
func (l *line) begin(start func() (kill func())) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kill, l.fault = start(), l.next
}

// over ends the counting: the process has ended.
func (l *line) over() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault = nil
}

// step says what becomes of one: it is not done, or nobody hears that it was.
func (l *line) step(what string) (undone, unheard bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fault == nil || !strings.Contains(what, l.only) {
		return false, false
	}
	l.steps = append(l.steps, what)
	if undone = l.fault.Strikes(false); undone && l.fault.Way.Crash() {
		l.kill()
	}
	unheard = l.fault.Strikes(true)
	return undone, unheard
}

// unheard is called when a step was done that nobody hears of.
func (l *line) unheard() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fault != nil && l.fault.Way.Crash() {
		l.kill()
	}
}

// files counts the changes under a folder. They have happened when they are heard of: who
// crashes then has done them, and perhaps a little more.
func (l *line) files(t *testing.T, dir string) {
	t.Helper()
	w, err := fsnotify.NewWatcher()
	if err == nil {
		err = w.Add(dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	if l.watch != nil { // of the run before
		l.watch.Close()
	}
	l.watch = w
	t.Cleanup(func() { w.Close() })
	go func() {
		for e := range w.Events { // ends with the watcher
			if info, err := os.Stat(e.Name); err == nil && info.IsDir() && e.Has(fsnotify.Create) {
				_ = filepath.WalkDir(e.Name, func(path string, d os.DirEntry, err error) error {
					if err == nil && d.IsDir() {
						_ = w.Add(path) // gone already: what comes in its place is heard of
					}
					return nil
				})
			}
			if _, unheard := l.step(fmt.Sprintf("%s %s", e.Op, filepath.Base(e.Name))); unheard {
				l.unheard()
			}
		}
	}()
}

// framing finds the first message in what a client says: how long it is (0: not all of it
// is there), what it asks ("": nothing), and how its answer is known.
type framing func(b []byte) (n int, asks string, answered func([]byte) bool)

// between are proxies before a NATS server and a socket of Postgres.
func (l *line) between(t *testing.T, log, models string, counts func() bool) (toLog, toModels *proxy) {
	t.Helper()
	return newTappedProxy(t, "tcp", log, l.tap(natsFraming, counts)), newTappedProxy(t, "unix", models, l.tap(postgresFraming, counts))
}

// always is for a line that only the process whose steps count goes through.
func always() bool { return true }

// tap counts what is asked on connections while they are a process's whose steps count.
func (l *line) tap(of func() framing, counts func() bool) tap {
	return func(client, server net.Conn) (requests, answers io.Reader) {
		w := &wire{l: l, client: client, server: server, next: of(), counts: counts}
		return readerFunc(w.requests), readerFunc(w.answers)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// wire is one connection.
type wire struct {
	l              *line
	client, server net.Conn
	next           framing
	counts         func() bool
	have, whole    []byte // of a message that is not all there; of one that may go on
	lost           atomic.Pointer[func([]byte) bool]
}

var errBroken = errors.New("the connection is broken")

// answerPatience bounds the wait for an answer that nobody will hear: there may be none.
const answerPatience = 300 * time.Millisecond

func (w *wire) requests(b []byte) (int, error) {
	for len(w.whole) == 0 { // ends with a message or the connection
		n, asks, answered := w.next(w.have)
		if n == 0 {
			buf := make([]byte, proxyBytes)
			n, err := w.client.Read(buf)
			if err != nil {
				return 0, err
			}
			w.have = append(w.have, buf[:n]...)
			continue
		}
		w.whole, w.have = w.have[:n], w.have[n:]
		if asks == "" || !w.counts() {
			continue
		}
		undone, unheard := w.l.step(asks)
		if undone {
			return 0, errBroken
		}
		if unheard {
			w.lost.Store(&answered)
			_ = w.server.SetReadDeadline(time.Now().Add(answerPatience)) // an error: it is closed
		}
	}
	n := copy(b, w.whole)
	w.whole = w.whole[n:]
	return n, nil
}

func (w *wire) answers(b []byte) (int, error) {
	n, err := w.server.Read(b)
	answered := w.lost.Load()
	if answered == nil {
		return n, err
	}
	for seen := bytes.Clone(b[:n]); err == nil && !(*answered)(seen); seen = append(seen, b[:n]...) {
		n, err = w.server.Read(b)
	}
	w.l.unheard()
	return 0, errBroken
}

// natsFraming knows PUB and HPUB; everything else is one line.
func natsFraming() framing {
	return func(b []byte) (int, string, func([]byte) bool) {
		text, _, ok := bytes.Cut(b, []byte("\r\n"))
		if !ok {
			return 0, "", nil
		}
		n, f := len(text)+2, strings.Fields(string(text))
		if len(f) < 3 || f[0] != "PUB" && f[0] != "HPUB" {
			return n, "", nil
		}
		size, err := strconv.Atoi(f[len(f)-1])
		if n += size + 2; err != nil || len(b) < n {
			return 0, "", nil
		}
		reply := ""
		if f[0] == "PUB" && len(f) == 4 || f[0] == "HPUB" && len(f) == 5 {
			reply = f[2]
		}
		if strings.HasPrefix(f[1], "_INBOX") {
			return n, "", nil // it answers
		}
		return n, "NATS " + f[1], func(seen []byte) bool { return reply != "" && bytes.Contains(seen, []byte(" "+reply+" ")) }
	}
}

// postgresFraming takes together what is answered together, up to a query or a sync.
func postgresFraming() framing {
	const startup = 3 << 16
	started := false
	return func(b []byte) (int, string, func([]byte) bool) {
		if !started {
			if len(b) < 8 || len(b) < int(binary.BigEndian.Uint32(b)) {
				return 0, "", nil
			}
			started = binary.BigEndian.Uint32(b[4:])&^0xffff == startup
			return int(binary.BigEndian.Uint32(b)), "", nil
		}
		says := ""
		for at := 0; len(b) >= at+5; {
			kind, end := b[at], at+1+int(binary.BigEndian.Uint32(b[at+1:]))
			if len(b) < end {
				break
			}
			text := string(bytes.Map(func(r rune) rune {
				if r < ' ' {
					return ' '
				}
				return r
			}, b[at+5:end]))
			switch at = end; kind {
			case 'Q', 'S', 'c':
				return at, fmt.Sprintf("Postgres %.60s", strings.TrimSpace(says+" "+text)), func(seen []byte) bool {
					return bytes.HasSuffix(seen[:max(0, len(seen)-1)], []byte{'Z', 0, 0, 0, 5}) || bytes.Contains(seen, []byte("G\x00\x00\x00"))
				}
			case 'p', 'X', 'f', 'H':
				return at, "", nil
			case 'P':
				says = text
			}
		}
		return 0, "", nil
	}
}
