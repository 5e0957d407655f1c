package hostd

import (
	"context"
	"errors"

	"github.com/gpuaas/gpuaas/domain"
)

// Mute is a line that is cut while silent says so: how a simulated host disappears.
func Mute(l Link, silent func() bool) Link { return &mute{Link: l, silent: silent} }

type mute struct {
	Link
	silent func() bool
}

var errSilent = errors.New("this host is silent")

func (m *mute) Placements(ctx context.Context, fn func(*domain.Placement) error) error {
	return m.Link.Placements(ctx, func(p *domain.Placement) error {
		if m.silent() {
			return errSilent // not taken: it comes again
		}
		return fn(p)
	})
}

func (m *mute) Report(ctx context.Context, kind domain.ReportKind, signed []byte) error {
	if m.silent() {
		return errSilent
	}
	return m.Link.Report(ctx, kind, signed)
}

func (m *mute) Heartbeat(b []byte) error {
	if m.silent() {
		return errSilent
	}
	return m.Link.Heartbeat(b)
}

func (m *mute) RequestVault(ctx context.Context, payload []byte) ([]byte, error) {
	if m.silent() {
		return nil, errSilent
	}
	return m.Link.RequestVault(ctx, payload)
}

func (m *mute) RequestImage(ctx context.Context, payload []byte) ([]byte, error) {
	if m.silent() {
		return nil, errSilent
	}
	return m.Link.RequestImage(ctx, payload)
}

func (m *mute) ServeConsole(ctx context.Context, fn func(ctx context.Context, req []byte) ([]byte, error)) error {
	return m.Link.ServeConsole(ctx, func(ctx context.Context, req []byte) ([]byte, error) {
		if m.silent() {
			return nil, errSilent
		}
		return fn(ctx, req)
	})
}
