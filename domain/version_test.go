package domain

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The forms that slot.activated might have had: at 1 one slot, at 2 a list under
// another number, at 3 the present one.
type activated1 struct {
	vm   VMID
	slot SlotID
}

func (e *activated1) wire(c *coder) {
	idField(c, 1, &e.vm)
	idField(c, 2, &e.slot)
}

type activated2 struct {
	vm    VMID
	slots []SlotID
}

func (e *activated2) wire(c *coder) {
	idField(c, 1, &e.vm)
	ids(c, 7, &e.slots)
}

const activated = "slot.activated"

// older are forms with a past.
func older() *eventForms {
	return &eventForms{
		types:    eventTypes,
		versions: map[string]uint8{activated: 3},
		upcasts: map[eventForm]upcast{
			{activated, 1}: upcastOf(func(e *activated1) message { return &activated2{e.vm, []SlotID{e.slot}} }),
			{activated, 2}: upcastOf(func(e *activated2) message { return &SlotActivated{VM: e.vm, Slots: e.slots} }),
		},
	}
}

// formed is an event by some forms, as an element of a decision.
type formed struct {
	*eventForms
	Event
}

func (f *formed) wire(c *coder) { f.wireEvent(c, &f.Event) }

// rawEvent is an event as a build wrote it that had the type at that version.
type rawEvent struct {
	typ  string
	v    uint8
	body message
}

func (r *rawEvent) wire(c *coder) {
	n := uint64(5)
	c.uvar(1, &n)
	c.str(2, &r.typ)
	uintField(c, 3, &r.v)
	wireBody(c, 4, r.body)
}

func TestUpcast(t *testing.T) {
	t.Parallel()
	present := &SlotActivated{VM: VMID{1}, Slots: []SlotID{{2}}}
	for _, r := range []rawEvent{
		{activated, 1, &activated1{VMID{1}, SlotID{2}}},
		{activated, 2, &activated2{VMID{1}, []SlotID{{2}}}},
		{activated, 3, present},
		{"slot.condemned", 1, &SlotCondemned{Slot: SlotID{3}}}, // never changed
	} {
		f := formed{eventForms: older()}
		if err := decodeMessage(encodeMessage(&r), &f); err != nil {
			t.Errorf("version %d: %v", r.v, err)
			continue
		}
		if f.Number != 5 || f.Body.EventType() != r.typ {
			t.Errorf("version %d: %+v", r.v, f)
		}
		again := rawEvent{r.typ, 1, f.Body}
		if r.typ == activated {
			if got, want := encodeMessage(f.Body), encodeMessage(present); string(got) != string(want) {
				t.Errorf("version %d: %+v", r.v, f.Body)
			}
			again.v = 3
		}
		if string(encodeMessage(&f)) != string(encodeMessage(&again)) {
			t.Errorf("version %d is not written again as the present one", r.v)
		}
	}
}

func TestUpcastThatCannotBe(t *testing.T) {
	t.Parallel()
	one := &activated1{VMID{1}, SlotID{2}}
	for name, c := range map[string]struct {
		spoil func(*eventForms)
		of    rawEvent
		want  string
	}{
		"a newer version":    {nil, rawEvent{activated, 4, one}, `"slot.activated" has unknown version 4, this build knows up to 3`},
		"no version":         {nil, rawEvent{activated, 0, one}, `unknown version 0`},
		"a newer type":       {nil, rawEvent{"slot.danced", 1, one}, `unknown event type "slot.danced"`},
		"not the old form":   {nil, rawEvent{activated, 1, &activated2{VMID{1}, []SlotID{{2}}}}, "event 5: slot.activated"},
		"not the newer form": {nil, rawEvent{activated, 2, one}, "event 5: slot.activated"},
		"a hole": {
			func(f *eventForms) { delete(f.upcasts, eventForm{activated, 2}) },
			rawEvent{activated, 1, one},
			"nothing leads from 2 to 3",
		},
		"another type": {func(f *eventForms) {
			f.upcasts[eventForm{activated, 2}] = upcastOf(func(*activated2) message { return &SlotCondemned{} })
		}, rawEvent{activated, 1, one}, "is made into *domain.SlotCondemned"},
		"an end before its time": {func(f *eventForms) {
			f.upcasts[eventForm{activated, 2}] = upcastOf(func(e *activated2) message { return e })
		}, rawEvent{activated, 1, one}, "is made into *domain.activated2"},
	} {
		f := formed{eventForms: older()}
		if c.spoil != nil {
			c.spoil(f.eventForms)
		}
		err := decodeMessage(encodeMessage(&c.of), &f)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "event 5: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// unread lists what of the released versions these forms cannot read: each needs its
// golden file, and a way to the present one.
func (f *eventForms) unread(dir string) (bad []string) {
	for typ := range f.types {
		for v := uint8(1); v <= f.version(typ); v++ {
			path := filepath.Join(dir, fmt.Sprintf("%s.v%d.json", typ, v))
			var g golden
			file, err := os.ReadFile(path)
			if err == nil {
				err = json.Unmarshal(file, &g)
			}
			var raw []byte
			if err == nil {
				raw, err = hex.DecodeString(g.Bytes)
			}
			if err == nil {
				_, err = f.decode(typ, v, func(m message) error { return decodeMessage(raw, m) })
			}
			if err != nil {
				bad = append(bad, err.Error())
			}
		}
	}
	for from := range f.upcasts {
		if from.v == 0 || from.v >= f.version(from.typ) || f.types[from.typ] == nil {
			bad = append(bad, fmt.Sprintf("an upcaster from version %d of %q, which is at %d", from.v, from.typ, f.version(from.typ)))
		}
	}
	return bad
}

func TestEveryReleasedVersionIsRead(t *testing.T) {
	t.Parallel()
	const dir = "testdata/events"
	if bad := forms.unread(dir); bad != nil {
		t.Error(strings.Join(bad, "\n"))
	}
	past := older() // has no golden files of 2 and 3, and its 1 is another one than the released
	past.upcasts[eventForm{activated, 9}] = upcast{}
	if bad := past.unread(dir); len(bad) != 4 {
		t.Errorf("what cannot be read is not noticed: %q", bad)
	}
}
