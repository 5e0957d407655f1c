package commands

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

// pending is a group on its way, with everyone who waits for it.
type pending struct {
	closed  Closed
	replies []waiting
	events  []domain.EventBody // for the directory
	since   time.Time
	state   []byte // the world after this commit, when a snapshot is due
	sealing sync.Once
}

// seal makes the commit's hash: the appender does, or a question that needs it sooner.
func (p *pending) seal() { p.sealing.Do(p.closed.Seal) }

type waiting struct {
	it    *item
	reply Reply
}

// close finishes a group and hands it to the appender.
func (l *Loop) close(open *pending) *pending {
	open.closed = l.core.Cut() // the appender seals it
	open.since, l.closed = l.o.Clock(), open
	if l.o.Snapshot != nil && open.closed.Head.N >= l.snapAt+l.o.SnapshotEvery && l.o.SnapshotEvery > 0 {
		l.snapAt = open.closed.Head.N
		l.sealed(open)
		open.state = l.core.World().Encode() // kept once the commit is: a snapshot never knows more than the log
	}
	return open
}

// sealed lets the world know the hash of the group that was closed last.
func (l *Loop) sealed(p *pending) {
	p.seal()
	l.core.Sealed(p.closed.Head)
	l.closed = nil
}

// lastSnapshot keeps the state at a clean stop, so that the next start is quick.
func (l *Loop) lastSnapshot() {
	if w := l.core.World(); l.o.Final != nil && w.Head.N > l.snapAt {
		l.o.Final(w.Head, w.Encode())
	}
}

// appender makes one group after another durable. The loop's own ctx says only when to
// become impatient: what was begun is finished.
func (l *Loop) appender(ctx, loop context.Context, in <-chan *pending, acks chan<- error) {
	for p := range in {
		l.appending.Store(l.o.Clock().UnixMilli())
		p.seal()
		attempt, cancel := l.patience(ctx, loop)
		_, err := l.o.Log.Append(attempt, l.o.Log.Seq(p.closed.Head.N)-1, p.closed.Commit)
		cancel()
		l.appending.Store(0)
		acks <- err
	}
}

// patience is how long one append may take.
func (l *Loop) patience(ctx, loop context.Context) (context.Context, context.CancelFunc) {
	if !l.o.Alone {
		return context.WithTimeout(ctx, l.o.AppendTimeout)
	}
	attempt, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(loop, func() {
		select {
		case <-time.After(l.o.AppendTimeout):
			cancel()
		case <-attempt.Done():
		}
	})
	return attempt, func() { stop(); cancel() }
}

// durable answers everyone in a group that is now in the log.
func (l *Loop) durable(p *pending, err error) error {
	if err != nil {
		return fmt.Errorf("append of commit %d: %w", p.closed.Head.N, err)
	}
	l.sealed(p)
	l.o.Metrics.durable(p, l.o.Clock())
	l.dir.apply(p.events)
	if p.state != nil {
		l.o.Snapshot(p.closed.Head, p.state)
	}
	if l.o.Publisher != nil && len(p.closed.Placements) > 0 {
		l.o.Publisher.Offer(p.closed.Placements)
	}
	l.answer(p)
	l.core.Recycle(p.closed.Commit)
	return nil
}

func (l *Loop) answer(p *pending) {
	for _, w := range p.replies {
		w.it.reply <- w.reply
	}
}

// answerUnwritten answers a group in which nothing was decided: what its replies read
// is durable. A refusal says that the site does not want something, so it waits while
// another process may have decided since; a question is answered by standbys too.
func (l *Loop) answerUnwritten(p *pending) {
	live := l.o.Live == nil || l.o.Live()
	left := p.replies[:0]
	for _, w := range p.replies {
		if live || w.it.query != nil {
			w.it.reply <- w.reply
		} else {
			left = append(left, w)
		}
	}
	clear(p.replies[len(left):])
	p.replies = left
}

// giveUp tells everyone that the outcome is not known.
func (l *Loop) giveUp(err error, groups ...*pending) error {
	unknown := domain.Errorf(domain.Unavailable, "outcome.unknown", "the outcome is not known: repeat the request with the same Idempotency-Key")
	for _, p := range groups {
		if p == nil {
			continue
		}
		for _, w := range p.replies {
			w.it.reply <- Reply{Err: unknown}
		}
	}
	return err
}
