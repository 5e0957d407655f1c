package streams

import (
	"errors"

	"github.com/nats-io/nats.go/jetstream"
)

// What can go wrong with the log. None of them is repaired here: the process ends,
// and the next start reads the log again (crash-only).
var (
	// ErrDeposed: another process appended at the expected place. This one no
	// longer writes.
	ErrDeposed = errors.New("streams: another writer appended to the log")
	// ErrUnknown: it could not be found out in time whether the commit landed.
	ErrUnknown = errors.New("streams: outcome of the append is unknown")
	// ErrForked: the log holds another commit than the reader knows at the same
	// number, or a commit that does not follow from the one before it.
	ErrForked = errors.New("streams: the log is not the one this reader followed")
	// ErrLostTail: the log ends before what the reader already knows.
	ErrLostTail = errors.New("streams: the log became shorter")
	// ErrTrimmed: the feed begins after the event asked for.
	ErrTrimmed = errors.New("streams: the feed no longer has these events")
	// ErrNotFound: no such message, document or key.
	ErrNotFound = errors.New("streams: not found")
	// ErrTooLarge: refused before anything was sent.
	ErrTooLarge = errors.New("streams: too large")
	// ErrNoHandler: nobody answers on that subject now.
	ErrNoHandler = errors.New("streams: nobody answers")
)

// codeWrongLastSequence is JetStream's refusal of an append whose expected last
// sequence is not the stream's (server/errors.json, JSStreamWrongLastSequence).
const codeWrongLastSequence = 10071

// codeWrongLastSubjectSequence is its sibling for per-subject expectations on
// replicated streams (JSStreamWrongLastSequenceConstant).
const codeWrongLastSubjectSequence = 10164

func isWrongSequence(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == codeWrongLastSequence || api.ErrorCode == codeWrongLastSubjectSequence)
}
