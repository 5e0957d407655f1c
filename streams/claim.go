package streams

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Claim says which process of a site should write. It is a hint: what keeps two
// writers apart is the expected sequence of the append. But a writer answers what
// it does not append (refusals, queries) only while its claim is live, so that it
// does not answer from a world that another one has moved on.
//
// No clock is compared with another machine's. The holder counts from the moment
// before it renewed, and a contender takes over when it saw the claim unchanged for
// longer than that, each by its own monotonic clock.
type Claim struct {
	nc    *nats.Conn
	site  Names
	owner string
	ttl   time.Duration
	base  time.Time

	seq   uint64       // the claim this process wrote last
	until atomic.Int64 // nanoseconds after base until which it is live; 0: not held
}

// claimText is the message.
type claimText struct {
	Owner string `json:"owner"` // "" when given up
	TTLms int64  `json:"ttl_ms"`
}

// ErrClaimLost: another process took the claim, or it could not be renewed in time.
var ErrClaimLost = errors.New("streams: the writer claim is lost")

// OpenClaim connects. owner names this process (host and start, unique); ttl is
// how long a claim lives without renewal, 3 s if zero.
func OpenClaim(dial Dial, site Names, owner string, ttl time.Duration) (*Claim, error) {
	if owner == "" {
		return nil, errors.New("claim: no owner")
	}
	nc, err := connect(dial, "claim")
	if err != nil {
		return nil, err
	}
	if ttl == 0 {
		ttl = 3 * time.Second
	}
	return &Claim{nc: nc, site: site, owner: owner, ttl: ttl, base: time.Now()}, nil
}

// Close drops the connection; the claim runs out by itself. See Release.
func (c *Claim) Close() { c.nc.Close() }

// LiveUntil is until when the claim is surely this process's: the zero time if it
// is not held. Compare with time.Now() and keep a margin.
func (c *Claim) LiveUntil() time.Time {
	if n := c.until.Load(); n != 0 {
		return c.base.Add(time.Duration(n))
	}
	return time.Time{}
}

// Acquire waits until the claim is free or given up, and takes it.
func (c *Claim) Acquire(ctx context.Context) error {
	var seen uint64
	since := time.Now()
	for first := true; ; first = false { // ends with the claim, or ctx
		seq, owner, ttl, err := c.read(ctx)
		if err == nil {
			if seq != seen || first {
				seen, since = seq, time.Now()
			}
			if owner == "" || time.Since(since) > ttl+ttl/4 {
				if err = c.write(ctx, seq, c.owner); err == nil {
					return nil
				}
			}
		}
		if !wait(ctx, c.ttl/10) {
			return errors.Join(ctx.Err(), err)
		}
	}
}

// Keep renews the claim until ctx ends, and returns nil then, or [ErrClaimLost].
func (c *Claim) Keep(ctx context.Context) error {
	for wait(ctx, c.ttl/3) {
		err := c.write(ctx, c.seq, c.owner)
		if isWrongSequence(err) || err != nil && ctx.Err() == nil && !time.Now().Before(c.LiveUntil()) {
			c.until.Store(0)
			return fmt.Errorf("%w: %w", ErrClaimLost, err)
		}
	}
	return nil
}

// Release gives the claim up, so that another process need not wait for its end.
func (c *Claim) Release(ctx context.Context) error {
	if c.until.Swap(0) == 0 {
		return nil
	}
	err := c.write(ctx, c.seq, "")
	c.until.Store(0)
	return err
}

// read is the claim as it stands: owner "" if there is none.
func (c *Claim) read(ctx context.Context) (seq uint64, owner string, ttl time.Duration, err error) {
	attempt, cancel := context.WithTimeout(ctx, c.ttl)
	defer cancel()
	m, err := lastBySubject(attempt, c.nc, c.site.Claim(), c.site.claimSubject())
	if errors.Is(err, ErrNotFound) {
		return 0, "", 0, nil
	}
	if err != nil {
		return 0, "", 0, err
	}
	var text claimText
	if err := json.Unmarshal(m.Data, &text); err != nil {
		return m.Seq, "", 0, nil //nolint:nilerr // what cannot be read holds nobody back
	}
	return m.Seq, text.Owner, time.Duration(text.TTLms) * time.Millisecond, nil
}

// write replaces claim seq and nothing newer.
func (c *Claim) write(ctx context.Context, seq uint64, owner string) error {
	data, err := json.Marshal(claimText{owner, c.ttl.Milliseconds()})
	if err != nil {
		return err
	}
	before := time.Now()
	attempt, cancel := context.WithTimeout(ctx, c.ttl/3)
	defer cancel()
	reply, err := c.nc.RequestMsgWithContext(attempt, &nats.Msg{
		Subject: c.site.claimSubject(), Data: data,
		Header: nats.Header{jetstream.ExpectedLastSubjSeqHeader: {strconv.FormatUint(seq, 10)}},
	})
	if err != nil {
		return err
	}
	if c.seq, err = parseAckInto(c.seq, reply.Data); err != nil {
		return err
	}
	c.until.Store(int64(before.Add(c.ttl).Sub(c.base)))
	return nil
}

// parseAckInto keeps the old sequence on a refusal.
func parseAckInto(old uint64, data []byte) (uint64, error) {
	seq, err := parseAck(data)
	if err != nil {
		return old, err
	}
	return seq, nil
}
