package client

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Problem is a refusal (RFC 9457). Its code is stable: decide by it, show Detail.
type Problem struct {
	Type      string         `json:"type"`
	Title     string         `json:"title"`
	Status    int            `json:"status"`
	Detail    string         `json:"detail"`
	Code      string         `json:"code"`
	Retryable bool           `json:"retryable"` // the same request may succeed later
	RequestID string         `json:"request_id"`
	Errors    []ProblemField `json:"errors,omitempty"`

	retryAfter time.Duration
}

// ProblemField says what is wrong with one field of the request.
type ProblemField struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

func (p *Problem) Error() string { return p.Code + ": " + p.Detail }

// passes reports whether a retry within seconds makes sense. Capacity and quota
// (409) are retryable too, but take longer than anyone should wait blindly.
func (p *Problem) passes() bool {
	return p.Retryable && (p.Status == http.StatusRequestTimeout || p.Status == http.StatusTooManyRequests || p.Status >= 500)
}

// Unreachable says that no answer came: whether a command was decided is not known
// then, unless its Idempotency-Key is sent again.
type Unreachable struct{ Err error }

func (e *Unreachable) Error() string { return "the site does not answer: " + e.Err.Error() }

// Unwrap is what the transport said.
func (e *Unreachable) Unwrap() error { return e.Err }

// problemOf reads a refusal. Something between us and the site (a proxy) may have
// answered in its own words: those are not repeated.
func problemOf(status int, h http.Header, body []byte) *Problem {
	p := &Problem{}
	if json.Unmarshal(body, p) != nil || p.Code == "" {
		p = &Problem{
			Type: "about:blank", Title: http.StatusText(status), Status: status, Code: fmt.Sprintf("http.%d", status),
			Detail:    fmt.Sprintf("%d %s, without a problem: is this the address of a site?", status, http.StatusText(status)),
			Retryable: status == http.StatusTooManyRequests || status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout,
		}
	}
	p.Status = status
	if p.RequestID == "" {
		p.RequestID = h.Get("X-Request-Id")
	}
	p.retryAfter = retryAfter(h.Get("Retry-After"))
	return p
}
