package streams

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// TestNoLeader answers as a cluster does that has no leader for a moment (seen when a machine
// stops for as long as its heartbeats): a question is put again, within its deadline.
func TestNoLeader(t *testing.T) {
	t.Parallel()
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	nc, err := nats.Connect(srv.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}

	const none = `{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}`
	var elections atomic.Int64 // answers that are still to be refused
	answer := func(subject, found string) {
		_, err := nc.Subscribe(subject, func(m *nats.Msg) {
			if elections.Add(-1) >= 0 {
				_ = m.Respond([]byte(none))
				return
			}
			_ = m.Respond([]byte(found))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	answer("$JS.API.STREAM.MSG.GET.LOG", `{"message":{"subject":"log","seq":7,"data":"Y29tbWl0"}}`)
	answer("$JS.API.STREAM.INFO.LOG", `{"config":{"name":"LOG"},"state":{"messages":7,"last_seq":7}}`)

	elections.Store(3)
	if m, err := getMessage(t.Context(), nc, "LOG", []byte(`{"seq":7}`)); err != nil || string(m.Data) != "commit" {
		t.Errorf("a message, asked for during an election: %v, %v", m, err)
	}
	elections.Store(3)
	if info, err := streamInfo(t.Context(), js, "LOG"); err != nil || info.State.LastSeq != 7 {
		t.Errorf("a stream's state, asked for during an election: %v, %v", info, err)
	}

	elections.Store(1 << 30)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = getMessage(ctx, nc, "LOG", []byte(`{"seq":7}`))
	if err == nil || errors.Is(err, ErrNotFound) || ctx.Err() == nil || !strings.Contains(err.Error(), "temporarily unavailable") {
		t.Errorf("a message of a cluster that stays without a leader: %v after %v", err, ctx.Err())
	}
}
