package projections

import (
	"context"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/gpuaas/gpuaas/migrations"
)

// migrate runs what is missing of a set in a schema. Each schema has goose's table
// of what was run, found through the search path; each file is one transaction.
// The caller holds a lock, which covers more than goose's would: also what it reads
// and writes around the migration.
func migrate(ctx context.Context, conn *pgx.Conn, schema string, set migrations.Set) error {
	name := pgx.Identifier{schema}.Sanitize()
	if _, err := conn.Exec(ctx, `CREATE SCHEMA IF NOT EXISTS `+name); err != nil {
		return fmt.Errorf("schema %s: %w", schema, err)
	}
	files, err := fs.Sub(set.FS, set.Dir)
	if err != nil {
		return err
	}
	config := conn.Config()
	config.RuntimeParams["search_path"] = name
	db := stdlib.OpenDB(*config)
	defer db.Close()
	p, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	done, newest, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("schema %s: %w", schema, err)
	}
	if done > newest { // goose would run nothing, and be content
		return fmt.Errorf("schema %s is at version %d, this build knows %d: upgrade it, or drop the database and let it be built again", schema, done, newest)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate schema %s: %w", schema, err)
	}
	return nil
}
