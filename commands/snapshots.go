package commands

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gpuaas/gpuaas/domain"
)

// Snapshots are local files with the state at a commit. Losing them costs start-up
// time only; a damaged one is noticed by its hash and not used.
type Snapshots struct {
	dir string
	log *slog.Logger
	ch  chan snapshot
}

type snapshot struct {
	head  domain.Head
	state []byte
}

// SnapshotFile is one file.
type SnapshotFile struct {
	Name string
	N    uint64
}

// keepSnapshots is how many files stay.
const keepSnapshots = 2

// OpenSnapshots uses dir, which is made if needed.
func OpenSnapshots(dir string, log *slog.Logger) (*Snapshots, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return &Snapshots{dir: dir, log: log, ch: make(chan snapshot, 1)}, nil
}

// Dir is where the files are.
func (s *Snapshots) Dir() string { return s.dir }

// Offer hands a snapshot to the writer; while one is being written the next is
// dropped. It never blocks.
func (s *Snapshots) Offer(head domain.Head, state []byte) {
	select {
	case s.ch <- snapshot{head, state}:
	default:
	}
}

// Run writes what is offered until done is closed.
func (s *Snapshots) Run(done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case x := <-s.ch:
			if err := s.Save(x.head, x.state); err != nil {
				s.log.Warn("snapshot not written", "commit", x.head.N, "err", err)
			}
		}
	}
}

// Save writes one file: its SHA-256 first, then the state. It appears under its
// name only when it is complete and on disk.
func (s *Snapshots) Save(head domain.Head, state []byte) error {
	f, err := os.CreateTemp(s.dir, "tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	sum := sha256.Sum256(state)
	_, err = f.Write(sum[:])
	if err == nil {
		_, err = f.Write(state)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	name := fmt.Sprintf("%020d-%s.world", head.N, hex.EncodeToString(head.Hash[:4]))
	if err := os.Rename(f.Name(), filepath.Join(s.dir, name)); err != nil {
		return err
	}
	if d, err := os.Open(s.dir); err == nil {
		_ = d.Sync()
		d.Close()
	}
	for i, old := range s.List() {
		if i >= keepSnapshots {
			_ = os.Remove(filepath.Join(s.dir, old.Name))
		}
	}
	return nil
}

// List names the files, newest first.
func (s *Snapshots) List() (out []SnapshotFile) {
	entries, _ := os.ReadDir(s.dir)
	for _, e := range entries {
		var n uint64
		if _, err := fmt.Sscanf(e.Name(), "%d-", &n); err == nil && strings.HasSuffix(e.Name(), ".world") {
			out = append(out, SnapshotFile{e.Name(), n})
		}
	}
	slices.SortFunc(out, func(a, b SnapshotFile) int { return strings.Compare(b.Name, a.Name) })
	return out
}

func (s *Snapshots) load(f SnapshotFile) (*domain.World, error) {
	b, err := os.ReadFile(filepath.Join(s.dir, f.Name))
	if err != nil {
		return nil, err
	}
	// Its hash, a fifth of the whole work, is made beside the decoding, which takes any bytes.
	whole := make(chan error, 1)
	go func() { whole <- snapshotWhole(b) }()
	var w *domain.World
	if len(b) >= sha256.Size {
		w, err = domain.DecodeWorld(b[sha256.Size:])
	}
	if damaged := <-whole; damaged != nil {
		err = damaged
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name, err)
	}
	return w, nil
}

// OpenSnapshot reads a file's bytes: a SHA-256, and the state that it has to be of.
func OpenSnapshot(b []byte) (*domain.World, error) {
	if err := snapshotWhole(b); err != nil {
		return nil, err
	}
	return domain.DecodeWorld(b[sha256.Size:])
}

func snapshotWhole(b []byte) error {
	if len(b) < sha256.Size {
		return errors.New("cut short")
	}
	if sum := sha256.Sum256(b[sha256.Size:]); !bytes.Equal(sum[:], b[:sha256.Size]) {
		return errors.New("damaged: its hash does not match")
	}
	return nil
}
