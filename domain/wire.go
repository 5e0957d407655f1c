package domain

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"
)

// A coder moves one message between Go and the protobuf wire format, in either
// direction: a type lists its fields once, in rising order of field number, and
// that one list both encodes and decodes. So the two cannot drift apart, the
// bytes are deterministic (fields in order, zero values left out), and any
// protobuf tool can read them.
//
// Decoding is strict: a field that is unknown, out of order, of another wire
// type or cut short is an error. A reader that skipped what it does not know
// would fold another world than the writer did.
type coder struct {
	enc  bool
	keep bool   // decoding: the message outlives the bytes, so strings are copied
	b    []byte // encoding: what was written; decoding: all there is to read

	// Decoding.
	pos, end int     // what is left of the message that is being read
	field    uint32  // the tag of the field at pos: number << 3 | wire type; 0 behind the last
	mem      *Buffer // where what is decoded is made; nil: each for itself
	err      error
}

// reading is a coder that decodes all of b.
func reading(b []byte, keep bool) coder {
	c := coder{b: b, end: len(b), keep: keep}
	c.next()
	return c
}

// message is a type that lists its fields.
type message interface{ wire(c *coder) }

// encodeMessage is m's bytes.
func encodeMessage(m message) []byte {
	c := coder{enc: true}
	m.wire(&c)
	return c.b
}

// digestMessage is DigestOf m's bytes, which nobody keeps.
func digestMessage(m message) Digest {
	scratch := digestScratch.Get().(*coder)
	scratch.b = scratch.b[:0]
	m.wire(scratch)
	d := DigestOf(scratch.b)
	digestScratch.Put(scratch)
	return d
}

var digestScratch = sync.Pool{New: func() any { return &coder{enc: true} }}

// decodeMessage reads m from all of b. The strings and byte slices of m may
// share memory with b, which must not change afterwards.
func decodeMessage(b []byte, m message) error {
	c := reading(b, false)
	m.wire(&c)
	return c.finish()
}

// decodeKept is decodeMessage for what outlives b.
func decodeKept(b []byte, m message) error {
	c := reading(b, true)
	m.wire(&c)
	return c.finish()
}

func (c *coder) finish() error {
	if c.err == nil && c.field != 0 {
		c.err = fmt.Errorf("unknown field %d, or a field out of order", c.number())
	}
	return c.err
}

// skipAbove leaves out what comes next, if its fields have higher numbers than known.
func (c *coder) skipAbove(known protowire.Number) {
	for c.err == nil && c.number() > known {
		n := protowire.ConsumeFieldValue(c.number(), protowire.Type(c.field&7), c.b[c.pos:c.end])
		if n < 0 {
			c.fail("cut short")
			return
		}
		c.pos += n
		c.next()
	}
}

// number is that of the field which comes next.
func (c *coder) number() protowire.Number { return protowire.Number(c.field >> 3) }

// next reads the tag of the next field; 0 at the end.
func (c *coder) next() {
	if c.pos >= c.end {
		c.field = 0
		return
	}
	if t := c.b[c.pos]; t < 0x80 && t >= 1<<3 { // the common one-byte tag
		c.field = uint32(t)
		c.pos++
		return
	}
	c.nextWide()
}

func (c *coder) nextWide() {
	tag, n := consumeTag(c.b[c.pos:c.end])
	if n < 0 {
		c.fail("bad tag")
		return
	}
	c.field = tag
	c.pos += n
}

// consumeTag reads number << 3 | wire type. protowire takes numbers that are too wide for
// that, and of which the format knows nothing.
func consumeTag(b []byte) (tag uint32, n int) {
	num, typ, n := protowire.ConsumeTag(b)
	if n < 0 || !num.IsValid() {
		return 0, -1
	}
	return uint32(num)<<3 | uint32(typ), n
}

func (c *coder) fail(what string) {
	c.failWith(fmt.Errorf("field %d: %s", c.number(), what))
}

// failWith keeps the first error. What is left is not read.
func (c *coder) failWith(err error) {
	if c.err == nil {
		c.err = err
	}
	c.field, c.pos = 0, c.end
}

// at reports whether field n comes next, with the wire type it must have.
func (c *coder) at(n protowire.Number, t protowire.Type) bool {
	if c.field>>3 != uint32(n) {
		return false
	}
	if c.field&7 != uint32(t) {
		c.fail("wrong wire type")
		return false
	}
	return true
}

func (c *coder) tag(n protowire.Number, t protowire.Type) {
	if n < 16 {
		c.b = append(c.b, byte(n)<<3|byte(t))
		return
	}
	c.b = protowire.AppendTag(c.b, n, t)
}

func (c *coder) consumeVarint() uint64 {
	if c.pos < c.end && c.b[c.pos] < 0x80 {
		c.pos++
		return uint64(c.b[c.pos-1])
	}
	v, k := protowire.ConsumeVarint(c.b[c.pos:c.end])
	if k < 0 {
		c.fail("bad varint")
		return 0
	}
	c.pos += k
	return v
}

// consumeSpan reads a length, and passes what it is the length of: from there, to there.
func (c *coder) consumeSpan() (from, to int) {
	k := c.consumeVarint()
	if c.err == nil && k > uint64(c.end-c.pos) {
		c.fail("cut short")
	}
	if c.err != nil {
		return 0, 0
	}
	from, to = c.pos, c.pos+int(k)
	c.pos = to
	return from, to
}

func (c *coder) consumeBytes() []byte {
	from, to := c.consumeSpan()
	return c.b[from:to:to]
}

func (c *coder) writeUvar(n protowire.Number, v uint64) {
	if v != 0 {
		c.tag(n, protowire.VarintType)
		c.b = protowire.AppendVarint(c.b, v)
	}
}

// uvar is a varint.
func (c *coder) uvar(n protowire.Number, v *uint64) {
	if c.enc {
		c.writeUvar(n, *v)
	} else if c.at(n, protowire.VarintType) {
		if *v = c.consumeVarint(); c.err == nil {
			c.next()
		}
	}
}

// uintField is a varint of a narrower Go type; a value that does not fit is an
// error.
func uintField[T ~uint8 | ~uint16 | ~uint32](c *coder, n protowire.Number, v *T) {
	if c.enc {
		c.writeUvar(n, uint64(*v))
	} else if c.at(n, protowire.VarintType) {
		u := c.consumeVarint()
		if *v = T(u); uint64(*v) != u {
			c.fail("number out of range")
		}
		if c.err == nil {
			c.next()
		}
	}
}

// intField is a zigzag varint (sint64).
func intField[T ~int64 | ~int32 | ~int](c *coder, n protowire.Number, v *T) {
	if c.enc {
		c.writeUvar(n, protowire.EncodeZigZag(int64(*v)))
	} else if c.at(n, protowire.VarintType) {
		*v = T(protowire.DecodeZigZag(c.consumeVarint()))
		if c.err == nil {
			c.next()
		}
	}
}

func (c *coder) time(n protowire.Number, v *Time) { intField(c, n, v) }

func (c *coder) bool(n protowire.Number, v *bool) {
	if c.enc {
		if *v {
			c.writeUvar(n, 1)
		}
	} else if c.at(n, protowire.VarintType) {
		*v = c.consumeVarint() != 0
		if c.err == nil {
			c.next()
		}
	}
}

// fixed64 is eight bytes, always written: for what must not move.
func (c *coder) fixed64(n protowire.Number, v *uint64) {
	if c.enc {
		c.tag(n, protowire.Fixed64Type)
		c.b = binary.LittleEndian.AppendUint64(c.b, *v)
	} else if c.at(n, protowire.Fixed64Type) {
		if c.end-c.pos < 8 {
			c.fail("cut short")
			return
		}
		*v = binary.LittleEndian.Uint64(c.b[c.pos:])
		c.pos += 8
		c.next()
	}
}

func stringField[T ~string](c *coder, n protowire.Number, v *T) {
	if c.enc {
		if len(*v) != 0 {
			c.tag(n, protowire.BytesType)
			c.b = protowire.AppendVarint(c.b, uint64(len(*v)))
			c.b = append(c.b, *v...)
		}
	} else if c.at(n, protowire.BytesType) {
		b := c.consumeBytes()
		if c.err == nil {
			if c.keep {
				*v = T(b)
			} else {
				*v = T(unsafe.String(unsafe.SliceData(b), len(b)))
			}
			c.next()
		}
	}
}

func (c *coder) str(n protowire.Number, v *string) { stringField(c, n, v) }

func (c *coder) bytes(n protowire.Number, v *[]byte) {
	if c.enc {
		if len(*v) != 0 {
			c.tag(n, protowire.BytesType)
			c.b = protowire.AppendBytes(c.b, *v)
		}
	} else if c.at(n, protowire.BytesType) {
		b := c.consumeBytes()
		if c.err == nil {
			if c.keep {
				b = bytes.Clone(b)
			}
			*v = b
			c.next()
		}
	}
}

// fixedBytes is a byte array (an id, a digest); all zero is left out.
func (c *coder) fixedBytes(n protowire.Number, v []byte) {
	if c.enc {
		for _, x := range v {
			if x != 0 {
				c.tag(n, protowire.BytesType)
				c.b = protowire.AppendBytes(c.b, v)
				return
			}
		}
	} else if c.at(n, protowire.BytesType) {
		b := c.consumeBytes()
		if c.err != nil {
			return
		}
		if len(b) != len(v) {
			c.fail(fmt.Sprintf("%d bytes, want %d", len(b), len(v)))
			return
		}
		copy(v, b)
		c.next()
	}
}

func idField[K idKind](c *coder, n protowire.Number, v *ID[K]) {
	const size = len(v)
	if !c.enc && c.field == uint32(n)<<3|uint32(protowire.BytesType) && c.end-c.pos > size && c.b[c.pos] == byte(size) {
		*v = ID[K](c.b[c.pos+1:]) // what nearly every field is, at the cost of a move
		c.pos += 1 + size
		c.next()
		return
	}
	c.fixedBytes(n, v[:])
}

func (c *coder) digest(n protowire.Number, v *Digest) { c.fixedBytes(n, v[:]) }

// sub is an embedded message; an empty one is left out.
func (c *coder) sub(n protowire.Number, m message) {
	if c.enc {
		c.tag(n, protowire.BytesType)
		at := len(c.b)
		m.wire(c)
		size := len(c.b) - at
		if size == 0 { // take the tag back
			c.b = c.b[:at-protowire.SizeTag(n)]
			return
		}
		c.insertLength(at, size)
	} else if c.at(n, protowire.BytesType) {
		c.consumeSub(m)
	}
}

// optional is a sub-message behind a pointer: present, even if empty, or nil.
func optional[T any, P interface {
	*T
	message
}](c *coder, n protowire.Number, v **T) {
	if c.enc {
		if *v != nil {
			c.tag(n, protowire.BytesType)
			at := len(c.b)
			P(*v).wire(c)
			c.insertLength(at, len(c.b)-at)
		}
	} else if c.at(n, protowire.BytesType) {
		*v = new(T)
		c.consumeSub(P(*v))
	}
}

// insertLength makes room for a length before what was just written.
func (c *coder) insertLength(at, size int) {
	k := protowire.SizeVarint(uint64(size))
	var pad [10]byte
	c.b = append(c.b, pad[:k]...)
	copy(c.b[at+k:], c.b[at:at+size])
	binary.PutUvarint(c.b[at:at+k], uint64(size))
}

func (c *coder) consumeSub(m message) {
	from, to := c.consumeSpan()
	if c.err != nil {
		return
	}
	c.within(from, to, m)
	if c.err == nil {
		c.next()
	}
}

// within decodes m from a part of the bytes, and then goes on where it was. One coder does
// it all: a coder of its own for every embedded message would be half of all allocations.
func (c *coder) within(from, to int, m message) {
	field, pos, end := c.field, c.pos, c.end
	c.pos, c.end = from, to
	c.next()
	m.wire(c)
	err := c.finish()
	c.field, c.pos, c.end = field, pos, end
	if err != nil {
		c.err = nil
		c.failWith(fmt.Errorf("field %d: %w", c.number(), err))
	}
}
