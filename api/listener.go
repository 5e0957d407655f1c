package api

import (
	"net"
	"net/netip"
	"sync"
)

// LimitConnections bounds the connections that a listener has open at once: all, and
// a quarter of them for one address (one /64 of IPv6), so that who opens many of them,
// and says nothing or little on each, leaves room for others. What is above is closed
// at once: a client that is told so can go elsewhere.
func LimitConnections(l net.Listener, most int) net.Listener {
	return &limitedListener{Listener: l, most: most, each: max(1, most/4), of: map[netip.Prefix]int{}}
}

type limitedListener struct {
	net.Listener
	most, each int
	mu         sync.Mutex
	total      int
	of         map[netip.Prefix]int
}

// Accept returns the next connection that there is room for.
func (l *limitedListener) Accept() (net.Conn, error) {
	for { // ends with the listener
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if from := sourceOf(c.RemoteAddr().String()); l.enter(from) {
			return &countedConn{Conn: c, leave: sync.OnceFunc(func() { l.leave(from) })}, nil
		}
		_ = c.Close()
	}
}

func (l *limitedListener) enter(from netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= l.most || l.of[from] >= l.each {
		return false
	}
	l.total++
	l.of[from]++
	return true
}

func (l *limitedListener) leave(from netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.of[from]--; l.of[from] == 0 {
		delete(l.of, from)
	}
}

// sourceOf is whose connection it is, by its remote address.
func sourceOf(remote string) netip.Prefix {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	a, bits := at.Addr().Unmap().WithZone(""), 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}

type countedConn struct {
	net.Conn
	leave func()
}

func (c *countedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}
