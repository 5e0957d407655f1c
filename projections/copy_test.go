package projections

import (
	"math"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/gpuaas/gpuaas/domain"
)

// Rows that are many go by COPY, in a form that is written here; what Postgres reads of it
// is what a statement of pgx says of the same rows.
func TestCopySaysWhatAStatementSays(t *testing.T) {
	type row struct {
		n    int64
		id   domain.SlotID
		text string
		flag bool
		at   domain.Time
		doc  string
	}
	w := inserts("kinds",
		bigint("n", func(r *row) int64 { return r.n }),
		integer("small", func(r *row) int { return int(int32(r.n)) }),
		ident("id", func(r *row) domain.SlotID { return r.id }),
		text("word", func(r *row) string { return r.text }),
		flag("flag", func(r *row) bool { return r.flag }),
		instant("at", func(r *row) domain.Time { return r.at }),
		document("doc", func(r *row) string { return r.doc }),
	)
	conn, err := pgx.Connect(t.Context(), newDatabase(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), `CREATE TABLE kinds (n bigint NOT NULL, small integer NOT NULL, id text NOT NULL, word text NOT NULL, flag boolean NOT NULL, at timestamptz, doc jsonb)`); err != nil {
		t.Fatal(err)
	}
	rows := []*row{
		{},
		{n: math.MinInt64, id: domain.SlotID{15: 1}, text: "\x00 \xff é\n\\N", flag: true, at: 1, doc: `{"a":["\u00e9",null]}`},
		{n: math.MaxInt64, at: -1, doc: "[]"},
		{n: -1, at: postgresEpoch},
		{n: 7, at: domain.Time(253_402_300_799_999)},
	}
	for len(rows) < worthCopying {
		rows = append(rows, &row{n: int64(len(rows)), id: domain.SlotID{0: byte(len(rows))}})
	}
	all := func() string {
		t.Helper()
		rows, err := conn.Query(t.Context(), `SELECT kinds::text FROM kinds ORDER BY 1`)
		if err != nil {
			t.Fatal(err)
		}
		texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || len(texts) == 0 {
			t.Fatal(len(texts), err)
		}
		return strings.Join(texts, "\n")
	}
	write := func(rows []*row) string {
		t.Helper()
		b := newBatch(newCache())
		err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
			if err := w.insert(t.Context(), tx, b, rows); err != nil {
				return err
			}
			return tx.SendBatch(t.Context(), &b.stmt).Close()
		})
		if err != nil || b.err != nil {
			t.Fatal(err, b.err)
		}
		return all()
	}
	copied := write(rows)
	if _, err := conn.Exec(t.Context(), `DELETE FROM kinds`); err != nil {
		t.Fatal(err)
	}
	for i := range rows {
		write(rows[i : i+1])
	}
	want(t, "rows by COPY", copied, all())
}
