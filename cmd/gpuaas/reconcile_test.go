package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// TestReconcile compares read models with the log beside a running site and on a
// stopped one, and names what somebody changed in the tables.
func TestReconcile(t *testing.T) {
	t.Parallel()
	s := dev(t, 1, 2)
	te := s.newTenant("acme", 100_000_000)
	te.becomes(te.launch(obj{"sku": "gpu-1x"}).ID, "running")
	reconcile := func() (string, string, int) {
		t.Helper()
		return tool(t, "projections", "reconcile", "--data-dir", s.dir, "--log-level", "error")
	}
	if out, stderr, code := reconcile(); code != 0 || !strings.Contains(out, ": 2 slots, 1 allocations and ") {
		t.Errorf("running: exit code %d: %s%s", code, out, stderr)
	}
	s.sql(t, `UPDATE slots SET state = 'available' WHERE state = 'active'`)
	s.sql(t, `UPDATE balances SET amount_micros = amount_micros + 1 WHERE account LIKE 'lot:%'`)
	differs := func() {
		t.Helper()
		out, stderr, code := reconcile()
		for _, line := range []string{": the read model has available 1, the log active 1\n", "read_model_drift: balances: ", "unbalanced: balances of ledger_entries: "} {
			if !strings.Contains(out, line) {
				t.Errorf("it does not say %q", line)
			}
		}
		if code != 1 || !strings.Contains(stderr, "run gpuaas projections rebuild") {
			t.Errorf("exit code %d: %s%s", code, out, stderr)
		}
	}
	differs()
	s.interrupt()
	differs()
	if out, stderr, code := tool(t, "projections", "rebuild", "--data-dir", s.dir); code != 0 {
		t.Fatalf("rebuild: %s%s", out, stderr)
	}
	if out, stderr, code := reconcile(); code != 0 || !strings.Contains(out, ": 2 slots, ") {
		t.Errorf("rebuilt: exit code %d: %s%s", code, out, stderr)
	}
}

// sql changes the live read models of a running site.
func (s *site) sql(t *testing.T, statement string) {
	t.Helper()
	url, err := os.ReadFile(filepath.Join(s.dir, "database.url"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), strings.TrimSpace(string(url)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var schema string
	if err := conn.QueryRow(t.Context(), `SELECT schema_name FROM gpuaas.current`).Scan(&schema); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{`SET search_path TO ` + pgx.Identifier{schema}.Sanitize(), statement} {
		if _, err := conn.Exec(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
}
