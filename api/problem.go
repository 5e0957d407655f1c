package api

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"
	"github.com/labstack/echo/v4"

	"github.com/gpuaas/gpuaas/domain"
)

// Problem is a refusal as RFC 9457 writes it. It never repeats what was sent: a
// wrong field may hold a secret.
type Problem struct {
	Type      string         `json:"type" doc:"Names the code as a URI" example:"urn:gpuaas:problem:capacity.exhausted"`
	Title     string         `json:"title" doc:"The status in words" example:"Conflict"`
	Status    int            `json:"status" doc:"The HTTP status" example:"409"`
	Detail    string         `json:"detail" doc:"What is wrong and what to do" example:"no room for 1 x gpu-1x now: see GET /v1/offers"`
	Code      string         `json:"code" doc:"Stable, for programs" example:"capacity.exhausted"`
	Retryable bool           `json:"retryable" doc:"Whether the same request may succeed later"`
	RequestID string         `json:"request_id" doc:"Quote it when asking for help" example:"req_0000019ab2c4d8e07f3a5b6c"`
	Errors    []ProblemField `json:"errors,omitempty" doc:"The fields to blame"`

	retryAfterSeconds int
	challenge         bool
}

// ProblemField says what is wrong with one field.
type ProblemField struct {
	Field   string `json:"field" example:"body.name"`
	Message string `json:"message" example:"expected length <= 63"`
}

func (p *Problem) Error() string { return p.Code + ": " + p.Detail }

// GetStatus implements huma.StatusError.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType implements huma.ContentTypeFilter.
func (*Problem) ContentType(string) string { return "application/problem+json" }

// GetHeaders implements huma.HeadersError.
func (p *Problem) GetHeaders() http.Header {
	h := http.Header{}
	if p.challenge {
		h.Set("WWW-Authenticate", `Bearer realm="gpuaas"`)
	}
	if p.retryAfterSeconds > 0 {
		h.Set("Retry-After", strconv.Itoa(p.retryAfterSeconds))
	}
	return h
}

// statuses is the one table from kinds to HTTP.
var statuses = map[domain.Kind]int{
	domain.Invalid:         http.StatusUnprocessableEntity,
	domain.Unauthenticated: http.StatusUnauthorized,
	domain.PaymentRequired: http.StatusPaymentRequired,
	domain.Forbidden:       http.StatusForbidden,
	domain.NotFound:        http.StatusNotFound,
	domain.Conflict:        http.StatusConflict,
	domain.Exhausted:       http.StatusConflict, // capacity, quota: the state of the site is in the way
	domain.Internal:        http.StatusInternalServerError,
	domain.Unavailable:     http.StatusServiceUnavailable,
}

// statusOfCode overrides the kind: the caller sends too much, and what only HTTP
// knows.
var statusOfCode = map[string]int{
	"queue.lane_full":           http.StatusTooManyRequests,
	"idempotency.too_many_keys": http.StatusTooManyRequests,
	"enrolment.too_many":        http.StatusTooManyRequests,
	"stream.too_many":           http.StatusTooManyRequests,
	"request.malformed":         http.StatusBadRequest,
	"request.too_large":         http.StatusRequestEntityTooLarge,
	"request.media_type":        http.StatusUnsupportedMediaType,
	"request.method":            http.StatusMethodNotAllowed,
	"request.slow":              http.StatusRequestTimeout,
	"request.not_acceptable":    http.StatusNotAcceptable,
}

// problemOf is err as a problem.
func problemOf(err *domain.Error, requestID string) *Problem {
	status := statuses[err.Kind]
	if s, ok := statusOfCode[err.Code]; ok {
		status = s
	}
	p := newProblem(status, err.Code, err.Message, requestID)
	p.Retryable = err.Retryable
	if err.Field != "" {
		where := "body."
		if err.Field == "limit" || err.Field == "cursor" {
			where = "query."
		}
		p.Errors = []ProblemField{{Field: where + err.Field, Message: err.Message}}
	}
	return p
}

func newProblem(status int, code, detail, requestID string) *Problem {
	p := &Problem{
		Type: "urn:gpuaas:problem:" + code, Title: http.StatusText(status), Status: status, Detail: detail, Code: code, RequestID: requestID,
		challenge: status == http.StatusUnauthorized,
	}
	if status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests {
		p.retryAfterSeconds = 1
	}
	return p
}

// fail is the one place where a refusal leaves: it is logged if it is our fault,
// and kept in the audit stream if it is a denial.
func (c *call) fail(err *domain.Error) *Problem {
	p := problemOf(err, c.id)
	if p.Status >= http.StatusInternalServerError && err.Cause != nil {
		c.s.o.Slog.Error("request failed", "request_id", c.id, "method", c.method(), "route", c.echo.Path(), "code", err.Code, "err", err.Cause)
	}
	c.denied(p)
	return p
}

// problemOfHuma turns a refusal of huma (a body or parameter that does not fit its
// schema) into a problem, without the values.
func problemOfHuma(ctx huma.Context, status int, msg string, errs ...error) huma.StatusError {
	code := "request.invalid"
	switch status {
	case http.StatusBadRequest:
		code = "request.malformed"
	case http.StatusRequestEntityTooLarge:
		code = "request.too_large"
	case http.StatusUnsupportedMediaType:
		code = "request.media_type"
	case http.StatusNotAcceptable:
		code = "request.not_acceptable"
	case http.StatusInternalServerError:
		code = "internal"
	}
	id := ""
	if ctx != nil {
		if c := callOf(ctx.Context()); c != nil {
			id = c.id
		}
	}
	if code == "internal" {
		return newProblem(status, code, "internal error", id)
	}
	if status == http.StatusUnprocessableEntity {
		msg = "the request does not fit its schema: see errors"
	}
	p := newProblem(status, code, msg, id)
	for _, e := range errs {
		var d huma.ErrorDetailer
		if len(p.Errors) < maxProblemFields && errors.As(e, &d) {
			detail := d.ErrorDetail()
			p.Errors = append(p.Errors, ProblemField{Field: clip(detail.Location, 256), Message: clip(detail.Message, 256)})
		}
	}
	return p
}

const maxProblemFields = 32

// handleEchoError is for what fails outside the routes: no such route, a panic.
func (s *Server) handleEchoError(err error, ec echo.Context) {
	if ec.Response().Committed {
		return
	}
	c := callOf(ec.Request().Context())
	if c == nil {
		c = s.newCall(ec)
	}
	var p *Problem
	var he *echo.HTTPError
	switch {
	case errors.As(err, &p):
	case errors.As(err, &he) && he.Code == http.StatusNotFound:
		p = newProblem(he.Code, "route.not_found", "no such route: see /docs", c.id)
	case errors.As(err, &he) && he.Code == http.StatusMethodNotAllowed:
		p = newProblem(he.Code, "request.method", "this route does not know the method: see the header Allow", c.id)
	default:
		s.o.Slog.Error("request failed", "request_id", c.id, "method", c.method(), "path", clip(ec.Request().URL.Path, 256), "err", err)
		p = newProblem(http.StatusInternalServerError, "internal", "internal error", c.id)
		p.Retryable = true
	}
	c.write(p)
}

// write sends a problem outside huma.
func (c *call) write(p *Problem) {
	h := c.echo.Response().Header()
	for k, v := range p.GetHeaders() {
		h[k] = v
	}
	h.Set("Content-Type", "application/problem+json")
	c.echo.Response().WriteHeader(p.Status)
	if c.method() != http.MethodHead {
		_ = writeJSON(c.echo.Response(), p)
	}
}

// invalid is a refusal that names a field of the body.
func invalid(field, code, format string, args ...any) *domain.Error {
	e := domain.Errorf(domain.Invalid, code, format, args...)
	e.Field = field
	return e
}

// notFound is the one answer for "not there" and "not yours".
func notFound(what string) *domain.Error {
	return domain.Errorf(domain.NotFound, what+".not_found", "no such %s", what)
}

// clip bounds what of a foreign string is repeated.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "..."
}
