package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/mattn/go-isatty"

	"github.com/gpuaas/gpuaas/client"
)

// app is one run of the program.
type app struct {
	in       io.Reader
	out, err io.Writer
	getenv   func(string) string
	flags    struct{ server, keyFile, tenant, project, context, output string }
	conn     *client.Client
	seenAs   string // under which name the site's sequence is remembered
	me       *client.WhoAmI
}

// target is where to and as whom.
type target struct{ server, key, tenant, project string }

// target puts flags before the environment before the saved context. The key of a
// context goes to that context's server and nowhere else.
func (a *app) target() (target, error) {
	cfg, err := a.loadConfig()
	if err != nil {
		return target{}, err
	}
	saved, err := cfg.pick(a.flags.context)
	if err != nil {
		return target{}, err
	}
	t := target{
		server:  first(a.flags.server, a.getenv("GPUCTL_SERVER"), saved.Server),
		tenant:  first(a.flags.tenant, a.getenv("GPUCTL_TENANT")),
		project: first(a.flags.project, a.getenv("GPUCTL_PROJECT")),
	}
	if t.server == "" {
		return t, usage("no site: gpuctl login --server URL --key-file FILE, or --server")
	}
	own := sameServer(t.server, saved.Server)
	if own {
		t.tenant, t.project = first(t.tenant, saved.Tenant), first(t.project, saved.Project)
	}
	switch {
	case a.flags.keyFile != "":
		t.key, err = a.readKey(a.flags.keyFile)
	case a.getenv("GPUCTL_KEY") != "":
		t.key = a.getenv("GPUCTL_KEY")
	case a.getenv("GPUCTL_KEY_FILE") != "":
		t.key, err = a.readKey(a.getenv("GPUCTL_KEY_FILE"))
	case own && saved.Key != "":
		t.key = saved.Key
	case own && saved.KeyFile != "":
		t.key, err = a.readKey(saved.KeyFile)
	default:
		err = usage("no key for %s: give --key-file, or GPUCTL_KEY, or gpuctl login", clean(t.server))
	}
	return t, err
}

func sameServer(a, b string) bool {
	return b != "" && strings.TrimRight(a, "/") == strings.TrimRight(b, "/")
}

const maxKeyBytes = 512

// readKey reads a key from a file, or from standard input.
func (a *app) readKey(file string) (string, error) {
	var r io.Reader = a.in
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", usage("the key: %v", err)
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, maxKeyBytes+1))
	if err != nil {
		return "", fmt.Errorf("the key: %w", err)
	}
	key := strings.TrimSpace(string(b))
	if key == "" || len(b) > maxKeyBytes {
		return "", usage("the key: %s holds no API key", file)
	}
	return key, nil
}

// client connects, once.
func (a *app) client() (*client.Client, error) {
	if a.conn != nil {
		return a.conn, nil
	}
	t, err := a.target()
	if err != nil {
		return nil, err
	}
	return a.connect(t)
}

func (a *app) connect(t target) (*client.Client, error) {
	a.seenAs = seenName(t.server, t.key)
	c, err := client.New(t.server, t.key, client.UserAgent("gpuctl"), client.FromSequence(a.recall()))
	if err != nil {
		return nil, usage("%s", strings.TrimPrefix(err.Error(), "client: "))
	}
	if u, err := url.Parse(t.server); err == nil && u.Scheme == "http" && !loopback(u.Hostname()) {
		fmt.Fprintln(a.err, "gpuctl: the key goes to", u.Host, "in clear: use https")
	}
	a.conn, a.flags.tenant, a.flags.project = c, t.tenant, t.project
	return c, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// terminal reports whether f is one.
func terminal(f any) bool {
	file, ok := f.(*os.File)
	return ok && isatty.IsTerminal(file.Fd())
}

// confirm asks before something that cannot be undone. Where nobody can be asked,
// it goes on: a script says what it means.
func (a *app) confirm(yes bool, format string, args ...any) error {
	if yes || !terminal(a.in) || !terminal(a.err) {
		return nil
	}
	fmt.Fprintf(a.err, format+" [y/N] ", args...)
	line, err := bufio.NewReader(a.in).ReadString('\n')
	if err != nil && line == "" || !strings.HasPrefix(strings.ToLower(strings.TrimSpace(line)), "y") {
		return errors.New("not done")
	}
	return nil
}

// whoIs asks, once, what the key stands for.
func (a *app) whoIs(ctx context.Context) (*client.WhoAmI, error) {
	if a.me != nil {
		return a.me, nil
	}
	c, err := a.client()
	if err != nil {
		return nil, err
	}
	a.me, err = c.WhoAmI(ctx)
	return a.me, err
}

func first(words ...string) string {
	for _, w := range words {
		if w != "" {
			return w
		}
	}
	return ""
}
