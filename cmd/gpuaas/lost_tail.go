package main

import (
	"context"
	"fmt"
)

// refuseLostTail compares the log with what was made from it: a log that is older
// than its feed or its snapshots (a backup, a disk that lied) must not be written
// to, or two histories would bear the same numbers.
func (s *site) refuseLostTail(ctx context.Context, end uint64) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	const advice = "bring the newest log back before starting this site: nothing was written"
	for _, f := range s.snaps.List() {
		if f.N > end {
			return fmt.Errorf("the log ends at commit %d, but snapshot %s in %s was made after commit %d: %s", end, f.Name, s.snaps.Dir(), f.N, advice)
		}
	}
	shown, err := s.reads.store.Head(ctx)
	if err != nil {
		return fmt.Errorf("read models: %w", err)
	}
	if err := s.commits.Check(ctx, shown); err != nil {
		return fmt.Errorf("the log ends at commit %d, but the read models show commit %d: %w: %s, or drop the database if the log is right", end, shown.N, err, advice)
	}
	last, err := s.feed.Last(ctx)
	if err != nil || last == 0 {
		return err
	}
	events, _, err := s.feed.Page(ctx, last-1, 1)
	if err != nil || len(events) == 0 {
		return err
	}
	if err := s.commits.Check(ctx, events[0].Commit); err != nil {
		return fmt.Errorf("the log ends at commit %d, but the feed holds event %d of commit %d: %w: %s", end, last, events[0].Commit.N, err, advice)
	}
	return nil
}
