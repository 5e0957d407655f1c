package streamstest

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/hostlink"
	"github.com/gpuaas/gpuaas/streams/server"
)

// Site is a site's servers with its streams set up.
type Site struct {
	Names   streams.Names
	Config  streams.Config
	Trust   *server.Trust
	Dir     string // everything the servers keep
	Servers []*server.Server
	options []server.Options
	t       testing.TB
}

// Context is a context that ends with the test, or after two minutes.
func Context(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// New starts a site on 1 or 3 servers, all with sync always, and sets it up.
func New(t testing.TB, replicas int) *Site {
	t.Helper()
	ctx := Context(t)
	const name = "test1"
	dir := t.TempDir()
	trust, err := server.OpenTrust(filepath.Join(dir, "trust"), name)
	if err != nil {
		t.Fatal(err)
	}
	n, err := streams.ParseSite(name)
	if err != nil {
		t.Fatal(err)
	}
	s := &Site{Names: n, Config: streams.Config{Site: n, Replicas: replicas}, Trust: trust, Dir: dir, t: t}
	t.Cleanup(func() {
		for _, srv := range s.Servers {
			srv.Shutdown()
		}
	})
	var ports []int // to each other
	var routes []string
	for range replicas {
		p := Port(t)
		ports, routes = append(ports, p), append(routes, fmt.Sprintf("127.0.0.1:%d", p))
	}
	for i := range replicas {
		o := server.Options{Dir: filepath.Join(dir, fmt.Sprint(i)), Site: name, Name: fmt.Sprintf("s%d", i), Trust: trust, Port: Port(t)}
		if replicas > 1 {
			o.Cluster = &server.Cluster{Name: name, Host: "127.0.0.1", Port: ports[i], Routes: routes}
		}
		srv, err := server.Start(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		s.Servers, s.options = append(s.Servers, srv), append(s.options, o)
	}
	s.setup(ctx)
	return s
}

// Port is a free port, this process's own and below those that the kernel gives away by
// itself: nobody takes it before its server listens, or while it is started again. None is
// given twice.
func Port(t testing.TB) int {
	t.Helper()
	const first, all, each = 10_000, 20_000, 200
	for range each {
		port := first + (os.Getpid()*each+int(nextPort.Add(1)))%all
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

var nextPort atomic.Int64

// setup waits for the cluster's first leader and makes the streams.
func (s *Site) setup(ctx context.Context) {
	s.t.Helper()
	admin := s.Connect(server.Admin)
	for {
		attempt, cancel := context.WithTimeout(ctx, time.Second)
		drifts, err := streams.Setup(attempt, admin, s.Config)
		cancel()
		if err == nil && len(drifts) == 0 {
			return
		}
		if err == nil {
			s.t.Fatalf("fresh streams drift: %v", drifts)
		}
		if ctx.Err() != nil {
			s.t.Fatalf("set-up: %v", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond): // no leader yet: nothing to be told by
		}
	}
}

// Restart stops server i cleanly and starts it again on the same folder and port.
func (s *Site) Restart(i int) {
	s.t.Helper()
	s.Servers[i].Shutdown()
	srv, err := server.Start(Context(s.t), s.options[i])
	if err != nil {
		s.t.Fatal(err)
	}
	s.Servers[i] = srv
}

// Dial is a role's way to the site, over TCP, so that it survives a Restart.
func (s *Site) Dial(role server.Role) streams.Dial {
	urls := ""
	for i, srv := range s.Servers {
		if i > 0 {
			urls += ","
		}
		urls += srv.ClientURL()
	}
	return streams.DialCreds(urls, s.Trust.CredsFile(role))
}

// Connect opens a connection that is closed with the test.
func (s *Site) Connect(role server.Role, opts ...nats.Option) *nats.Conn {
	s.t.Helper()
	nc, err := s.Dial(role)(opts...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(nc.Close)
	return nc
}

// JetStream is the administrator's JetStream.
func (s *Site) JetStream() jetstream.JetStream {
	s.t.Helper()
	js, err := jetstream.New(s.Connect(server.Admin))
	if err != nil {
		s.t.Fatal(err)
	}
	return js
}

// Log opens the site's log; closed with the test.
func (s *Site) Log() *streams.Log { return s.LogBy(s.Dial(server.Runtime)) }

// LogBy opens the site's log over another way in.
func (s *Site) LogBy(dial streams.Dial) *streams.Log {
	s.t.Helper()
	l, err := streams.OpenLog(Context(s.t), streams.LogConfig{
		Dial: dial, Site: s.Names, AttemptTimeout: 300 * time.Millisecond, LostTailGrace: 2 * time.Second,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(l.Close)
	return l
}

// Commits makes valid, chained commits.
type Commits struct {
	Head   domain.Head
	Events uint64 // the last event's number
}

// Next is the next commit, with one decision of that many events. mark
// distinguishes two writers' commits.
func (c *Commits) Next(events int, mark string) []byte {
	d := domain.Decision{Command: domain.Command{
		Actor: domain.System, Body: &domain.StartWriter{Site: "test1", Build: mark, LogicLevel: 1},
	}}
	d.Command.ID[0] = 1
	for range events {
		c.Events++
		d.Events = append(d.Events, domain.Event{
			Number: c.Events,
			Body:   &domain.WriterStarted{Site: "test1", Term: c.Events, Build: mark, LogicLevel: 1},
		})
	}
	b := domain.EncodeCommit(&domain.Commit{
		N: c.Head.N + 1, At: domain.Time(1_700_000_000_000 + int64(c.Head.N)), Prev: c.Head.Hash, Decisions: []domain.Decision{d},
	})
	c.Head = domain.Head{N: c.Head.N + 1, Hash: domain.DigestOf(b)}
	return b
}

// Host is a host with a credential of this site.
type Host struct {
	ID   domain.HostID
	JWT  string
	Pub  string // public nkey
	sign func([]byte) ([]byte, error)
}

// NewHost enrols a host: its key, its credential, its consumer.
func (s *Site) NewHost(number byte) *Host {
	s.t.Helper()
	return s.NewHostAs(domain.HostID{0: 1, 15: number})
}

// NewHostAs is a host that the world knows by this id.
func (s *Site) NewHostAs(id domain.HostID) *Host {
	s.t.Helper()
	h := &Host{ID: id}
	seed, pub, err := hostlink.NewKey()
	if err == nil {
		h.Pub = pub
		h.sign, err = hostlink.SignWith(seed)
	}
	if err == nil {
		h.JWT, err = s.Trust.HostCredential(h.ID, h.Pub)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	p, err := streams.OpenPlacements(s.Dial(server.Runtime), s.Names)
	if err != nil {
		s.t.Fatal(err)
	}
	defer p.Close()
	if err := p.CreateHostConsumer(Context(s.t), h.ID); err != nil {
		s.t.Fatal(err)
	}
	return h
}

// Options are what the host's link connects with.
func (s *Site) Options(h *Host) hostlink.Options {
	return hostlink.Options{URL: s.Servers[0].ClientURL(), JWT: h.JWT, Sign: h.sign, Site: string(s.Names), Host: h.ID}
}

// Link is the host's link, closed with the test.
func (s *Site) Link(h *Host) *hostlink.Link {
	s.t.Helper()
	l, err := hostlink.Connect(s.Options(h))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(l.Close)
	return l
}

// Raw is a connection with the host's credential and nothing of the link: what a
// host that was broken into has.
func (s *Site) Raw(h *Host, opts ...nats.Option) *nats.Conn {
	s.t.Helper()
	all := []nats.Option{
		nats.UserJWT(func() (string, error) { return h.JWT, nil }, h.sign),
		nats.CustomInboxPrefix(streams.HostInbox(h.ID.String())),
	}
	nc, err := nats.Connect(s.Servers[0].ClientURL(), append(all, opts...)...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(nc.Close)
	return nc
}
