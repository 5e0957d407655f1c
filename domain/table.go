package domain

import (
	"encoding/binary"
	"hash/maphash"
)

// table keeps rows of one kind under dense numbers: small enough for a map or a
// link, stable for a row's whole life, and the same in every fold of one log
// (a freed number is taken again last in, first out). Rows live in chunks, so
// that growing never moves them and never stalls the decision loop.
type table[K ~[16]byte, V any, P interface {
	*V
	key() K
}] struct {
	chunks [][]V
	ids    index
	free   []uint32
	next   uint32

	// What was found or made last: the events of a decision name the same rows.
	lastID  K
	lastRow uint32 // row + 1, 0: nothing is remembered
}

// tableChunk is small enough that a small world is small: there are many in tests.
const tableChunk = 1 << 6

// none is the number of no row.
const none = ^uint32(0)

func (t *table[K, V, P]) len() int { return int(t.ids.n) }

// row returns the row with number i, which must exist.
func (t *table[K, V, P]) row(i uint32) *V { return &t.chunks[i/tableChunk][i%tableChunk] }

// idHash takes the part of an id that is random in every kind of id.
func idHash[K ~[16]byte](id K) uint64 { return binary.LittleEndian.Uint64(id[8:]) }

// find returns the number of id's row, or none.
func (t *table[K, V, P]) find(id K) uint32 {
	if id == t.lastID && t.lastRow != 0 {
		return t.lastRow - 1
	}
	return t.search(id)
}

func (t *table[K, V, P]) search(id K) uint32 {
	for p := t.ids.probe(idHash(id)); ; p.next() {
		i := p.row()
		if i == none {
			return none
		}
		if P(t.row(i)).key() == id {
			t.lastID, t.lastRow = id, i+1
			return i
		}
	}
}

// get returns id's row, or nil.
func (t *table[K, V, P]) get(id K) *V {
	if i := t.find(id); i != none {
		return t.row(i)
	}
	return nil
}

// add makes a row for id, which is not there yet. The caller fills it, its id
// first of all.
func (t *table[K, V, P]) add(id K) (uint32, *V) {
	var i uint32
	if n := len(t.free); n > 0 {
		i, t.free = t.free[n-1], t.free[:n-1]
	} else {
		i = t.next
		t.next++
		if int(i/tableChunk) == len(t.chunks) {
			t.chunks = append(t.chunks, make([]V, tableChunk))
		}
	}
	t.ids.add(idHash(id), i, t.hashOf)
	t.lastID, t.lastRow = id, i+1
	return i, t.row(i)
}

func (t *table[K, V, P]) hashOf(row uint32) uint64 { return idHash(P(t.row(row)).key()) }

// remove frees id's row.
func (t *table[K, V, P]) remove(id K) {
	if i := t.find(id); i != none {
		t.ids.remove(idHash(id), i, t.hashOf)
		*t.row(i) = *new(V)
		t.lastRow = 0
		t.free = append(t.free, i)
	}
}

// index finds rows by a hash of something they contain: a table of row numbers
// with open addressing, so that an entry costs 8 bytes and not a copy of its key.
// It holds nothing that does not follow from the rows, and its inner order reaches
// nothing: two folds may lay it out differently.
type index struct {
	n    uint32
	mask uint32      // of the places, a power of two; nothing is entered while it is 0
	full []fullPlace // unless lean
	rows []uint32    // lean: row + 1, 0: empty
	// lean costs 4 bytes an entry: no hash is kept, so that growing and removing read
	// the rows, each of them a cache miss. For what is many and seldom added.
	lean bool
}

// fullPlace is a place that knows its row's mixed hash: both in one line of the cache.
type fullPlace struct {
	row  uint32 // row + 1, 0: empty
	hash uint32
}

// mixed spreads a hash over the 32 bits that an index uses of it.
func mixed(h uint64) uint32 { return uint32(h * 0x9e3779b97f4a7c15 >> 32) }

// probe walks the rows that may have hash h, and ends with none.
func (x *index) probe(h uint64) probe {
	p := probe{x: x, hash: mixed(h)}
	p.at = p.hash & x.mask
	p.skip()
	return p
}

type probe struct {
	x        *index
	hash, at uint32
}

// row is the row at which the walk is.
func (p *probe) row() uint32 { return p.x.at(p.at) - 1 }

func (p *probe) next() {
	p.step()
	p.skip()
}

func (p *probe) step() { p.at = (p.at + 1) & p.x.mask }

// skip passes the rows whose hash is known to be another one.
func (p *probe) skip() {
	if p.x.lean {
		return
	}
	for len(p.x.full) > 0 && p.x.full[p.at].row != 0 && p.x.full[p.at].hash != p.hash {
		p.step()
	}
}

// at is the row + 1 at a place, 0 if it is empty.
func (x *index) at(place uint32) uint32 {
	switch {
	case x.mask == 0:
		return 0
	case x.lean:
		return x.rows[place]
	}
	return x.full[place].row
}

// add enters a row. hashOf tells the hash of rows that are entered already, for
// when a lean index grows.
func (x *index) add(h uint64, row uint32, hashOf func(uint32) uint64) {
	if places := uint64(x.mask) + 1; uint64(x.n+1)*4 > places*3 || x.mask == 0 {
		x.resize(max(16, int(2*places)), hashOf)
	}
	x.put(mixed(h), row+1)
	x.n++
}

// resize gives the index room for size rows, a power of two.
func (x *index) resize(size int, hashOf func(uint32) uint64) {
	old := *x
	x.mask = uint32(size - 1)
	if x.lean {
		x.rows = make([]uint32, size)
		for _, r := range old.rows {
			if r != 0 {
				x.put(mixed(hashOf(r-1)), r)
			}
		}
		return
	}
	x.full = make([]fullPlace, size)
	for _, f := range old.full {
		if f.row != 0 {
			x.put(f.hash, f.row)
		}
	}
}

// hashAt is the mixed hash of the row at a place.
func (x *index) hashAt(place uint32, hashOf func(uint32) uint64) uint32 {
	if x.lean {
		return mixed(hashOf(x.rows[place] - 1))
	}
	return x.full[place].hash
}

func (x *index) put(hash, row uint32) {
	place := hash & x.mask
	for x.at(place) != 0 {
		place = (place + 1) & x.mask
	}
	x.set(place, hash, row)
}

func (x *index) set(place, hash, row uint32) {
	if x.lean {
		x.rows[place] = row
		return
	}
	x.full[place] = fullPlace{row, hash}
}

// remove takes a row out, and moves those behind it that could no longer be found.
func (x *index) remove(h uint64, row uint32, hashOf func(uint32) uint64) {
	p := x.probe(h)
	for p.row() != row {
		if p.row() == none {
			return
		}
		p.next()
	}
	hole := p.at
	for p.step(); x.at(p.at) != 0; p.step() {
		hash := x.hashAt(p.at, hashOf)
		if (p.at-hash)&x.mask >= (p.at-hole)&x.mask {
			x.set(hole, hash, x.at(p.at))
			hole = p.at
		}
	}
	x.set(hole, 0, 0)
	x.n--
}

// nameSeed makes hashes of names that nobody outside can collide on purpose. It
// differs from process to process, which no state and no event can see.
var nameSeed = maphash.MakeSeed()

func nameHash(scope [16]byte, name string) uint64 {
	return maphash.String(nameSeed, name) ^ idHash(scope)
}

// names finds the rows of a table by a name that is unique in a scope.
type names struct{ index }

func (x *names) find(scope [16]byte, name string, is func(row uint32) bool) uint32 {
	for p := x.probe(nameHash(scope, name)); ; p.next() {
		if i := p.row(); i == none || is(i) {
			return i
		}
	}
}
