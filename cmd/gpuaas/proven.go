package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams"
)

// settledTerm is how long a writer's term must have lasted, beside the time after
// which a host is silent, for its end to say that all hosts had been heard in it.
const settledTerm = time.Minute

// provenBefore is until when the term before this process's shows every host alive
// that it did not declare silent: a little before its last commit. It is 0 where that
// cannot be said: the term was too short to notice, or the feed does not have its
// start.
func (s *site) provenBefore(ctx context.Context, w *domain.World) (domain.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	last, err := s.feed.Last(ctx)
	if err != nil || last != w.Number {
		return 0, err
	}
	began, err := s.feed.LastOf(ctx, s.names.SiteEvent("writer_started"))
	if errors.Is(err, streams.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	silent := domain.Duration(s.cfg.Silent) * domain.Second
	if w.At.Sub(began.At) < silent+domain.Duration(settledTerm/time.Millisecond) {
		return 0, nil
	}
	return w.At.Add(-2 * silent), nil // the silence, and the time to notice it
}

// proven is the last moment at which what is durable shows a host alive: the term
// before this one, or its last report.
func (s *site) proven(ctx context.Context, host domain.HostID) (domain.Time, error) {
	at := s.provenAll
	for _, event := range []string{"reported", "admitted"} {
		e, err := s.feed.LastOf(ctx, s.names.HostEvent(host, event))
		if err == nil {
			return max(at, e.At), nil
		}
		if !errors.Is(err, streams.ErrNotFound) {
			return 0, fmt.Errorf("the last sign of host %s: %w", host, err)
		}
	}
	return at, nil
}
