package api

import (
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/gpuaas/gpuaas/api/loadtest"
)

// BenchmarkLaunchBesideHello measures POST allocations through HTTP, the loop and a
// log in memory, and echo's hello in the same minute by the same load: what counts
// is the ratio.
func BenchmarkLaunchBesideHello(b *testing.B) {
	const hosts, slots, connections, launches, limit = 320, 64, 128, 16_000, 5 * time.Minute
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
		before := loadtest.Run(b, h.Listener.Addr().String(), [][]byte{greet}, connections, 4*launches, limit).Rate()
		rate = loadtest.Run(b, s.http.Listener.Addr().String(), [][]byte{launch}, connections, launches, limit).Rate()
		after := loadtest.Run(b, h.Listener.Addr().String(), [][]byte{greet}, connections, 4*launches, limit).Rate()
		ratio = rate / ((before + after) / 2)
		if b.N > 1 {
			break // the fleet is full
		}
	}
	b.ReportMetric(rate, "launches/s")
	b.ReportMetric(rate/ratio, "hellos/s")
	b.ReportMetric(ratio, "ratio")
}
