package commands

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gpuaas/gpuaas/domain"
)

// Metrics are the loop's.
type Metrics struct {
	decisions *prometheus.CounterVec
	overflow  prometheus.Counter
	poison    prometheus.Counter
	group     prometheus.Histogram
	append    prometheus.Histogram
	commit    prometheus.Gauge
}

// NewMetrics makes the loop's metrics; a nil registerer registers nothing.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gpuaas_decisions_total", Help: "Commands decided, by type and outcome."}, []string{"type", "outcome"}),
		overflow:  prometheus.NewCounter(prometheus.CounterOpts{Name: "gpuaas_queue_overflow_total", Help: "Commands refused because a queue was full."}),
		poison:    prometheus.NewCounter(prometheus.CounterOpts{Name: "gpuaas_poison_total", Help: "Commands whose decision failed inside: a bug, alarm on any."}),
		group:     prometheus.NewHistogram(prometheus.HistogramOpts{Name: "gpuaas_commit_decisions", Help: "Decisions in one commit.", Buckets: prometheus.ExponentialBuckets(1, 2, 9)}),
		append:    prometheus.NewHistogram(prometheus.HistogramOpts{Name: "gpuaas_append_seconds", Help: "From closing a commit to its acknowledgement.", Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16)}),
		commit:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "gpuaas_commit_number", Help: "The newest durable commit."}),
	}
	if r != nil {
		r.MustRegister(m.decisions, m.overflow, m.poison, m.group, m.append, m.commit)
	}
	return m
}

func (m *Metrics) decided(c *domain.Command, r *Reply) {
	outcome := "accepted"
	switch {
	case r.Err != nil:
		outcome = r.Err.Kind.String()
	case r.Repeat.N != 0:
		outcome = "repeat"
	case len(r.Events) == 0:
		outcome = "already"
	}
	m.decisions.WithLabelValues(c.Body.CommandType(), outcome).Inc()
}

func (m *Metrics) durable(p *pending, now time.Time) {
	m.group.Observe(float64(p.closed.Decisions))
	m.append.Observe(now.Sub(p.since).Seconds())
	m.commit.Set(float64(p.closed.Head.N))
}
