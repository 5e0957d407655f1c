package main_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// from connects to the site as one address of this machine.
func (s *site) from(t *testing.T, address string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}, Timeout: limit}
	c, err := d.Dial("tcp", strings.TrimPrefix(s.address(), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(2 * limit))
	return c
}

// peak is the most memory that the site's process had, in KiB.
func (s *site) peak(t *testing.T) (kib int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatal(err)
	}
	return kib
}

// TestSlowAndManyConnections: who opens connections and says little on them has so
// many and no more, for so long and no longer, and others do not notice.
func TestSlowAndManyConnections(t *testing.T) {
	t.Parallel()
	const most = 400 // a quarter of it for one address
	s := newSite(t, "serve", "--site", "slow", "--log-level", "warn", "--max-connections", fmt.Sprint(most))
	op := s.operator()
	before := s.peak(t)

	var wg sync.WaitGroup
	ended := make(chan error, most)
	for i := range most / 4 {
		c := s.from(t, "127.0.0.7")
		begin := "POST /v1/tenants HTTP/1.1\r\nHost: x\r\nX-Slow: " + strings.Repeat("x", 20<<10)
		if i%2 == 0 {
			begin = "GET /v1/who"
		}
		if _, err := io.WriteString(c, begin); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { // the server ends it, after what it waits for a header
			if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
				ended <- fmt.Errorf("a slow header: %w", err)
			}
		})
	}
	bodies := map[string]net.Conn{
		"a slow body":           s.from(t, "127.0.0.9"),
		"a slow body in chunks": s.from(t, "127.0.0.9"),
		"a slow piece":          s.from(t, "127.0.0.9"), // of an upload, by nobody
	}
	fmt.Fprintf(bodies["a slow body"], "POST /v1/tenants HTTP/1.1\r\nHost: x\r\nContent-Length: 90\r\n\r\n{")
	fmt.Fprintf(bodies["a slow body in chunks"], "POST /v1/tenants HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{")
	fmt.Fprintf(bodies["a slow piece"], "PATCH /v1/uploads/x HTTP/1.1\r\nHost: x\r\nContent-Length: 90\r\n\r\n{")
	for name, c := range bodies {
		wg.Go(func() {
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err == nil && (res.StatusCode != http.StatusRequestTimeout && res.StatusCode != http.StatusUnauthorized || !res.Close) {
				err = fmt.Errorf("%s, closes: %v", res.Status, res.Close)
			}
			if err != nil {
				ended <- fmt.Errorf("%s: %w", name, err)
			}
		})
	}

	for range 20 { // what is above its part is closed without a word
		c := s.from(t, "127.0.0.7")
		fmt.Fprintf(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		if b, err := io.ReadAll(c); len(b) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("above the bound: %q %v", b, err)
		}
	}
	for range 50 {
		op.do(200, "GET", "/v1/whoami", nil)
	}
	op.do(201, "POST", "/v1/tenants", map[string]any{"name": "meanwhile"})

	huge := s.from(t, "127.0.0.9")
	fmt.Fprintf(huge, "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Huge: %s\r\n\r\n", strings.Repeat("x", 40<<10))
	if line, err := bufio.NewReader(huge).ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 431") {
		t.Errorf("a huge header: %q %v", line, err)
	}
	wg.Wait()
	close(ended)
	for err := range ended {
		t.Error(err)
	}
	again := s.from(t, "127.0.0.7") // there is room again
	fmt.Fprintf(again, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	if b, err := io.ReadAll(again); !strings.HasPrefix(string(b), "HTTP/1.1 200") {
		t.Errorf("afterwards: %q %v", b, err)
	}
	t.Logf("%d connections that said little: from %d to %d KiB", most/4, before, s.peak(t))
	if grown := s.peak(t) - before; grown > 64<<10 {
		t.Errorf("the process grew by %d KiB", grown)
	}
	s.interrupt()
}
