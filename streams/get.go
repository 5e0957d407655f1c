package streams

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// storedMessage is a message as the stream's leader returns it.
type storedMessage struct {
	Subject string    `json:"subject"`
	Seq     uint64    `json:"seq"`
	Header  []byte    `json:"hdrs"`
	Data    []byte    `json:"data"`
	Time    time.Time `json:"time"`
}

// getMessage asks the leader of a stream; query is {"seq":n},
// {"last_by_subj":"..."} or {"seq":n,"next_by_subj":"..."}. [ErrNotFound] if there
// is no such message.
//
// The client's own Stream.GetMsg is not used: it takes the direct path, which any
// replica may answer, wherever a stream allows it.
func getMessage(ctx context.Context, nc *nats.Conn, stream string, query []byte) (*storedMessage, error) {
	return askAgain(ctx, func(ctx context.Context) (*storedMessage, error) { return getOnce(ctx, nc, stream, query) })
}

func getOnce(ctx context.Context, nc *nats.Conn, stream string, query []byte) (*storedMessage, error) {
	reply, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+stream, query)
	if err != nil {
		return nil, fmt.Errorf("read from %s: %w", stream, err)
	}
	var out struct {
		Error   *jetstream.APIError `json:"error"`
		Message *storedMessage      `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &out); err != nil {
		return nil, fmt.Errorf("read from %s: %w", stream, err)
	}
	switch {
	case out.Error != nil && out.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, fmt.Errorf("%w: %s in %s", ErrNotFound, query, stream)
	case out.Error != nil:
		return nil, fmt.Errorf("read from %s: %w", stream, out.Error)
	case out.Message == nil:
		return nil, fmt.Errorf("read from %s: empty answer", stream)
	}
	return out.Message, nil
}

func lastBySubject(ctx context.Context, nc *nats.Conn, stream, subject string) (*storedMessage, error) {
	query, err := json.Marshal(map[string]string{"last_by_subj": subject})
	if err != nil {
		return nil, err
	}
	return getMessage(ctx, nc, stream, query)
}
