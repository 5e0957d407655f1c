package domain

import (
	"encoding/json"
	"fmt"
)

// ActorKind says who asked.
type ActorKind uint8

// The kinds of actors.
const (
	ActorSystem ActorKind = iota + 1 // the control plane itself: ticks, processes
	ActorKey                         // an API key, for a user
	ActorHost                        // a host's report
)

var actorKindNames = [...]string{"", "system", "api_key", "host"}

func (k ActorKind) String() string { return enumName(actorKindNames[:], k) }

// MarshalText implements encoding.TextMarshaler.
func (k ActorKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *ActorKind) UnmarshalText(b []byte) error {
	return enumParse(k, actorKindNames[:], string(b), "actor kind")
}

// Actor is who asked for a change, as authenticated at the edge. What the actor
// may do is decided from the world, never from here.
type Actor struct {
	Kind ActorKind `json:"kind"`
	Key  APIKeyID  `json:"key_id,omitzero"`
	Host HostID    `json:"host_id,omitzero"`
}

// System is the control plane itself.
var System = Actor{Kind: ActorSystem}

func (a *Actor) wire(c *coder) {
	uintField(c, 1, &a.Kind)
	idField(c, 2, &a.Key)
	idField(c, 3, &a.Host)
}

// OnlyEnds reports whether a command can do no more than end something: a VM's or an
// allocation's use, a key, a slot's service. There are at most as many of those as there
// are things to end, so they are taken while the site has room for little else.
func OnlyEnds(b CommandBody) bool {
	switch m := b.(type) {
	case *ActOnAllocation:
		return m.Action == ActionStop || m.Action == ActionRelease
	case *RevokeAPIKey, *QuarantineSlot:
		return true
	}
	return false
}

// Command is a request to change something, by an actor, at a time. At is the
// commit's, stamped by the loop.
type Command struct {
	ID      CommandID // UUIDv7: time-ordered, made by the edge
	Actor   Actor
	Entropy Entropy // 32 random bytes, added by the loop
	// IdemKey is the digest of (caller, Idempotency-Key), zero when none was
	// given; BodyHash the digest of the request it came with.
	IdemKey  Digest
	BodyHash Digest
	Body     CommandBody

	skipBody bool // decoding: leave Body nil
}

// CommandBody is one of the types in the command registry.
type CommandBody interface {
	message
	// CommandType is the stable name: "allocation.create".
	CommandType() string
	// decide is pure: it reads the world and returns what follows, or a refusal.
	// No events and no refusal means: already so.
	decide(w *World, x *Context) ([]EventBody, *Error)
}

// Context is what decide knows besides the world.
type Context struct {
	At      Time
	Entropy Entropy
	Actor   Actor
}

func (m *Command) wire(c *coder) {
	idField(c, 1, &m.ID)
	c.sub(2, &m.Actor)
	c.fixedBytes(3, m.Entropy[:])
	c.digest(4, &m.IdemKey)
	c.digest(5, &m.BodyHash)
	var typ string
	if c.enc {
		typ = m.Body.CommandType()
	}
	c.str(6, &typ)
	if c.enc {
		wireBody(c, 7, m.Body)
		return
	}
	var raw []byte
	c.bytes(7, &raw)
	if c.err != nil || m.skipBody {
		return
	}
	body, err := decodeCommandBody(typ, raw)
	if err != nil {
		c.fail(err.Error())
		return
	}
	m.Body = body
}

// MarshalJSON is the form of gpuaas log export.
func (m Command) MarshalJSON() ([]byte, error) {
	type idem struct {
		Key  Digest `json:"key"`
		Body Digest `json:"body"`
	}
	out := struct {
		ID      CommandID   `json:"id"`
		Type    string      `json:"type"`
		Actor   Actor       `json:"actor"`
		Entropy string      `json:"entropy"`
		Idem    *idem       `json:"idempotency,omitempty"`
		Data    CommandBody `json:"data"`
	}{ID: m.ID, Actor: m.Actor, Entropy: fmt.Sprintf("%x", m.Entropy[:]), Data: m.Body}
	if m.Body != nil {
		out.Type = m.Body.CommandType()
	}
	if !m.IdemKey.IsZero() {
		out.Idem = &idem{m.IdemKey, m.BodyHash}
	}
	return json.Marshal(out)
}

// EventBody is one of the types in the event registry.
type EventBody interface {
	message
	// EventType is the stable name: "allocation.placed". Its subject never changes.
	EventType() string
	// Owner is the id that fills the owner token of the feed subject: a tenant, a
	// host, or "" for families without one.
	Owner() string
	// Resource is the id of what the event is about: ce-subject.
	Resource() string
	// apply remembers the fact. It never fails and never decides.
	apply(w *World, x *Applied)
}

// Applied is what apply knows besides the world and the event.
type Applied struct {
	At     Time
	Number uint64 // the event's number
}

func (e *Event) wire(c *coder) { forms.wireEvent(c, e) }

// MarshalJSON is the form of gpuaas log export and of the event routes.
func (e Event) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Number uint64    `json:"number"`
		Type   string    `json:"type"`
		Data   EventBody `json:"data"`
	}{e.Number, e.Body.EventType(), e.Body})
}
