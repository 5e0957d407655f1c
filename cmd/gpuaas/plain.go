package main

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
)

// What leaves this machine is encrypted: API keys, user data and credentials would
// be read by whoever listens. The settings are refused before anything is opened.

// refusePlain names the first address at which the site would speak in clear to
// other machines.
func (c *config) refusePlain() error {
	if c.InsecurePlain {
		return nil
	}
	if c.TLSCert == "" && !loopback(c.Listen) {
		return fmt.Errorf("listen %s would carry API keys in clear: give --tls-cert and --tls-key, or listen on 127.0.0.1 behind a TLS proxy, or say --insecure-plain on a network that is yours alone", c.Listen)
	}
	if c.NATSURL == "" {
		if c.NATSTLSCert == "" && !loopback(c.NATSListen) {
			return fmt.Errorf("nats-listen %s would carry hosts' traffic in clear: give --nats-tls-cert and --nats-tls-key, or say --insecure-plain on a network that is yours alone", c.NATSListen)
		}
		return nil
	}
	for _, text := range strings.Split(c.NATSURL, ",") {
		if u, err := url.Parse(strings.TrimSpace(text)); err != nil || u.Host == "" {
			return fmt.Errorf("nats-url: %q is not a URL like tls://nats.example.org:4222", text)
		} else if u.Scheme != "tls" && !loopback(u.Host) {
			return fmt.Errorf("nats-url %s would carry the log in clear: use tls:// (and --nats-ca, if the machine does not know who signed the cluster's certificates), or say --insecure-plain on a network that is yours alone", u.Redacted())
		}
	}
	return nil
}

// loopback reports whether host:port (or host) is reached from this machine only.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
