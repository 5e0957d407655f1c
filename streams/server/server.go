package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/jwt/v2"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/gpuaas/gpuaas/streams"
)

// Options are what a server is started with.
type Options struct {
	Dir  string // everything it keeps: trust/, jetstream/, accounts/, port
	Site string
	Name string // unique in a cluster; "gpuaas-<site>" if empty
	Host string // to listen on, 127.0.0.1 if empty
	// Port to listen on for hosts and other processes. 0 takes a free one at the
	// first start and the same again at later ones.
	Port int
	// Advertise is the host and, if it is another, the port that clients are told to
	// come back to; empty is where the server listens.
	Advertise string
	TLS       *tls.Config // for clients; required as soon as hosts come over a network
	// Trust is Dir/trust if nil. The members of a cluster share one.
	Trust   *Trust
	Cluster *Cluster     // nil: a single server
	Log     *slog.Logger // the server's own log; nil: none
}

// Cluster is the membership of a cluster of 3 or 5 servers.
type Cluster struct {
	Name   string
	Host   string   // to listen on for other servers
	Port   int      // 0: a free one
	Routes []string // host:port of other members
	TLS    *tls.Config
}

// The largest message: a vault document and its headers fit. And the longest line.
const (
	maxPayload     = streams.MaxDocumentBytes + 1<<20
	maxControlLine = 4096
)

// Server is a running server.
type Server struct {
	o     Options
	ns    atomic.Pointer[natsserver.Server]
	trust *Trust
}

// Start runs a server and returns when it takes connections and JetStream is up,
// or with an error when ctx ends first. In a cluster it does not wait for a quorum:
// the members start one after another.
func Start(ctx context.Context, o Options) (*Server, error) {
	if o.Host == "" {
		o.Host = "127.0.0.1"
	}
	if o.Name == "" {
		o.Name = "gpuaas-" + o.Site
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	if o.Trust == nil {
		t, err := OpenTrust(filepath.Join(o.Dir, "trust"), o.Site)
		if err != nil {
			return nil, err
		}
		o.Trust = t
	}
	s := &Server{o: o, trust: o.Trust}
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	return s, o.keepPort(s)
}

func (s *Server) start(ctx context.Context) error {
	opts, err := s.o.options()
	if err != nil {
		return err
	}
	ns, err := natsserver.NewServer(opts)
	if err != nil {
		return fmt.Errorf("nats server: %w", err)
	}
	if s.o.Log != nil {
		ns.SetLoggerV2(logger{s.o.Log}, false, false, false)
	}
	s.ns.Store(ns)
	ns.Start()
	if err := s.ready(ctx); err != nil {
		s.Shutdown()
		return err
	}
	return nil
}

// Stuck says which streams are not written any more: one that met a full disk, or
// another write error, stays so until the server is started again. Nil: none.
func (s *Server) Stuck() []string {
	h := s.ns.Load().Healthz(&natsserver.HealthzOptions{Details: true})
	var out []string
	for _, e := range h.Errors {
		if e.Type == natsserver.HealthzErrorStream {
			out = append(out, e.Stream)
		}
	}
	return out
}

// Restart stops the server and starts it again at the same address: for its clients,
// those within the process too, a connection that was lost and comes back.
func (s *Server) Restart(ctx context.Context) error {
	s.Shutdown()
	if a, ok := s.ns.Load().Addr().(*net.TCPAddr); ok && s.o.Port <= 0 {
		s.o.Port = a.Port
	}
	return s.start(ctx)
}

// ready waits for the listener and JetStream.
func (s *Server) ready(ctx context.Context) error {
	for { // ends with readiness or ctx
		if ns := s.ns.Load(); ns.ReadyForConnections(50*time.Millisecond) && ns.JetStreamEnabled() {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("nats server is not ready: %w", ctx.Err())
		}
		if !s.ns.Load().Running() {
			return errors.New("nats server did not start; its log says why")
		}
	}
}

// options is the server's configuration.
func (o *Options) options() (*natsserver.Options, error) {
	operatorJWT, err := o.Trust.read("operator.jwt")
	if err != nil {
		return nil, err
	}
	operator, err := jwt.DecodeOperatorClaims(operatorJWT)
	if err != nil {
		return nil, fmt.Errorf("trust: %w", err)
	}
	resolver, err := o.resolver()
	if err != nil {
		return nil, err
	}
	opts := &natsserver.Options{
		ServerName: o.Name, Host: o.Host, Port: o.port(), ClientAdvertise: o.Advertise, TLSConfig: o.TLS, TLS: o.TLS != nil, TLSTimeout: 5,
		NoSigs: true, NoLog: o.Log == nil, MaxPayload: maxPayload, MaxControlLine: maxControlLine,
		JetStream: true, StoreDir: filepath.Join(o.Dir, "jetstream"), JetStreamDomain: o.Site,
		SyncInterval: 2 * time.Minute, SyncAlways: true,
		TrustedOperators: []*jwt.OperatorClaims{operator}, SystemAccount: operator.SystemAccount, AccountResolver: resolver,
	}
	if c := o.Cluster; c != nil {
		opts.Cluster = natsserver.ClusterOpts{Name: c.Name, Host: c.Host, Port: c.Port, TLSConfig: c.TLS}
		if c.Port == 0 {
			opts.Cluster.Port = -1
		}
		for _, r := range c.Routes {
			opts.Routes = append(opts.Routes, &url.URL{Scheme: "nats", Host: r})
		}
	}
	return opts, nil
}

// resolver is a folder of account JWTs, brought up to date from the trust: a
// revocation made while this server was away is known before it listens.
func (o *Options) resolver() (*natsserver.DirAccResolver, error) {
	r, err := natsserver.NewDirAccResolver(filepath.Join(o.Dir, "accounts"), 0, time.Minute, natsserver.NoDelete)
	if err != nil {
		return nil, fmt.Errorf("account resolver: %w", err)
	}
	for _, name := range []string{systemAccount, siteAccount} {
		text, err := o.Trust.read(name + ".jwt")
		if err != nil {
			return nil, err
		}
		claims, err := jwt.DecodeAccountClaims(text)
		if err != nil {
			return nil, fmt.Errorf("trust: %s: %w", name, err)
		}
		if have, err := r.LoadAcc(claims.Subject); err == nil {
			if old, err := jwt.DecodeAccountClaims(have); err == nil && old.IssuedAt > claims.IssuedAt {
				continue
			}
		}
		if err := r.Store(claims.Subject, text); err != nil {
			return nil, fmt.Errorf("account resolver: %w", err)
		}
	}
	return r, nil
}

// port is the one to listen on: the given one, the one of the last start if it is
// free, or any.
func (o *Options) port() int {
	if o.Port > 0 {
		return o.Port
	}
	b, err := os.ReadFile(filepath.Join(o.Dir, "port"))
	if err != nil {
		return natsserver.RANDOM_PORT
	}
	p, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return natsserver.RANDOM_PORT
	}
	l, err := net.Listen("tcp", net.JoinHostPort(o.Host, strconv.Itoa(p)))
	if err != nil {
		return natsserver.RANDOM_PORT
	}
	_ = l.Close()
	return p
}

func (o *Options) keepPort(s *Server) error {
	a, ok := s.ns.Load().Addr().(*net.TCPAddr)
	if !ok {
		return nil
	}
	return os.WriteFile(filepath.Join(o.Dir, "port"), fmt.Appendf(nil, "%d\n", a.Port), 0o600)
}

// ClientURL is where hosts and other processes connect.
func (s *Server) ClientURL() string { return s.ns.Load().ClientURL() }

// ClusterAddr is where other servers connect; "" on a single server.
func (s *Server) ClusterAddr() string {
	if a := s.ns.Load().ClusterAddr(); a != nil {
		return a.String()
	}
	return ""
}

// Trust is what this server checks credentials against.
func (s *Server) Trust() *Trust { return s.trust }

// Dial connects within the process, without a socket, with a role's credential.
// Host has none here: a host connects with its own.
func (s *Server) Dial(role Role) streams.Dial {
	return func(opts ...nats.Option) (*nats.Conn, error) {
		all := []nats.Option{nats.CustomInboxPrefix(streams.ControlInbox), nats.InProcessServer(s), nats.UserCredentials(s.trust.CredsFile(role))}
		return nats.Connect("", append(all, opts...)...)
	}
}

// InProcessConn implements nats.InProcessConnProvider, for the server of the moment.
func (s *Server) InProcessConn() (net.Conn, error) { return s.ns.Load().InProcessConn() }

// Shutdown stops the server cleanly and waits: streams are flushed and their index
// files written, which makes the next start fast.
func (s *Server) Shutdown() {
	ns := s.ns.Load()
	ns.Shutdown()
	ns.WaitForShutdown()
}

// logger passes the server's log on. Its notices are a banner and addresses, in 30 lines.
type logger struct{ l *slog.Logger }

func (l logger) Noticef(f string, v ...any) { l.l.Debug(fmt.Sprintf(f, v...)) }
func (l logger) Warnf(f string, v ...any)   { l.l.Warn(fmt.Sprintf(f, v...)) }
func (l logger) Fatalf(f string, v ...any)  { l.l.Error(fmt.Sprintf(f, v...)) }
func (l logger) Errorf(f string, v ...any)  { l.l.Error(fmt.Sprintf(f, v...)) }
func (l logger) Debugf(f string, v ...any)  { l.l.Debug(fmt.Sprintf(f, v...)) }
func (l logger) Tracef(f string, v ...any)  { l.l.Debug(fmt.Sprintf(f, v...)) }
