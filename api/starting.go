package api

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Starting answers while the site is not there yet: a log is folded for minutes, and
// whoever probes the process must neither wait nor take it for dead. /healthz is
// well, /readyz says why not yet, /metrics shows how far it is, everything else is
// asked to come again.
func Starting(registry *prometheus.Registry, why func() string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		_ = answerJSON(w, http.StatusServiceUnavailable, Readiness{Reasons: []string{why()}})
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		p := newProblem(http.StatusServiceUnavailable, "site.starting", "the site is starting: "+why()+": try again", requestID(r.Header.Get("X-Request-Id"), time.Now()))
		p.Retryable = true
		for name, values := range p.GetHeaders() {
			w.Header()[name] = values
		}
		w.Header().Set("Content-Type", p.ContentType(""))
		w.Header().Set("X-Request-Id", p.RequestID)
		w.WriteHeader(p.Status)
		_ = writeJSON(w, p)
	})
	return mux
}
