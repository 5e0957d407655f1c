package streams

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/gpuaas/gpuaas/domain"
)

// FeedEvent is one event of the feed.
type FeedEvent struct {
	Number   uint64          // its number over the whole log, its sequence in the feed
	Subject  string          // ev.<site>.<family>[.<owner>].<event>
	Type     string          // "allocation.placed"
	Resource string          // the id of what it is about
	At       domain.Time     // of its commit
	Commit   domain.Head     // where in the log it stands
	Data     json.RawMessage // the event's body
}

// The headers of an event: CloudEvents 1.0 in the binary content mode of its NATS
// binding (every attribute a header, named with ce- in front; lower case, because
// NATS compares header names exactly), and two extension attributes for the place
// in the log.
const (
	headerSpec        = "ce-specversion"
	headerID          = "ce-id" // the event's number
	headerType        = "ce-type"
	headerSource      = "ce-source" // /sites/<site>
	headerSubject     = "ce-subject"
	headerTime        = "ce-time"
	headerCommit      = "ce-commit"     // the commit's number
	headerCommitHash  = "ce-commithash" // SHA-256 of the commit's bytes
	headerContentType = "content-type"
	contentJSON       = "application/json"
)

// eventHeaders makes the headers of the events of one commit, one after the other,
// in one map: a publish encodes them before it returns.
type eventHeaders struct {
	out                         nats.Header
	kind, id, subject, expected [1]string
}

func newEventHeaders(site Names, c *domain.Commit, head domain.Head) *eventHeaders {
	return &eventHeaders{out: nats.Header{
		headerSpec: {"1.0"}, headerContentType: {contentJSON},
		headerSource: {"/sites/" + string(site)}, headerTime: {c.At.String()},
		headerCommit: {strconv.FormatUint(head.N, 10)}, headerCommitHash: {head.Hash.String()},
	}}
}

// of are the headers of one event, with the fence of its publish: good until the
// next call.
func (h *eventHeaders) of(e *domain.Event) nats.Header {
	h.kind[0], h.id[0] = e.Body.EventType(), strconv.FormatUint(e.Number, 10)
	h.expected[0] = strconv.FormatUint(e.Number-1, 10)
	h.out[headerType], h.out[headerID], h.out[jetstream.ExpectedLastSeqHeader] = h.kind[:], h.id[:], h.expected[:]
	delete(h.out, headerSubject)
	if h.subject[0] = e.Body.Resource(); h.subject[0] != "" {
		h.out[headerSubject] = h.subject[:]
	}
	return h.out
}

// event reads a stored message of the feed.
func (m *storedMessage) event() (FeedEvent, error) {
	h, err := nats.DecodeHeadersMsg(m.Header)
	if err != nil {
		return FeedEvent{}, fmt.Errorf("message %d of the feed: %w", m.Seq, err)
	}
	return parseEvent(m.Seq, m.Subject, h, m.Data)
}

func parseEvent(seq uint64, subject string, h nats.Header, data []byte) (FeedEvent, error) {
	e := FeedEvent{Subject: subject, Type: h.Get(headerType), Resource: h.Get(headerSubject), Data: data}
	var errs [4]error
	e.Number, errs[0] = strconv.ParseUint(h.Get(headerID), 10, 64)
	e.Commit.N, errs[1] = strconv.ParseUint(h.Get(headerCommit), 10, 64)
	errs[2] = e.Commit.Hash.UnmarshalText([]byte(h.Get(headerCommitHash)))
	errs[3] = e.At.UnmarshalText([]byte(h.Get(headerTime)))
	for _, err := range errs {
		if err != nil {
			return e, fmt.Errorf("message %d of the feed: %w", seq, err)
		}
	}
	return e, nil
}
