package projections

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/gpuaas/gpuaas/domain"
)

// ErrRebuilding: a rebuild of this database is under way.
var ErrRebuilding = errors.New("a rebuild of the read models is under way")

const lockRebuild = 0x6770750003

// swapPatience is how long the live projector may be held up for the last few
// commits; then it goes on, and the swap is tried again.
const swapPatience = 2 * time.Second

// Rebuild builds the read models again from the first commit, beside the ones that
// are read, swaps them when they have caught up, and drops the old ones. Readers
// and the live projector go on; what they reflect never goes back, unless the old
// read models held commits that the log does not have. It returns the commit that
// the new ones showed when they took over.
func (s *Store) Rebuild(ctx context.Context, src Source) (at domain.Head, err error) {
	conn, err := connect(ctx, s.config)
	if err != nil {
		return at, err
	}
	defer closeConn(conn)
	var got bool
	if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, lockRebuild).Scan(&got); err != nil {
		return at, err
	}
	if !got {
		return at, ErrRebuilding
	}
	old, _, err := current(ctx, conn)
	if err != nil {
		return at, err
	}
	if err := s.sweep(ctx, conn, old); err != nil {
		return at, err
	}
	var number int
	if err := conn.QueryRow(ctx, `UPDATE gpuaas.current SET last = last + 1 RETURNING last`).Scan(&number); err != nil {
		return at, err
	}
	schema := fmt.Sprintf("rm_%d", number)
	if err := s.build(ctx, conn, schema); err != nil {
		return at, err
	}
	if at, err = s.fill(ctx, conn, src, old, schema); err != nil {
		return at, err
	}
	s.c.Log.Info("read models rebuilt", "schema", schema)
	return at, s.sweep(ctx, conn, schema)
}

// fill projects into the new schema until it can take the old one's place.
func (s *Store) fill(ctx context.Context, conn *pgx.Conn, src Source, old, schema string) (domain.Head, error) {
	p := s.Projector(src)
	p.schema = schema
	ctx, cancel := context.WithCancel(ctx)
	filling := &filler{p: p, src: src, cancel: cancel, done: make(chan struct{})}
	go filling.run(ctx)
	defer func() { _ = filling.stop() }()
	analyzed := false
	for { // ends with an error or the swap
		at, err := checkpointIn(ctx, conn, old)
		if err == nil {
			err = filling.reach(ctx, at.Head.N)
		}
		if err == nil && !analyzed {
			err, analyzed = analyze(ctx, conn, schema), true
			if err == nil {
				continue // it took time: come close again
			}
		}
		var done bool
		if err == nil {
			done, err = filling.swap(ctx, conn, old, schema)
		}
		if err != nil || done {
			return p.Applied(), err
		}
	}
}

// filler is the projector of the new schema.
type filler struct {
	p      *Projector
	src    Source
	cancel context.CancelFunc
	done   chan struct{} // closed when it ended
	err    error         // valid after done
}

func (f *filler) run(ctx context.Context) {
	f.err = f.p.Run(ctx)
	close(f.done)
}

// stop ends it; an error says that it had given up before.
func (f *filler) stop() error {
	f.cancel()
	<-f.done
	if errors.Is(f.err, context.Canceled) {
		return nil
	}
	return f.err
}

// reach waits for commit n, or for the log's end if that comes first.
func (f *filler) reach(ctx context.Context, n uint64) error {
	end, err := f.src.End(ctx)
	if err != nil {
		return sourceError{err}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-f.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := f.p.WaitFor(ctx, min(n, end.Head.N)); err != nil {
		select {
		case <-f.done:
			return f.err
		default:
			return ctx.Err()
		}
	}
	return nil
}

// swap holds the live projector at its checkpoint, waits for the new schema to be
// as far, and makes it the current one.
func (f *filler) swap(ctx context.Context, conn *pgx.Conn, old, schema string) (bool, error) {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return false, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	checkpoint := pgx.Identifier{old, "checkpoint"}.Sanitize()
	var n uint64
	if err := tx.QueryRow(ctx, `SELECT n FROM `+checkpoint+` FOR UPDATE`).Scan(&n); err != nil {
		return false, err
	}
	end, err := f.src.End(ctx)
	if err != nil {
		return false, sourceError{err}
	}
	waiting, cancel := context.WithTimeout(ctx, swapPatience)
	defer cancel()
	if err := f.p.WaitFor(waiting, min(n, end.Head.N)); err != nil {
		return false, ctx.Err()
	}
	if err := f.stop(); err != nil {
		return false, err
	}
	ctx = context.WithoutCancel(ctx) // stop ended it
	if _, err := tx.Exec(ctx, `UPDATE `+checkpoint+` SET retired = true`); err != nil {
		return false, err
	}
	if _, err := tx.Exec(ctx, `UPDATE gpuaas.current SET schema_name = $1`, schema); err != nil {
		return false, err
	}
	return true, tx.Commit(ctx)
}

// analyze gathers statistics before the first reader comes.
func analyze(ctx context.Context, conn *pgx.Conn, schema string) error {
	rows, err := conn.Query(ctx, `SELECT tablename::text FROM pg_tables WHERE schemaname = $1`, schema)
	if err != nil {
		return err
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, t := range tables {
		if _, err := conn.Exec(ctx, `ANALYZE `+pgx.Identifier{schema, t}.Sanitize()); err != nil {
			return err
		}
	}
	return nil
}

// sweep drops every read model but the current one: old ones, and what is left of
// a rebuild that did not end. A reader still in an old one is waited for, a little
// at a time.
func (s *Store) sweep(ctx context.Context, conn *pgx.Conn, keep string) error {
	rows, err := conn.Query(ctx, `SELECT nspname::text FROM pg_namespace WHERE nspname ~ '^rm_[0-9]+$' AND nspname <> $1`, keep)
	if err != nil {
		return err
	}
	schemas, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, `SET lock_timeout = '200ms'`); err != nil {
		return err
	}
	defer func() { _, _ = conn.Exec(context.WithoutCancel(ctx), `RESET lock_timeout`) }()
	for _, schema := range schemas {
		pause := newBackoff()
		for { // ends with ctx, an error, or the drop
			_, err := conn.Exec(ctx, `DROP SCHEMA IF EXISTS `+pgx.Identifier{schema}.Sanitize()+` CASCADE`)
			if err == nil {
				break
			}
			var pg *pgconn.PgError
			if !errors.As(err, &pg) || pg.Code != "55P03" { // lock_not_available
				return err
			}
			if !pause.wait(ctx) {
				return ctx.Err()
			}
		}
	}
	return nil
}
