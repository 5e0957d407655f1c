package domain

import (
	"fmt"
)

// Outcome is what a command led to.
type Outcome struct {
	Events []EventBody // what follows; none and no error: already so
	Repeat Position    // an accepted command's repeat: its place in the log
	Err    *Error
}

// Decide is the pure function at the heart: it reads the world and says what
// follows from the command at `at`, and changes nothing. A panic inside is a bug
// in one command's decision, not in the world: it becomes an internal refusal that
// names the command, and the site goes on.
func (w *World) Decide(at Time, c *Command) (out Outcome) {
	defer func() {
		if r := recover(); r != nil {
			e := Errorf(Internal, "internal", "internal error")
			e.Cause = fmt.Errorf("decide %s %s: %v", c.Body.CommandType(), c.ID, r)
			out = Outcome{Err: e}
		}
	}()
	if c.Actor.Kind == ActorKey {
		if pos, err := w.seen(at, c); err != nil || pos.N != 0 {
			return Outcome{Repeat: pos, Err: err}
		}
	}
	x := &Context{At: at, Entropy: c.Entropy, Actor: c.Actor}
	events, err := c.Body.decide(w, x)
	if err != nil {
		return Outcome{Err: err}
	}
	if len(events) > MaxDecisionEvents {
		return Outcome{Err: Errorf(Exhausted, "decision.too_large", "this would be %d events at once, at most %d: ask for less", len(events), MaxDecisionEvents)}
	}
	if err := w.checkDecision(at, events); err != nil {
		return Outcome{Err: err}
	}
	return Outcome{Events: events}
}

// seen looks whether the command was accepted before.
func (w *World) seen(at Time, c *Command) (Position, *Error) {
	made := commandTime(c.ID)
	if made < at.Add(-CommandWindow) {
		return Position{}, Errorf(Invalid, "command.expired", "the command id is older than %d minutes: make a new one", CommandWindow/Minute)
	}
	if made > at.Add(commandAhead) {
		return Position{}, Errorf(Invalid, "command.from_the_future", "the command id is from the future: set the clock")
	}
	if pos, ok := w.commands.find(c.ID); ok {
		return pos, nil
	}
	if c.IdemKey.IsZero() {
		return Position{}, nil
	}
	keys := w.keysOf(c.Actor)
	if e := keys.find(c.IdemKey); e != nil && e.at >= at.Add(-idemKeyWindow) {
		if e.body != c.BodyHash {
			return Position{}, Errorf(Conflict, "idempotency.conflict", "this Idempotency-Key came with another request before: use a new key")
		}
		return e.pos, nil
	}
	if len(keys.entries) >= maxIdemKeys && keys.entries[0].at >= at.Add(-idemKeyWindow) {
		return Position{}, Errorf(Exhausted, "idempotency.too_many_keys", "more than %d Idempotency-Keys in 24 hours", maxIdemKeys)
	}
	return Position{}, nil
}

// KeyByHash finds an API key by its secret's SHA-256.
func (w *World) KeyByHash(h Digest) (APIKey, bool) {
	if k := w.keys.get(w.keyByHash[h]); k != nil {
		return *k, true
	}
	return APIKey{}, false
}
