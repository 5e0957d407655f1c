package streams

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/gpuaas/gpuaas/domain"
)

// Placements is the desired state of each host: one message a host, the last one
// kept, so that a host that was away for a month needs one message.
type Placements struct {
	nc   *nats.Conn
	js   jetstream.JetStream
	site Names

	mu   sync.Mutex
	last map[domain.HostID]placed // what each host's subject holds, as far as known
}

// placed is a published placement and where it stands in its stream.
type placed struct {
	seq  uint64
	data []byte
}

// ErrStale: a newer placement is published for this host already. Whoever
// published it has read more of the log.
var ErrStale = errors.New("streams: a newer placement is published")

// placementAttempts bounds how often one publish is tried.
const placementAttempts = 8

// OpenPlacements connects for publishing.
func OpenPlacements(dial Dial, site Names) (*Placements, error) {
	nc, js, err := connectJetStream(dial, "placements")
	if err != nil {
		return nil, err
	}
	return &Placements{nc: nc, js: js, site: site, last: map[domain.HostID]placed{}}, nil
}

// Close drops the connection.
func (p *Placements) Close() { p.nc.Close() }

// Publish makes data, a [domain.Placement], the host's desired state. The same
// bytes again are not sent. [ErrStale] if what is published follows from a later
// commit (a publisher that was deposed must not take a host back), and
// [ErrForked] if it has the same epoch and generation and another content, which
// would make the host quarantine itself. Calls for different hosts may run at once.
func (p *Placements) Publish(ctx context.Context, host domain.HostID, data []byte) error {
	want, err := domain.DecodePlacement(data)
	if err != nil {
		return fmt.Errorf("placement of %s: %w", host, err)
	}
	if want.Desired.Host != host || want.Desired.Site != string(p.site) {
		return fmt.Errorf("placement of %s names host %s of site %q", host, want.Desired.Host, want.Desired.Site)
	}
	for range placementAttempts {
		var have placed
		if have, err = p.current(ctx, host); err == nil {
			if err := p.supersedes(want, have.data); err != nil || bytes.Equal(have.data, data) {
				return err
			}
			if err = p.publish(ctx, host, have.seq, data); err == nil {
				return nil
			}
		}
		p.Forget(host)
		if !wait(ctx, 20*time.Millisecond) {
			break
		}
	}
	return errors.Join(fmt.Errorf("publish placement of %s: %w", host, err), ctx.Err())
}

// supersedes refuses to replace a newer placement, or one it contradicts.
func (p *Placements) supersedes(want *domain.Placement, old []byte) error {
	if old == nil {
		return nil
	}
	have, err := domain.DecodePlacement(old)
	if err != nil {
		return nil //nolint:nilerr // what cannot be read is replaced
	}
	w, h := &want.Desired, &have.Desired
	switch {
	case h.Epoch > w.Epoch, h.Epoch == w.Epoch && (h.Generation > w.Generation || have.From.N > want.From.N):
		return fmt.Errorf("%w: host %s has epoch %d generation %d from commit %d, not %d, %d, %d",
			ErrStale, h.Host, h.Epoch, h.Generation, have.From.N, w.Epoch, w.Generation, want.From.N)
	case h.Epoch == w.Epoch && h.Generation == w.Generation && h.Digest() != w.Digest():
		return fmt.Errorf("%w: host %s has another placement of epoch %d generation %d", ErrForked, h.Host, h.Epoch, h.Generation)
	}
	return nil
}

// publish replaces message seq of the host's subject and nothing newer.
func (p *Placements) publish(ctx context.Context, host domain.HostID, seq uint64, data []byte) error {
	attempt, cancel := ask(ctx)
	defer cancel()
	reply, err := p.nc.RequestMsgWithContext(attempt, &nats.Msg{
		Subject: p.site.PlacementSubject(host.String()), Data: data,
		Header: nats.Header{jetstream.ExpectedLastSubjSeqHeader: {strconv.FormatUint(seq, 10)}},
	})
	if err != nil {
		return err
	}
	if seq, err = fastAck(reply.Data); err != nil {
		return err
	}
	p.mu.Lock()
	p.last[host] = placed{seq, data}
	p.mu.Unlock()
	return nil
}

// current is what the host's subject holds, from memory or from the stream.
func (p *Placements) current(ctx context.Context, host domain.HostID) (placed, error) {
	p.mu.Lock()
	have, ok := p.last[host]
	p.mu.Unlock()
	if ok {
		return have, nil
	}
	m, err := lastBySubject(ctx, p.nc, p.site.Placements(), p.site.PlacementSubject(host.String()))
	if errors.Is(err, ErrNotFound) {
		return placed{}, nil
	}
	if err != nil {
		return placed{}, err
	}
	return placed{m.Seq, m.Data}, nil
}

// Forget has the stream asked, the next time, what it holds for the host: it may have lost
// what it took.
func (p *Placements) Forget(host domain.HostID) {
	p.mu.Lock()
	delete(p.last, host)
	p.mu.Unlock()
}

// Last is what is published for a host; [ErrNotFound] if nothing is.
func (p *Placements) Last(ctx context.Context, host domain.HostID) ([]byte, error) {
	m, err := lastBySubject(ctx, p.nc, p.site.Placements(), p.site.PlacementSubject(host.String()))
	if err != nil {
		return nil, err
	}
	return m.Data, nil
}

// CreateHostConsumer makes the durable consumer a host pulls its placements from.
// The control plane makes it at enrolment, because a host has no right to make
// one: it could choose what to read. A repeat changes nothing.
func (p *Placements) CreateHostConsumer(ctx context.Context, host domain.HostID) error {
	if host.IsZero() {
		return errors.New("host consumer: no host")
	}
	ctx, cancel := ask(ctx)
	defer cancel()
	_, err := p.js.CreateOrUpdateConsumer(ctx, p.site.Placements(), jetstream.ConsumerConfig{
		Durable: host.String(), FilterSubject: p.site.PlacementSubject(host.String()),
		DeliverPolicy: jetstream.DeliverAllPolicy, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: 30 * time.Second, MaxDeliver: -1, MaxAckPending: 8, MaxWaiting: 8, MaxRequestBatch: 8,
	})
	if err != nil {
		return fmt.Errorf("consumer of host %s: %w", host, err)
	}
	return nil
}

// Hosts are those that have a placement: what a writer that starts compares with its
// world.
func (p *Placements) Hosts(ctx context.Context) ([]domain.HostID, error) {
	s, err := p.js.Stream(ctx, p.site.Placements())
	if err != nil {
		return nil, err
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(p.site.PlacementSubject("*")))
	if err != nil {
		return nil, err
	}
	out := make([]domain.HostID, 0, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		host, err := hostOf(subject)
		if err != nil {
			return nil, err
		}
		out = append(out, host)
	}
	return out, nil
}
