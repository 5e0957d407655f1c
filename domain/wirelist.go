package domain

import "google.golang.org/protobuf/encoding/protowire"

// maxRepeated bounds every repeated field, so that a hostile message cannot ask
// for unbounded memory before its size limit is seen.
const maxRepeated = 1 << 24

// maxReserved bounds what is reserved before a repeated field is read.
const maxReserved = 256

// repeats counts how often the present field comes, up to maxReserved and as far as the
// bytes make sense.
func (c *coder) repeats() (k int) {
	for b := c.b[c.pos:c.end]; k < maxReserved; {
		size, n := protowire.ConsumeVarint(b)
		if n < 0 || size > uint64(len(b)-n) {
			break
		}
		k++
		b = b[n+int(size):]
		tag, n := consumeTag(b)
		if n < 0 || tag != c.field {
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
	if c.number() != n {
		return
	}
	many := slabFor[T](c.mem)
	if many == nil && len(*v) == 0 {
		if k := c.repeats(); k > cap(*v) {
			*v = make([]T, 0, k)
		}
	}
	for c.at(n, protowire.BytesType) {
		if len(*v) == maxRepeated {
			c.fail("too many")
			return
		}
		if many != nil {
			*v = many.push(*v)
		} else {
			*v = append(*v, *new(T))
		}
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
	*v = idList[K](c.mem, len(b)/16)
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
