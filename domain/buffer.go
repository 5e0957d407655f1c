package domain

import "unsafe"

// Buffer is memory that commits are decoded into, one after the other: whoever folds a
// log makes and drops a million events a second, and would spend a third of the time on
// making and collecting them. Nothing of a commit may be used after the next one was
// decoded. What apply keeps of an event it copies, so a world never notices.
type Buffer struct {
	commit Commit
	events slab[Event]
	ids    slab[[16]byte]
	legs   slab[Leg]
	vms    slab[VMPlaced]
	kinds  []*eventKind   // the types of event there were
	seen   [64]*eventKind // those seen last, by a hash of their names
}

// eventKind is one type of event in its present version.
type eventKind struct {
	name    string
	version uint8
	slab    eventSlab
}

// Decode is DecodeCommitEvents into b.
func (b *Buffer) Decode(data []byte) (*Commit, error) {
	b.events.used, b.ids.used, b.legs.used, b.vms.used = 0, 0, 0, 0
	for _, k := range b.kinds {
		k.slab.reset()
	}
	if err := decodeCommit(data, &b.commit, true, b); err != nil {
		return nil, err
	}
	return &b.commit, nil
}

// event is a new, empty event of a type in its present version; nil if this build has no
// such form.
func (b *Buffer) event(f *eventForms, typ string, v uint8) EventBody {
	if typ == "" {
		return nil
	}
	place := &b.seen[(len(typ)*7+int(typ[0])*3+int(typ[len(typ)-1]))%len(b.seen)]
	k := *place
	if k == nil || k.name != typ {
		if k = b.kind(f, typ); k == nil {
			return nil
		}
		*place = k
	}
	if k.version != v {
		return nil
	}
	return k.slab.take()
}

func (b *Buffer) kind(f *eventForms, typ string) *eventKind {
	for _, k := range b.kinds {
		if k.name == typ {
			return k
		}
	}
	many, ok := eventSlabs[typ]
	if !ok {
		return nil
	}
	k := &eventKind{version: f.version(typ), slab: many()}
	k.name = k.slab.take().EventType() // not typ, which shares memory with the commit
	b.kinds = append(b.kinds, k)
	return k
}

// eventSlab makes events of one type.
type eventSlab interface {
	take() EventBody
	reset()
}

type slabOf[T any, P interface {
	*T
	EventBody
}] struct{ slab[T] }

func (s *slabOf[T, P]) take() EventBody { return P(&s.push(nil)[0]) }
func (s *slabOf[T, P]) reset()          { s.used = 0 }

// slab is many values of one type, side by side.
type slab[T any] struct {
	all  []T
	used int
}

// push is v, which was taken last and is empty or ends where the slab is used up to, with
// one more element, which is empty.
func (s *slab[T]) push(v []T) []T {
	if s.used == len(s.all) { // those who have the old one keep it
		bigger := make([]T, max(16, 2*len(s.all), 2*len(v)))
		s.used = copy(bigger, v)
		s.all = bigger
	}
	from := s.used - len(v)
	s.used++
	v = s.all[from:s.used:s.used]
	var zero T
	v[len(v)-1] = zero
	return v
}

// take is n values, which may hold anything.
func (s *slab[T]) take(n int) []T {
	if s.used+n > len(s.all) {
		s.all, s.used = make([]T, max(64, 2*len(s.all), 2*n)), 0
	}
	s.used += n
	return s.all[s.used-n : s.used : s.used]
}

// slabFor is where elements of this type are made, nil if they are made one list at a time.
func slabFor[T any](b *Buffer) *slab[T] {
	if b == nil {
		return nil
	}
	var s any
	switch any((*T)(nil)).(type) {
	case *Event:
		s = &b.events
	case *Leg:
		s = &b.legs
	case *VMPlaced:
		s = &b.vms
	default:
		return nil
	}
	return s.(*slab[T])
}

// idList is room for n ids.
func idList[K idKind](b *Buffer, n int) []ID[K] {
	if b == nil || n == 0 {
		return make([]ID[K], n)
	}
	return unsafe.Slice((*ID[K])(unsafe.Pointer(unsafe.SliceData(b.ids.take(n)))), n)
}
