package streams_test

import (
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"
)

// proxy is a bad network between a client and a server: it pauses, and it cuts
// connections after the server got a message and before the client gets its
// acknowledgement. The seed fixes the sequence of faults.
type proxy struct {
	l      net.Listener
	target string
	mu     sync.Mutex
	rnd    *rand.Rand
	calm   bool
	conns  sync.WaitGroup
}

func newProxy(t testing.TB, target string, seed uint64) *proxy {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{l: l, target: u.Host, rnd: rand.New(rand.NewPCG(seed, 0)), calm: true}
	p.conns.Go(p.accept)
	t.Cleanup(func() { l.Close(); p.conns.Wait() })
	return p
}

func (p *proxy) url() string { return "nats://" + p.l.Addr().String() }

// storm switches the faults on or off.
func (p *proxy) storm(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calm = !on
}

// fault draws what happens to the next bytes: a cut, a pause, or nothing.
func (p *proxy) fault() (cut bool, pause time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.calm {
		return false, 0
	}
	switch n := p.rnd.IntN(100); {
	case n < 3:
		return true, 0
	case n < 5: // longer than an attempt
		return false, 350 * time.Millisecond
	}
	return false, 0
}

func (p *proxy) accept() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		s, err := net.Dial("tcp", p.target)
		if err != nil {
			c.Close()
			continue
		}
		closeBoth := sync.OnceFunc(func() { c.Close(); s.Close() })
		p.conns.Go(func() { defer closeBoth(); p.copy(s, c) })
		p.conns.Go(func() { defer closeBoth(); p.copy(c, s) })
	}
}

// copy moves bytes one way until a cut, which loses what was just read.
func (p *proxy) copy(to io.Writer, from io.Reader) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		cut, pause := p.fault()
		if cut {
			return
		}
		if pause > 0 {
			time.Sleep(pause)
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}
