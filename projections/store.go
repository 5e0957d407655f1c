package projections

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/gpuaas/gpuaas/migrations"
)

// Config names a database and the site whose read models it holds.
type Config struct {
	URL  string // postgres://...
	Site string
	// CRNPrefix and Region begin every resource name; "core42:aicloud" and the site
	// if empty.
	CRNPrefix string
	Region    string
	// ReadConns bounds the connections used for reads; 16 if zero.
	ReadConns int32
	// Log hears of retries; nil drops it.
	Log *slog.Logger
}

// Store is one database of read models.
type Store struct {
	c      Config
	config *pgx.ConnConfig
	reads  *pgxpool.Pool
	usable atomic.Bool // config and reads are set, and may be used
}

// Open connects, waiting for a database that does not answer yet until ctx ends,
// and brings the schema up to date. [ErrForeignSite] if another site lives there.
func Open(ctx context.Context, c Config) (*Store, error) {
	s, err := New(c)
	if err != nil {
		return nil, err
	}
	if err := s.Connect(ctx, c.URL); err != nil {
		return nil, err
	}
	s.Use()
	return s, nil
}

// New is a store that is not connected: every read answers unavailable, until
// [Store.Connect] and [Store.Use]. A site that starts while its database is away
// begins with it.
func New(c Config) (*Store, error) {
	if c.Site == "" {
		return nil, errors.New("projections: no site given")
	}
	if c.CRNPrefix == "" {
		c.CRNPrefix = "core42:aicloud"
	}
	if c.Region == "" {
		c.Region = c.Site
	}
	if c.ReadConns == 0 {
		c.ReadConns = 16
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Store{c: c}, nil
}

// Connect is Open's work. It may be called again after an error; what is connected
// is read from [Store.Use] on.
func (s *Store) Connect(ctx context.Context, url string) error {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return fmt.Errorf("database URL: %w", err)
	}
	config.ConnConfig.RuntimeParams["application_name"] = "gpuaas"
	config.ConnConfig.RuntimeParams["timezone"] = "UTC"
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = patience
	}
	s.config = config.ConnConfig
	pause := newBackoff()
	for { // ends with ctx, success, or an error that lasts
		err := s.prepare(ctx)
		if err == nil {
			s.Close() // of an earlier call, which nobody read from
			s.reads, err = newPool(config, s.c.ReadConns)
			return err
		}
		if !transient(err) || damaged(err) {
			return err
		}
		s.c.Log.Warn("database does not answer", "err", err)
		if !pause.wait(ctx) {
			return err
		}
	}
}

// Use lets reads begin: whoever connected has seen that the database is not ahead of
// the log.
func (s *Store) Use() { s.usable.Store(true) }

// Transient reports whether the database may answer if asked again.
func Transient(err error) bool { return transient(err) }

// Close waits for reads under way, which end with their contexts, and ends their
// connections. A projector ends with its context.
func (s *Store) Close() {
	if s.reads != nil {
		s.reads.Close()
	}
}

const (
	// Advisory locks of the database: one projector, one schema change.
	lockProjector = 0x6770750001
	lockSchema    = 0x6770750002
)

// prepare migrates, under a lock, and makes the first schema of a new database.
func (s *Store) prepare(ctx context.Context) error {
	conn, err := connect(ctx, s.config)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock($1)`, lockSchema); err != nil {
		return err
	}
	if err := migrate(ctx, conn, "gpuaas", migrations.Database); err != nil {
		return err
	}
	schema, site, err := current(ctx, conn)
	if errors.Is(err, pgx.ErrNoRows) {
		return s.first(ctx, conn)
	}
	if err != nil {
		return err
	}
	if site != s.c.Site {
		return fmt.Errorf("%w: it belongs to %q, this is %q: give this site a database of its own", ErrForeignSite, site, s.c.Site)
	}
	return migrate(ctx, conn, schema, migrations.ReadModel)
}

func (s *Store) first(ctx context.Context, conn *pgx.Conn) error {
	if err := s.build(ctx, conn, "rm_1"); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, `INSERT INTO gpuaas.current (site, schema_name, last) VALUES ($1, 'rm_1', 1)`, s.c.Site)
	return err
}

// build makes an empty generation of the read models.
func (s *Store) build(ctx context.Context, conn *pgx.Conn, schema string) error {
	if err := migrate(ctx, conn, schema, migrations.ReadModel); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, `INSERT INTO `+pgx.Identifier{schema, "checkpoint"}.Sanitize()+` (site) VALUES ($1) ON CONFLICT DO NOTHING`, s.c.Site)
	return err
}

// current is the schema that is read, and its site.
func current(ctx context.Context, conn *pgx.Conn) (schema, site string, err error) {
	err = conn.QueryRow(ctx, `SELECT schema_name, site FROM gpuaas.current`).Scan(&schema, &site)
	return schema, site, err
}

// transient reports whether the database may answer if asked again.
func transient(err error) bool {
	if fatal(err) {
		return false
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		var refused *pgconn.ConnectError
		var network net.Error
		return errors.As(err, &refused) || errors.As(err, &network) || pgconn.SafeToRetry(err) || errors.Is(err, errRetired) ||
			errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, driver.ErrBadConn) || errors.Is(err, context.DeadlineExceeded)
	}
	switch pg.Code[:2] {
	case "08", "40", "53", "55", "57", "58": // connection, conflict, resources, lock, shutdown, I/O
		return true
	case "28", "3D": // wrong password, no such database
		return false
	}
	return strings.HasPrefix(pg.Code, "XX")
}

// damaged reports whether the database says that its own files are: it will again.
func damaged(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && slices.Contains([]string{"XX001", "XX002", "58P01"}, pg.Code)
}

// backoff waits longer every time, up to two seconds.
type backoff struct{ pause time.Duration }

func newBackoff() *backoff { return &backoff{20 * time.Millisecond} }

func (b *backoff) reset() { b.pause = 20 * time.Millisecond }

// wait is false when ctx ended first.
func (b *backoff) wait(ctx context.Context) bool {
	t := time.NewTimer(b.pause)
	defer t.Stop()
	b.pause = min(2*b.pause, 2*time.Second)
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
