package streams

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"github.com/gpuaas/gpuaas/domain"
)

// Heartbeats hears the hosts of a site. Nothing is kept: who does not listen does
// not know.
type Heartbeats struct {
	nc      *nats.Conn
	site    Names
	refused atomic.Uint64
}

// heartbeatsPending bounds the heartbeats not yet looked at; more are dropped.
const heartbeatsPending = 65536

// OpenHeartbeats connects with the responder's credential.
func OpenHeartbeats(dial Dial, site Names) (*Heartbeats, error) {
	nc, err := connect(dial, "heartbeats")
	if err != nil {
		return nil, err
	}
	return &Heartbeats{nc: nc, site: site}, nil
}

// Close drops the connection.
func (h *Heartbeats) Close() { h.nc.Close() }

// Refused counts heartbeats that could not be read or named another host than the
// credential they came with.
func (h *Heartbeats) Refused() uint64 { return h.refused.Load() }

// Listen calls fn with every heartbeat, one at a time, until ctx ends. host is the
// subject's token and equals the heartbeat's own; At in it is the host's claim.
func (h *Heartbeats) Listen(ctx context.Context, fn func(host domain.HostID, beat *domain.Heartbeat)) error {
	msgs := make(chan *nats.Msg, heartbeatsPending)
	sub, err := h.nc.ChanSubscribe(h.site.HeartbeatSubject("*"), msgs)
	if err != nil {
		return fmt.Errorf("listen to heartbeats: %w", err)
	}
	defer sub.Unsubscribe() //nolint:errcheck // the connection is gone then
	for {                   // ends with ctx
		select {
		case <-ctx.Done():
			return ctx.Err()
		case m := <-msgs:
			host, err := hostOf(m.Subject)
			beat, errBeat := domain.DecodeHeartbeat(m.Data)
			if err != nil || errBeat != nil || beat.Host != host {
				h.refused.Add(1)
				continue
			}
			fn(host, beat)
		}
	}
}
