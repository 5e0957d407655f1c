package processes

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

// Placer publishes placements: the newest of each host, many hosts at once, and
// again until the stream has it. What a previous writer may not have published is
// published at the start.
type Placer struct {
	// Publish makes a placement the host's desired state. ErrObsolete: a newer one is
	// there.
	Publish  func(ctx context.Context, host domain.HostID, data []byte) error
	Obsolete func(error) bool // reports whether a newer one is there already
	Log      *slog.Logger

	mu   sync.Mutex
	next map[domain.HostID]*domain.PlacementDraft
	wake chan struct{}
}

const (
	// placerWorkers publish side by side.
	placerWorkers = 8
	// placerLinger is how long a placement may wait for a newer one of its host:
	// packing puts neighbouring launches onto one host, and one message serves them all.
	placerLinger = 2 * time.Millisecond
)

// NewPlacer makes a placer; Run starts it.
func NewPlacer(publish func(ctx context.Context, host domain.HostID, data []byte) error, obsolete func(error) bool, log *slog.Logger) *Placer {
	return &Placer{Publish: publish, Obsolete: obsolete, Log: log, next: map[domain.HostID]*domain.PlacementDraft{}, wake: make(chan struct{}, placerWorkers)}
}

// Offer hands placements over. It does not block: of two placements of one host
// only the later one is kept, so what waits is bounded by the number of hosts.
func (p *Placer) Offer(ps []*domain.PlacementDraft) {
	p.mu.Lock()
	for _, x := range ps {
		p.next[x.Host()] = x
	}
	p.mu.Unlock()
	for range min(len(ps), placerWorkers) {
		select {
		case p.wake <- struct{}{}:
		default:
			return
		}
	}
}

// OfferAll hands over the placements of every admitted host.
func (p *Placer) OfferAll(ctx context.Context, loop Loop) error {
	return p.offer(ctx, loop, (*domain.World).AdmittedHosts)
}

// OfferAgain hands over the placements of some hosts.
func (p *Placer) OfferAgain(ctx context.Context, loop Loop, hosts []domain.HostID) error {
	return p.offer(ctx, loop, func(*domain.World) []domain.HostID { return hosts })
}

func (p *Placer) offer(ctx context.Context, loop Loop, hosts func(*domain.World) []domain.HostID) error {
	var all []*domain.PlacementDraft
	_, err := loop.Query(ctx, domain.System, func(w *domain.World, _ domain.Time) {
		for _, id := range hosts(w) {
			if x, ok := w.DraftPlacement(id); ok {
				all = append(all, x.From(w.Head))
			}
		}
	})
	if err != nil {
		return err
	}
	p.Offer(all)
	return nil
}

// Backlog is how many hosts wait for their placement.
func (p *Placer) Backlog() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.next)
}

// Run publishes until ctx ends.
func (p *Placer) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for range placerWorkers {
		wg.Go(func() {
			for ctx.Err() == nil {
				x := p.take()
				if x == nil {
					select {
					case <-ctx.Done():
					case <-p.wake:
						time.Sleep(placerLinger)
					}
					continue
				}
				p.publish(ctx, x)
			}
		})
	}
	wg.Wait()
}

func (p *Placer) take() *domain.PlacementDraft {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, x := range p.next {
		delete(p.next, id)
		return x
	}
	return nil
}

// publish sends one placement; one that failed waits again, unless a newer one of
// the same host came meanwhile.
func (p *Placer) publish(ctx context.Context, draft *domain.PlacementDraft) {
	x := draft.Placement()
	attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
	err := p.Publish(attempt, x.Desired.Host, domain.EncodePlacement(x))
	cancel()
	if err == nil || ctx.Err() != nil || p.Obsolete(err) {
		return
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		p.Log.Warn("placement not published, will try again", "host", x.Desired.Host, "generation", x.Desired.Generation, "err", err)
	}
	select {
	case <-ctx.Done():
		return
	case <-time.After(200 * time.Millisecond):
	}
	p.mu.Lock()
	if p.next[draft.Host()] == nil {
		p.next[draft.Host()] = draft
	}
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}
