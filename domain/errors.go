package domain

import (
	"errors"
	"fmt"
)

// Kind is the closed list of what can go wrong. One table (in api) maps it to an
// HTTP status.
type Kind uint8

// The kinds.
const (
	Invalid         Kind = iota + 1 // the request can never succeed as it stands
	Unauthenticated                 // nobody we know
	PaymentRequired                 // not enough funds
	Forbidden                       // known, but not allowed
	NotFound                        // not there, or not yours: one answer for both
	Conflict                        // not in this state
	Exhausted                       // a quota, a capacity, a bounded queue
	Internal                        // our fault
	Unavailable                     // not now, try again
)

var kindNames = [...]string{"", "invalid", "unauthenticated", "payment_required", "forbidden", "not_found", "conflict", "exhausted", "internal", "unavailable"}

func (k Kind) String() string { return kindNames[k] }

// Error is a refusal: a kind, a stable dotted code for programs, and a message
// that is safe to show and says what to do. The cause is for the log only.
type Error struct {
	Kind      Kind
	Code      string // stable, dotted: "slot.not_wiped"
	Message   string
	Field     string // the request's field, if one is to blame
	Retryable bool
	Cause     error
}

func (e *Error) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Message, e.Cause)
	}
	return e.Code + ": " + e.Message
}

func (e *Error) Unwrap() error { return e.Cause }

// Errorf makes a refusal. Retryable follows the kind: exhausted and unavailable
// may pass by themselves.
func Errorf(k Kind, code, format string, args ...any) *Error {
	return &Error{Kind: k, Code: code, Message: fmt.Sprintf(format, args...), Retryable: k == Exhausted || k == Unavailable}
}

// invalidField is a refusal that names the request's field.
func invalidField(field, code, format string, args ...any) *Error {
	e := Errorf(Invalid, code, format, args...)
	e.Field = field
	return e
}

// notFound is the one answer for "not there" and "not yours".
func notFound(what string) *Error {
	return Errorf(NotFound, what+".not_found", "no such %s", what)
}

// AsError finds a refusal in err; anything else becomes internal, its text kept
// for the log and out of the message.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Kind: Internal, Code: "internal", Message: "internal error", Retryable: true, Cause: err}
}
