package projections

import (
	"bytes"
	"context"
	"encoding"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/gpuaas/gpuaas/domain"
)

// A column says how a row becomes a field of COPY, and how many rows become one array:
// statements write any number of rows by unnest, so their text never changes and is
// planned once.
type column[R any] struct {
	name  string
	typ   string
	field func([]byte, *R) []byte // in COPY's binary format
	array func(rows []*R) any
}

// columnOf is a column of what Postgres calls typ and Go T: field writes it for COPY,
// element is it in an array.
func columnOf[R, T, E any](name, typ string, get func(*R) T, field func([]byte, T) []byte, element func(T) E) column[R] {
	return column[R]{
		name, typ,
		func(b []byte, r *R) []byte { return field(b, get(r)) },
		func(rows []*R) any {
			out := make([]E, len(rows))
			for i, r := range rows {
				out[i] = element(get(r))
			}
			return out
		},
	}
}

func same[T any](v T) T { return v }

func text[R any](name string, get func(*R) string) column[R] {
	return columnOf(name, "text", func(r *R) string { return storable(get(r)) }, appendText, same)
}

// ident is text that an id makes, which is storable.
func ident[R any, T textID](name string, get func(*R) T) column[R] {
	return columnOf(name, "text", get, appendIdent, T.String)
}

type textID interface {
	encoding.TextAppender
	fmt.Stringer
}

type number interface {
	~int | ~int64 | ~uint8 | ~uint16 | ~uint32 | ~uint64
}

func bigint[R any, T number](name string, get func(*R) T) column[R] {
	return columnOf(name, "bigint", func(r *R) int64 { return int64(get(r)) }, appendInt64, same)
}

func integer[R any, T number](name string, get func(*R) T) column[R] {
	return columnOf(name, "integer", func(r *R) int32 { return int32(get(r)) }, appendInt32, same)
}

func flag[R any](name string, get func(*R) bool) column[R] {
	return columnOf(name, "boolean", get, appendBool, same)
}

// instant is a time; zero becomes NULL.
func instant[R any](name string, get func(*R) domain.Time) column[R] {
	return columnOf(name, "timestamptz", get, appendTime, timestamp)
}

// document is jsonb; "" becomes NULL.
func document[R any](name string, get func(*R) string) column[R] {
	return columnOf(name, "jsonb", get, appendJSONB, func(s string) pgtype.Text { return pgtype.Text{String: s, Valid: s != ""} })
}

// A writer is one statement for many rows.
type writer[R any] struct {
	sql     string
	columns []column[R]
	table   string
	copy    string // the same by COPY, if it is one
}

// inserts writes rows that are not there yet.
func inserts[R any](table string, columns ...column[R]) writer[R] {
	names, source := unnest(columns)
	return writer[R]{
		sql: fmt.Sprintf("INSERT INTO %s (%s) SELECT %s FROM %s", table, names, casts(columns), source), columns: columns, table: table,
		copy: fmt.Sprintf("COPY %s (%s) FROM STDIN (FORMAT binary)", table, names),
	}
}

// updates changes rows that are there; the first keys columns say which.
func updates[R any](table string, keys int, columns ...column[R]) writer[R] {
	_, source := unnest(columns)
	var set, where []string
	for i, c := range columns {
		if i < keys {
			where = append(where, "t."+c.name+" = u."+c.name)
		} else {
			set = append(set, c.name+" = "+cast(c))
		}
	}
	sql := fmt.Sprintf("UPDATE %s t SET %s FROM %s WHERE %s", table, strings.Join(set, ", "), source, strings.Join(where, " AND "))
	return writer[R]{sql: sql, columns: columns, table: table}
}

// adds adds the last column to what is there, or begins with it.
func adds[R any](table string, columns ...column[R]) writer[R] {
	w := inserts(table, columns...)
	w.copy = "" // which only inserts
	last := len(columns) - 1
	keys := make([]string, last)
	for i := range keys {
		keys[i] = columns[i].name
	}
	w.sql += fmt.Sprintf(" ON CONFLICT (%s) DO UPDATE SET %s = %s.%[2]s + excluded.%[2]s", strings.Join(keys, ", "), columns[last].name, table)
	return w
}

func cast[R any](c column[R]) string {
	if c.typ == "jsonb" { // travels as text: an array of NULLs and documents
		return "u." + c.name + "::jsonb"
	}
	return "u." + c.name
}

func casts[R any](columns []column[R]) string {
	out := make([]string, len(columns))
	for i, c := range columns {
		out[i] = cast(c)
	}
	return strings.Join(out, ", ")
}

func unnest[R any](columns []column[R]) (names, source string) {
	var n, params []string
	for i, c := range columns {
		typ := c.typ
		if typ == "jsonb" {
			typ = "text"
		}
		n, params = append(n, c.name), append(params, fmt.Sprintf("$%d::%s[]", i+1, typ))
	}
	names = strings.Join(n, ", ")
	return names, fmt.Sprintf("unnest(%s) AS u(%s)", strings.Join(params, ", "), names)
}

// expect is a check that a statement hit as many rows as it should.
func expect(drift *error, what string, want int64) func(pgconn.CommandTag) error {
	return func(tag pgconn.CommandTag) error {
		if got := tag.RowsAffected(); got != want && *drift == nil {
			*drift = fmt.Errorf("%w: %s: %d rows were there, want %d", ErrDrift, what, got, want)
		}
		return nil
	}
}

// queue adds the statement for rows to the batch. Every row must be hit exactly once: an
// update of a row that is not there is drift.
func (w *writer[R]) queue(b *batch, rows []*R) {
	if len(rows) == 0 {
		return
	}
	args := make([]any, len(w.columns))
	for i, c := range w.columns {
		args[i] = c.array(rows)
	}
	b.stmt.Queue(w.sql, args...).Exec(expect(&b.err, w.table, int64(len(rows))))
}

// worthCopying is from how many rows on COPY is quicker than an INSERT, which needs no
// message of its own.
const worthCopying = 64

// insert writes new rows: few of them with the statements of b, many by COPY.
func (w *writer[R]) insert(ctx context.Context, tx pgx.Tx, b *batch, rows []*R) error {
	if len(rows) < worthCopying {
		w.queue(b, rows)
		return nil
	}
	data := append(b.rows.copied[:0], copyHead...)
	for _, r := range rows {
		data = appendRow(data, len(w.columns))
		for i := range w.columns {
			data = w.columns[i].field(data, r)
		}
	}
	data = append(data, copyEnd...)
	b.rows.copied = data
	tag, err := tx.Conn().PgConn().CopyFrom(ctx, bytes.NewReader(data), w.copy)
	if err != nil {
		b.rows.copied = nil // a connection that was lost may still read it
	}
	if err == nil && tag.RowsAffected() != int64(len(rows)) {
		err = fmt.Errorf("%s: %d of %d rows were copied", w.table, tag.RowsAffected(), len(rows))
	}
	return err
}
