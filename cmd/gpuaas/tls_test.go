package main_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
)

// authority signs certificates, as a site's own would.
type authority struct {
	t    testing.TB
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	file string // its certificate, PEM
}

func newAuthority(t testing.TB, dir, name string) *authority {
	t.Helper()
	a := &authority{t: t, file: filepath.Join(dir, name+"-ca.pem")}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a.key, a.cert = key, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	writePEM(t, a.file, "CERTIFICATE", der)
	return a
}

// issue writes NAME.pem and NAME.key for this machine.
func (a *authority) issue(dir, name string, serial int64) (cert, key string) {
	a.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, a.cert, k.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, key = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	writePEM(a.t, cert, "CERTIFICATE", der)
	writePEM(a.t, key, "PRIVATE KEY", private)
	return cert, key
}

func writePEM(t testing.TB, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// hostdOnce runs a hostd command to its end.
func hostdOnce(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), filepath.Join(bin, "hostd"), args...).CombinedOutput()
	return string(out), err
}

// TestTLS runs a site whose API and NATS server are reached over TLS only: a host
// enrols and reports over it, the operator's tools work, another authority is
// believed by nobody, and renewed certificates are taken without a restart.
func TestTLS(t *testing.T) {
	t.Parallel()
	files := dataDir(t)
	ours, theirs := newAuthority(t, files, "ours"), newAuthority(t, files, "theirs")
	cert, key := ours.issue(files, "site", 100)
	args := []string{"serve", "--site", "alpha", "--log-level", "warn", "--tls-cert", cert, "--tls-key", key, "--nats-tls-cert", cert, "--nats-tls-key", key}

	t.Run("a certificate that hosts would refuse", func(t *testing.T) {
		s := &site{t: t, dir: dataDir(t), args: append(args, "--nats-ca", theirs.file)}
		t.Cleanup(s.gone)
		s.refuses(t, "hosts would refuse the certificate in nats-tls-cert "+cert)
	})

	s := newSite(t, append(args, "--nats-ca", ours.file)...)
	if !strings.HasPrefix(s.address(), "https://") {
		t.Fatalf("it listens at %s", s.address())
	}
	s.trust(ours.pool())
	op := s.operator()
	var made struct {
		ID    string `json:"id"`
		Token string `json:"enrolment_token"`
	}
	enrolled := op.do(201, "POST", "/v1/hosts", obj{"name": "h1", "rack": "r1"})
	enrolled.into(t, &made)

	dir := filepath.Join(s.dir, "h1")
	enrol := []string{"enroll", "--server", s.address(), "--token", made.Token, "--dir", dir, "--ca"}
	if out, err := hostdOnce(t, append(enrol, theirs.file)...); err == nil || !strings.Contains(out, "certificate signed by unknown authority") {
		t.Fatalf("it enrolled at a server that it cannot know: %v: %s", err, out)
	}
	if out, err := hostdOnce(t, append(enrol, ours.file)...); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	host := run(t, nil, "hostd", "run", "--machine", "sim", "--slots", "2", "--dir", dir)
	eventually(t, limit, "a slot map over TLS", func() error {
		var m struct {
			Digest string `json:"proposal_digest"`
		}
		op.get(fmt.Sprintf("/v1/hosts/%s/slot-map?at_least=%d", made.ID, enrolled.seq), &m)
		return errNo(m.Digest != "", "no proposal; hostd said "+host.out.tail())
	})
	s.natsRefuses(t, theirs)
	if out, stderr, code := tool(t, "log", "verify", "--data-dir", s.dir, "--site", "alpha"); code != 0 {
		t.Errorf("log verify: %s%s", out, stderr)
	}

	t.Run("renewal", func(t *testing.T) {
		if err := os.WriteFile(cert, []byte("half a file"), 0o600); err != nil {
			t.Fatal(err)
		}
		if n := s.serial(t, ours); n != 100 {
			t.Errorf("with a broken file certificate %d is served", n)
		}
		ours.issue(files, "site", 101)
		if n := s.serial(t, ours); n != 101 {
			t.Errorf("certificate %d is served, it was renewed", n)
		}
		nc, err := s.dialTLS(t, ours)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if state, err := nc.TLSConnectionState(); err != nil || state.PeerCertificates[0].SerialNumber.Int64() != 101 || state.Version != tls.VersionTLS13 {
			t.Errorf("NATS: %v, %+v", err, state.PeerCertificates)
		}
	})
	s.interrupt()
}

// trust lets the tests' client believe the site.
func (s *site) trust(ca *x509.CertPool) {
	s.client = newClient(&tls.Config{RootCAs: ca})
}

func (s *site) natsURL(t *testing.T) *url.URL {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, "nats.url"))
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(strings.TrimSpace(string(text)))
	if err != nil || u.Scheme != "tls" {
		t.Fatalf("hosts are told %s: %v", text, err)
	}
	return u
}

func (s *site) dialTLS(t *testing.T, a *authority) (*nats.Conn, error) {
	t.Helper()
	return streams.DialCreds(s.natsURL(t).String(), filepath.Join(s.dir, "nats", "trust", "runtime.creds"), nats.Secure(&tls.Config{RootCAs: a.pool()}))()
}

// natsRefuses: neither somebody else's certificate nor plain text gets through.
func (s *site) natsRefuses(t *testing.T, stranger *authority) {
	t.Helper()
	if nc, err := s.dialTLS(t, stranger); err == nil {
		nc.Close()
		t.Error("NATS was believed without its authority")
	} else if unknown := new(x509.UnknownAuthorityError); !errors.As(err, unknown) {
		t.Errorf("NATS: %v", err)
	}
	c, err := net.Dial("tcp", s.natsURL(t).Host)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "CONNECT {\"verbose\":true,\"tls_required\":false}\r\nPING\r\n")
	var said bytes.Buffer
	_, _ = said.ReadFrom(c) // until the server hangs up
	if !strings.Contains(said.String(), `"tls_required":true`) || strings.Contains(said.String(), "PONG") {
		t.Errorf("NATS answered in clear: %s", &said)
	}
}

// serial is the number of the certificate that the API shows.
func (s *site) serial(t *testing.T, a *authority) int64 {
	t.Helper()
	c, err := tls.Dial("tcp", strings.TrimPrefix(s.address(), "https://"), &tls.Config{RootCAs: a.pool()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

// TestPlainIsRefused: what other machines reach is not spoken in clear unless
// somebody says so, and the refusal says what to do. Nothing is made before.
func TestPlainIsRefused(t *testing.T) {
	t.Parallel()
	for _, x := range []struct{ args, message string }{
		{"serve --listen 0.0.0.0:0", "listen 0.0.0.0:0 would carry API keys in clear: give --tls-cert"},
		{"serve --listen :0", "would carry API keys in clear"},
		{"dev --listen [::]:0", "would carry API keys in clear"},
		{"serve --listen 127.0.0.1:0 --nats-listen 10.0.0.1:4222", "nats-listen 10.0.0.1:4222 would carry hosts' traffic in clear: give --nats-tls-cert"},
		{"serve --listen 127.0.0.1:0 --nats-url nats://127.0.0.1:1,nats://me:secret@10.0.0.1:4222", "nats-url nats://me:xxxxx@10.0.0.1:4222 would carry the log in clear: use tls://"},
		{"serve --listen 127.0.0.1:0 --nats-url 10.0.0.1:4222", "is not a URL like tls://"},
		{"serve --listen 127.0.0.1:0 --tls-cert /nowhere/site.pem", "tls-cert and tls-key: one is useless without the other"},
		{"serve --listen 127.0.0.1:0 --nats-ca /nowhere/ca.pem", "nats-ca /nowhere/ca.pem: open /nowhere/ca.pem: no such file"},
		{"serve --listen 127.0.0.1:0 --nats-listen 0.0.0.0:0 --insecure-plain", "is no address that hosts can be told: give --nats-advertise"},
		{"dev --listen 127.0.0.1:0 --tls-cert a --tls-key b", "TLS is for gpuaas serve"},
	} {
		dir := dataDir(t)
		_, stderr, code := tool(t, append(strings.Fields(x.args), "--data-dir", dir)...)
		if code != 1 || !strings.Contains(stderr, x.message) {
			t.Errorf("%s: exit code %d, it said %s\nwant %q", x.args, code, stderr, x.message)
		}
		if made, err := filepath.Glob(filepath.Join(dir, "nats", "jetstream", "*")); err != nil || len(made) > 0 {
			t.Errorf("%s: it made %v, %v", x.args, made, err)
		}
	}
}

// TestExternalNATS runs a site on a NATS server that is not its own, over TLS, in two
// processes that reach each other over TLS.
func TestExternalNATS(t *testing.T) {
	t.Parallel()
	files := dataDir(t)
	ours, theirs := newAuthority(t, files, "ours"), newAuthority(t, files, "theirs")
	certFile, keyFile := ours.issue(files, "nats", 1)
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), startLimit)
	defer cancel()
	srv, err := server.Start(ctx, server.Options{Dir: filepath.Join(files, "cluster"), Site: "alpha", TLS: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Shutdown)
	args := func(natsCA, peerCA string) []string {
		return []string{
			"serve", "--site", "alpha", "--log-level", "warn", "--nats-url", srv.ClientURL(), "--nats-creds", filepath.Join(files, "cluster", "trust"), "--nats-ca", natsCA,
			"--tls-cert", certFile, "--tls-key", keyFile, "--peer-ca", peerCA,
		}
	}
	stranger := &site{t: t, dir: dataDir(t), args: args(theirs.file, ours.file)}
	t.Cleanup(stranger.gone)
	stranger.refuses(t, "certificate signed by unknown authority")

	s := &site{t: t, dir: dataDir(t), args: args(ours.file, ours.file)}
	t.Cleanup(s.gone)
	s.trust(ours.pool())
	s.start()
	te := s.newTenant("acme", 5)
	s.interrupt()
	s.start()
	te.get(fmt.Sprintf("/v1/projects/%s?at_least=%d", te.project, te.head()), &struct{}{})

	standby := func(peerCA string) caller {
		other := &site{t: t, dir: dataDir(t), args: args(ours.file, peerCA)}
		t.Cleanup(other.gone)
		copyFile(t, filepath.Join(s.dir, "site.secret"), filepath.Join(other.dir, "site.secret"))
		other.trust(ours.pool())
		other.start()
		return caller{other, te.key}
	}
	hands := standby(ours.file)
	hands.do(201, "POST", "/v1/tenants/"+te.id+"/projects", obj{"name": "by-a-standby"})
	wary := standby(theirs.file)
	eventually(t, limit, "a writer that is asked and not believed", func() error {
		a, err := wary.ask("POST", "/v1/tenants/"+te.id+"/projects", obj{"name": "to-a-stranger"})
		if err != nil {
			return err
		}
		var refused struct{ Code string }
		if a.into(t, &refused); a.status != 503 || refused.Code != "not_writer" {
			t.Fatalf("a writer that cannot be believed: %+v", a)
		}
		return errNo(strings.Contains(wary.s.out.tail(), "certificate signed by unknown authority"), "it said: "+wary.s.out.tail())
	})
}
