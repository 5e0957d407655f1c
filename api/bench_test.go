package api

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
)

// BenchmarkLaunchBesideHello measures POST allocations through HTTP, the loop and a
// log in memory, and echo's hello in the same minute by the same load: what counts
// is the ratio.
func BenchmarkLaunchBesideHello(b *testing.B) {
	const hosts, slots, connections, launches = 320, 64, 128, 16_000
	s := newSite(b)
	s.sku("gpu-1x", 1, 1)
	ten := s.tenant("acme", 1_000_000_000_000)
	for i := range hosts {
		s.host(fmt.Sprintf("h%d", i), slots)
	}
	body := `{"sku":"gpu-1x","image":"tiny"}`
	launch := fmt.Appendf(nil, "POST /v1/projects/%s/allocations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", ten.project, ten.owner, len(body), body)
	hello := echo.New()
	hello.POST("/hello", func(c echo.Context) error { return c.String(200, "hello") })
	h := httptest.NewServer(hello)
	defer h.Close()
	greet := fmt.Appendf(nil, "POST /hello HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	b.ResetTimer()
	var ratio, rate float64
	for range b.N {
		before := load(b, h.Listener.Addr().String(), greet, connections, 4*launches)
		rate = load(b, s.http.Listener.Addr().String(), launch, connections, launches)
		after := load(b, h.Listener.Addr().String(), greet, connections, 4*launches)
		ratio = rate / ((before + after) / 2)
		if b.N > 1 {
			break // the fleet is full
		}
	}
	b.ReportMetric(rate, "launches/s")
	b.ReportMetric(rate/ratio, "hellos/s")
	b.ReportMetric(ratio, "ratio")
}

// load sends the request n times over some connections and returns how many were
// answered a second.
func load(b *testing.B, addr string, request []byte, connections, n int) float64 {
	b.Helper()
	var left atomic.Int64
	left.Store(int64(n))
	var wg sync.WaitGroup
	start := time.Now()
	for range connections {
		wg.Go(func() {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				b.Error(err)
				return
			}
			defer c.Close()
			r := bufio.NewReader(c)
			for left.Add(-1) >= 0 {
				if _, err := c.Write(request); err != nil {
					b.Error(err)
					return
				}
				if err := skipAnswer(r); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return float64(n) / time.Since(start).Seconds()
}

// skipAnswer reads one answer; only 2xx is one.
func skipAnswer(r *bufio.Reader) error {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if len(line) < 12 || line[9] != '2' {
		rest, _ := r.Peek(min(r.Buffered(), 600))
		return fmt.Errorf("%s%s", line, rest)
	}
	length := 0
	chunked := false
	for {
		if line, err = r.ReadSlice('\n'); err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(v))); err != nil {
				return err
			}
		}
		chunked = chunked || bytes.HasPrefix(line, []byte("Transfer-Encoding: chunked"))
	}
	if chunked {
		return fmt.Errorf("chunked")
	}
	_, err = r.Discard(length)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}
