package commands

import (
	"fmt"
	"testing"

	"github.com/gpuaas/gpuaas/domain"
)

// When tenants have filled all there is, the site's own lane still has its room, and
// goes first.
func TestTheSitesLaneIsReserved(t *testing.T) {
	t.Parallel()
	q := newQueue()
	tenant := func(i int) (id domain.TenantID) {
		id[0], id[1] = byte(i), 1
		return id
	}
	for i := range maxQueued {
		if err := q.push(&item{}, false, tenant(i/maxLane)); err != nil {
			t.Fatalf("item %d: %v", i, err)
		}
	}
	if err := q.push(&item{}, false, tenant(255)); err == nil || err.Code != "queue.full" {
		t.Fatalf("one more tenant's: %v", err)
	}
	own := &item{}
	if err := q.push(own, true, domain.TenantID{}); err != nil {
		t.Fatalf("the site's own: %v", err)
	}
	if first := q.pop(1); len(first) != 1 || first[0] != own {
		t.Fatal("the site's own does not go first")
	}
	for i := range maxLane {
		if err := q.push(&item{}, true, domain.TenantID{}); err != nil {
			t.Fatalf("the site's item %d: %v", i, err)
		}
	}
	if err := q.push(&item{}, true, domain.TenantID{}); err == nil {
		t.Fatal("the site's own lane has no bound")
	}
	if n := len(q.close()); n != maxQueued+maxLane || q.len() != 0 {
		t.Fatalf("%d of %d came out, %d are left", n, maxQueued+maxLane, q.len())
	}
}

// Lanes take turns, item by item, whoever came first.
func TestLanesTakeTurns(t *testing.T) {
	t.Parallel()
	q := newQueue()
	names := map[*item]string{}
	push := func(tenant byte, n int) {
		for i := range n {
			it := &item{}
			names[it] = fmt.Sprintf("%c%d", tenant, i)
			if err := q.push(it, false, domain.TenantID{tenant}); err != nil {
				t.Fatal(err)
			}
		}
	}
	push('a', 4)
	push('b', 1)
	push('c', 2)
	got := ""
	for _, it := range q.pop(5) {
		got += names[it] + " "
	}
	push('b', 1)
	for _, it := range q.pop(9) {
		got += names[it] + " "
	}
	if want := "a0 b0 c0 a1 c1 a2 b0 a3 "; got != want {
		t.Fatalf("order %q, want %q", got, want)
	}
}
