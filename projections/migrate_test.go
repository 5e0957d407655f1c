package projections

import (
	"context"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/gpuaas/gpuaas/migrations"
)

// A server that ends in the middle of a migration is waited for; then every file
// has been run once, by the table of its own schema.
func TestKilledMidMigration(t *testing.T) {
	t.Parallel()
	url := newDatabase(t)
	admin, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	watch, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close(context.Background())
	if _, err := admin.Exec(t.Context(), `CREATE SCHEMA rm_1`); err != nil {
		t.Fatal(err)
	}
	for _, obstacle := range []string{
		`CREATE TABLE rm_1.organizations ()`, // in the middle of a file
		`LOCK TABLE gpuaas.goose_db_version`, // before any
		`LOCK TABLE gpuaas.current`,          // between the two sets
	} {
		tx, err := admin.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), obstacle); err != nil {
			t.Fatal(err)
		}
		opened := make(chan error, 1)
		go func() {
			s, err := Open(t.Context(), Config{URL: url, Site: "test"})
			if err == nil {
				s.Close()
			}
			opened <- err
		}()
		for killed := 0; killed == 0; {
			if err := watch.QueryRow(t.Context(), `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&killed); err != nil {
				t.Fatal(err)
			}
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-opened; err != nil {
			t.Fatalf("%s: %v", obstacle, err)
		}
	}
	for schema, set := range map[string]migrations.Set{"gpuaas": migrations.Database, "rm_1": migrations.ReadModel} {
		versions := "0"
		for i := range newest(t, set) {
			versions += fmt.Sprint("\n", i+1)
		}
		want(t, schema, query(t, url, `SELECT version_id FROM `+schema+`.goose_db_version ORDER BY id`), versions)
	}
}

// newest is the number of a set's last migration: they are numbered without a gap.
func newest(t *testing.T, set migrations.Set) int {
	t.Helper()
	files, err := fs.Glob(set.FS, set.Dir+"/*.sql")
	if err != nil || len(files) == 0 {
		t.Fatalf("%v: %v", files, err)
	}
	return len(files)
}

// An older build keeps its hands off a newer schema.
func TestNewerSchema(t *testing.T) {
	t.Parallel()
	url := newDatabase(t)
	openStore(t, url)
	query(t, url, `INSERT INTO rm_1.goose_db_version (version_id, is_applied) VALUES (1000, true)`)
	_, err := Open(t.Context(), Config{URL: url, Site: "test"})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("rm_1 is at version 1000, this build knows %d:", newest(t, migrations.ReadModel))) {
		t.Fatal(err)
	}
}

// Builds of one day knew another version 12 of the read models. What it left out is there
// after the next start.
func TestOtherVersion12(t *testing.T) {
	t.Parallel()
	url := newDatabase(t)
	indexes := func() string {
		return query(t, url, `SELECT indexdef FROM pg_indexes WHERE schemaname = 'rm_1' AND indexname IN ('allocations_named', 'leases_allocation_id_idx') ORDER BY indexname`)
	}
	open := func() {
		s, err := Open(t.Context(), Config{URL: url, Site: "test"})
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
	}
	open()
	whole := indexes()
	if strings.Count(whole, "\n") != 1 {
		t.Fatalf("indexes: %s", whole)
	}
	for _, sql := range []string{
		`DROP INDEX allocations_named, leases_allocation_id_idx`,
		`CREATE INDEX allocations_named ON allocations (project_id, name, number) WHERE name <> ''`,
		`DELETE FROM goose_db_version WHERE version_id > 12`,
	} {
		query(t, url, sql)
	}
	open()
	want(t, "indexes", indexes(), whole)
}
