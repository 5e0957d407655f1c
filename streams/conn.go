package streams

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
)

// Dial opens a connection with one credential of the control plane, whose only
// inboxes are below [ControlInbox]. streams/server gives one for each
// of its roles; [DialCreds] makes one from a URL and a credentials file.
type Dial func(opts ...nats.Option) (*nats.Conn, error)

// DialCreds connects with a credentials file as written by streams/server.
func DialCreds(urls, file string, more ...nats.Option) Dial {
	return func(opts ...nats.Option) (*nats.Conn, error) {
		all := append([]nats.Option{nats.CustomInboxPrefix(ControlInbox), nats.UserCredentials(file)}, more...)
		nc, err := nats.Connect(urls, append(all, opts...)...)
		if err != nil { // the server does not say which
			if text, unread := os.ReadFile(file); unread != nil {
				err = unread
			} else if bad := CheckCreds(text); bad != nil {
				err = fmt.Errorf("credential %s is damaged: %w", file, bad)
			}
		}
		return nc, err
	}
}

// CheckCreds reports what is wrong with the text of a credentials file: a JWT that is
// signed, and the seed of whom it names.
func CheckCreds(text []byte) error {
	token, err := nkeys.ParseDecoratedJWT(text)
	if err != nil {
		return err
	}
	user, err := jwt.DecodeUserClaims(token)
	if err != nil {
		return err
	}
	key, err := nkeys.ParseDecoratedNKey(text)
	if err != nil {
		return err
	}
	defer key.Wipe()
	pub, err := key.PublicKey()
	if err == nil && pub != user.Subject {
		err = fmt.Errorf("its seed is not that of %s", user.Subject)
	}
	return err
}

// askTimeout bounds one question to the server. A question can be lost with a
// connection, so it never waits for the caller's whole deadline.
const askTimeout = 5 * time.Second

func ask(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, askTimeout)
}

// noLeader is the server's JSClusterNotAvailErr: the servers have no leader, or the stream
// has none. It passes within an election.
const noLeader = 10008

// askAgain puts a question that changes nothing until a leader is there to answer it, for
// no longer than one question may take.
func askAgain[T any](ctx context.Context, question func(context.Context) (T, error)) (T, error) {
	ctx, cancel := ask(ctx)
	defer cancel()
	var none error
	for {
		answer, err := question(ctx)
		var api *jetstream.APIError
		if !errors.As(err, &api) || api.ErrorCode != noLeader {
			if err != nil && none != nil && ctx.Err() != nil {
				err = none // the last question was cut short
			}
			return answer, err
		}
		none = err
		select {
		case <-ctx.Done():
			return answer, none
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// connect adds what every connection of the control plane needs. There is never a
// reconnect buffer: with one, a publish that was reported as timed out can land
// after the server came back, out of any order.
func connect(dial Dial, name string, opts ...nats.Option) (*nats.Conn, error) {
	all := []nats.Option{
		nats.Name(name),
		nats.CustomInboxPrefix(ControlInbox),
		nats.ReconnectBufSize(-1),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(100 * time.Millisecond),
		nats.ReconnectJitter(50*time.Millisecond, 100*time.Millisecond),
		nats.Timeout(5 * time.Second),
		nats.PingInterval(10 * time.Second),
		nats.MaxPingsOutstanding(2),
	}
	nc, err := dial(append(all, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("connect %s: %w", name, err)
	}
	return nc, nil
}

// connectJetStream is connect for who speaks with streams only.
func connectJetStream(dial Dial, name string) (*nats.Conn, jetstream.JetStream, error) {
	nc, err := connect(dial, name)
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	return nc, js, nil
}
