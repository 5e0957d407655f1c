package sim

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"

	"github.com/gpuaas/gpuaas/domain"
)

// simLog is the log as JetStream keeps it: messages in one order, and a sequence
// that an append has to expect.
type simLog struct {
	s        *Sim
	messages [][]byte
	decoded  []*domain.Commit // the same, for those who only look
	hashes   []domain.Digest
	mark     uint64      // of the newest message, for the trace
	away     domain.Time // nobody reaches it until then
	life     uint64      // counts the times that it lost its end: what was on its way never arrives
}

func (l *simLog) len() uint64 { return uint64(len(l.messages)) }

// holds says whether the log has this head.
func (l *simLog) holds(h domain.Head) bool {
	return h.N == 0 || h.N <= l.len() && l.hashes[h.N-1] == h.Hash
}

func (l *simLog) put(b []byte, c *domain.Commit) {
	h := domain.Digest(sha256.Sum256(b))
	l.messages, l.decoded, l.hashes = append(l.messages, b), append(l.decoded, c), append(l.hashes, h)
	l.mark = binary.BigEndian.Uint64(h[:8])
}

// arrive is an append that reached the log. It returns whether it was taken.
func (l *simLog) arrive(expected uint64, b []byte) bool {
	if expected != l.len() {
		return false
	}
	if l.s.lost != nil {
		l.s.seen.mark(ForkedCommit)
	}
	b = bytes.Clone(b) // the writer uses its buffer again
	c, err := domain.DecodeCommitEvents(b)
	if err != nil {
		l.s.fail("commit %d cannot be read: %v", l.len()+1, err)
	}
	l.put(b, c)
	l.s.shadow.commit(c)
	l.s.projector.wake()
	return true
}

// append is a commit on its way to durability, as streams.Log.Append does it: the
// same bytes again until message expected+1 exists.
type appending struct {
	p        *process
	life     uint64
	expected uint64
	bytes    []byte
	began    domain.Time
	settled  bool
}

const (
	attemptTimeout = 2 * domain.Second
	appendTimeout  = 30 * domain.Second
)

func (a *appending) over() bool { return a.settled || a.p.life != a.life }

// send is one attempt.
func (a *appending) send() {
	if a.over() {
		return
	}
	s := a.p.s
	if s.now.Sub(a.began) > appendTimeout {
		a.settled = true
		s.seen.mark(AppendUnknown)
		a.p.die("append unknown")
		return
	}
	answered := !s.dice.happens(AckLost)
	log := s.log.life
	arrive := func() {
		if s.log.life == log {
			a.arrive(answered)
		}
	}
	switch {
	case a.p.cut: // the servers that it knew are gone, see docs/reliability.md
		answered = false
	case s.dice.happens(AppendLost), s.now < s.log.away:
		answered = false
	case s.dice.happens(AppendLate):
		answered = false
		s.after(between(s.dice.net, domain.Second, 2*domain.Minute), "append lands late", a.p.id, arrive)
	default:
		s.after(between(s.dice.net, domain.Millisecond, 20*domain.Millisecond), "append", a.p.id, arrive)
	}
	if !answered {
		s.after(attemptTimeout, "append timeout", a.p.id, a.send)
	}
}

func (a *appending) arrive(answered bool) {
	s := a.p.s
	taken := s.log.arrive(a.expected, a.bytes)
	if taken && a.p.life != a.life {
		s.seen.mark(LandedAfterDeath)
	}
	if !answered {
		return
	}
	log := s.log.life
	s.after(between(s.dice.net, domain.Millisecond, 10*domain.Millisecond), "append answer", a.p.id, func() {
		if s.log.life == log {
			a.answer(taken)
		}
	})
}

// answer is what the writer hears: an acknowledgement, or "wrong last sequence",
// which by itself says nothing.
func (a *appending) answer(taken bool) {
	if a.over() {
		return
	}
	s := a.p.s
	if !taken {
		if s.log.len() <= a.expected {
			s.after(100*domain.Millisecond, "append again", a.p.id, a.send)
			return // not there: that says nothing either
		}
		if !bytes.Equal(s.log.messages[a.expected], a.bytes) {
			a.settled = true
			s.seen.mark(Deposed)
			a.p.die("deposed")
			return
		}
		s.seen.mark(Settled)
	}
	a.settled = true
	a.p.durable()
}
