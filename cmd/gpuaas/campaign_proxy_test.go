package main_test

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// trouble is what a proxy does to the connections that go through it.
type trouble int

const (
	calm     trouble = iota
	cut              // connections are closed, and new ones too
	delay            // every piece comes late
	slow             // a trickle
	stall            // nothing passes while it lasts; then all of it, late
	halfOpen         // requests pass, answers are lost; the connections end with it
)

var troubleNames = [...]string{"calm", "cut", "delay", "slow", "stall", "half-open"}

func (d trouble) String() string { return troubleNames[d] }

const (
	delayEach  = 60 * time.Millisecond
	slowEach   = 5 * time.Millisecond
	slowBytes  = 512
	proxyBytes = 32 << 10
)

// proxy is the network between two programs.
type proxy struct {
	l       net.Listener
	network string
	target  string
	tap     tap // nil: bytes pass as they come
	wg      sync.WaitGroup

	mu      sync.Mutex
	now     trouble
	changed chan struct{} // closed when now changes
	conns   map[net.Conn]struct{}
	closed  bool
}

// tap reads in the proxy's place what client and server of a connection say.
type tap func(client, server net.Conn) (requests, answers io.Reader)

func newProxy(t testing.TB, network, target string) *proxy {
	t.Helper()
	return newTappedProxy(t, network, target, nil)
}

func newTappedProxy(t testing.TB, network, target string, tap tap) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{l: l, network: network, target: target, tap: tap, changed: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		p.suffers(cut)
		p.wg.Wait()
	})
	return p
}

func (p *proxy) address() string { return p.l.Addr().String() }

// suffers changes what happens, to open connections and new ones.
func (p *proxy) suffers(next trouble) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if next == cut || p.now == halfOpen {
		for c := range p.conns {
			c.Close()
		}
	}
	p.now = next
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *proxy) trouble() (now trouble, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now, p.changed
}

// used reports whether a connection goes through it.
func (p *proxy) used() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns) > 0
}

func (p *proxy) accept() {
	for { // ends with the listener
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		if now, _ := p.trouble(); now == cut {
			c.Close()
			continue
		}
		s, err := net.Dial(p.network, p.target)
		if err != nil || !p.keep(c, s) {
			c.Close()
			continue
		}
		both := sync.OnceFunc(func() { p.forget(c, s) })
		requests, answers := io.Reader(c), io.Reader(s)
		if p.tap != nil {
			requests, answers = p.tap(c, s)
		}
		p.wg.Go(func() { defer both(); p.pass(s, requests, false) })
		p.wg.Go(func() { defer both(); p.pass(c, answers, true) })
	}
}

func (p *proxy) keep(c, s net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		s.Close()
		return false
	}
	p.conns[c], p.conns[s] = struct{}{}, struct{}{}
	return true
}

func (p *proxy) forget(c, s net.Conn) {
	c.Close()
	s.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	delete(p.conns, s)
}

// pass moves bytes one way; answers says which.
func (p *proxy) pass(to io.Writer, from io.Reader, answers bool) {
	buf := make([]byte, proxyBytes)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		for rest := buf[:n]; len(rest) > 0; {
			piece, ok := p.gate(len(rest), answers)
			if !ok {
				return
			}
			if _, err := to.Write(rest[:piece]); err != nil {
				return
			}
			rest = rest[piece:]
		}
	}
}

// gate returns when bytes may go on, and how many of n; not ok: none will.
func (p *proxy) gate(n int, answers bool) (piece int, ok bool) {
	for {
		now, changed := p.trouble()
		switch {
		case now == cut:
			return 0, false
		case now == delay:
			pause(delayEach, changed)
			return n, true
		case now == slow:
			pause(slowEach, changed)
			return min(n, slowBytes), true
		case now == stall, now == halfOpen && answers:
			<-changed
			if now == halfOpen {
				return 0, false
			}
		default:
			return n, true
		}
	}
}

// pause waits, or until the network is another one.
func pause(d time.Duration, changed <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-changed:
	}
}
