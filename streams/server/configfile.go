package server

import (
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/nats-io/jwt/v2"
)

// ConfigFile is the configuration with which nats-server is what [Start] runs: trust,
// streams that are synced before an acknowledgement, the same bounds. Only public
// parts of the trust are in it. certFile and keyFile are the server's certificate for
// clients, and for the other members, whom it believes by caFile; "" speaks plain.
func (o Options) ConfigFile(certFile, keyFile, caFile string) (string, error) {
	if o.Trust == nil || o.Host == "" || o.Name == "" || o.Dir == "" {
		return "", fmt.Errorf("a configuration needs trust, name, directory and address")
	}
	operator, err := o.Trust.read("operator.jwt")
	if err != nil {
		return "", err
	}
	claims, err := jwt.DecodeOperatorClaims(operator)
	if err != nil {
		return "", fmt.Errorf("trust: %w", err)
	}
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# Written by gpuaas nats config for site %s.", o.Site)
	line("server_name: %s", quote(o.Name))
	line("listen: %s", quote(net.JoinHostPort(o.Host, strconv.Itoa(o.Port))))
	if o.Advertise != "" {
		line("client_advertise: %s", quote(o.Advertise))
	}
	line("max_payload: %d", maxPayload)
	line("max_control_line: %d", maxControlLine)
	secure := func(verify bool) {
		if certFile == "" {
			return
		}
		line("  tls {\n    cert_file: %s\n    key_file: %s\n    timeout: 5", quote(certFile), quote(keyFile))
		if verify {
			line("    ca_file: %s\n    verify: true", quote(caFile))
		}
		line("  }")
	}
	secure(false)
	line("# An acknowledgement is durable.")
	line("jetstream {\n  store_dir: %s\n  domain: %s\n  sync_interval: always\n}", quote(filepath.Join(o.Dir, "jetstream")), quote(o.Site))
	line("operator: %s", operator)
	line("system_account: %s", claims.SystemAccount)
	line("resolver {\n  type: full\n  dir: %s\n  allow_delete: false\n  interval: \"1m\"\n}\nresolver_preload {", quote(filepath.Join(o.Dir, "accounts")))
	for _, name := range []string{systemAccount, siteAccount} {
		text, err := o.Trust.read(name + ".jwt")
		if err != nil {
			return "", err
		}
		account, err := jwt.DecodeAccountClaims(text)
		if err != nil {
			return "", fmt.Errorf("trust: %s: %w", name, err)
		}
		line("  %s: %s", account.Subject, text)
	}
	line("}")
	if c := o.Cluster; c != nil {
		line("cluster {\n  name: %s\n  listen: %s", quote(c.Name), quote(net.JoinHostPort(c.Host, strconv.Itoa(c.Port))))
		secure(true)
		line("  routes: [")
		for _, r := range c.Routes {
			line("    %s", quote("nats-route://"+r))
		}
		line("  ]\n}")
	}
	return b.String(), nil
}

// quote is a string of the configuration's language.
func quote(s string) string {
	b, _ := json.Marshal(s) // a string is always JSON
	return string(b)
}
