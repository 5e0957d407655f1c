package domain

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// An event's form has a version. What only grows fields keeps it; another shape is the
// next one. What was written in an older version is read for ever: its form is decoded
// as it was released, and pure one-to-one functions make the next version's out of it,
// one after the other, up to the present one. Only that is ever written.

// eventForms is what a reader knows of the forms of events.
type eventForms struct {
	types    map[string]func() EventBody // at their present version
	versions map[string]uint8            // the present ones; a type that is not here is at 1
	upcasts  map[eventForm]upcast        // from each version before the present
}

// eventForm is one released form of a type.
type eventForm struct {
	typ string
	v   uint8
}

// upcast leads from one version of a type to the next.
type upcast struct {
	old  func() message        // the released form, empty
	next func(message) message // the same fact in the next version's form
}

// upcastOf is an upcaster by its function: of the struct that the older form was, which
// stays with its wire, and whose golden file stays.
func upcastOf[T any, P interface {
	*T
	message
}](next func(P) message) upcast {
	return upcast{
		old:  func() message { return P(new(T)) },
		next: func(m message) message { return next(m.(P)) },
	}
}

// forms are the events of this build. No event has changed its shape yet.
var forms = &eventForms{types: eventTypes}

// version is the type's present version.
func (f *eventForms) version(typ string) uint8 {
	if v, changed := f.versions[typ]; changed {
		return v
	}
	return 1
}

// decode reads an event of any version there was, by `read`. A type or version that it
// does not know is of a newer build.
func (f *eventForms) decode(typ string, v uint8, read func(message) error) (EventBody, error) {
	empty, ok := f.types[typ]
	if !ok {
		return nil, fmt.Errorf("unknown event type %q: this build is older than the log", clip(typ, 64))
	}
	present := f.version(typ)
	if v == present {
		body := empty()
		return body, read(body)
	}
	if v == 0 || v > present {
		return nil, fmt.Errorf("event type %q has unknown version %d, this build knows up to %d: it is older than the log", typ, v, present)
	}
	var m message
	for at := v; at < present; at++ {
		up, ok := f.upcasts[eventForm{typ, at}]
		if !ok {
			return nil, fmt.Errorf("event type %q has version %d, and nothing leads from %d to %d", typ, v, at, present)
		}
		if m == nil {
			m = up.old()
			if err := read(m); err != nil {
				return nil, err
			}
		}
		m = up.next(m)
	}
	body, ok := m.(EventBody)
	if !ok || body.EventType() != typ {
		return nil, fmt.Errorf("event type %q, version %d, is made into %T", typ, v, m)
	}
	return body, nil
}

// wireEvent is Event.wire by these forms.
func (f *eventForms) wireEvent(c *coder, e *Event) {
	c.uvar(1, &e.Number)
	var typ string
	var v uint8
	if c.enc {
		typ = e.Body.EventType()
		v = f.version(typ)
	}
	c.str(2, &typ)
	uintField(c, 3, &v)
	if c.enc {
		wireBody(c, 4, e.Body)
		return
	}
	var from, to int
	if c.at(4, protowire.BytesType) {
		if from, to = c.consumeSpan(); c.err == nil {
			c.next()
		}
	}
	if c.err != nil {
		return
	}
	read := func(m message) error {
		if c.within(from, to, m); c.err != nil {
			return fmt.Errorf("%s: %w", typ, c.err)
		}
		return nil
	}
	var body EventBody
	if c.mem != nil {
		body = c.mem.event(f, typ, v)
	}
	var err error
	if body != nil {
		err = read(body)
	} else {
		body, err = f.decode(typ, v, read)
	}
	if err != nil {
		c.err = nil
		c.failWith(fmt.Errorf("event %d: %w", e.Number, err))
		return
	}
	e.Body = body
}
