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
	b    []byte // encoding: what was written; decoding: what is left
	num  protowire.Number
	typ  protowire.Type
	err  error
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
	c := coder{b: b}
	c.next()
	m.wire(&c)
	return c.finish()
}

// decodeKept is decodeMessage for what outlives b.
func decodeKept(b []byte, m message) error {
	c := coder{b: b, keep: true}
	c.next()
	m.wire(&c)
	return c.finish()
}

func (c *coder) finish() error {
	if c.err == nil && c.num != 0 {
		c.err = fmt.Errorf("unknown field %d, or a field out of order", c.num)
	}
	return c.err
}

// next reads the tag of the next field; 0 at the end.
func (c *coder) next() {
	if len(c.b) == 0 {
		c.num = 0
		return
	}
	if t := c.b[0]; t < 0x80 && t>>3 != 0 { // the common one-byte tag
		c.num, c.typ, c.b = protowire.Number(t>>3), protowire.Type(t&7), c.b[1:]
		return
	}
	num, typ, n := protowire.ConsumeTag(c.b)
	if n < 0 {
		c.fail("bad tag")
		return
	}
	c.num, c.typ, c.b = num, typ, c.b[n:]
}

func (c *coder) fail(what string) {
	if c.err == nil {
		c.err = fmt.Errorf("field %d: %s", c.num, what)
	}
	c.num, c.b = 0, nil
}

// at reports whether field n comes next, with the wire type it must have.
func (c *coder) at(n protowire.Number, t protowire.Type) bool {
	if c.num != n {
		return false
	}
	if c.typ != t {
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
	if len(c.b) > 0 && c.b[0] < 0x80 {
		v := c.b[0]
		c.b = c.b[1:]
		return uint64(v)
	}
	v, k := protowire.ConsumeVarint(c.b)
	if k < 0 {
		c.fail("bad varint")
		return 0
	}
	c.b = c.b[k:]
	return v
}

func (c *coder) consumeBytes() []byte {
	k := c.consumeVarint()
	if c.err != nil {
		return nil
	}
	if k > uint64(len(c.b)) {
		c.fail("cut short")
		return nil
	}
	v := c.b[:k:k]
	c.b = c.b[k:]
	return v
}

// uvar is a varint.
func (c *coder) uvar(n protowire.Number, v *uint64) {
	if c.enc {
		if *v != 0 {
			c.tag(n, protowire.VarintType)
			c.b = protowire.AppendVarint(c.b, *v)
		}
	} else if c.at(n, protowire.VarintType) {
		if *v = c.consumeVarint(); c.err == nil {
			c.next()
		}
	}
}

// uintField is a varint of a narrower Go type; a value that does not fit is an
// error.
func uintField[T ~uint8 | ~uint16 | ~uint32](c *coder, n protowire.Number, v *T) {
	u := uint64(*v)
	c.uvar(n, &u)
	if !c.enc {
		if *v = T(u); uint64(*v) != u {
			c.fail("number out of range")
		}
	}
}

// intField is a zigzag varint (sint64).
func intField[T ~int64 | ~int32 | ~int](c *coder, n protowire.Number, v *T) {
	u := protowire.EncodeZigZag(int64(*v))
	c.uvar(n, &u)
	if !c.enc {
		*v = T(protowire.DecodeZigZag(u))
	}
}

func (c *coder) time(n protowire.Number, v *Time) { intField(c, n, v) }

func (c *coder) bool(n protowire.Number, v *bool) {
	var u uint64
	if *v {
		u = 1
	}
	c.uvar(n, &u)
	if !c.enc {
		*v = u != 0
	}
}

// fixed64 is eight bytes, always written: for what must not move.
func (c *coder) fixed64(n protowire.Number, v *uint64) {
	if c.enc {
		c.tag(n, protowire.Fixed64Type)
		c.b = binary.LittleEndian.AppendUint64(c.b, *v)
	} else if c.at(n, protowire.Fixed64Type) {
		if len(c.b) < 8 {
			c.fail("cut short")
			return
		}
		*v = binary.LittleEndian.Uint64(c.b)
		c.b = c.b[8:]
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

func idField[K idKind](c *coder, n protowire.Number, v *ID[K]) { c.fixedBytes(n, v[:]) }

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

// insertLength makes room for a length before what was just written.
func (c *coder) insertLength(at, size int) {
	k := protowire.SizeVarint(uint64(size))
	var pad [10]byte
	c.b = append(c.b, pad[:k]...)
	copy(c.b[at+k:], c.b[at:at+size])
	binary.PutUvarint(c.b[at:at+k], uint64(size))
}

func (c *coder) consumeSub(m message) {
	b := c.consumeBytes()
	if c.err != nil {
		return
	}
	c.within(b, m)
	if c.err == nil {
		c.next()
	}
}

// within decodes m from all of b, and then goes on behind it. One coder does it all:
// a coder of its own for every embedded message would be half of all allocations.
func (c *coder) within(b []byte, m message) {
	num, typ, rest := c.num, c.typ, c.b
	c.b = b
	c.next()
	m.wire(c)
	if err := c.finish(); err != nil {
		c.err, c.num, c.b = fmt.Errorf("field %d: %w", num, err), 0, nil
		return
	}
	c.num, c.typ, c.b = num, typ, rest
}

// maxRepeated bounds every repeated field, so that a hostile message cannot ask
// for unbounded memory before its size limit is seen.
const maxRepeated = 1 << 24

// maxReserved bounds what is reserved before a repeated field is read.
const maxReserved = 256

// repeats counts how often the present field comes, up to maxReserved and as far as the
// bytes make sense.
func (c *coder) repeats() (k int) {
	for b := c.b; k < maxReserved; {
		size, n := protowire.ConsumeVarint(b)
		if n < 0 || size > uint64(len(b)-n) {
			break
		}
		k++
		b = b[n+int(size):]
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 || num != c.num || typ != c.typ {
			break
		}
		b = b[n:]
	}
	return k
}

// msgs is a repeated message.
func msgs[T any, P interface {
	*T
	message
}](c *coder, n protowire.Number, v *[]T) {
	if c.enc {
		for i := range *v {
			c.tag(n, protowire.BytesType)
			at := len(c.b)
			P(&(*v)[i]).wire(c)
			c.insertLength(at, len(c.b)-at)
		}
		return
	}
	if c.num == n && len(*v) == 0 {
		if k := c.repeats(); k > cap(*v) {
			*v = make([]T, 0, k)
		}
	}
	for c.at(n, protowire.BytesType) {
		if len(*v) == maxRepeated {
			c.fail("too many")
			return
		}
		*v = append(*v, *new(T))
		c.consumeSub(P(&(*v)[len(*v)-1]))
	}
}

// strs is a repeated string.
func strs[T ~string](c *coder, n protowire.Number, v *[]T) {
	if c.enc {
		for _, s := range *v {
			c.tag(n, protowire.BytesType)
			c.b = protowire.AppendString(c.b, string(s))
		}
		return
	}
	for c.at(n, protowire.BytesType) {
		b := c.consumeBytes()
		if c.err != nil {
			return
		}
		*v = append(*v, T(b))
		c.next()
	}
}

// ids is a repeated id, packed into one field of 16 bytes each.
func ids[K idKind](c *coder, n protowire.Number, v *[]ID[K]) {
	if c.enc {
		if len(*v) == 0 {
			return
		}
		c.tag(n, protowire.BytesType)
		c.b = protowire.AppendVarint(c.b, uint64(16*len(*v)))
		for i := range *v {
			c.b = append(c.b, (*v)[i][:]...)
		}
		return
	}
	if !c.at(n, protowire.BytesType) {
		return
	}
	b := c.consumeBytes()
	if c.err != nil {
		return
	}
	if len(b)%16 != 0 {
		c.fail("not a whole number of ids")
		return
	}
	*v = make([]ID[K], len(b)/16)
	for i := range *v {
		copy((*v)[i][:], b[16*i:])
	}
	c.next()
}

// uints is a repeated number, packed.
func uints[T ~uint8 | ~uint16 | ~uint32 | ~uint64](c *coder, n protowire.Number, v *[]T) {
	if c.enc {
		if len(*v) == 0 {
			return
		}
		c.tag(n, protowire.BytesType)
		at := len(c.b)
		for _, x := range *v {
			c.b = protowire.AppendVarint(c.b, uint64(x))
		}
		c.insertLength(at, len(c.b)-at)
		return
	}
	if !c.at(n, protowire.BytesType) {
		return
	}
	b := c.consumeBytes()
	for c.err == nil && len(b) > 0 {
		u, k := protowire.ConsumeVarint(b)
		if k < 0 || uint64(T(u)) != u {
			c.fail("bad number")
			return
		}
		*v, b = append(*v, T(u)), b[k:]
	}
	if c.err == nil {
		c.next()
	}
}
