package projections

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/gpuaas/gpuaas/domain"
)

// readCheckpoint reads where the current read models are.
func readCheckpoint(ctx context.Context, conn *pgx.Conn) (at position, err error) {
	schema, _, err := current(ctx, conn)
	if err != nil {
		return at, err
	}
	return checkpointIn(ctx, conn, schema)
}

// Head is the commit that the read models show; the zero Head for new ones. It asks
// the database, which a projector need not have reached yet.
func (s *Store) Head(ctx context.Context) (domain.Head, error) {
	conn, err := connect(ctx, s.config)
	if err != nil {
		return domain.Head{}, err
	}
	defer closeConn(conn)
	at, err := readCheckpoint(ctx, conn)
	return at.Head, err
}

func checkpointIn(ctx context.Context, conn *pgx.Conn, schema string) (at position, err error) {
	var hash []byte
	err = conn.QueryRow(ctx, `SELECT n, hash, number, at FROM `+pgx.Identifier{schema, "checkpoint"}.Sanitize()).
		Scan(&at.Head.N, &hash, &at.Number, &at.At)
	copy(at.Head.Hash[:], hash)
	return at, err
}

// takeOver begins a run: whoever ran before gets no row from its checkpoint any
// more.
func (p *Projector) takeOver(ctx context.Context, conn *pgx.Conn) (run int64, at position, err error) {
	var hash []byte
	var site string
	err = conn.QueryRow(ctx, `UPDATE checkpoint SET run = run + 1 WHERE NOT retired RETURNING run, site, n, hash, number, at`).
		Scan(&run, &site, &at.Head.N, &hash, &at.Number, &at.At)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, at, errRetired
	}
	if err == nil && site != p.store.c.Site {
		err = fmt.Errorf("%w: its checkpoint is of %q, this is %q", ErrForeignSite, site, p.store.c.Site)
	}
	copy(at.Head.Hash[:], hash)
	return run, at, err
}

// work is a run of one projector: its connection, and where the tables are.
type work struct {
	p    *Projector
	conn *pgx.Conn
	run  int64
	from position
	rows *cache
}

const advance = `UPDATE checkpoint SET n = $1, hash = $2, number = $3, at = $4 WHERE n = $5 AND hash = $6 AND run = $7 AND NOT retired`

// write makes a run of commits part of the tables: rows and checkpoint in one
// transaction. After an error the work is over: its cache may hold what the tables
// do not.
func (w *work) write(ctx context.Context, commits []delivery) error {
	for prev, i := w.from.Head, 0; i < len(commits); i++ {
		c := commits[i].commit
		if c.N != prev.N+1 || c.Prev != prev.Hash {
			return fmt.Errorf("%w: commit %d (previous %s) does not follow commit %d (%s)", ErrForked, c.N, c.Prev, prev.N, prev.Hash)
		}
		prev = commits[i].head
	}
	w.rows.bound()
	if err := w.rows.load(ctx, w.conn, commits); err != nil {
		return err
	}
	b := newBatch(w.rows)
	b.to = w.from
	for _, d := range commits {
		b.fold(d.commit, d.head)
	}
	if b.err != nil {
		return b.err
	}
	tx, err := w.conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if err := w.advance(ctx, tx, b.to); err != nil {
		return err
	}
	if err := b.write(ctx, tx); err != nil {
		return fmt.Errorf("write commits %d to %d: %w", w.from.Head.N+1, b.to.Head.N, err)
	}
	if b.err != nil {
		return b.err
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	b.settle()
	w.from = b.to
	return nil
}

// advance moves the checkpoint, first of all: it locks its row, so that a takeover
// or a swap waits for the whole transaction.
func (w *work) advance(ctx context.Context, tx pgx.Tx, to position) error {
	tag, err := tx.Exec(ctx, advance, int64(to.Head.N), to.Head.Hash[:], int64(to.Number), timestamp(to.At),
		int64(w.from.Head.N), hashBytes(w.from.Head), w.run)
	if err != nil || tag.RowsAffected() == 1 {
		return err
	}
	var n uint64
	var hash []byte
	var run int64
	var retired bool
	if err := tx.QueryRow(ctx, `SELECT n, hash, run, retired FROM checkpoint`).Scan(&n, &hash, &run, &retired); err != nil {
		return err
	}
	switch {
	case retired:
		return errRetired
	case run != w.run:
		return fmt.Errorf("%w: run %d took over from run %d", ErrSuperseded, run, w.run)
	}
	return fmt.Errorf("%w: the checkpoint is commit %d (%x), this projector left it at %d (%s): somebody changed it", ErrForked, n, hash, w.from.Head.N, w.from.Head.Hash)
}

// hashBytes is a hash as it is stored: empty before the first commit.
func hashBytes(h domain.Head) []byte {
	if h.N == 0 {
		return []byte{}
	}
	return h.Hash[:]
}
