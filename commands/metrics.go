package commands

import (
	"sync/atomic"
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

// FoldProgress shows how far a start has folded the log; nil shows nothing.
type FoldProgress struct {
	at, end, events atomic.Uint64
	began           time.Time
	took            atomic.Int64 // nanoseconds; 0 while it goes on
}

// NewFoldProgress begins to show a fold to commit end.
func NewFoldProgress(r prometheus.Registerer, end uint64) *FoldProgress {
	p := &FoldProgress{began: time.Now()}
	p.end.Store(end)
	for name, g := range map[string]struct {
		help string
		f    func() float64
	}{
		"gpuaas_fold_commit":     {"The commit that the start has folded to.", func() float64 { return float64(p.at.Load()) }},
		"gpuaas_fold_end_commit": {"The commit that the log ended with when the start began to fold it.", func() float64 { return float64(p.end.Load()) }},
		"gpuaas_fold_events":     {"Events folded by the start, those of the snapshot not among them.", func() float64 { return float64(p.events.Load()) }},
		"gpuaas_fold_seconds":    {"How long the start has folded the log.", func() float64 { return p.Took().Seconds() }},
	} {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: g.help}, g.f))
	}
	return p
}

// Position is the commit that the fold has reached, and the one it goes to.
func (p *FoldProgress) Position() (at, end uint64) { return p.at.Load(), p.end.Load() }

// Took is how long the fold has lasted.
func (p *FoldProgress) Took() time.Duration {
	if n := p.took.Load(); n != 0 {
		return time.Duration(n)
	}
	return time.Since(p.began)
}

func (p *FoldProgress) reached(n uint64, events int) {
	if p != nil {
		p.at.Store(n)
		p.events.Add(uint64(events))
	}
}

func (p *FoldProgress) done() {
	if p != nil {
		p.took.Store(int64(max(time.Since(p.began), 1)))
	}
}
