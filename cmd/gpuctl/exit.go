package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/gpuaas/gpuaas/client"
)

// The exit codes, part of the contract: see --help.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitRefused     = 4
	exitConflict    = 5
	exitExhausted   = 6
	exitTimeout     = 7
	exitUnavailable = 8
)

// failure is an error with its exit code and what to do about it.
type failure struct {
	code    int
	message string
	hint    string
}

func (f *failure) Error() string { return f.message }

func usage(format string, args ...any) error {
	return &failure{code: exitUsage, message: fmt.Sprintf(format, args...)}
}

// report writes one line about an error and returns the exit code.
func (a *app) report(err error) int {
	if err == nil {
		return 0
	}
	f := failureOf(err)
	line := clean(f.message)
	if f.hint != "" {
		line += "; " + f.hint
	}
	fmt.Fprintln(a.err, "gpuctl:", line)
	return f.code
}

func failureOf(err error) *failure {
	var f *failure
	var p *client.Problem
	var u *client.Unreachable
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &p):
		return problemFailure(p)
	case errors.As(err, &u):
		return &failure{exitUnavailable, u.Error(), "check the address, or try again"}
	case errors.Is(err, context.DeadlineExceeded):
		return &failure{exitTimeout, "it took too long", "it goes on at the site: ask again, or give a longer --timeout"}
	case errors.Is(err, context.Canceled):
		return &failure{exitFailed, "interrupted", ""}
	case strings.HasPrefix(err.Error(), "unknown command"):
		return &failure{exitUsage, strings.ReplaceAll(strings.SplitN(err.Error(), "\n", 2)[0], `"`, "'"), "see gpuctl --help"}
	case strings.HasPrefix(err.Error(), "required flag"):
		return &failure{exitUsage, err.Error(), "see --help"}
	}
	return &failure{exitFailed, err.Error(), ""}
}

// problemFailure says what the site said, with code and request id.
func problemFailure(p *client.Problem) *failure {
	message := p.Detail
	if p.Code == "request.invalid" && len(p.Errors) > 0 { // then it only says: see errors
		message = ""
	}
	for _, e := range p.Errors {
		switch wrong := strings.TrimPrefix(e.Field, "body.") + ": " + e.Message; {
		case message == "":
			message = wrong
		case !strings.Contains(message, e.Message):
			message += " [" + wrong + "]"
		}
	}
	message += " (" + p.Code
	if p.RequestID != "" {
		message += ", " + p.RequestID
	}
	f := &failure{code: exitOf(p), message: message + ")"}
	f.hint = hints[f.code]
	if h, ok := hintOfCode[p.Code]; ok {
		f.hint = h
	}
	return f
}

func exitOf(p *client.Problem) int {
	switch {
	case p.Status == http.StatusPaymentRequired || p.Code == "quota.exceeded" || p.Code == "capacity.exhausted" || p.Code == "credit.too_many":
		return exitExhausted
	case p.Status == http.StatusNotFound || strings.HasSuffix(p.Code, ".not_found"): // what a body names may be what is missing
		return exitNotFound
	case p.Status == http.StatusUnauthorized || p.Status == http.StatusForbidden:
		return exitRefused
	case p.Status == http.StatusConflict:
		return exitConflict
	case p.Status == http.StatusTooManyRequests || p.Status == http.StatusServiceUnavailable || p.Status == http.StatusBadGateway || p.Status == http.StatusGatewayTimeout:
		return exitUnavailable
	case p.Status >= 400 && p.Status < 500:
		return exitUsage
	}
	return exitFailed
}

// hints say what to do, by exit code, and better by the problem's code.
var hints = map[int]string{
	exitRefused:     "gpuctl whoami says what this key stands for",
	exitUnavailable: "try again",
}

var hintOfCode = map[string]string{
	"auth.invalid_key":        "gpuctl login with a valid key",
	"allocation.not_found":    "see gpuctl allocations list",
	"tenant.not_found":        "see gpuctl tenants list",
	"key.not_found":           "see gpuctl keys list",
	"user.not_found":          "see gpuctl members list",
	"wipe_duty.not_found":     "see gpuctl wipe-duties list",
	"project.not_found":       "see gpuctl projects list",
	"sku.not_found":           "see gpuctl offers",
	"host.not_found":          "see gpuctl hosts list",
	"slot.not_found":          "see gpuctl slots list",
	"device.not_found":        "a serial is written exactly as gpuctl hosts slot-map shows it",
	"capacity.exhausted":      "gpuctl offers says what can be launched now",
	"quota.exceeded":          "gpuctl policies effective says who set the quota",
	"funds.insufficient":      "see gpuctl balance",
	"host.wrong_digest":       "the proposal has changed: see gpuctl hosts slot-map",
	"route.not_found":         "is the site older than this gpuctl?",
	"allocation.wrong_state":  "see gpuctl allocations get",
	"read_model.behind":       "the site's read model is catching up: try again",
	"console.tenant_only":     "use a key of the tenant",
	"auth.platform_only":      "ask one of those who run the site",
	"auth.role_too_low":       "gpuctl whoami says what this key stands for",
	"policy.max_count":        "gpuctl policies effective says who set it",
	"policy.max_lifetime":     "gpuctl policies effective says who set it",
	"policy.image":            "gpuctl policies effective says which images are allowed",
	"tenant.past_due":         "see gpuctl balance",
	"tenant.suspended":        "see gpuctl balance",
	"image.not_found":         "see gpuctl images list, and --own",
	"upload.not_found":        "begin again without --resume",
	"host.has_slots":          "gpuctl slots retire HOST/INDEX --reason WORD for each",
	"policy.unknown":          "see gpuctl policies effective --keys",
	"request.unknown_field":   "is the site older than this gpuctl?",
	"host.no_proposal":        "start hostd on it first",
	"stream.too_many":         "close other gpuctl events -f",
	"tenant.required":         "give --tenant or --project",
	"idempotency.key_invalid": "1 to 255 printable characters",
}
