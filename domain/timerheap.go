package domain

// timer is one deadline: of what, and which row.
type timer struct {
	at   Time
	row  uint32
	kind timerKind
}

func (a timer) before(b timer) bool {
	if a.at != b.at {
		return a.at < b.at
	}
	if a.kind != b.kind {
		return a.kind < b.kind
	}
	return a.row < b.row
}

// timers is a binary heap. Most deadlines are overtaken, and a wipe's lies a day
// ahead: when the heap has grown to twice what was left of it, it is looked through
// again for those, a few entries at a time as new ones come.
type timers struct {
	heap   []timer
	enough int // so many may be here without a look
	sweep  int // entries below were looked at
	pushed int // since the last look
}

// add sets a deadline; zero is none.
func (t *timers) add(at Time, kind timerKind, row uint32) {
	if at == 0 {
		return
	}
	t.push(timer{at, row, kind})
}

func (t *timers) push(x timer) {
	t.pushed++
	t.heap = append(t.heap, x)
	t.up(len(t.heap) - 1)
}

// up moves the timer at i to where it belongs above.
func (t *timers) up(i int) {
	x := t.heap[i]
	for i > 0 {
		up := (i - 1) / 2
		if !x.before(t.heap[up]) {
			break
		}
		t.heap[i] = t.heap[up]
		i = up
	}
	t.heap[i] = x
}

func (t *timers) pop() timer {
	top := t.heap[0]
	t.removeAt(0)
	return top
}

// removeAt takes out the timer at i.
func (t *timers) removeAt(i int) {
	last := t.heap[len(t.heap)-1]
	t.heap = t.heap[:len(t.heap)-1]
	n := len(t.heap)
	if i == n {
		return
	}
	for { // ends at a leaf
		kid := 2*i + 1
		if kid >= n {
			break
		}
		if kid+1 < n && t.heap[kid+1].before(t.heap[kid]) {
			kid++
		}
		if !t.heap[kid].before(last) {
			break
		}
		t.heap[i] = t.heap[kid]
		i = kid
	}
	t.heap[i] = last
	t.up(i)
}

// sweepLooks is how many deadlines are looked at for each new one, once the heap has
// more than enough; sweepFrom is always enough.
const (
	sweepLooks = 4
	sweepFrom  = 1 << 12
)

// sweepTimers forgets deadlines that were overtaken, a bounded number at a time.
// What stands once and no longer never stands again without being set again.
func (w *World) sweepTimers() {
	t := &w.timers
	looks := sweepLooks * t.pushed
	t.pushed = 0
	if len(t.heap) <= max(t.enough, sweepFrom) {
		return
	}
	for ; looks > 0; looks-- {
		if t.sweep >= len(t.heap) {
			t.sweep, t.enough = 0, 2*len(t.heap)
			return
		}
		if w.stands(t.heap[t.sweep]) {
			t.sweep++
		} else {
			t.removeAt(t.sweep)
		}
	}
}
