package streams_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
	"github.com/gpuaas/gpuaas/streams/streamstest"
)

// damage changes a stream's file while its server is away.
func damage(t *testing.T, s *streamstest.Site, i int, stream string, how func([]byte)) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.Dir, fmt.Sprint(i), "jetstream", "jetstream", "*", "streams", stream, "msgs", "1.blk"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	s.Servers[i].Shutdown()
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	how(b)
	if err := os.WriteFile(files[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Restart(i)
}

// TestBackupEnds copies a vault whose newest key is erased.
func TestBackupEnds(t *testing.T) {
	t.Parallel()
	s := streamstest.New(t, 1)
	ctx := streamstest.Context(t)
	fillVault(ctx, t, s)
	if err := openVault(t, s, 1).Erase(ctx, "person3"); err != nil {
		t.Fatal(err)
	}
	if b, err := backup(ctx, s); err != nil || b.Documents != 4+3 {
		t.Fatalf("%+v %v", b, err)
	}
}

// TestBackupRefusesDamage: of what the server passes over, or waits at, a backup ends with
// the place.
func TestBackupRefusesDamage(t *testing.T) {
	t.Parallel()
	for name, how := range map[string]func(b []byte){
		"last":          func(b []byte) { b[len(b)-50] ^= 1 },
		"first":         func(b []byte) { b[60] ^= 1 },
		"length":        func(b []byte) { b[1] ^= 1 },
		"middle sector": func(b []byte) { clear(b[len(b)/3 : len(b)*2/3]) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := streamstest.New(t, 1)
			ctx, cancel := context.WithTimeout(streamstest.Context(t), 100*time.Second)
			defer cancel()
			fillVault(ctx, t, s)
			damage(t, s, 0, s.Names.Vault(), how)
			if got, err := backup(ctx, s); err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), s.Names.Vault()+": ") {
				t.Errorf("%+v %v", got, err)
			}
		})
	}
}

// fillVault puts documents of four people, and names them in the log.
func fillVault(ctx context.Context, t *testing.T, s *streamstest.Site) {
	t.Helper()
	v := openVault(t, s, 1)
	d := domain.Decision{Command: domain.Command{Actor: domain.System, Body: &domain.CreateAllocation{}}}
	d.Command.ID[0] = 1
	for i := range 4 {
		digest, err := v.Put(ctx, fmt.Sprint("person", i), fmt.Appendf(nil, "document %d", i))
		if err != nil {
			t.Fatal(err)
		}
		d.Events = append(d.Events, domain.Event{Number: uint64(i) + 1, Body: &domain.AllocationPlaced{UserData: digest}})
	}
	l := s.Log()
	defer l.Close()
	if _, err := l.Append(ctx, 0, domain.EncodeCommit(&domain.Commit{N: 1, At: 1, Decisions: []domain.Decision{d}})); err != nil {
		t.Fatal(err)
	}
}

func backup(ctx context.Context, s *streamstest.Site) (streams.Backed, error) {
	l := s.Log()
	defer l.Close()
	return streams.Backup(ctx, s.Dial(server.Admin), l, io.Discard)
}
