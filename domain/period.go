package domain

import (
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// Billing periods are the months of the tenant's billing time zone, as UTC
// instants. Time zone rules change and differ from machine to machine, so decide
// and apply know none: the edge turns the months of a zone into instants, once,
// and they are in the log.

// calendar is the months of one time zone. No calendar stands for UTC, and so does
// the time after the last month of one.
type calendar struct {
	zone   string
	months []Time // first instants, rising
}

// start is the first instant of the month that t is in.
func (c *calendar) start(t Time) Time {
	if c != nil {
		i, exact := slices.BinarySearch(c.months, t)
		if exact {
			return t
		}
		if i > 0 && i < len(c.months) {
			return c.months[i-1]
		}
	}
	y, m, _ := t.Std().Date()
	return TimeOf(time.Date(y, m, 1, 0, 0, 0, 0, time.UTC))
}

// end is the first instant of the month after the one that t is in.
func (c *calendar) end(t Time) Time {
	if c != nil {
		if i, exact := slices.BinarySearch(c.months, t); exact && i+1 < len(c.months) {
			return c.months[i+1]
		} else if !exact && i > 0 && i < len(c.months) {
			return c.months[i]
		}
	}
	return firstOfNextMonth(t)
}

// UTCZone is the billing time zone of a tenant that has not chosen one.
const UTCZone = "UTC"

// The bounds of a calendar: it reaches years ahead, and stays within a decision.
const (
	minCalendarAhead = 5 * 366 * Day
	maxCalendar      = 1200
)

// checkCalendar refuses what cannot be the months of a zone.
func checkCalendar(x *Context, zone string, months []Time) *Error {
	bad := func(why string) *Error {
		return invalidField("billing_time_zone", "time_zone.bad_months", "billing_time_zone: the months of %s %s", clip(zone, 64), why)
	}
	if err := checkWord("billing_time_zone", zone, 64, false); err != nil {
		return err
	}
	if len(months) < 2 || len(months) > maxCalendar {
		return bad("are too few or too many")
	}
	for i := 1; i < len(months); i++ {
		if d := months[i].Sub(months[i-1]); d < 27*Day || d > 32*Day {
			return bad("are not months")
		}
	}
	if months[0] > x.At || months[len(months)-1] < x.At.Add(minCalendarAhead) {
		return bad("do not reach from now some years ahead")
	}
	return nil
}

// CalendarPublished fixes the months of a time zone. A later one for the same zone
// changes months that have not begun.
type CalendarPublished struct {
	Zone   string `json:"time_zone"`
	Months []Time `json:"months"` // first instants
}

// EventType implements EventBody.
func (*CalendarPublished) EventType() string { return "catalog.calendar_published" }

// Owner implements EventBody.
func (*CalendarPublished) Owner() string { return "" }

// Resource implements EventBody.
func (e *CalendarPublished) Resource() string { return e.Zone }

func (e *CalendarPublished) wire(c *coder) {
	c.str(1, &e.Zone)
	instants(c, 2, &e.Months)
}

// publishCalendar says what has to be published so that the zone has these months:
// nothing, if it has them. Months that have begun stay as they are.
func (w *World) publishCalendar(x *Context, zone string, months []Time) []EventBody {
	have := w.calendars[zone]
	if have == nil {
		return []EventBody{&CalendarPublished{Zone: zone, Months: months}}
	}
	at, _ := slices.BinarySearch(have.months, x.At.Add(1))
	from, _ := slices.BinarySearch(months, x.At.Add(1))
	next := append(slices.Clone(have.months[:at]), months[from:]...)
	if len(next) > maxCalendar || slices.Equal(next, have.months) || at > 0 && next[at].Sub(next[at-1]) < 27*Day {
		return nil
	}
	return []EventBody{&CalendarPublished{Zone: zone, Months: next}}
}

func (e *CalendarPublished) apply(w *World, _ *Applied) {
	c := w.calendars[e.Zone]
	if c == nil {
		c = &calendar{zone: strings.Clone(e.Zone)}
		w.calendars[c.zone] = c
	}
	c.months = slices.Clone(e.Months)
}

func (c *calendar) wire(x *coder) {
	x.str(1, &c.zone)
	instants(x, 2, &c.months)
}

// Zone is the tenant's billing time zone.
func (t *Tenant) Zone() string {
	if t.calendar == nil {
		return UTCZone
	}
	return t.calendar.zone
}

// instants is a list of times, each written as its distance from the one before.
func instants(c *coder, n protowire.Number, v *[]Time) {
	var d []uint64
	if c.enc {
		last := Time(0)
		for _, t := range *v {
			d = append(d, protowire.EncodeZigZag(int64(t-last)))
			last = t
		}
	}
	uints(c, n, &d)
	if c.enc {
		return
	}
	last := Time(0)
	for _, x := range d {
		last += Time(protowire.DecodeZigZag(x))
		*v = append(*v, last)
	}
}
