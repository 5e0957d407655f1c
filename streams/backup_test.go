package streams_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
	"github.com/gpuaas/gpuaas/streams/streamstest"
)

// damage flips a bit of a stream's file while its server is away.
func damage(t *testing.T, s *streamstest.Site, stream string, where func([]byte) int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.Dir, "*", "jetstream", "jetstream", "*", "streams", stream, "msgs", "1.blk"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	s.Servers[0].Shutdown()
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	b[where(b)] ^= 1
	if err := os.WriteFile(files[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Restart(0)
}

// TestBackupEnds copies a vault whose newest key is erased, and refuses one with a
// document that cannot be read: the last one, after which nothing comes.
func TestBackupEnds(t *testing.T) {
	t.Parallel()
	s := streamstest.New(t, 1)
	ctx, cancel := context.WithTimeout(streamstest.Context(t), 20*time.Second)
	defer cancel()
	v := openVault(t, s, 1)
	for i := range 4 {
		if _, err := v.Put(ctx, fmt.Sprint("person", i), fmt.Appendf(nil, "document %d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.Erase(ctx, "person3"); err != nil {
		t.Fatal(err)
	}
	backup := func() (streams.Backed, error) {
		l := s.Log()
		defer l.Close()
		return streams.Backup(ctx, s.Dial(server.Admin), l, io.Discard)
	}
	if b, err := backup(); err != nil || b.Documents != 4+3 {
		t.Fatalf("%+v %v", b, err)
	}

	damage(t, s, s.Names.Vault(), func(b []byte) int { return bytes.LastIndex(b, []byte(s.Names.Vault()[len("VAULT_"):])) + 100 })
	if got, err := backup(); err == nil || !strings.Contains(err.Error(), s.Names.Vault()+": message 4 cannot be read") {
		t.Errorf("a damaged document: %+v %v", got, err)
	}
}
