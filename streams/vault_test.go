package streams_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
	"github.com/gpuaas/gpuaas/streams/streamstest"
)

func openVault(t testing.TB, s *streamstest.Site, key byte) *streams.Vault {
	t.Helper()
	v, err := streams.OpenVault(s.Dial(server.Runtime), s.Names, [32]byte{key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

func TestVault(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *streamstest.Site) {
		ctx := streamstest.Context(t)
		a, b := openVault(t, s, 1), openVault(t, s, 1)
		// Two processes put the first documents of one person at once.
		var wg sync.WaitGroup
		digests := make([]domain.Digest, 8)
		for i := range digests {
			wg.Go(func() {
				v := a
				if i%2 == 1 {
					v = b
				}
				var err error
				if digests[i], err = v.Put(ctx, "person", fmt.Appendf(nil, "secret %d", i)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for i, d := range digests {
			for _, v := range []*streams.Vault{a, b} {
				if got, err := v.Get(ctx, d); string(got) != fmt.Sprintf("secret %d", i) || err != nil {
					t.Fatalf("document %d: %q, %v", i, got, err)
				}
			}
		}
		other, err := a.Put(ctx, "neighbour", []byte("kept"))
		if err != nil {
			t.Fatal(err)
		}
		same, err := a.Put(ctx, "neighbour", []byte("kept"))
		if err != nil || same == other {
			t.Fatal("equal documents have equal digests: they tell what they say")
		}
		if err := b.Erase(ctx, "person"); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Get(ctx, digests[0]); !errors.Is(err, streams.ErrErased) {
			t.Fatalf("an erased document: %v", err)
		}
		if _, err := a.Put(ctx, "person", []byte("new")); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Get(ctx, digests[0]); !errors.Is(err, streams.ErrErased) {
			t.Fatalf("an erased document under a new key: %v", err)
		}
		if got, err := b.Get(ctx, other); string(got) != "kept" || err != nil {
			t.Fatalf("the neighbour's document: %q, %v", got, err)
		}
		if _, err := openVault(t, s, 2).Get(ctx, other); err == nil || errors.Is(err, streams.ErrErased) {
			t.Fatalf("with another site key: %v", err)
		}
		if _, err := a.Get(ctx, domain.DigestOf(nil)); !errors.Is(err, streams.ErrNotFound) {
			t.Fatalf("no such document: %v", err)
		}
		if err := errors.Join(a.Erase(ctx, "person"), a.Erase(ctx, "person"), a.Erase(ctx, "nobody")); err != nil {
			t.Fatal(err)
		}
		big := make([]byte, streams.MaxDocumentBytes)
		d, err := a.Put(ctx, "neighbour", big)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := a.Get(ctx, d); !bytes.Equal(got, big) || err != nil {
			t.Fatalf("a document of 1 MiB: %d bytes, %v", len(got), err)
		}
		if _, err := a.Put(ctx, "neighbour", slices.Concat(big, []byte{0})); !errors.Is(err, streams.ErrTooLarge) {
			t.Fatalf("a document above 1 MiB: %v", err)
		}
	})
}

// TestEraseLeavesNoKey looks for the wrapped key in the server's files.
// TestVaultKnowsItsSiteKey: another site key is noticed on an empty vault that was
// checked once, on one with documents that never was, and after an erasure.
func TestVaultKnowsItsSiteKey(t *testing.T) {
	t.Parallel()
	refuses := func(t *testing.T, s *streamstest.Site) {
		t.Helper()
		if err := openVault(t, s, 2).Check(t.Context()); !errors.Is(err, streams.ErrSiteKey) {
			t.Errorf("another site key: %v", err)
		}
		if err := openVault(t, s, 1).Check(t.Context()); err != nil {
			t.Error(err)
		}
	}
	t.Run("checked before", func(t *testing.T) {
		t.Parallel()
		s := streamstest.New(t, 1)
		if err := openVault(t, s, 1).Check(t.Context()); err != nil {
			t.Fatal(err)
		}
		refuses(t, s)
	})
	t.Run("documents", func(t *testing.T) {
		t.Parallel()
		s := streamstest.New(t, 1)
		v := openVault(t, s, 1)
		if _, err := v.Put(t.Context(), "person", []byte("secret")); err != nil {
			t.Fatal(err)
		}
		refuses(t, s)
		if err := v.Erase(t.Context(), "person"); err != nil {
			t.Fatal(err)
		}
		refuses(t, s)
	})
}

func TestEraseLeavesNoKey(t *testing.T) {
	t.Parallel()
	s := streamstest.New(t, 1)
	ctx := streamstest.Context(t)
	v := openVault(t, s, 1)
	if _, err := v.Put(ctx, "person", []byte("x")); err != nil {
		t.Fatal(err)
	}
	js := s.JetStream()
	st, err := js.Stream(ctx, s.Names.VaultKeys())
	if err != nil {
		t.Fatal(err)
	}
	m, err := st.GetMsg(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	found := func() (n int) {
		err := filepath.WalkDir(s.Dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			if bytes.Contains(b, m.Data[13:]) {
				n++
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if found() == 0 {
		t.Fatal("the key is nowhere: this test looks in the wrong place")
	}
	if err := v.Erase(ctx, "person"); err != nil {
		t.Fatal(err)
	}
	s.Servers[0].Shutdown()
	if n := found(); n != 0 {
		t.Fatalf("the wrapped key is still in %d files", n)
	}
}

func TestAudit(t *testing.T) {
	t.Parallel()
	s := streamstest.New(t, 1)
	ctx := streamstest.Context(t)
	a, err := streams.OpenAudit(s.Dial(server.Runtime), s.Names)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if !a.Record([]string{"denied", "not-found"}[i%2], fmt.Append(nil, i)) {
			t.Fatal("a short queue is full")
		}
	}
	for _, bad := range []string{"", "a.b", "*", "A"} {
		if a.Record(bad, nil) {
			t.Errorf("kind %q was taken", bad)
		}
	}
	if a.Record("denied", make([]byte, 1<<20)) {
		t.Error("a record of 1 MiB was taken")
	}
	a.Close()
	if a.Dropped() != 5 {
		t.Fatalf("%d dropped", a.Dropped())
	}
	a, err = streams.OpenAudit(s.Dial(server.Runtime), s.Names)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	var all []streams.AuditRecord
	for after := uint64(0); ; {
		page, next, err := a.Page(ctx, after, 3)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		all, after = append(all, page...), next
	}
	if len(all) != 10 || all[9].Kind != "not-found" || string(all[9].Data) != "9" || all[0].At.IsZero() {
		t.Fatalf("records: %+v", all)
	}
	if page, _, err := a.Page(ctx, 0, 100, "denied"); len(page) != 5 || err != nil {
		t.Fatalf("one kind: %d, %v", len(page), err)
	}

	// A record that cannot be read is said, and hides no other.
	if last, err := a.Whole(ctx); last != 10 || err != nil {
		t.Fatalf("all are whole: %d, %v", last, err)
	}
	damage(t, s, 0, s.Names.Audit(), func(b []byte) { b[len(b)*9/20] ^= 1 }) // in the fifth of ten
	if a, err = streams.OpenAudit(s.Dial(server.Runtime), s.Names); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	if _, err := a.Whole(ctx); !errors.Is(err, streams.ErrUnreadable) || !strings.Contains(err.Error(), `{"first":5,"last":5}`) {
		t.Errorf("all: %v", err)
	}
	page, next, err := a.Page(ctx, 0, 100)
	if err != nil || next != 10 || len(page) != 10 || page[4].Kind != streams.Unreadable || string(page[4].Data) != `{"first":5,"last":5}` || page[4].Cursor != 5 || string(page[5].Data) != "5" {
		t.Errorf("a page with it: %+v, %d, %v", page, next, err)
	}
	if page, next, err := a.Page(ctx, 4, 1); err != nil || len(page) != 1 || page[0].Kind != streams.Unreadable || next != 5 {
		t.Errorf("a page of it: %+v, %d, %v", page, next, err)
	}

	// A dead server costs records, never time.
	s.Servers[0].Shutdown()
	began := time.Now()
	for range 10_000 {
		a.Record("denied", nil)
	}
	if a.Dropped() < 5000 || time.Since(began) > 30*time.Second {
		t.Fatalf("%d dropped in %s", a.Dropped(), time.Since(began))
	}
}

func TestClaim(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *streamstest.Site) {
		ctx := streamstest.Context(t)
		open := func(owner string) *streams.Claim {
			c, err := streams.OpenClaim(streams.ClaimOptions{Dial: s.Dial(server.Runtime), Site: s.Names, Me: streams.Holder{Name: owner}, TTL: 1200 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(c.Close)
			return c
		}
		a, b := open("a"), open("b")
		if err := a.Acquire(ctx); err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		if err := b.Acquire(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("took a claim that is held: %v", err)
		}
		if !b.LiveUntil().IsZero() {
			t.Fatal("b thinks it has the claim")
		}
		// a stops renewing (it is stuck): b gets it, after a's own view has ended.
		end := a.LiveUntil()
		if err := b.Acquire(ctx); err != nil {
			t.Fatal(err)
		}
		if now := time.Now(); now.Before(end) {
			t.Fatalf("b took the claim %s before it ran out", end.Sub(now))
		}
		if err := a.Keep(ctx); !errors.Is(err, streams.ErrClaimLost) || !a.LiveUntil().IsZero() {
			t.Fatalf("a goes on: %v, until %v", err, a.LiveUntil())
		}
		// Given up, it is free at once.
		if err := b.Release(ctx); err != nil {
			t.Fatal(err)
		}
		if err := a.Acquire(ctx); err != nil {
			t.Fatal(err)
		}
		keep, stop := context.WithTimeout(ctx, 2*time.Second)
		defer stop()
		if err := a.Keep(keep); err != nil || !time.Now().Before(a.LiveUntil()) {
			t.Fatalf("could not keep it: %v, until %v", err, a.LiveUntil())
		}
	})
}
