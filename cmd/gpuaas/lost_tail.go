package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams"
)

const lostTailAdvice = "bring the newest log back before starting this site, or if there is none, see gpuaas site open-epoch: nothing was written"

// refuseAhead refuses read models that show what the log does not have. They are
// looked at before this process writes, or, where their database was away at the
// start, before anything is read from them.
func (s *site) refuseAhead(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	shown, err := s.reads.store.Head(ctx)
	if err != nil {
		return fmt.Errorf("read models: %w", err)
	}
	err = s.commits.Check(ctx, shown)
	if err == nil {
		return nil
	}
	end, _ := s.commits.Newest(ctx)
	advice := lostTailAdvice
	if s.member != nil {
		advice = "stop this site and bring the newest log back"
	}
	return fmt.Errorf("the log ends at commit %d, but the read models show commit %d: %w: %s, or drop the database if the log is right", end, shown.N, err, advice)
}

// refuseLostTail compares the log with what was made from it: a log that is older
// than its feed or its snapshots (a backup, a disk that lied) must not be written
// to, or two histories would bear the same numbers.
func (s *site) refuseLostTail(ctx context.Context, end uint64) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for _, f := range s.snaps.List() {
		if f.N > end {
			return fmt.Errorf("the log ends at commit %d, but snapshot %s in %s was made after commit %d: %s", end, f.Name, s.snaps.Dir(), f.N, lostTailAdvice)
		}
	}
	if s.reads.reached {
		if err := s.useReadModels(ctx); err != nil && !s.reads.worthRetrying(err) {
			return err
		} else if err != nil {
			s.log.Error("the site starts without its read models", "err", err)
		}
	}
	return patiently(ctx, func() error { return s.refuseFeedAhead(ctx, end) })
}

func (s *site) refuseFeedAhead(ctx context.Context, end uint64) error {
	last, err := s.feed.Last(ctx)
	if err != nil || last == 0 {
		return err
	}
	events, _, err := s.feed.Page(ctx, last-1, 1)
	if err != nil || len(events) == 0 {
		return err
	}
	if err := s.commits.Check(ctx, events[0].Commit); err != nil {
		return fmt.Errorf("the log ends at commit %d, but the feed holds event %d of commit %d: %w: %s", end, last, events[0].Commit.N, err, lostTailAdvice)
	}
	return nil
}

// holds says whether the log has the commit that a host follows. That it has none of its
// number says nothing: a leader that has just been elected may not know it yet.
func (s *site) holds(ctx context.Context, h domain.Head) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err := s.commits.Check(ctx, h)
	if errors.Is(err, streams.ErrForked) {
		return false, nil
	}
	return err == nil, err
}
