package hostlink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/gpuaas/gpuaas/domain"
)

const (
	// pullExpiry is how long one request for a placement waits; pullHeartbeat is how
	// often the server says meanwhile that it is there.
	pullExpiry    = 20 * time.Second
	pullHeartbeat = 5 * time.Second
	// quiet is after what time without a placement the host looks what is there: the
	// consumer is the server's, and has been seen to give nothing after the servers failed.
	quiet = 30 * time.Second
	// askTimeout bounds one question to the server.
	askTimeout = 5 * time.Second
)

// Placements calls fn with this host's placement: the current one at once, and then
// every newer one, until ctx ends. After an interruption it gives the current one
// if it changed. An error of fn gives the same or a newer one again after a pause;
// nil settles it, for this link. Whether a placement is older than what the host
// has seen, or contradicts it, is fn's to judge: epoch and generation say so.
func (l *Link) Placements(ctx context.Context, fn func(*domain.Placement) error) error {
	r := receiver{l: l, fn: fn}
	pause := 100 * time.Millisecond
	for { // ends with ctx
		began := time.Now()
		err := r.session(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && !errors.Is(err, jetstream.ErrNoHeartbeat) && l.nc.IsConnected() {
			l.onErr(fmt.Errorf("placements: %w", err))
		}
		if time.Since(began) > time.Minute {
			pause = 100 * time.Millisecond
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, 5*time.Second)
	}
}

// receiver remembers which placement was settled.
type receiver struct {
	l       *Link
	fn      func(*domain.Placement) error
	settled []byte
	failed  uint // in a row
}

// session reads the current placement and then what follows, until the link breaks.
func (r *receiver) session(ctx context.Context) error {
	if err := r.look(ctx); err != nil {
		return err
	}
	host := r.l.host.String()
	attempt, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c, err := r.l.js.Consumer(attempt, r.l.names.Placements(), host)
	if err != nil {
		return err
	}
	it, err := c.Messages(jetstream.PullMaxMessages(1), jetstream.PullExpiry(pullExpiry), jetstream.PullHeartbeat(pullHeartbeat))
	if err != nil {
		return err
	}
	defer it.Stop()
	for { // ends with the link, or ctx
		waiting, cancel := context.WithTimeout(ctx, quiet)
		m, err := it.Next(jetstream.NextContext(waiting))
		cancel()
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			if err := r.look(ctx); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if err := r.take(m.Data()); err != nil {
			r.l.onErr(fmt.Errorf("placements: %w", err))
			err = m.NakWithDelay(min(time.Second<<min(r.failed, 5), 30*time.Second))
			r.failed++
			if err != nil {
				return err
			}
			continue
		}
		r.failed = 0
		if err := m.Ack(); err != nil {
			return err
		}
	}
}

// look takes the placement as it stands.
func (r *receiver) look(ctx context.Context) error {
	now, err := r.current(ctx)
	if err != nil || now == nil {
		return err
	}
	return r.take(now)
}

// current is the placement as it stands, nil if there is none yet. The consumer
// alone would not do: it gives nothing again that was acknowledged before this
// process started.
func (r *receiver) current(ctx context.Context) ([]byte, error) {
	n := r.l.names
	attempt, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	m, err := r.l.nc.RequestWithContext(attempt, "$JS.API.DIRECT.GET."+n.Placements()+"."+n.PlacementSubject(r.l.host.String()), nil)
	if err != nil {
		return nil, err
	}
	switch status := m.Header.Get("Status"); status {
	case "":
		if m.Header.Get(jetstream.SequenceHeader) == "" {
			return nil, errors.New("unexpected answer to a direct get")
		}
		return m.Data, nil
	case "404":
		return nil, nil
	default:
		return nil, fmt.Errorf("direct get: status %s %s", status, m.Header.Get("Description"))
	}
}

// take gives fn a placement, unless it settled these bytes already.
func (r *receiver) take(data []byte) error {
	if bytes.Equal(data, r.settled) {
		return nil
	}
	p, err := domain.DecodePlacement(data)
	if err != nil {
		return fmt.Errorf("a placement that this build cannot read: %w", err)
	}
	if p.Desired.Host != r.l.host || p.Desired.Site != string(r.l.names) {
		return fmt.Errorf("a placement of host %s of site %q", p.Desired.Host, p.Desired.Site)
	}
	if err := r.fn(p); err != nil {
		return err
	}
	r.settled = bytes.Clone(data)
	return nil
}
