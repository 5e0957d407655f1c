package client

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Answer is what came back, before it was decoded.
type Answer struct {
	Status    int
	Sequence  uint64 // Log-Sequence; 0: none
	RequestID string
	CommandID string // of commands
	Body      []byte // as received
	Tries     int
}

type (
	answerKey struct{}
	idemKey   struct{}
)

// OnAnswer calls f with every answer to a request made with the context: with each
// page of a list, with a refusal too, once its retries are over.
func OnAnswer(ctx context.Context, f func(*Answer)) context.Context {
	return context.WithValue(ctx, answerKey{}, f)
}

// WithIdempotencyKey makes the one command that is sent with the context use this
// key (1 to 255 printable ASCII characters) instead of a new one: a program that
// was restarted asks again without doing it again.
func WithIdempotencyKey(ctx context.Context, key string) context.Context {
	return context.WithValue(ctx, idemKey{}, key)
}

// request is one call of a route, the same over all its tries.
type request struct {
	method string
	path   string // with its ids escaped
	query  url.Values
	body   any  // nil: none
	anySeq bool // this route knows no at_least
	accept string
}

// path fills a route's path with ids: "/v1/hosts/%s".
func path(format string, ids ...string) string {
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = url.PathEscape(id)
		if id == "" || id == "." || id == ".." {
			args[i] = "-" // no id: not found, instead of another route
		}
	}
	return fmt.Sprintf(format, args...)
}

// get, post, put and del call a route and decode its answer.
func get[T any](ctx context.Context, c *Client, path string, query url.Values) (*T, error) {
	return call[T](ctx, c, &request{method: http.MethodGet, path: path, query: query})
}

func post[T any](ctx context.Context, c *Client, path string, body any) (*T, error) {
	return call[T](ctx, c, &request{method: http.MethodPost, path: path, body: body})
}

func put[T any](ctx context.Context, c *Client, path string, body any) (*T, error) {
	return call[T](ctx, c, &request{method: http.MethodPut, path: path, body: body})
}

func del[T any](ctx context.Context, c *Client, path string) (*T, error) {
	return call[T](ctx, c, &request{method: http.MethodDelete, path: path})
}

func call[T any](ctx context.Context, c *Client, r *request) (*T, error) {
	a, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	return decode[T](r, a)
}

func decode[T any](r *request, a *Answer) (*T, error) {
	out := new(T)
	if err := json.Unmarshal(a.Body, out); err != nil {
		return nil, fmt.Errorf("client: %s %s answered something that is not its JSON (request %s): %w", r.method, r.path, a.RequestID, err)
	}
	return out, nil
}

// do sends a request until it is answered for good, its tries are used up, or ctx
// ends.
func (c *Client) do(ctx context.Context, r *request) (*Answer, error) {
	var body []byte
	if r.body != nil {
		var err error
		if body, err = json.Marshal(r.body); err != nil {
			return nil, fmt.Errorf("client: %s %s: %w", r.method, r.path, err)
		}
	}
	header := http.Header{"User-Agent": {c.agent}, "Accept": {cmpOr(r.accept, "application/json")}}
	if body != nil {
		header.Set("Content-Type", "application/json")
	}
	if r.method != http.MethodGet {
		key, _ := ctx.Value(idemKey{}).(string)
		header.Set("Idempotency-Key", cmpOr(key, newKey()))
	}
	c.authorize(header)
	for try := 1; ; try++ { // ends with c.tries
		a, err := c.try(ctx, r, header, body)
		if err == nil || try >= c.tries || ctx.Err() != nil || !passes(err) {
			if a != nil {
				a.Tries = try
				if f, ok := ctx.Value(answerKey{}).(func(*Answer)); ok {
					f(a)
				}
			}
			return a, err
		}
		if c.sleep(ctx, c.pause(err, try)) != nil {
			return a, err // what the site said says more than "deadline exceeded"
		}
	}
}

// try sends a request once. The answer comes beside a refusal too.
func (c *Client) try(ctx context.Context, r *request, header http.Header, body []byte) (*Answer, error) {
	tryCtx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	res, err := c.send(tryCtx, r, header, body)
	if err != nil {
		return nil, lost(ctx, err)
	}
	defer res.Body.Close()
	a := &Answer{Status: res.StatusCode, RequestID: res.Header.Get("X-Request-Id"), CommandID: res.Header.Get("Command-Id")}
	a.Sequence, _ = strconv.ParseUint(res.Header.Get("Log-Sequence"), 10, 64)
	if a.Body, err = io.ReadAll(io.LimitReader(res.Body, maxAnswerBytes+1)); err != nil {
		return nil, lost(ctx, err)
	}
	if len(a.Body) > maxAnswerBytes {
		return nil, fmt.Errorf("client: %s %s answered more than %d bytes", r.method, r.path, maxAnswerBytes)
	}
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return a, problemOf(res.StatusCode, res.Header, a.Body)
	}
	c.saw(a.Sequence)
	return a, nil
}

func (c *Client) send(ctx context.Context, r *request, header http.Header, body []byte) (*http.Response, error) {
	query := r.query
	if n := c.seen.Load(); r.method == http.MethodGet && !r.anySeq && !c.anySeq && n > 0 {
		query = url.Values{"at_least": {strconv.FormatUint(n, 10)}}
		for k, v := range r.query {
			query[k] = v
		}
	}
	address := c.base + r.path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, address, reader)
	if err != nil {
		return nil, err
	}
	req.Header = header.Clone()
	return c.http.Do(req)
}

// lost is for a try that got no answer: the caller's context ended, or the
// connection broke or was too slow.
func lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // without the address, which the caller knows
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = errors.New("no answer in time")
	}
	return &Unreachable{err}
}

// passes reports whether another try may help.
func passes(err error) bool {
	var p *Problem
	if errors.As(err, &p) {
		return p.passes()
	}
	var u *Unreachable
	var cert *tls.CertificateVerificationError
	return errors.As(err, &u) && !errors.As(err, &cert)
}

// pause grows with every try, and is as long as the site asks for.
func (c *Client) pause(err error, try int) time.Duration {
	d := min(firstPause<<min(try-1, 10), longestPause)
	var p *Problem
	if errors.As(err, &p) && p.retryAfter > d {
		d = min(p.retryAfter, longestPause)
		return d + c.jitter(d/4)
	}
	return c.jitter(d)
}

// retryAfter reads the header's seconds (RFC 9110, 10.2.3); dates are not sent.
func retryAfter(s string) time.Duration {
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil || n < 0 {
		return 0
	}
	return time.Duration(min(n, 3600)) * time.Second
}

func newKey() string { return "go-" + crand.Text() }

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
