package projections

import (
	"encoding"
	"encoding/binary"

	"github.com/gpuaas/gpuaas/domain"
)

// The binary format of COPY (PostgreSQL's documentation, "COPY", "File Formats"): a head,
// rows that begin with the number of their fields, fields that begin with the number of
// their bytes, an end. It is written here, and not by pgx from values of any type,
// because new rows are most of what a projector does.

const copyHead = "PGCOPY\n\xff\r\n\x00" +
	"\x00\x00\x00\x00" + // no flags
	"\x00\x00\x00\x00" // and no extension

const copyEnd = "\xff\xff"

func appendRow(b []byte, fields int) []byte { return binary.BigEndian.AppendUint16(b, uint16(fields)) }

func appendNull(b []byte) []byte { return append(b, 0xff, 0xff, 0xff, 0xff) }

func appendText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// appendIdent is the text of an id, whose length is known when it is written.
func appendIdent[T encoding.TextAppender](b []byte, id T) []byte {
	at := len(b)
	b, _ = id.AppendText(append(b, 0, 0, 0, 0)) // an id's has no error
	binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

func appendInt32(b []byte, v int32) []byte {
	return binary.BigEndian.AppendUint32(append(b, 0, 0, 0, 4), uint32(v))
}

func appendInt64(b []byte, v int64) []byte {
	return binary.BigEndian.AppendUint64(append(b, 0, 0, 0, 8), uint64(v))
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 0, 0, 0, 1, 1)
	}
	return append(b, 0, 0, 0, 1, 0)
}

// postgresEpoch is 2000-01-01 UTC, from which timestamptz counts microseconds.
const postgresEpoch domain.Time = 946_684_800_000

// appendTime is a timestamptz; zero becomes NULL.
func appendTime(b []byte, t domain.Time) []byte {
	if t == 0 {
		return appendNull(b)
	}
	return appendInt64(b, int64(t-postgresEpoch)*1000)
}

// appendJSONB is version 1 of jsonb's form, which is the document's text; "" becomes NULL.
func appendJSONB(b []byte, s string) []byte {
	if s == "" {
		return appendNull(b)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)+1))
	return append(append(b, 1), s...)
}
