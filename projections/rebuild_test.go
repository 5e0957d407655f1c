package projections

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/gpuaas/gpuaas/domain"
)

// A rebuild while commits come in and readers read: nobody fails, nobody goes back
// in time, and the tables are the same afterwards.
func TestRebuildUnderLoad(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ten, _ := story(s)
	url := newDatabase(t)
	store := openStore(t, url)
	p, _ := run(t, store, s)
	waitFor(t, p, s.w.Head.N)
	// A table that says something wrong is right afterwards.
	query(t, url, `UPDATE organizations SET name = 'spoiled'`)

	ctx, cancel := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			r, last := store.Reader(nil), uint64(0)
			for ctx.Err() == nil {
				page, err := r.Ledger(ctx, platform, ten.id, ListOptions{})
				if ctx.Err() != nil {
					return
				}
				if err != nil || page.N < last || len(page.Items) == 0 {
					t.Errorf("a reader at commit %d got %d rows of commit %d: %v", last, len(page.Items), page.N, err)
					return
				}
				last = page.N
			}
		})
	}
	rebuilt := make(chan error, 1)
	go func() { _, err := store.Rebuild(t.Context(), s); rebuilt <- err }()
	var err error
	for i := 0; ; i++ {
		s.system(&domain.GrantCredit{Tenant: ten.id, Currency: "USD", Amount: 1, Kind: domain.GrantPaid})
		select {
		case err = <-rebuilt:
		default:
			if i < 400 {
				continue
			}
			err = <-rebuilt
		}
		break
	}
	if err != nil {
		t.Fatal(err)
	}
	s.tenant("after")
	waitFor(t, p, s.w.Head.N)
	cancel()
	readers.Wait()

	clean := newDatabase(t)
	fresh, _ := run(t, openStore(t, clean), s)
	waitFor(t, fresh, s.w.Head.N)
	want(t, "rebuilt", query(t, url, contents), query(t, clean, contents))
	want(t, "schemas", query(t, url, `SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'rm%'`), "rm_2")
	want(t, "current", query(t, url, `SELECT schema_name FROM gpuaas.current`), "rm_2")
}

// A read model that is ahead of a log that lost its tail, or that followed another
// one, is replaced; one rebuild at a time; a dropped database fills itself again.
func TestRebuildAfterLostTail(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.tenant("acme")
	s.tenant("more")
	url := newDatabase(t)
	store := openStore(t, url)
	p, stop := run(t, store, s)
	waitFor(t, p, s.w.Head.N)
	stop()

	other := newSite(t)
	other.tenant("acme")
	admin, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	if _, err := admin.Exec(t.Context(), `SELECT pg_advisory_lock($1)`, int64(lockRebuild)); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Rebuild(t.Context(), other); !errors.Is(err, ErrRebuilding) {
		t.Fatal(err)
	}
	if _, err := admin.Exec(t.Context(), `SELECT pg_advisory_unlock($1)`, int64(lockRebuild)); err != nil {
		t.Fatal(err)
	}
	if at, err := store.Rebuild(t.Context(), other); err != nil || at != other.w.Head {
		t.Fatal(err)
	}
	p, _ = run(t, store, other)
	other.tenant("third")
	waitFor(t, p, other.w.Head.N)
	want(t, "tenants", query(t, url, `SELECT name FROM organizations ORDER BY number`), "acme\nthird")
}
