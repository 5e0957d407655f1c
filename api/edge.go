package api

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	crand "crypto/rand"

	"github.com/danielgtaylor/huma/v2"
	"github.com/labstack/echo/v4"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
)

// The bounds of a request.
const (
	maxBodyBytes   = 256 << 10
	maxHeaderBytes = 32 << 10
	bodyTimeout    = 15 * time.Second // to receive a body
	headerTimeout  = 10 * time.Second
	idleTimeout    = 120 * time.Second
	writeTimeout   = 90 * time.Second // from the request's header to the end of the answer
)

// call is one request on its way.
type call struct {
	s      *Server
	echo   echo.Context
	id     string      // request id
	at     domain.Time // when it came
	body   []byte
	secret domain.Digest // of the key it came with
	lane   *lane
	out    restingWriter

	working bool // it has a turn at the processors
	caller  commands.Caller
	known   bool // caller is set
	cmd     domain.Command
}

type callKey struct{}

// callOf finds the call of a request's context, or nil.
func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

func (s *Server) newCall(ec echo.Context) *call {
	now := s.o.Clock()
	return &call{s: s, echo: ec, id: requestID(ec.Request().Header.Get("X-Request-Id"), now), at: domain.TimeOf(now)}
}

func (c *call) ctx() context.Context { return c.echo.Request().Context() }
func (c *call) method() string       { return c.echo.Request().Method }

// requestID accepts a caller's id of 1 to 64 plain characters, or makes one.
func requestID(given string, now time.Time) string {
	ok := given != "" && len(given) <= 64
	for i := 0; ok && i < len(given); i++ {
		ch := given[i]
		ok = ch >= 'a' && ch <= 'z' || ch >= 'A' && ch <= 'Z' || ch >= '0' && ch <= '9' || ch == '-' || ch == '_' || ch == '.'
	}
	if ok {
		return given
	}
	var raw [12]byte
	ms := uint64(now.UnixMilli())
	for i := range 6 {
		raw[i] = byte(ms >> (40 - 8*i))
	}
	_, _ = crand.Read(raw[6:])
	b := make([]byte, 4+24)
	copy(b, "req_")
	hex.Encode(b[4:], raw[:])
	return string(b)
}

// edge is the outermost handler: it gives the request an id, a deadline and a body
// that is read and bounded, and turns a panic into a problem.
func (s *Server) edge(next echo.HandlerFunc) echo.HandlerFunc {
	return func(ec echo.Context) (err error) {
		c := s.newCall(ec)
		h := ec.Response().Header()
		h["X-Request-Id"] = []string{c.id}
		h["X-Content-Type-Options"] = noSniff
		h["Cache-Control"] = noStore
		start := time.Now()
		defer func() {
			if r := recover(); r != nil {
				if abort, ok := r.(error); ok && errors.Is(abort, http.ErrAbortHandler) {
					panic(r)
				}
				err = fmt.Errorf("panic: %v", r)
			}
			if err != nil {
				s.handleEchoError(err, ec)
				err = nil
			}
			s.metrics.request(ec, start)
		}()
		r := ec.Request()
		var key laneKey
		var derr *domain.Error
		key, c.secret = s.laneOf(r, c.at)
		if c.lane, derr = s.enter(ec.Response(), r, key); derr != nil {
			return c.fail(derr)
		}
		defer s.shares.leave(c.lane)
		ctx := context.WithValue(r.Context(), callKey{}, c)
		if !streaming(r) {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, s.o.Deadline)
			defer cancel()
		}
		r = r.WithContext(ctx)
		ec.SetRequest(r)
		if r.ContentLength != 0 && rawBody(r) {
			boundRaw(ec.Response(), s.o.Deadline)
		} else if r.ContentLength != 0 {
			if derr := c.readBody(r); derr != nil {
				return c.fail(derr)
			}
		}
		c.out = restingWriter{ec.Response().Writer, c}
		ec.Response().Writer = &c.out
		if !c.work() {
			s.metrics.refused.WithLabelValues(whyTurn).Inc()
			return c.fail(errBusy())
		}
		defer c.rest()
		if derr := c.checkBody(); derr != nil {
			return c.fail(derr)
		}
		return next(ec)
	}
}

var (
	noSniff = []string{"nosniff"}
	noStore = []string{"no-store"}
)

// streaming reports whether the answer may go on for ever.
func streaming(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.HasPrefix(r.Header.Get("Accept"), "text/event-stream")
}

// readBody takes the whole body, within bounds of size and time, so that no
// handler waits for a caller.
func (c *call) readBody(r *http.Request) *domain.Error {
	buf, derr := wholeBody(c.echo.Response(), r)
	if derr != nil {
		return derr
	}
	r.Body = io.NopCloser(bytes.NewReader(buf))
	c.body = buf
	return nil
}

// checkBody looks whether the body is what handlers can read.
func (c *call) checkBody() *domain.Error {
	if len(c.body) == 0 {
		return nil
	}
	if t := c.echo.Request().Header.Get("Content-Type"); t != "" {
		t, _, _ = strings.Cut(t, ";")
		if t = strings.TrimSpace(t); !strings.EqualFold(t, "application/json") {
			return domain.Errorf(domain.Invalid, "request.media_type", "send application/json")
		}
	}
	if !checkJSON(c.body) {
		return domain.Errorf(domain.Invalid, "request.malformed", "the body is not JSON, or is nested too deeply")
	}
	return nil
}

// wholeBody reads a body within its bounds of size and time. The bound of time stays
// when it is refused: net/http reads on, before it answers, what a handler left.
func wholeBody(w http.ResponseWriter, r *http.Request) ([]byte, *domain.Error) {
	if r.ContentLength == 0 {
		return nil, nil
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout)) // a recorder in a test has none
	if r.ContentLength > maxBodyBytes {
		return nil, errTooLarge()
	}
	var b []byte
	var err error
	if r.ContentLength > 0 {
		b = make([]byte, r.ContentLength)
		_, err = io.ReadFull(r.Body, b)
	} else {
		b, err = io.ReadAll(io.LimitReader(r.Body, maxBodyBytes+1))
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, errSlow()
	case err != nil:
		return nil, domain.Errorf(domain.Invalid, "request.malformed", "the body ended early")
	case len(b) > maxBodyBytes:
		return nil, errTooLarge()
	}
	_ = rc.SetReadDeadline(time.Time{})
	return b, nil
}

// boundRaw bounds the time in which a handler, or net/http after it, reads a body of
// bytes.
func boundRaw(w http.ResponseWriter, deadline time.Duration) {
	_ = huma.SetReadDeadline(w, time.Now().Add(deadline-deadline/10)) // a recorder in a test has none
}

func errSlow() *domain.Error {
	return domain.Errorf(domain.Invalid, "request.slow", "the body did not arrive within %d seconds", bodyTimeout/time.Second)
}

func errTooLarge() *domain.Error {
	return domain.Errorf(domain.Invalid, "request.too_large", "a body has at most %d bytes", maxBodyBytes)
}

// sequence says which commit the answer reflects.
func (c *call) sequence(n uint64) {
	c.echo.Response().Header()["Log-Sequence"] = []string{strconv.FormatUint(n, 10)}
}
