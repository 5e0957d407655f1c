package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
)

// openNATS starts the embedded server, or uses the cluster it is told of.
func (s *site) openNATS(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if s.natsCA, err = readCA(s.cfg.NATSCA); err != nil {
		return err
	}
	if s.cfg.NATSURL != "" {
		s.natsURL = s.cfg.NATSURL
		if s.dial, err = dialer(s.natsURL, s.natsCA, s.cfg.NATSCreds); err != nil {
			return err
		}
		if s.trust, err = server.OpenTrust(s.cfg.NATSCreds, s.cfg.Site); err != nil {
			return err
		}
	} else if err := s.startNATS(ctx); err != nil {
		return err
	}
	admin, err := s.dial(server.Admin)(nats.Name("setup"))
	if err != nil {
		return fmt.Errorf("NATS at %s: %w", s.natsURL, err)
	}
	defer admin.Close()
	var drifts []streams.Drift
	if err := patiently(ctx, func() (err error) {
		attempt, cancel := context.WithTimeout(ctx, setupAttempt)
		defer cancel()
		drifts, err = streams.Setup(attempt, admin, s.streamConfig())
		return err
	}); err != nil {
		return err
	}
	return refuseDrift(drifts)
}

// setupAttempt bounds one try to make the streams: what is asked while a cluster has
// no leader yet is never answered.
const setupAttempt = 3 * time.Second

// storeFailed is NATS's JSStreamStoreFailedF: what a try that was given up began to make,
// a server of a cluster may be making still.
const storeFailed jetstream.ErrorCode = 10049

// patiently asks again, until ctx ends, what a cluster cannot answer while one of its
// streams chooses a leader.
func patiently(ctx context.Context, f func() error) error {
	for { // ends with ctx or an answer
		err := f()
		var api *jetstream.APIError
		if err == nil || !errors.Is(err, nats.ErrNoResponders) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, jetstream.ErrNoStreamResponse) &&
			!(errors.As(err, &api) && (api.Code == http.StatusServiceUnavailable || api.ErrorCode == storeFailed)) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// startNATS runs the embedded server. Hosts are told an address at which they can
// believe its certificate: what they would refuse is refused here.
func (s *site) startNATS(ctx context.Context) error {
	host, port, err := net.SplitHostPort(s.cfg.NATSListen)
	if err != nil {
		return fmt.Errorf("nats-listen: %w", err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return fmt.Errorf("nats-listen: %w", err)
	}
	if ip, err := netip.ParseAddr(host); s.cfg.NATSName == "" && (host == "" || err == nil && ip.IsUnspecified()) {
		return fmt.Errorf("nats-listen %s is no address that hosts can be told: give --nats-advertise with a name they know", s.cfg.NATSListen)
	}
	o := server.Options{Dir: filepath.Join(s.cfg.DataDir, "nats"), Site: s.cfg.Site, Host: host, Port: n, Advertise: s.cfg.NATSName, Log: s.log.With("part", "nats")}
	if s.natsCert, err = openCertificate("nats-tls", s.cfg.NATSTLSCert, s.cfg.NATSTLSKey, s.log); err != nil {
		return err
	}
	if s.natsCert != nil {
		o.TLS = s.natsCert.config()
	}
	if s.nats, err = server.Start(ctx, o); err != nil {
		return fmt.Errorf("embedded NATS: %w", err)
	}
	s.closers = append(s.closers, s.nats.Shutdown)
	s.trust, s.dial = s.nats.Trust(), s.nats.Dial
	u, err := url.Parse(s.nats.ClientURL())
	if err != nil {
		return err
	}
	if name := s.cfg.NATSName; name != "" {
		if _, _, err := net.SplitHostPort(name); err != nil {
			name = net.JoinHostPort(strings.Trim(name, "[]"), u.Port())
		}
		u.Host = name
	}
	s.natsURL = u.String()
	if s.natsCert == nil {
		return nil
	}
	ca, err := poolOf(s.natsCA)
	if err != nil {
		return err
	}
	if err := s.natsCert.check(u.Hostname(), ca); err != nil {
		return fmt.Errorf("hosts would refuse the certificate in nats-tls-cert %s: %w: they connect to %s; see nats-advertise and nats-ca", s.cfg.NATSTLSCert, err, s.natsURL)
	}
	return nil
}

// peerTLS trusts the certificates of the site's other processes; without a file, as
// the machine does.
func peerTLS(path string) (*tls.Config, error) {
	text, err := readCA(path)
	if err != nil {
		return nil, fmt.Errorf("peer-ca: %w", err)
	}
	pool, err := poolOf(text)
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool}, err
}

// readCA is the text of a file of certificates, "" without one.
func readCA(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	b, err := os.ReadFile(path)
	if err == nil {
		_, err = poolOf(string(b))
	}
	if err != nil {
		return "", fmt.Errorf("nats-ca %s: %w", path, err)
	}
	return string(b), nil
}

// dialer connects to a server by its URL, with the credentials in a directory.
func dialer(urls, ca, creds string) (func(server.Role) streams.Dial, error) {
	pool, err := poolOf(ca)
	if err != nil {
		return nil, fmt.Errorf("nats-ca: %w", err)
	}
	var secure []nats.Option
	if ca != "" || strings.HasPrefix(urls, "tls:") {
		secure = append(secure, nats.Secure(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}))
	}
	return func(r server.Role) streams.Dial {
		return streams.DialCreds(urls, filepath.Join(creds, string(r)+".creds"), secure...)
	}, nil
}

// dialSite connects to the running site of a data directory, or starts its server
// on the files when no process has them.
func dialSite(ctx context.Context, cfg config) (func(server.Role) streams.Dial, func(), error) {
	ca, err := readCA(cfg.NATSCA)
	if err != nil {
		return nil, nil, err
	}
	if cfg.NATSURL == "" {
		if url, ok := runningFile(cfg.DataDir, natsName); ok {
			cfg.NATSURL, cfg.NATSCreds = url, filepath.Join(cfg.DataDir, "nats", "trust")
			if ca == "" {
				ca, _ = runningFile(cfg.DataDir, natsCAName)
			}
		}
	}
	if cfg.NATSURL != "" {
		dial, err := dialer(cfg.NATSURL, ca, cfg.NATSCreds)
		return dial, func() {}, err
	}
	lock, err := lockDataDir(cfg.DataDir)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	srv, err := server.Start(ctx, server.Options{Dir: filepath.Join(cfg.DataDir, "nats"), Site: cfg.Site})
	if err != nil {
		lock()
		return nil, nil, err
	}
	return srv.Dial, func() { srv.Shutdown(); lock() }, nil
}

func (s *site) streamConfig() streams.Config {
	return streams.Config{Site: s.names, Replicas: s.cfg.Replicas}
}

// refuseDrift names every difference: a site does not start on a stream that is not
// what it should be.
func refuseDrift(drifts []streams.Drift) error {
	var errs []error
	for _, d := range drifts {
		errs = append(errs, errors.New(d.String()))
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("the streams are not configured as they must be; see gpuaas streams check and repair, and start again: %w", errors.Join(errs...))
}
