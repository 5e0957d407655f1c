package api

import (
	"errors"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests       *prometheus.CounterVec
	seconds        *prometheus.HistogramVec
	streams        prometheus.Gauge
	denialsDropped prometheus.Counter
	refused        *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		requests:       prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gpuaas_http_requests_total", Help: "Requests, by route, method and status."}, []string{"route", "method", "status"}),
		seconds:        prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "gpuaas_http_request_seconds", Help: "Time to answer, by route and method; event streams are not in it.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16)}, []string{"route", "method"}),
		streams:        prometheus.NewGauge(prometheus.GaugeOpts{Name: "gpuaas_event_streams", Help: "Event streams open."}),
		denialsDropped: prometheus.NewCounter(prometheus.CounterOpts{Name: "gpuaas_denials_dropped_total", Help: "Denials that the audit stream did not keep: too many of one caller, or its queue full."}),
		refused:        prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gpuaas_http_refused_total", Help: "Requests refused before anything was done for them: too many of one caller, too many of all, no turn in time."}, []string{"why"}),
	}
	for _, why := range []string{whyLane, whyFull, whyTurn} {
		m.refused.WithLabelValues(why)
	}
	m.refused = register(r, m.refused)
	m.requests = register(r, m.requests)
	m.seconds = register(r, m.seconds)
	m.streams = register(r, m.streams)
	m.denialsDropped = register(r, m.denialsDropped)
	return m
}

// register keeps a collector that is there: two servers may share a registry.
func register[C prometheus.Collector](r prometheus.Registerer, c C) C {
	var there prometheus.AlreadyRegisteredError
	if errors.As(r.Register(c), &there) {
		return there.ExistingCollector.(C)
	}
	return c
}

func (m *metrics) request(ec echo.Context, start time.Time) {
	route := ec.Path()
	if route == "" {
		route = "none"
	}
	method := ec.Request().Method
	switch method {
	case "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH":
	default:
		method = "other" // labels are bounded
	}
	m.requests.WithLabelValues(route, method, strconv.Itoa(ec.Response().Status)).Inc()
	if !streaming(ec.Request()) {
		m.seconds.WithLabelValues(route, method).Observe(time.Since(start).Seconds())
	}
}
