package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/gpuaas/gpuaas/domain"
)

// A record is one frame's payload, in protobuf wire format. A header begins a file
// and forgets everything before it.
//
//	1 version (header only)  2 journal id  3 last number  4 acknowledged number
//	5 report number  6 report kind  7 signed report
//	8 dropped prefix (repeated)  9 fact key, 10 fact value (in pairs, repeated)
type record struct {
	header bool
	id     domain.JournalID
	last   uint64
	acked  uint64
	entry  Entry
	change Change
}

const version = 1

func (r *record) encode() (b []byte) {
	if r.header {
		b = appendUint(b, 1, version)
		b = appendBytes(b, 2, r.id[:])
		b = appendUint(b, 3, r.last)
	}
	if r.acked != 0 {
		b = appendUint(b, 4, r.acked)
	}
	if r.entry.Number != 0 {
		b = appendUint(b, 5, r.entry.Number)
		b = appendBytes(b, 6, []byte(r.entry.Kind))
		b = appendBytes(b, 7, r.entry.Signed)
	}
	for _, prefix := range r.change.Drop {
		b = appendBytes(b, 8, []byte(prefix))
	}
	for _, k := range slices.Sorted(maps.Keys(r.change.Set)) {
		b = appendBytes(b, 9, []byte(k))
		b = appendBytes(b, 10, []byte(r.change.Set[k]))
	}
	return b
}

func (r *record) decode(b []byte) error {
	r.change.Set = map[string]string{}
	key := ""
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errors.New("bad tag")
		}
		b = b[n:]
		var u uint64
		var v []byte
		switch typ {
		case protowire.VarintType:
			u, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			v, n = protowire.ConsumeBytes(b)
		default:
			return fmt.Errorf("field %d: unknown wire type", num)
		}
		if n < 0 {
			return fmt.Errorf("field %d: cut short", num)
		}
		b = b[n:]
		if err := r.field(num, u, v, &key); err != nil {
			return err
		}
	}
	return nil
}

func (r *record) field(num protowire.Number, u uint64, v []byte, key *string) error {
	switch num {
	case 1:
		if u != version {
			return fmt.Errorf("journal version %d: this program knows %d", u, version)
		}
		r.header = true
	case 2:
		if copy(r.id[:], v) != len(r.id) {
			return errors.New("short journal id")
		}
	case 3:
		r.last = u
	case 4:
		r.acked = u
	case 5:
		r.entry.Number = u
	case 6:
		r.entry.Kind = domain.ReportKind(v)
	case 7:
		r.entry.Signed = slices.Clone(v)
	case 8:
		r.change.Drop = append(r.change.Drop, string(v))
	case 9:
		*key = string(v)
	case 10:
		r.change.Set[*key] = string(v)
	default:
		return fmt.Errorf("unknown field %d", num)
	}
	return nil
}

func appendUint(b []byte, num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

func appendBytes(b []byte, num protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), v)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// frame puts length and checksum before a payload.
func frame(payload []byte) []byte {
	b := make([]byte, frameHeaderBytes, frameHeaderBytes+len(payload))
	binary.LittleEndian.PutUint32(b, uint32(len(payload)))
	binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(payload, castagnoli))
	return append(b, payload...)
}

// torn reports whether rest, which does not begin with a whole frame, is what a write leaves
// that was interrupted: a frame that goes on beyond the end, or nothing. Otherwise what was
// durable is damaged.
func torn(rest []byte) bool {
	if len(rest) < frameHeaderBytes || len(bytes.Trim(rest, "\x00")) == 0 {
		return true
	}
	size := binary.LittleEndian.Uint32(rest)
	return size <= recordMaxBytes && int(size) > len(rest)-frameHeaderBytes
}

// nextFrame returns the first payload of b and the frame's length; 0 if b does not
// begin with a whole frame.
func nextFrame(b []byte) (payload []byte, n int) {
	if len(b) < frameHeaderBytes {
		return nil, 0
	}
	size := binary.LittleEndian.Uint32(b)
	if size == 0 || size > recordMaxBytes || int(size) > len(b)-frameHeaderBytes {
		return nil, 0
	}
	payload = b[frameHeaderBytes : frameHeaderBytes+int(size)]
	if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
		return nil, 0
	}
	return payload, frameHeaderBytes + int(size)
}
