package streams

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
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
	nc   *nats.Conn
	o    ClaimOptions
	base time.Time

	mu    sync.Mutex   // of one write at a time
	seq   uint64       // the claim this process wrote last
	until atomic.Int64 // nanoseconds after base until which it is live; 0: not held
	seen  atomic.Pointer[Holder]
}

// Holder is who has the claim.
type Holder struct {
	Name string `json:"owner"`         // of the process, the same over its restarts; "" when given up
	URL  string `json:"url,omitempty"` // where its API is
}

// ClaimOptions open a claim.
type ClaimOptions struct {
	Dial Dial // the runtime's credential
	Site Names
	Me   Holder        // unique among the processes of the site; what it held before a restart is its own at once
	TTL  time.Duration // how long a claim lives without renewal, 3 s if zero
	// Gone reports whether the holder is surely not there any more, so that nobody has
	// to wait for the claim's end. Nil: not known.
	Gone func(Holder) bool
}

// claimText is the message.
type claimText struct {
	Holder
	TTLms int64 `json:"ttl_ms"`
}

// ErrClaimLost: another process took the claim.
var ErrClaimLost = errors.New("streams: the writer claim is lost")

// claimLook is how often a process that waits looks who has the claim.
const claimLook = 25 * time.Millisecond

// OpenClaim connects.
func OpenClaim(o ClaimOptions) (*Claim, error) {
	if o.Me.Name == "" {
		return nil, errors.New("claim: no owner")
	}
	nc, err := connect(o.Dial, "claim")
	if err != nil {
		return nil, err
	}
	if o.TTL == 0 {
		o.TTL = 3 * time.Second
	}
	c := &Claim{nc: nc, o: o, base: time.Now()}
	c.seen.Store(&Holder{})
	return c, nil
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

// Holder is who had the claim when this process looked last: nobody if its name is
// empty.
func (c *Claim) Holder() Holder { return *c.seen.Load() }

// Acquire waits until the claim is free, given up or its holder gone, and takes it.
func (c *Claim) Acquire(ctx context.Context) error {
	var seen uint64
	since := time.Now()
	for first := true; ; { // ends with the claim, or ctx
		seq, text, err := c.look(ctx)
		if err == nil {
			if seq != seen || first {
				seen, since, first = seq, time.Now(), false
			}
			ttl := time.Duration(text.TTLms) * time.Millisecond
			switch {
			case text.Name == "", text.Name == c.o.Me.Name, time.Since(since) > ttl+ttl/4, c.o.Gone != nil && c.o.Gone(text.Holder):
				if err = c.write(ctx, seq, c.o.Me); err == nil {
					return nil
				}
			}
		}
		if !wait(ctx, claimLook) {
			return errors.Join(ctx.Err(), err)
		}
	}
}

// Watch looks who has the claim until ctx ends; see [Claim.Holder].
func (c *Claim) Watch(ctx context.Context) {
	for ctx.Err() == nil {
		_, _, _ = c.look(ctx)
		wait(ctx, claimLook)
	}
}

// Keep renews the claim until ctx ends, and returns nil then, or [ErrClaimLost]. A
// claim that cannot be renewed is not live after a while, but lost only to another
// process: a site whose streams have no leader for some seconds keeps its writer.
func (c *Claim) Keep(ctx context.Context) error {
	for wait(ctx, c.o.TTL/3) { // ends with ctx, or the claim
		if err := c.replace(ctx, c.o.Me); errors.Is(err, ErrClaimLost) {
			c.until.Store(0)
			return err
		}
	}
	return nil
}

// replace writes over what this process wrote last. An answer may have been lost: a
// claim that is another one than thought may still be its own.
func (c *Claim) replace(ctx context.Context, by Holder) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.write(ctx, c.seq, by)
	if !isWrongSequence(err) {
		return err
	}
	seq, text, err := c.look(ctx)
	if err != nil {
		return err
	}
	if text.Name != "" && text.Name != c.o.Me.Name {
		return fmt.Errorf("%w to %s", ErrClaimLost, text.Name)
	}
	return c.write(ctx, seq, by)
}

// Release gives the claim up, so that another process need not wait for its end.
func (c *Claim) Release(ctx context.Context) error {
	if c.until.Swap(0) == 0 {
		return nil
	}
	err := c.replace(ctx, Holder{})
	c.until.Store(0)
	return err
}

// look reads the claim as it stands.
func (c *Claim) look(ctx context.Context) (uint64, claimText, error) {
	attempt, cancel := context.WithTimeout(ctx, c.o.TTL)
	defer cancel()
	var text claimText
	m, err := lastBySubject(attempt, c.nc, c.o.Site.Claim(), c.o.Site.claimSubject())
	switch {
	case errors.Is(err, ErrNotFound):
	case err != nil:
		return 0, text, err
	case json.Unmarshal(m.Data, &text) != nil:
		text = claimText{} // what cannot be read holds nobody back
	}
	c.seen.Store(&text.Holder)
	if m == nil {
		return 0, text, nil
	}
	return m.Seq, text, nil
}

// write replaces claim seq and nothing newer.
func (c *Claim) write(ctx context.Context, seq uint64, by Holder) error {
	data, err := json.Marshal(claimText{by, c.o.TTL.Milliseconds()})
	if err != nil {
		return err
	}
	before := time.Now()
	attempt, cancel := context.WithTimeout(ctx, c.o.TTL/3)
	defer cancel()
	reply, err := c.nc.RequestMsgWithContext(attempt, &nats.Msg{
		Subject: c.o.Site.claimSubject(), Data: data,
		Header: nats.Header{jetstream.ExpectedLastSubjSeqHeader: {strconv.FormatUint(seq, 10)}},
	})
	if err != nil {
		return err
	}
	now, err := parseAck(reply.Data)
	if err != nil {
		return err
	}
	c.seq = now
	c.seen.Store(&by)
	if by == c.o.Me { // what is given up is not live for a moment either
		c.until.Store(int64(before.Add(c.o.TTL).Sub(c.base)))
	}
	return nil
}
