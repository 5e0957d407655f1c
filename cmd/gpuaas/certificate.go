package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificate is a certificate and its key in two PEM files, which are looked at
// with every handshake and read again when they changed: whoever renews them need
// not stop the site. Files that cannot be used (one is replaced before the other)
// leave the certificate before in place.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu      sync.Mutex
	have    *tls.Certificate
	read    stamps  // what have was read from
	refused *stamps // what could not be used: said once
}

// stamps tell whether one of the two files changed.
type stamps [2]struct {
	size  int64
	mtime time.Time
}

// openCertificate reads the files; nil without any. One without the other is an
// error.
func openCertificate(setting, certFile, keyFile string, log *slog.Logger) (*certificate, error) {
	if certFile == "" && keyFile == "" {
		return nil, nil //nolint:nilnil // no certificate: the address is plain
	}
	if certFile == "" || keyFile == "" {
		return nil, fmt.Errorf("%s-cert and %s-key: one is useless without the other", setting, setting)
	}
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log}
	now, err := c.stamps()
	if err == nil {
		err = c.load(now)
	}
	if err != nil {
		return nil, fmt.Errorf("%s-cert: %w", setting, err)
	}
	return c, nil
}

func (c *certificate) stamps() (s stamps, err error) {
	for i, path := range []string{c.certFile, c.keyFile} {
		st, err := os.Stat(path)
		if err != nil {
			return s, err
		}
		s[i].size, s[i].mtime = st.Size(), st.ModTime()
	}
	return s, nil
}

func (c *certificate) load(from stamps) error {
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("%s with %s: %w", c.certFile, c.keyFile, err)
	}
	c.have, c.read, c.refused = &pair, from, nil
	c.log.Info("certificate in use", "file", c.certFile, "ends", pair.Leaf.NotAfter)
	return nil
}

// get is the certificate as the files have it now.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, err := c.stamps()
	if err == nil && now == c.read {
		return c.have, nil
	}
	if err == nil {
		err = c.load(now)
	}
	if err != nil && (c.refused == nil || *c.refused != now) {
		c.refused = &now
		c.log.Error("the renewed certificate cannot be used; the one before still is", "err", err)
	}
	return c.have, nil
}

// config is a server's. TLS 1.3 only: its cipher suites need no list.
func (c *certificate) config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: c.get}
}

// check says whether others would accept the certificate for a name: signed, by
// way of the chain in its file, by one of ca. nil takes the name alone, since those
// who connect may trust somebody whom this machine does not know.
func (c *certificate) check(name string, ca *x509.CertPool) error {
	have, err := c.get(nil)
	if err != nil {
		return err
	}
	if ca == nil {
		return have.Leaf.VerifyHostname(name)
	}
	chain := x509.NewCertPool()
	for _, der := range have.Certificate[1:] {
		between, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("%s: %w", c.certFile, err)
		}
		chain.AddCert(between)
	}
	_, err = have.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: ca, Intermediates: chain})
	return err
}

// ends is when the certificate is no longer valid; the zero time without one.
func (c *certificate) ends() time.Time {
	if c == nil {
		return time.Time{}
	}
	have, err := c.get(nil)
	if err != nil {
		return time.Time{}
	}
	return have.Leaf.NotAfter
}

// poolOf is the certificates of a PEM text; nil, the machine's own trust, for none.
func poolOf(pem string) (*x509.CertPool, error) {
	if pem == "" {
		return nil, nil //nolint:nilnil // what crypto/tls calls the machine's own
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(pem)) {
		return nil, errors.New("no certificate in PEM form is there")
	}
	return pool, nil
}
