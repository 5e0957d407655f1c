package metadata

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// limited bounds the connections of a listener, together and for each guest: what
// is too many is closed at once, so that one guest's cannot keep the others out.
type limited struct {
	net.Listener

	mu    sync.Mutex
	total int
	of    map[netip.Addr]int
}

func newLimited(l net.Listener) *limited {
	return &limited{Listener: l, of: map[netip.Addr]int{}}
}

func (l *limited) Accept() (net.Conn, error) {
	for { // ends with the listener
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		source := addressOf(c.RemoteAddr().String())
		l.mu.Lock()
		full := l.total >= maxConnsOnBridge || l.of[source] >= maxConnsOfGuest
		if !full {
			l.total++
			l.of[source]++
		}
		l.mu.Unlock()
		if full {
			_ = c.Close()
			continue
		}
		return &counted{Conn: c, gone: func() { l.leave(source) }}, nil
	}
}

func (l *limited) leave(source netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.of[source]--; l.of[source] == 0 {
		delete(l.of, source)
	}
}

// counted is a connection that is counted until it is closed.
type counted struct {
	net.Conn
	once sync.Once
	gone func()
}

func (c *counted) Close() error {
	c.once.Do(c.gone)
	return c.Conn.Close()
}

// addressOf is the address in a remote address, the zero one if there is none.
func addressOf(remote string) netip.Addr {
	p, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	return p.Addr().Unmap()
}

// rate is one guest's bucket of requests.
type rate struct {
	left float64 // requests, up to requestsAtOnce
	at   time.Time
}

// allow takes one request from the guest's bucket.
func (s *Server) allow(vm string) bool {
	s.rating.Lock()
	defer s.rating.Unlock()
	now := s.o.now()
	r := s.rates[vm]
	if r == nil {
		r = &rate{left: requestsAtOnce, at: now}
		s.rates[vm] = r
	}
	r.left = min(requestsAtOnce, r.left+requestsPerSecond*max(now.Sub(r.at), 0).Seconds())
	r.at = now
	if r.left < 1 {
		return false
	}
	r.left--
	return true
}

// forget drops the buckets that are full again: those of VMs that are gone among
// them.
func (s *Server) forget() {
	s.rating.Lock()
	defer s.rating.Unlock()
	for vm, r := range s.rates {
		if s.o.now().Sub(r.at) > requestsAtOnce/requestsPerSecond*time.Second {
			delete(s.rates, vm)
		}
	}
}
