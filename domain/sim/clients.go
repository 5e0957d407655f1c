package sim

import (
	"encoding/binary"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
)

// clients send commands as people and programs do: with a time limit, and again when
// they do not know what came of it.
type clients struct {
	s    *Sim
	open map[*op]bool
}

// op is one thing that somebody wants, sent until there is an answer.
type op struct {
	c     *clients
	cmd   domain.Command
	made  domain.Time
	who   int
	tries int
	done  bool
	then  func(commands.Reply) // with the final answer
}

const (
	clientTimeout = 30 * domain.Second
	clientTries   = 6
)

// want begins an op.
func (c *clients) want(who int, actor domain.Actor, body domain.CommandBody, then func(commands.Reply)) {
	o := &op{c: c, cmd: domain.Command{Actor: actor, Body: body}, who: who, then: then, made: c.s.now}
	r := c.s.dice.tenants
	if chance(r, 400) { // with an Idempotency-Key: a repeat may have another command id
		binary.BigEndian.PutUint64(o.cmd.IdemKey[:], r.Uint64()|1)
		o.cmd.BodyHash = domain.Digest{1}
	}
	o.name()
	o.send()
}

// name gives the command a new id.
func (o *op) name() {
	var e domain.Entropy
	binary.BigEndian.PutUint64(e[22:], o.c.s.dice.tenants.Uint64()|1)
	binary.BigEndian.PutUint16(e[30:], uint16(o.c.s.dice.tenants.Uint32()))
	o.made = o.c.s.now
	o.cmd.ID = commands.NewCommandID(o.c.s.now.Std(), e)
}

func (o *op) send() {
	if o.done {
		return
	}
	s := o.c.s
	if o.tries++; o.tries > clientTries && !s.dice.calm {
		o.done = true // given up: whatever came of it came of it
		return
	}
	if p := s.anyWriter(); p != nil {
		cmd := o.cmd
		s.after(between(s.dice.net, domain.Millisecond, 20*domain.Millisecond), "request", o.who, func() {
			if p.up {
				p.submit(&request{cmd: &cmd, answer: func(r commands.Reply) { o.answered(cmd.ID, r) }})
			}
		})
	}
	wait := clientTimeout
	switch s.dice.tenants.IntN(16) { // somebody in no hurry
	case 0:
		wait = 6 * domain.Minute
	case 1:
		wait = domain.CommandWindow + domain.Minute
	}
	s.after(wait, "client timeout", o.who, func() {
		if o.done {
			return
		}
		if !o.cmd.IdemKey.IsZero() {
			o.name()
		}
		o.send()
	})
}

// answered is an answer that leaves the control plane; what it says is true from now
// on, whether or not it arrives.
func (o *op) answered(id domain.CommandID, r commands.Reply) {
	if r.Err != nil {
		o.c.s.tell("%T is refused: %v", o.cmd.Body, r.Err)
	}
	s := o.c.s
	switch {
	case r.Err != nil:
	case r.Repeat.N != 0:
		s.seen.mark(Repeated)
		n, byID := s.shadow.commands[id]
		if !byID {
			n = s.shadow.keys[idemKey{s.shadow.owners[o.cmd.Actor.Key], o.cmd.IdemKey}].n
			s.seen.mark(RepeatedKey)
		}
		if n != r.Repeat.N {
			s.fail("command %s is said to be in commit %d; it is in %d", id, r.Repeat.N, n)
		}
	case len(r.Events) > 0:
		if n, there := s.shadow.commands[id]; !there || n != r.N {
			s.fail("command %s was acknowledged in commit %d, and is in %d", id, r.N, n)
		}
	case r.N > s.log.len():
		s.fail("command %s is answered from commit %d, the log has %d", id, r.N, s.log.len())
	}
	if s.dice.happens(ReplyLost) {
		return
	}
	s.after(between(s.dice.net, domain.Millisecond, 20*domain.Millisecond), "reply", o.who, func() { o.heard(r) })
}

func (o *op) heard(r commands.Reply) {
	if o.done || r.Err != nil && r.Err.Kind == domain.Unavailable {
		return
	}
	o.done = true
	if r.Err != nil {
		o.c.refused(r.Err)
	}
	if o.then != nil {
		o.then(r)
	}
}

func (c *clients) refused(e *domain.Error) {
	seen := c.s.seen
	seen.mark(Refused)
	switch e.Code {
	case "capacity.exhausted":
		seen.mark(NoCapacity)
	case "funds.insufficient":
		seen.mark(NoFunds)
	case "quota.exceeded":
		seen.mark(QuotaHit)
	case "command.expired":
		seen.mark(Expired)
	}
}
