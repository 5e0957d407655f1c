package metadata

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// loopback plays the bridges: each is an address of 127/8, and a guest is whoever
// connects from another.
type loopback struct {
	mu    sync.Mutex
	index map[string]int
	at    map[string]string // bridge -> where it listens
}

func (l *loopback) Index(device string) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := l.index[device]; i != 0 {
		return i, nil
	}
	return 0, fmt.Errorf("no %s", device)
}

func (l *loopback) Listen(device string) (net.Listener, error) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err == nil {
		l.mu.Lock()
		l.at[device] = ln.Addr().String()
		l.mu.Unlock()
	}
	return ln, err
}

// world is a server with two bridges: guest a behind gbr0, b behind gbr1, both with
// the same address in their networks.
type world struct {
	t     *testing.T
	net   *loopback
	s     *Server
	alive atomic.Int32
	clock atomic.Int64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, net: &loopback{index: map[string]int{"gbr0": 3, "gbr1": 4}, at: map[string]string{}}}
	w.clock.Store(time.Now().Unix())
	guests := map[string]Guest{
		"gbr0": {
			VM: "vm_a", Hostname: "train-1", SSHKeys: []string{"ssh-ed25519 AAAA one", "ssh-ed25519 BBBB two"}, UserData: []byte("#cloud-config\n\x00\xff"),
			MAC: "02:00:00:00:00:10", Address: netip.MustParseAddr("10.77.0.10"), Subnet: netip.MustParsePrefix("10.77.0.0/24"),
		},
		"gbr1": {VM: "vm_b", Hostname: "other"},
	}
	var err error
	w.s, err = New(Options{
		Sockets: w.net,
		Guest: func(_ context.Context, bridge string, source netip.Addr) (Guest, bool) {
			g, ok := guests[bridge]
			return g, ok && source == netip.MustParseAddr("127.0.0.2")
		},
		Alive: func(string) { w.alive.Add(1) },
		now:   func() time.Time { return time.Unix(w.clock.Load(), 0) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.s.Apply([]string{"gbr0", "gbr1"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.s.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// ask sends a request from an address; head is "METHOD PATH", then header lines.
func (w *world) ask(bridge, from string, head ...string) (status int, body string, header http.Header) {
	w.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: time.Minute}
	c, err := d.Dial("tcp4", w.net.at[bridge])
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	host := "Host: 169.254.169.254"
	for _, h := range head[1:] {
		if strings.HasPrefix(h, "Host:") {
			host = ""
		}
	}
	lines := append([]string{head[0] + " HTTP/1.1"}, head[1:]...)
	if host != "" {
		lines = append(lines, host)
	}
	fmt.Fprint(c, strings.Join(lines, "\r\n"), "\r\nConnection: close\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		w.t.Fatalf("%v: %v", head, err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), resp.Header
}

const guest = "127.0.0.2"

func (w *world) token(bridge string) string {
	w.t.Helper()
	status, body, _ := w.ask(bridge, guest, "PUT /latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 60")
	if status != 200 {
		w.t.Fatalf("%d %s", status, body)
	}
	return "X-aws-ec2-metadata-token: " + body
}

func TestPaths(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.token("gbr0")
	for path, want := range map[string]string{
		"/":                                           "latest\n2009-04-04",
		"/latest/meta-data/instance-id":               "vm_a",
		"/2009-04-04/meta-data/instance-id":           "vm_a",
		"/latest/meta-data/local-hostname":            "train-1",
		"/latest/meta-data/public-keys/":              "0=key-0\n1=key-1",
		"/latest/meta-data/public-keys/1/openssh-key": "ssh-ed25519 BBBB two",
		"/latest/meta-data/local-ipv4":                "10.77.0.10",
		"/latest/meta-data/network/interfaces/macs/02:00:00:00:00:10/subnet-ipv4-cidr-block": "10.77.0.0/24",
		"/latest/user-data": "#cloud-config\n\x00\xff",
	} {
		if status, body, _ := w.ask("gbr0", guest, "GET "+path, token); status != 200 || body != want {
			t.Errorf("%s: %d %q, want %q", path, status, body, want)
		}
	}
	// Every entry that a folder lists is there.
	g, _ := w.s.o.Guest(t.Context(), "gbr0", netip.MustParseAddr(guest))
	var walk func(folder string)
	walk = func(folder string) {
		list, ok := g.find("/latest/meta-data/" + folder)
		if !ok {
			t.Errorf("%s is listed and not there", folder)
		}
		for _, e := range strings.Split(string(list), "\n") {
			e, _, _ := strings.Cut(e, "=")
			if _, ok := g.find("/latest/meta-data/" + folder + e); !ok {
				t.Errorf("%s%s is listed and not there", folder, e)
			}
			if strings.HasSuffix(e, "/") {
				walk(folder + e)
			}
		}
	}
	walk("")
	if w.alive.Load() != 1 {
		t.Errorf("%d signs of life", w.alive.Load())
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token, other := w.token("gbr0"), w.token("gbr1")
	alive := w.alive.Load()
	const ttl = "X-aws-ec2-metadata-token-ttl-seconds: "
	for name, c := range map[string]struct {
		bridge, from string
		head         []string
		want         int
	}{
		"the control":           {"gbr0", guest, []string{"GET /latest/meta-data/instance-id", token}, 200},
		"no token":              {"gbr0", guest, []string{"GET /latest/meta-data/instance-id"}, 401},
		"another VM's token":    {"gbr0", guest, []string{"GET /latest/meta-data/instance-id", other}, 401},
		"a token cut short":     {"gbr0", guest, []string{"GET /latest/user-data", token[:len(token)-2]}, 401},
		"another address":       {"gbr0", "127.0.0.3", []string{"GET /latest/meta-data/instance-id", token}, 403},
		"no one's token":        {"gbr0", "127.0.0.3", []string{"PUT /latest/api/token", ttl + "60"}, 403},
		"a header that claims":  {"gbr0", "127.0.0.3", []string{"GET /latest/meta-data/instance-id", token, "X-Forwarded-For: 127.0.0.2"}, 403},
		"by a proxy":            {"gbr0", guest, []string{"GET /latest/meta-data/instance-id", token, "X-Forwarded-For: 127.0.0.2"}, 403},
		"a token by a proxy":    {"gbr0", guest, []string{"PUT /latest/api/token", ttl + "60", "X-Forwarded-For: 1.2.3.4"}, 403},
		"a rebound name":        {"gbr0", guest, []string{"GET /latest/meta-data/instance-id", token, "Host: evil.example"}, 403},
		"token by GET":          {"gbr0", guest, []string{"GET /latest/api/token", ttl + "60"}, 405},
		"token without an end":  {"gbr0", guest, []string{"PUT /latest/api/token"}, 400},
		"token for ever":        {"gbr0", guest, []string{"PUT /latest/api/token", ttl + "21601"}, 400},
		"token for no time":     {"gbr0", guest, []string{"PUT /latest/api/token", ttl + "0"}, 400},
		"a body":                {"gbr0", guest, []string{"PUT /latest/api/token", ttl + "60", "Content-Length: 5"}, 413},
		"POST":                  {"gbr0", guest, []string{"POST /latest/meta-data/instance-id", token, "Content-Length: 0"}, 405},
		"no such path":          {"gbr0", guest, []string{"GET /latest/meta-data/iam/", token}, 404},
		"another folder":        {"gbr0", guest, []string{"GET /latest/meta-data/../../etc/passwd", token}, 404},
		"no user data":          {"gbr1", guest, []string{"GET /latest/user-data", other}, 404},
		"headers without limit": {"gbr0", guest, []string{"GET /latest/meta-data/instance-id", "X: " + strings.Repeat("x", 9<<10)}, 431},
	} {
		if status, body, _ := w.ask(c.bridge, c.from, c.head...); status != c.want {
			t.Errorf("%s: %d %q, want %d", name, status, body, c.want)
		}
	}
	if w.alive.Load() != alive {
		t.Error("a refused request is a sign of life")
	}
	w.clock.Add(61)
	if status, _, _ := w.ask("gbr0", guest, "GET /latest/meta-data/instance-id", token); status != 401 {
		t.Errorf("a token after its end: %d", status)
	}
}

func TestRate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.token("gbr0")
	for i := range requestsAtOnce - 1 {
		if status, _, _ := w.ask("gbr0", guest, "GET /latest/meta-data/instance-id", token); status != 200 {
			t.Fatalf("request %d: %d", i, status)
		}
	}
	if status, _, h := w.ask("gbr0", guest, "GET /latest/meta-data/instance-id", token); status != 429 || h.Get("Retry-After") == "" {
		t.Errorf("one too many: %d", status)
	}
	w.token("gbr1") // another guest does not notice
	w.clock.Add(1)
	if status, _, _ := w.ask("gbr0", guest, "GET /latest/meta-data/instance-id", token); status != 200 {
		t.Errorf("a second later: %d", status)
	}
}

// TestConnections: a guest that opens many keeps nobody else out, not even its
// neighbours on the same bridge.
func TestConnections(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.0.0.9")}}
	var all []net.Conn
	for range maxConnsOfGuest + 4 {
		c, err := d.Dial("tcp4", w.net.at["gbr0"])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		all = append(all, c)
	}
	closed := func(c net.Conn, within time.Duration) bool {
		_ = c.SetReadDeadline(time.Now().Add(within))
		_, err := c.Read(make([]byte, 1))
		return err != nil && !isTimeout(err)
	}
	for i, c := range all[maxConnsOfGuest:] { // what is too many is closed at once
		if !closed(c, ioTimeout/2) {
			t.Errorf("connection %d is one too many, and open", maxConnsOfGuest+i)
		}
	}
	for i, c := range all[:maxConnsOfGuest] { // the others wait for a request
		if closed(c, time.Millisecond) {
			t.Errorf("connection %d is closed", i)
		}
	}
	w.token("gbr0")
}

func isTimeout(err error) bool {
	e, ok := err.(net.Error)
	return ok && e.Timeout()
}

func TestApply(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.net.at["gbr0"]
	if err := w.s.Apply([]string{"gbr0"}); err != nil {
		t.Fatal(err)
	}
	if w.net.at["gbr0"] != before {
		t.Error("a listener was made anew without need")
	}
	if c, err := net.Dial("tcp4", w.net.at["gbr1"]); err == nil {
		c.Close()
		t.Error("the other bridge is still served")
	}
	w.net.mu.Lock()
	w.net.index["gbr0"] = 9 // deleted and made anew
	w.net.mu.Unlock()
	if err := w.s.Apply([]string{"gbr0", "gbr7"}); err == nil {
		t.Error("a bridge that is not there was no error")
	}
	if w.net.at["gbr0"] == before {
		t.Error("the listener is bound to a bridge that is gone")
	}
	w.token("gbr0")
}
