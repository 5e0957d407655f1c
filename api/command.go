package api

import (
	"crypto/sha256"

	crand "crypto/rand"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
)

// decided is what became of a command. A repeat has the same n, at, events and
// command as the first time.
type decided struct {
	n       uint64
	at      domain.Time
	events  []domain.EventBody // none: it was already so
	command domain.CommandID
}

// submit decides a command as the caller and sets the answer's headers.
func (c *call) submit(body domain.CommandBody) (decided, *domain.Error) {
	if err := c.identify(); err != nil {
		return decided{}, err
	}
	c.cmd.Actor, c.cmd.Body = c.actor(), body
	c.echo.Response().Header()["Command-Id"] = []string{c.cmd.ID.String()}
	return c.finish(c.s.o.Decider.Submit(c.ctx(), &c.cmd))
}

// finish turns the loop's reply into an answer.
func (c *call) finish(r commands.Reply) (decided, *domain.Error) {
	if r.Err != nil {
		return decided{}, r.Err
	}
	d := decided{n: r.N, at: r.At, events: r.Events, command: c.cmd.ID}
	if r.Repeat.N != 0 {
		var err *domain.Error
		if d, err = c.recall(r.Repeat); err != nil {
			return d, err
		}
	}
	c.sequence(d.n)
	return d, nil
}

// commandID is the command's id, made or taken from the request.
func (c *call) commandID() (domain.CommandID, *domain.Error) {
	err := c.identify()
	return c.cmd.ID, err
}

// identify gives the command its id and, if the caller wants it remembered, what a
// repeat is recognized by.
func (c *call) identify() *domain.Error {
	if !c.cmd.ID.IsZero() {
		return nil
	}
	h := c.echo.Request().Header
	given, key := h.Get("Command-Id"), h.Get("Idempotency-Key")
	if given != "" {
		if c.cmd.ID.UnmarshalText([]byte(given)) != nil || c.cmd.ID[6]>>4 != 7 {
			c.cmd.ID = domain.CommandID{}
			return domain.Errorf(domain.Invalid, "command.id_invalid", "Command-Id: want cmd_ and a UUIDv7 in 26 characters")
		}
	} else {
		var e domain.Entropy
		_, _ = crand.Read(e[22:]) // never fails (crypto/rand, Go 1.24)
		c.cmd.ID = commands.NewCommandID(c.s.o.Clock(), e)
	}
	if _, present := h["Idempotency-Key"]; present {
		if !printable(key) {
			return domain.Errorf(domain.Invalid, "idempotency.key_invalid", "Idempotency-Key: want 1 to 255 printable ASCII characters")
		}
		c.cmd.IdemKey = domain.DigestOf([]byte(c.caller.Member.ID.String() + "|" + key))
	}
	if given != "" || !c.cmd.IdemKey.IsZero() {
		c.cmd.BodyHash = c.bodyHash()
	}
	return nil
}

func printable(s string) bool {
	ok := s != "" && len(s) <= 255
	for i := 0; ok && i < len(s); i++ {
		ok = s[i] >= ' ' && s[i] < 0x7f
	}
	return ok
}

// bodyHash is the digest of the request: method, path with query, body.
func (c *call) bodyHash() domain.Digest {
	r := c.echo.Request()
	h := sha256.New()
	for _, s := range []string{r.Method, r.URL.EscapedPath(), r.URL.RawQuery} {
		h.Write([]byte(s))
		h.Write([]byte{0})
	}
	h.Write(c.body)
	return domain.Digest(h.Sum(nil))
}

// recall reads what a repeated command led to the first time. That the command was
// this caller's, and the same, was checked by the world for an Idempotency-Key; for
// a bare command id it is checked here.
func (c *call) recall(pos domain.Position) (decided, *domain.Error) {
	first, at, err := c.s.o.History.Decision(c.ctx(), pos)
	if err != nil {
		e := domain.Errorf(domain.Unavailable, "history.unavailable", "the first answer cannot be read now: try again")
		e.Cause = err
		return decided{}, e
	}
	byKey := !c.cmd.IdemKey.IsZero() && first.Command.IdemKey == c.cmd.IdemKey
	switch {
	case byKey && first.Command.BodyHash == c.cmd.BodyHash:
	case first.Command.ID != c.cmd.ID || first.Command.Actor != c.cmd.Actor,
		first.Command.Body == nil || first.Command.Body.CommandType() != c.cmd.Body.CommandType(),
		!first.Command.BodyHash.IsZero() && first.Command.BodyHash != c.cmd.BodyHash:
		return decided{}, domain.Errorf(domain.Conflict, "command.id_reused", "this Command-Id came with another request before: use a new one")
	}
	d := decided{n: pos.N, at: at, command: first.Command.ID}
	for _, e := range first.Events {
		d.events = append(d.events, e.Body)
	}
	return d, nil
}

// eventOf finds the first event of a type.
func eventOf[E domain.EventBody](d *decided) (e E, ok bool) {
	for _, b := range d.events {
		if e, ok = b.(E); ok {
			return e, true
		}
	}
	return e, false
}

// errNoEvent is for an answer that should have followed and did not: a bug.
func errNoEvent(what string) *domain.Error {
	e := domain.Errorf(domain.Internal, "internal", "internal error")
	e.Cause = errNoSuchEvent(what)
	return e
}

type errNoSuchEvent string

func (e errNoSuchEvent) Error() string { return "the decision has no " + string(e) }

// rehearse decides without consequences: what would follow, or the refusal.
func (c *call) rehearse(body domain.CommandBody, look func(w *domain.World)) (domain.Outcome, domain.Time, *domain.Error) {
	if err := c.identify(); err != nil {
		return domain.Outcome{}, 0, err
	}
	cmd := c.cmd
	cmd.Actor, cmd.Body = c.actor(), body
	_, _ = crand.Read(cmd.Entropy[:])
	var out domain.Outcome
	var when domain.Time
	n, err := c.s.o.Decider.Query(c.ctx(), cmd.Actor, func(w *domain.World, at domain.Time) {
		if look != nil {
			look(w)
		}
		out, when = w.Decide(at, &cmd), at
	})
	if err != nil {
		return out, when, err
	}
	c.sequence(n)
	return out, when, nil
}

// location points to what was created.
func (c *call) location(path string) {
	c.echo.Response().Header().Set("Location", path)
}
