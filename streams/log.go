package streams

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/gpuaas/gpuaas/domain"
)

// LogConfig opens a log.
type LogConfig struct {
	Dial Dial // the runtime's credential
	Site Names

	// AttemptTimeout bounds one try of an append, 2 s if zero.
	AttemptTimeout time.Duration
	// LostTailGrace is how long Follow lets a stream look shorter than what it read
	// (a leader that has just been elected) before it is [ErrLostTail]; 10 s if zero.
	LostTailGrace time.Duration
	// OnError hears what the connection reports out of band: refused permissions,
	// slow consumers. It must not block. Nil drops it.
	OnError func(error)
}

const lostTailGrace = 10 * time.Second

// Log is the stream of commits. Append belongs to one goroutine; everything else
// may be called by many.
type Log struct {
	c      LogConfig
	nc     *nats.Conn
	js     jetstream.JetStream
	stream string
	offset int64 // stream sequence - commit number
	recent recent

	asyncErr atomic.Pointer[error] // the last out-of-band error, to explain a timeout
}

// OpenLog connects, on a connection of its own, and reads where the log begins.
func OpenLog(ctx context.Context, c LogConfig) (*Log, error) {
	if _, err := ParseSite(string(c.Site)); err != nil {
		return nil, err
	}
	if c.AttemptTimeout == 0 {
		c.AttemptTimeout = 2 * time.Second
	}
	if c.LostTailGrace == 0 {
		c.LostTailGrace = lostTailGrace
	}
	l := &Log{c: c, stream: c.Site.Log()}
	nc, err := connect(c.Dial, "log", nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		l.asyncErr.Store(&err)
		if c.OnError != nil {
			c.OnError(err)
		}
	}))
	if err != nil {
		return nil, err
	}
	l.nc = nc
	if l.js, err = jetstream.New(nc); err == nil {
		err = l.readOffset(ctx)
	}
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("open %s: %w", l.stream, err)
	}
	return l, nil
}

// Close drops the connection. An Append under way ends with [ErrUnknown].
func (l *Log) Close() { l.nc.Close() }

// readOffset learns the distance between sequences and commit numbers. It is 0 for
// a log that began with its stream, and constant for a stream's life.
func (l *Log) readOffset(ctx context.Context) error {
	info, err := l.info(ctx)
	if err != nil {
		return err
	}
	if info.State.Msgs == 0 {
		l.offset = int64(info.State.LastSeq)
		return nil
	}
	first, err := l.message(ctx, info.State.FirstSeq)
	if err != nil {
		return err
	}
	h, _, err := domain.DecodeCommitHeader(first)
	if err != nil {
		return fmt.Errorf("%w: message %d: %w", ErrForked, info.State.FirstSeq, err)
	}
	l.offset = int64(info.State.FirstSeq) - int64(h.N)
	return nil
}

// Seq is the stream sequence of commit n, NumberAt the commit at a sequence. They
// are equal in a log that began with its stream; nothing outside the append and
// the readers uses a sequence.
func (l *Log) Seq(n uint64) uint64 { return uint64(int64(n) + l.offset) }

// NumberAt is the commit number at a stream sequence; see [Log.Seq].
func (l *Log) NumberAt(seq uint64) uint64 { return uint64(int64(seq) - l.offset) }

// Last is the last message of the log: its sequence and bytes. An empty log
// answers the sequence an append must expect and no bytes. Right after an append of
// unknown outcome the answer may miss what lands later.
func (l *Log) Last(ctx context.Context) (seq uint64, data []byte, err error) {
	info, err := l.info(ctx)
	if err != nil {
		return 0, nil, err
	}
	seq = info.State.LastSeq
	if info.State.Msgs == 0 {
		return seq, nil, nil
	}
	data, err = l.message(ctx, seq)
	return seq, data, err
}

// Newest is the number of the last commit, 0 in an empty log.
func (l *Log) Newest(ctx context.Context) (uint64, error) {
	info, err := l.info(ctx)
	if err != nil || info.State.Msgs == 0 {
		return 0, err
	}
	return l.NumberAt(info.State.LastSeq), nil
}

// info asks the stream's leader.
func (l *Log) info(ctx context.Context) (*jetstream.StreamInfo, error) {
	return streamInfo(ctx, l.js, l.stream)
}

func streamInfo(ctx context.Context, js jetstream.JetStream, name string) (*jetstream.StreamInfo, error) {
	s, err := askAgain(ctx, func(ctx context.Context) (jetstream.Stream, error) { return js.Stream(ctx, name) })
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", name, err)
	}
	return s.CachedInfo(), nil
}

// message reads one message from the stream's leader (STREAM.MSG.GET; a direct get
// could be answered by a follower that is behind).
func (l *Log) message(ctx context.Context, seq uint64) ([]byte, error) {
	m, err := getMessage(ctx, l.nc, l.stream, fmt.Appendf(nil, `{"seq":%d}`, seq))
	if err != nil {
		return nil, err
	}
	if m.Seq != seq {
		return nil, fmt.Errorf("%w: asked %s for message %d, got %d", ErrForked, l.stream, seq, m.Seq)
	}
	return m.Data, nil
}

func (l *Log) lastAsyncError() error {
	if p := l.asyncErr.Load(); p != nil {
		return *p
	}
	return nil
}

// Check reads commit h.N and compares its hash: nil if the log holds h.
// [ErrLostTail] if the log ends before it, [ErrForked] if it holds another.
func (l *Log) Check(ctx context.Context, h domain.Head) error {
	if h == (domain.Head{}) {
		return nil
	}
	data, err := l.message(ctx, l.Seq(h.N))
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%w: no commit %d", ErrLostTail, h.N)
	}
	if err != nil {
		return err
	}
	if hash := domain.DigestOf(data); hash != h.Hash {
		return fmt.Errorf("%w: commit %d is %s, expected %s", ErrForked, h.N, hash, h.Hash)
	}
	return nil
}
