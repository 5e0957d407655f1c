package sim

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/gpuaas/gpuaas/domain"
)

// trace is what happened: a hash of all of it, and the newest lines.
type trace struct {
	hash uint64
	n    uint64
	ring [64]line
}

type line struct {
	step int
	at   domain.Time
	who  int
	what string
	id   uint64
}

const fnvPrime = 0x100000001b3

func (t *trace) mix(v uint64) {
	for range 8 {
		t.hash = (t.hash ^ v&0xff) * fnvPrime
		v >>= 8
	}
}

// note adds a line. id is anything that tells this one from others of its kind.
func (t *trace) note(step int, at domain.Time, who int, what string, id uint64) {
	for i := range len(what) {
		t.hash = (t.hash ^ uint64(what[i])) * fnvPrime
	}
	t.mix(uint64(at))
	t.mix(uint64(who)<<32 ^ id)
	t.ring[t.n%uint64(len(t.ring))] = line{step, at, who, what, id}
	t.n++
}

// tail prints the newest lines.
func (t *trace) tail() string {
	var b strings.Builder
	size := uint64(len(t.ring))
	for i := t.n - min(t.n, size); i < t.n; i++ {
		l := t.ring[i%size]
		fmt.Fprintf(&b, "  step %-5d %s  %-22s %2d %016x\n", l.step, l.at, l.what, l.who, l.id)
	}
	return b.String()
}

// tell adds to the story, if somebody reads it: with the command that replays a
// failure, -sim.story prints it.
func (s *Sim) tell(format string, args ...any) {
	if s.cfg.Story != nil {
		fmt.Fprintf(s.cfg.Story, "%5d %s  "+format+"\n", append([]any{s.step, s.now}, args...)...)
	}
}

// tellCommit tells a commit's events.
func (s *Sim) tellCommit(c *domain.Commit) {
	if s.cfg.Story == nil {
		return
	}
	for i := range c.Decisions {
		for _, e := range c.Decisions[i].Events {
			body, err := json.Marshal(e.Body)
			if err != nil {
				body = []byte(err.Error())
			}
			s.tell("commit %d: %s %s", c.N, e.Body.EventType(), body)
		}
	}
}
