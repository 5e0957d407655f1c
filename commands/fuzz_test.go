package commands_test

import (
	"crypto/sha256"
	"testing"

	"github.com/gpuaas/gpuaas/commands"
	"github.com/gpuaas/gpuaas/domain"
)

// FuzzSnapshotFile: a file that is not whole, or not of this build, is an error; the
// bytes get a right hash on every other way in, so that what is behind it is reached.
func FuzzSnapshotFile(f *testing.F) {
	f.Add(domain.NewWorld().Encode(), true)
	f.Add([]byte("short"), false)
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		if sealed {
			sum := sha256.Sum256(b)
			b = append(sum[:], b...)
		}
		w, err := commands.OpenSnapshot(b)
		if err == nil && w.Hash() != sha256.Sum256(w.Encode()) {
			t.Fatal("another hash")
		}
	})
}

// FuzzFold: a commit that does not follow is refused, and leaves the world as it was.
func FuzzFold(f *testing.F) {
	f.Add([]byte{})
	f.Add(domain.EncodeCommit(&domain.Commit{N: 1, At: 1}))
	f.Add(domain.EncodeCommit(&domain.Commit{N: 2, At: 1}))
	f.Fuzz(func(t *testing.T, b []byte) {
		w := domain.NewWorld()
		before := w.Hash()
		c, derr := domain.DecodeCommit(append([]byte(nil), b...))
		if derr == nil && c.N == 1 {
			return // its events are the log's word; only what does not follow is to be refused
		}
		if err := commands.Fold(w, b); err == nil {
			t.Fatalf("folded: %v", c)
		}
		if w.Hash() != before {
			t.Fatal("refused, and the world changed")
		}
	})
}
