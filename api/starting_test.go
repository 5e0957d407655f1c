package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// While the site starts a probe is answered, and everyone else is told when to come.
func TestStarting(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "test_gauge"}))
	h := Starting(reg, func() string { return "the log is being folded, commit 5 of 9" })
	ask := func(method, path string) (*httptest.ResponseRecorder, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		return w, w.Body.String()
	}
	if w, body := ask("GET", "/healthz"); w.Code != http.StatusOK || body != "ok\n" {
		t.Errorf("healthz: %d %q", w.Code, body)
	}
	if w, body := ask("GET", "/readyz"); w.Code != http.StatusServiceUnavailable || body != `{"ready":false,"reasons":["the log is being folded, commit 5 of 9"]}`+"\n" {
		t.Errorf("readyz: %d %s", w.Code, body)
	}
	if w, body := ask("GET", "/metrics"); w.Code != http.StatusOK || !strings.Contains(body, "test_gauge 0") {
		t.Errorf("metrics: %d %s", w.Code, body)
	}
	for _, x := range [][2]string{{"GET", "/v1/allocations/x"}, {"POST", "/v1/tenants"}, {"GET", "/"}} {
		w, body := ask(x[0], x[1])
		var p Problem
		if err := json.Unmarshal([]byte(body), &p); err != nil {
			t.Fatal(err)
		}
		if w.Code != http.StatusServiceUnavailable || p.Code != "site.starting" || !p.Retryable || p.RequestID == "" || w.Header().Get("X-Request-Id") != p.RequestID ||
			w.Header().Get("Retry-After") == "" || w.Header().Get("Content-Type") != "application/problem+json" || !strings.Contains(p.Detail, "commit 5 of 9") {
			t.Errorf("%s %s: %d %v %s", x[0], x[1], w.Code, w.Header(), body)
		}
	}
}
