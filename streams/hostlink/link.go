package hostlink

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams"
)

// Options are what a host connects with.
type Options struct {
	URL  string // nats://host:port, a comma-separated list
	JWT  string // issued at enrolment
	Sign func(nonce []byte) ([]byte, error)
	// Sign proves the nkey, whose seed stays with the caller.

	Site string
	Host domain.HostID
	TLS  *tls.Config

	// OnError hears what happens out of band: refused permissions, a revoked
	// credential, a placement that cannot be read. It must not block. Nil drops it.
	OnError func(error)
}

// Link is a host's connection. Its methods may be called at once from many
// goroutines.
type Link struct {
	nc    *nats.Conn
	js    jetstream.JetStream
	names streams.Names
	host  domain.HostID
	onErr func(error)
}

// Connect makes a link. It does not wait for the control plane: VMs run on without
// it. An error means that the options cannot work.
func Connect(o Options) (*Link, error) {
	names, err := streams.ParseSite(o.Site)
	if err != nil {
		return nil, err
	}
	if o.Host.IsZero() || o.JWT == "" || o.Sign == nil {
		return nil, errors.New("host link: host, JWT and Sign are required")
	}
	l := &Link{names: names, host: o.Host, onErr: o.OnError}
	if l.onErr == nil {
		l.onErr = func(error) {}
	}
	opts := []nats.Option{
		nats.Name("host " + o.Host.String()),
		nats.UserJWT(func() (string, error) { return o.JWT, nil }, o.Sign),
		nats.CustomInboxPrefix(streams.HostInbox(o.Host.String())),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.IgnoreAuthErrorAbort(),
		nats.ReconnectWait(500 * time.Millisecond), nats.ReconnectJitter(500*time.Millisecond, 500*time.Millisecond),
		nats.ReconnectBufSize(-1), nats.Timeout(5 * time.Second), nats.PingInterval(10 * time.Second), nats.MaxPingsOutstanding(2),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { l.onErr(err) }),
	}
	if o.TLS != nil {
		opts = append(opts, nats.Secure(o.TLS))
	}
	if l.nc, err = nats.Connect(o.URL, opts...); err != nil {
		return nil, fmt.Errorf("host link: %w", err)
	}
	if l.js, err = jetstream.New(l.nc); err != nil {
		l.nc.Close()
		return nil, fmt.Errorf("host link: %w", err)
	}
	return l, nil
}

// Close drops the connection.
func (l *Link) Close() { l.nc.Close() }

// Connected reports whether there is a connection now.
func (l *Link) Connected() bool { return l.nc.IsConnected() }

// Report publishes one signed report (domain.EncodeSignedReport). nil means that
// the stream has it; the host's journal still keeps it until a placement
// acknowledges its number. Any error means: perhaps not, send it again.
func (l *Link) Report(ctx context.Context, kind domain.ReportKind, signed []byte) error {
	msg := &nats.Msg{
		Subject: l.names.ReportSubject(l.host.String(), string(kind)), Data: signed,
		Header: nats.Header{jetstream.ExpectedStreamHeader: {l.names.Reports()}},
	}
	attempt, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	reply, err := l.nc.RequestMsgWithContext(attempt, msg)
	if err != nil {
		return fmt.Errorf("report %s: %w", kind, err)
	}
	var ack struct {
		Error *jetstream.APIError `json:"error"`
		Seq   uint64              `json:"seq"`
	}
	if err := json.Unmarshal(reply.Data, &ack); err != nil {
		return fmt.Errorf("report %s: %w", kind, err)
	}
	if ack.Error != nil {
		return fmt.Errorf("report %s: %w", kind, ack.Error)
	}
	if ack.Seq == 0 {
		return fmt.Errorf("report %s: not acknowledged", kind)
	}
	return nil
}

// Heartbeat sends a heartbeat (domain.EncodeHeartbeat), which nobody keeps. An
// error means that there is no connection.
func (l *Link) Heartbeat(beat []byte) error {
	return l.nc.Publish(l.names.HeartbeatSubject(l.host.String()), beat)
}

// RequestImage asks for image bytes. A refusal is a *domain.Error; without a
// deadline on ctx it waits 30 s.
func (l *Link) RequestImage(ctx context.Context, payload []byte) ([]byte, error) {
	return streams.Ask(ctx, l.nc, l.names.ImageSubject(l.host.String()), payload)
}

// RequestVault asks for the user data of a VM that this host's placement names. A
// refusal is a *domain.Error; without a deadline on ctx it waits 30 s.
func (l *Link) RequestVault(ctx context.Context, payload []byte) ([]byte, error) {
	return streams.Ask(ctx, l.nc, l.names.VaultSubject(l.host.String()), payload)
}

// ServeConsole answers the control plane's requests about consoles until ctx ends.
func (l *Link) ServeConsole(ctx context.Context, fn func(ctx context.Context, payload []byte) ([]byte, error)) error {
	return streams.Serve(ctx, l.nc, l.names.ConsoleSubject(l.host.String()), "",
		func(ctx context.Context, m *nats.Msg) ([]byte, error) { return fn(ctx, m.Data) })
}
