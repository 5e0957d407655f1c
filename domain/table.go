package domain

// table keeps rows of one kind under dense numbers: small enough for a map or a
// link, stable for a row's whole life, and the same in every fold of one log
// (a freed number is taken again last in, first out). Rows live in chunks, so
// that growing never moves them and never stalls the decision loop.
type table[K comparable, V any] struct {
	chunks [][]V
	byID   map[K]uint32
	free   []uint32
	next   uint32
}

const tableChunk = 1 << 12

// none is the number of no row.
const none = ^uint32(0)

func (t *table[K, V]) len() int { return len(t.byID) }

// row returns the row with number i, which must exist.
func (t *table[K, V]) row(i uint32) *V { return &t.chunks[i/tableChunk][i%tableChunk] }

// find returns the number of id's row, or none.
func (t *table[K, V]) find(id K) uint32 {
	if i, ok := t.byID[id]; ok {
		return i
	}
	return none
}

// get returns id's row, or nil.
func (t *table[K, V]) get(id K) *V {
	if i, ok := t.byID[id]; ok {
		return t.row(i)
	}
	return nil
}

// add makes a zero row for id.
func (t *table[K, V]) add(id K) (uint32, *V) {
	if t.byID == nil {
		t.byID = make(map[K]uint32)
	}
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
	t.byID[id] = i
	return i, t.row(i)
}

// remove frees id's row.
func (t *table[K, V]) remove(id K) {
	if i, ok := t.byID[id]; ok {
		delete(t.byID, id)
		*t.row(i) = *new(V)
		t.free = append(t.free, i)
	}
}
