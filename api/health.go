package api

import (
	"net/http"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// registerPlain adds what is outside the contract: health, metrics, documentation.
func (s *Server) registerPlain(e *echo.Echo) {
	e.GET("/healthz", func(ec echo.Context) error { return ec.String(http.StatusOK, "ok\n") })
	e.GET("/readyz", s.readyz)
	e.GET("/metrics", echo.WrapHandler(promhttp.HandlerFor(s.o.Registry, promhttp.HandlerOpts{})))
	s.registerDocs(e)
}

// Readiness is the answer of /readyz.
type Readiness struct {
	Ready   bool     `json:"ready"`
	Reasons []string `json:"reasons"`
	Role    string   `json:"role,omitempty"` // writer or standby
}

func (s *Server) readyz(ec echo.Context) error {
	r := Readiness{Reasons: []string{}}
	if s.o.Ready != nil {
		r.Reasons = append(r.Reasons, s.o.Ready(ec.Request().Context())...)
	}
	r.Ready = len(r.Reasons) == 0
	if s.o.Role != nil {
		r.Role = s.o.Role()
	}
	status := http.StatusOK
	if !r.Ready {
		status = http.StatusServiceUnavailable
	}
	return answerJSON(ec.Response(), status, r)
}
