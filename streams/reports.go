package streams

import (
	"context"
	"fmt"
	"hash/fnv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/gpuaas/gpuaas/domain"
)

// ReportMsg is one report as it arrived. Host is the subject's token, which the
// server checked against the sender's credential: it is who reported. A report
// whose body names another host is to be refused by the process that reads it.
type ReportMsg struct {
	Host     domain.HostID
	Kind     domain.ReportKind
	Data     []byte    // a domain.SignedReport
	Received time.Time // by the server's clock
	Delivery uint64    // 1, 2, ...: how often it was handed out
}

// ReportsConsumer is the one consumer of the stream of reports, a work queue.
const ReportsConsumer = "processes"

// Reports reads what hosts report.
type Reports struct {
	nc   *nats.Conn
	js   jetstream.JetStream
	site Names
}

const (
	// reportWorkers take reports side by side, so that their commands share
	// commits. One host's reports stay in order.
	reportWorkers = 32
	// reportPending bounds the reports handed out and not yet settled.
	reportPending = 1024
	// reportAckWait is when a report whose reader died is handed out again.
	reportAckWait = 30 * time.Second
)

// OpenReports connects for reading.
func OpenReports(dial Dial, site Names) (*Reports, error) {
	nc, js, err := connectJetStream(dial, "reports")
	if err != nil {
		return nil, err
	}
	return &Reports{nc: nc, js: js, site: site}, nil
}

// Close drops the connection.
func (r *Reports) Close() { r.nc.Close() }

// Consume calls fn with every report until ctx ends: one host's reports in order,
// many hosts' side by side. nil settles a report, which then leaves the stream. An
// error hands it out again after a pause that grows with its deliveries to 30 s;
// a report that can never succeed is settled by fn (audited, and nil), not kept.
// A report can come twice: (host, journal, number) names it.
func (r *Reports) Consume(ctx context.Context, fn func(msg ReportMsg) error) error {
	pause := 10 * time.Millisecond
	for { // ends with ctx
		began := time.Now()
		_ = r.session(ctx, fn) // lost connection, changed leader: made again
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Since(began) > time.Minute {
			pause = 10 * time.Millisecond
		}
		if !wait(ctx, pause) {
			return ctx.Err()
		}
		pause = min(2*pause, time.Second)
	}
}

func (r *Reports) session(ctx context.Context, fn func(msg ReportMsg) error) error {
	one, cancel := ask(ctx)
	defer cancel()
	c, err := r.js.CreateOrUpdateConsumer(one, r.site.Reports(), jetstream.ConsumerConfig{
		Durable: ReportsConsumer, AckPolicy: jetstream.AckExplicitPolicy, AckWait: reportAckWait,
		MaxDeliver: -1, MaxAckPending: reportPending, DeliverPolicy: jetstream.DeliverAllPolicy,
	})
	if err != nil {
		return fmt.Errorf("consumer of %s: %w", r.site.Reports(), err)
	}
	it, err := c.Messages(jetstream.PullMaxMessagesWithBytesLimit(reportPending/2, pullBytes), jetstream.PullHeartbeat(tailHeartbeat), jetstream.PullExpiry(3*tailHeartbeat))
	if err != nil {
		return fmt.Errorf("consumer of %s: %w", r.site.Reports(), err)
	}
	defer it.Stop()

	var workers sync.WaitGroup
	defer workers.Wait()
	queues := make([]chan jetstream.Msg, reportWorkers)
	for i := range queues {
		queues[i] = make(chan jetstream.Msg, reportPending/reportWorkers)
		workers.Go(func() {
			for m := range queues[i] {
				if ctx.Err() == nil {
					r.handle(m, fn)
				}
			}
		})
		defer close(queues[i])
	}
	for { // ends with ctx, or when the server must be asked again
		m, err := it.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		h := fnv.New32a()
		_, _ = h.Write([]byte(hostToken(m.Subject())))
		select {
		case queues[h.Sum32()%reportWorkers] <- m:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func hostToken(subject string) string {
	if t := strings.SplitN(subject, ".", 4); len(t) == 4 {
		return t[2]
	}
	return ""
}

// handle settles one report. A settlement that is lost only means that the report
// comes again.
func (r *Reports) handle(m jetstream.Msg, fn func(msg ReportMsg) error) {
	host, err := hostOf(m.Subject())
	meta, errMeta := m.Metadata()
	if err != nil || errMeta != nil {
		_ = m.Term() // no credential can publish it: made by an administrator's hand
		return
	}
	err = fn(ReportMsg{
		Host: host, Kind: domain.ReportKind(m.Subject()[strings.LastIndexByte(m.Subject(), '.')+1:]),
		Data: m.Data(), Received: meta.Timestamp, Delivery: meta.NumDelivered,
	})
	if err == nil {
		_ = m.Ack()
		return
	}
	_ = m.NakWithDelay(min(time.Second<<min(meta.NumDelivered-1, 5), 30*time.Second))
}
