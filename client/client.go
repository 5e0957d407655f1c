package client

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// The bounds, unless an option says otherwise.
const (
	defaultTries   = 4
	defaultTimeout = 30 * time.Second
	maxAnswerBytes = 16 << 20
	maxEventBytes  = 1 << 20
	firstPause     = 200 * time.Millisecond
	longestPause   = 10 * time.Second
	pageItems      = 200
)

// Client speaks to one site with one key. It may be used by many goroutines.
type Client struct {
	base      string
	http      *http.Client
	authorize func(http.Header) // a closure, so that printing a Client does not show the key
	agent     string
	tries     int
	timeout   time.Duration
	anySeq    bool
	seen      atomic.Uint64

	// The clock's side of the client, which tests replace.
	sleep  func(context.Context, time.Duration) error
	jitter func(time.Duration) time.Duration
	quiet  time.Duration // an event stream silent for so long is dead
}

// Option changes how a client behaves.
type Option func(*Client)

// HTTPClient takes the transport (proxies, certificates) of h.
func HTTPClient(h *http.Client) Option { return func(c *Client) { c.http.Transport = h.Transport } }

// Timeout bounds each try; the context bounds all of them.
func Timeout(d time.Duration) Option { return func(c *Client) { c.timeout = max(d, time.Millisecond) } }

// Tries is how often a request is sent at most; 1 is: no retries.
func Tries(n int) Option { return func(c *Client) { c.tries = min(max(n, 1), 20) } }

// UserAgent names the program.
func UserAgent(s string) Option { return func(c *Client) { c.agent = s } }

// AnySequence lets reads answer with whatever they have: they may miss what this
// client wrote a moment ago.
func AnySequence() Option { return func(c *Client) { c.anySeq = true } }

// FromSequence starts with a Log-Sequence that another client saw.
func FromSequence(n uint64) Option { return func(c *Client) { c.seen.Store(n) } }

// New makes a client of the site at baseURL ("https://host[:port]"). The key may be
// empty for routes that need none.
func New(baseURL, key string, options ...Option) (*Client, error) {
	u, err := url.Parse(baseURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("client: the site's address is like https://host:port")
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("client: the site's address has no user, query or fragment")
	}
	key = strings.TrimSpace(key)
	for i := range len(key) {
		if key[i] <= ' ' || key[i] >= 0x7f {
			return nil, fmt.Errorf("client: the key has characters that no key has")
		}
	}
	c := &Client{
		base: strings.TrimRight(u.String(), "/"), tries: defaultTries, timeout: defaultTimeout, agent: "gpuaas-client",
		http: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		authorize: func(h http.Header) {
			if key != "" {
				h.Set("Authorization", "Bearer "+key)
			}
		},
		sleep:  sleep,
		jitter: func(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }, //nolint:gosec // jitter is no secret
		quiet:  time.Minute,
	}
	for _, o := range options {
		o(c)
	}
	return c, nil
}

// Sequence is the highest Log-Sequence this client saw.
func (c *Client) Sequence() uint64 { return c.seen.Load() }

func (c *Client) saw(n uint64) {
	for old := c.seen.Load(); n > old && !c.seen.CompareAndSwap(old, n); old = c.seen.Load() {
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
