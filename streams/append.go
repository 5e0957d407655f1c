package streams

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// appendBackoff is the pause before the first re-send, doubled up to the maximum.
	appendBackoff    = 5 * time.Millisecond
	appendBackoffMax = 500 * time.Millisecond
)

// Append makes commit durable as message expectedSeq+1, and returns that number.
// The log's own check of the expected sequence is the fence between writers.
//
// A timeout, a lost connection or "wrong last sequence" says nothing about whether
// the message landed, and a read that does not find it says nothing either: it may
// land a moment later. So the identical bytes are sent again with the identical
// expected sequence until message expectedSeq+1 exists. If it holds these bytes,
// that is success; if it holds others, [ErrDeposed]. Append never re-decides.
//
// When ctx ends first the outcome is [ErrUnknown], and the process must exit: its
// next start reads what the log really holds. The deadline of ctx is how long the
// site can be without JetStream before that.
func (l *Log) Append(ctx context.Context, expectedSeq uint64, commit []byte) (uint64, error) {
	if len(commit) == 0 || len(commit) > maxMessageBytes {
		return 0, fmt.Errorf("%w: a commit of %d bytes", ErrTooLarge, len(commit))
	}
	msg := &nats.Msg{Subject: l.c.Site.LogSubject(), Data: commit, Header: nats.Header{
		jetstream.ExpectedLastSeqHeader: {strconv.FormatUint(expectedSeq, 10)},
		jetstream.ExpectedStreamHeader:  {l.stream},
	}}
	pause := appendBackoff
	for { // ends with an answer, or with ctx
		seq, err := l.send(ctx, msg)
		if err == nil {
			if seq != expectedSeq+1 {
				return 0, fmt.Errorf("%w: expected message %d, was acknowledged as %d", ErrForked, expectedSeq+1, seq)
			}
			l.recent.add(seq, commit)
			return seq, nil
		}
		if isWrongSequence(err) {
			if done, settled := l.settle(ctx, expectedSeq+1, commit); settled {
				if done == nil {
					l.recent.add(expectedSeq+1, commit)
				}
				return expectedSeq + 1, done
			}
		}
		if ctx.Err() != nil || !wait(ctx, pause) {
			return 0, fmt.Errorf("%w: message %d: %w", ErrUnknown, expectedSeq+1, errors.Join(err, l.lastAsyncError()))
		}
		pause = min(2*pause, appendBackoffMax)
	}
}

// send is one attempt: one publish and its acknowledgement.
func (l *Log) send(ctx context.Context, msg *nats.Msg) (uint64, error) {
	attempt, cancel := context.WithTimeout(ctx, l.c.AttemptTimeout)
	defer cancel()
	reply, err := l.nc.RequestMsgWithContext(attempt, msg)
	if err != nil {
		return 0, err
	}
	return parseAck(reply.Data)
}

// settle looks whether message seq exists. Only a message that is there settles
// anything: nil for these bytes, [ErrDeposed] for others.
func (l *Log) settle(ctx context.Context, seq uint64, commit []byte) (err error, settled bool) {
	attempt, cancel := context.WithTimeout(ctx, l.c.AttemptTimeout)
	defer cancel()
	found, err := l.message(attempt, seq)
	if err != nil {
		return nil, false
	}
	if !bytes.Equal(found, commit) {
		return fmt.Errorf("%w: message %d is not this writer's", ErrDeposed, seq), true
	}
	return nil, true
}

// ackPrefix is how the server begins a publish acknowledgement; see parseAck.
type publishAck struct {
	Error *jetstream.APIError `json:"error"`
	Seq   uint64              `json:"seq"`
}

// parseAck reads the server's answer to a publish.
func parseAck(data []byte) (uint64, error) {
	var ack publishAck
	if err := json.Unmarshal(data, &ack); err != nil {
		return 0, fmt.Errorf("acknowledgement %.80q: %w", data, err)
	}
	if ack.Error != nil {
		return 0, ack.Error
	}
	if ack.Seq == 0 {
		return 0, fmt.Errorf("acknowledgement %.80q has no sequence", data)
	}
	return ack.Seq, nil
}

// wait sleeps, and reports false when ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
