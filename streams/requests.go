package streams

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/gpuaas/gpuaas/domain"
)

// HostHandler answers a host's request. host is the subject's token, which the
// server checked against the sender's credential. An answer is at most 1 MiB: what
// is larger is asked for in parts.
type HostHandler func(ctx context.Context, host domain.HostID, payload []byte) ([]byte, error)

// Requests is what is asked and answered and not kept: images and user data for
// hosts, consoles from them, commands between control-plane processes.
type Requests struct {
	nc   *nats.Conn
	site Names
}

const (
	// requestsAtOnce bounds the requests of one kind under way; requestsQueued those
	// waiting. More are answered "unavailable".
	requestsAtOnce = 256
	requestsQueued = 4096
	// requestTimeout bounds the work on one request.
	requestTimeout = 30 * time.Second
	// respondersGroup shares requests between control-plane processes.
	respondersGroup = "control"
)

// OpenRequests connects with the responder's credential.
func OpenRequests(dial Dial, site Names) (*Requests, error) {
	nc, err := connect(dial, "requests")
	if err != nil {
		return nil, err
	}
	return &Requests{nc: nc, site: site}, nil
}

// Close drops the connection.
func (r *Requests) Close() { r.nc.Close() }

// ServeImages answers hosts that ask for image bytes, until ctx ends. Processes
// that serve share the requests.
func (r *Requests) ServeImages(ctx context.Context, fn HostHandler) error {
	return r.serve(ctx, r.site.ImageSubject("*"), respondersGroup, hostHandler(fn))
}

// ServeVault answers hosts that ask for the user data of their VMs, until ctx ends.
// Whether that host runs that VM is fn's to check.
func (r *Requests) ServeVault(ctx context.Context, fn HostHandler) error {
	return r.serve(ctx, r.site.VaultSubject("*"), respondersGroup, hostHandler(fn))
}

// ServeCommands answers commands forwarded by other processes, until ctx ends. Only
// the writer serves them.
func (r *Requests) ServeCommands(ctx context.Context, fn func(ctx context.Context, payload []byte) ([]byte, error)) error {
	return r.serve(ctx, r.site.CommandSubject(), "", func(ctx context.Context, m *nats.Msg) ([]byte, error) { return fn(ctx, m.Data) })
}

// Command asks the writer. [ErrNoHandler] if there is none now. When ctx ends
// first, whether the command was decided is not known: it is asked again with the
// same command id.
func (r *Requests) Command(ctx context.Context, payload []byte) ([]byte, error) {
	return Ask(ctx, r.nc, r.site.CommandSubject(), payload)
}

// Console asks a host about the console of one of its VMs. [ErrNoHandler] if the
// host is not connected.
func (r *Requests) Console(ctx context.Context, host domain.HostID, payload []byte) ([]byte, error) {
	return Ask(ctx, r.nc, r.site.ConsoleSubject(host.String()), payload)
}

func hostHandler(fn HostHandler) func(context.Context, *nats.Msg) ([]byte, error) {
	return func(ctx context.Context, m *nats.Msg) ([]byte, error) {
		host, err := hostOf(m.Subject)
		if err != nil {
			return nil, err
		}
		return fn(ctx, host, m.Data)
	}
}

func (r *Requests) serve(ctx context.Context, subject, group string, fn func(context.Context, *nats.Msg) ([]byte, error)) error {
	return Serve(ctx, r.nc, subject, group, fn)
}

// Serve answers requests on a subject until ctx ends, many at a time and bounded;
// group shares them between processes, "" does not. It returns when the last answer
// is sent. Host links use it too.
func Serve(ctx context.Context, nc *nats.Conn, subject, group string, fn func(context.Context, *nats.Msg) ([]byte, error)) error {
	msgs := make(chan *nats.Msg, requestsQueued)
	sub, err := nc.ChanQueueSubscribe(subject, group, msgs)
	if err != nil {
		return fmt.Errorf("serve %s: %w", subject, err)
	}
	var under sync.WaitGroup
	defer under.Wait()
	defer sub.Unsubscribe() //nolint:errcheck // the connection is gone then
	slots := make(chan struct{}, requestsAtOnce)
	for { // ends with ctx
		select {
		case <-ctx.Done():
			return ctx.Err()
		case m := <-msgs:
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			under.Go(func() {
				defer func() { <-slots }()
				one, cancel := context.WithTimeout(ctx, requestTimeout)
				defer cancel()
				data, err := fn(one, m)
				reply := NewReply(data, err)
				if len(reply.Data) > 1<<20 {
					reply = NewReply(nil, fmt.Errorf("%w: an answer of %d bytes", ErrTooLarge, len(reply.Data)))
				}
				_ = m.RespondMsg(reply) // who asked has a deadline of its own
			})
		}
	}
}

// Ask sends one request and returns the answer, or the refusal as a *domain.Error.
// Without a deadline on ctx it waits 30 s.
func Ask(ctx context.Context, nc *nats.Conn, subject string, payload []byte) ([]byte, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, requestTimeout)
		defer cancel()
	}
	reply, err := nc.RequestWithContext(ctx, subject, payload)
	if errors.Is(err, nats.ErrNoResponders) {
		return nil, fmt.Errorf("%w: %s", ErrNoHandler, subject)
	}
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", subject, err)
	}
	return ParseReply(reply)
}
