package domain

import "hash/maphash"

// Idempotency: what was accepted, remembered for a while, so that a repeat gets
// the recorded outcome and writes nothing. Refusals are not remembered: a refused
// command is simply decided again.

// CommandWindow is how long a command id is remembered; an older id is refused.
const CommandWindow = 15 * Minute

// commandAhead is how far an id's clock may be ahead of the writer's.
const commandAhead = 5 * Minute

// Position names a decision in the log.
type Position struct {
	N     uint64 // commit
	Index uint32 // decision in it
}

// commandTime is when the id was made: the first 48 bits of a UUIDv7 (RFC 9562, 5.7).
func commandTime(id CommandID) Time {
	return Time(id[0])<<40 | Time(id[1])<<32 | Time(id[2])<<24 | Time(id[3])<<16 | Time(id[4])<<8 | Time(id[5])
}

// commandMinute is the commands whose ids were made in one minute, in log order.
type commandMinute struct {
	minute  int64
	entries []commandEntry
	ids     index
}

func (m *commandMinute) hashOf(entry uint32) uint64 { return commandHash(m.entries[entry].id) }

// commandHash is seeded: unlike all other ids, a client may choose a command's.
func commandHash(id CommandID) uint64 { return maphash.Bytes(nameSeed, id[:]) }

type commandEntry struct {
	id  CommandID
	pos Position
}

// commandWindow remembers command ids by the minute they were made in, so that
// forgetting is dropping a minute.
type commandWindow struct{ minutes []*commandMinute }

func (c *commandWindow) minute(id CommandID, make_ bool) *commandMinute {
	m := int64(commandTime(id)) / int64(Minute)
	at := len(c.minutes)
	for i, have := range c.minutes {
		if have.minute == m {
			return have
		}
		if have.minute > m {
			at = i
			break
		}
	}
	if !make_ {
		return nil
	}
	n := &commandMinute{minute: m}
	c.minutes = append(c.minutes, nil)
	copy(c.minutes[at+1:], c.minutes[at:])
	c.minutes[at] = n
	return n
}

func (c *commandWindow) find(id CommandID) (Position, bool) {
	m := c.minute(id, false)
	if m == nil {
		return Position{}, false
	}
	for p := m.ids.probe(commandHash(id)); ; p.next() {
		i := p.row()
		if i == none {
			return Position{}, false
		}
		if m.entries[i].id == id {
			return m.entries[i].pos, true
		}
	}
}

func (c *commandWindow) add(id CommandID, pos Position) {
	m := c.minute(id, true)
	m.entries = append(m.entries, commandEntry{id, pos})
	m.ids.add(commandHash(id), uint32(len(m.entries)-1), m.hashOf)
}

// forget drops the minutes that no accepted id can fall into any more.
func (c *commandWindow) forget(now Time) {
	oldest := int64(now.Add(-CommandWindow)) / int64(Minute)
	for len(c.minutes) > 0 && c.minutes[0].minute < oldest {
		c.minutes[0] = nil // or the array below would hold it
		c.minutes = c.minutes[1:]
	}
}

// idemKeyWindow is how long an Idempotency-Key is remembered, and maxIdemKeys how
// many a tenant may have at once.
const (
	idemKeyWindow = Day
	maxIdemKeys   = 100_000
)

// idemKeys are one tenant's Idempotency-Keys, in log order.
type idemKeys struct {
	entries []idemEntry
	byKey   map[Digest]uint32 // index in entries plus dropped
	dropped uint32
}

type idemEntry struct {
	key, body Digest
	at        Time
	pos       Position
}

func (k *idemKeys) find(key Digest) *idemEntry {
	if i, ok := k.byKey[key]; ok {
		return &k.entries[i-k.dropped]
	}
	return nil
}

func (k *idemKeys) add(e idemEntry) {
	if k.byKey == nil {
		k.byKey = map[Digest]uint32{}
	}
	k.byKey[e.key] = uint32(len(k.entries)) + k.dropped
	k.entries = append(k.entries, e)
}

func (k *idemKeys) forget(now Time) {
	for len(k.entries) > 0 && k.entries[0].at < now.Add(-idemKeyWindow) {
		delete(k.byKey, k.entries[0].key)
		k.entries = k.entries[1:]
		k.dropped++
	}
}

// keysOf finds the Idempotency-Keys of the actor: its tenant's, or the platform's.
func (w *World) keysOf(a Actor) *idemKeys {
	if k := w.keys.get(a.Key); k != nil && !k.Tenant.IsZero() {
		if t := w.tenants.get(k.Tenant); t != nil {
			return &t.keys
		}
	}
	return &w.platformKeys
}
