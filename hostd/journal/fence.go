package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/gpuaas/gpuaas/domain"
)

// Verdict is what the fence says of a placement.
type Verdict uint8

// The verdicts.
const (
	Execute  Verdict = iota + 1 // it is the newest seen, and durably so
	Stale                       // an older one than seen before
	Conflict                    // the pair was seen with another digest: execute nothing
)

// Seen is the highest desired state that a host ever saw.
type Seen struct {
	Epoch      uint32        `json:"epoch"`
	Generation uint64        `json:"generation"`
	Digest     domain.Digest `json:"digest"`
	Conflict   domain.Digest `json:"conflict,omitempty"` // another digest for the same pair: quarantined
	Account    bool          `json:"account,omitempty"`  // it asks what the host holds: the epoch has just begun
}

// Fence remembers Seen in a file.
type Fence struct {
	path string
	sync bool
	mu   sync.Mutex
	seen Seen
}

const (
	fenceFile = "fence.json"
	keptFile  = "placement" // beside it: the desired state that it saw last
)

// OpenFence reads the fence of a directory; there may be none yet.
func OpenFence(dir string, noSync bool) (*Fence, error) {
	f := &Fence{path: filepath.Join(dir, fenceFile), sync: !noSync}
	b, err := os.ReadFile(f.path)
	if errors.Is(err, os.ErrNotExist) {
		return f, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &f.seen)
	}
	if err != nil {
		// Without the fence an old placement could pass: no guess is safe.
		return nil, fmt.Errorf("read fence %s: %w", f.path, err)
	}
	return f, nil
}

// Admit says whether d may be executed; what it says Execute or Conflict to is
// durable before it returns. A conflict holds until a higher epoch: the one that an
// operator opened and reconciled with what the hosts really run.
func (f *Fence) Admit(d *domain.Desired) (Verdict, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, verdict := f.seen.Admit(d)
	if s != f.seen {
		if err := f.save(s); err != nil {
			return 0, err
		}
		f.seen = s
	}
	return verdict, nil
}

// Admit is the verdict on d of who has seen s, and what has been seen after it.
func (s Seen) Admit(d *domain.Desired) (Seen, Verdict) {
	digest := d.Digest()
	switch {
	case d.Epoch < s.Epoch:
		return s, Stale
	case d.Epoch > s.Epoch:
		s = Seen{Epoch: d.Epoch, Generation: d.Generation, Digest: digest, Account: d.Account}
	case !s.Conflict.IsZero():
		return s, Conflict
	case d.Generation < s.Generation:
		return s, Stale
	case d.Generation > s.Generation:
		s.Generation, s.Digest, s.Account = d.Generation, digest, d.Account
	case s.Digest.IsZero():
		s.Digest = digest
	case s.Digest != digest:
		s.Conflict = digest
	}
	if !s.Conflict.IsZero() {
		return s, Conflict
	}
	return s, Execute
}

// Outruns reports whether p is of a later commit than what was seen, of commit from, and
// yet acknowledges less of the journal than was acknowledged before, or no journal at all:
// the log has lost its end and gone on. (Another journal of this host may come of a late
// report.) What it places may contradict what this host was told; only a new epoch may go
// on here. In one that asks what the host holds, and was told nothing yet, less is
// acknowledged because of the loss that it was opened for.
func (s Seen) Outruns(p *domain.Placement, from domain.Head, id domain.JournalID, acked uint64) bool {
	d := &p.Desired
	if d.Account && (s.Account || s.Digest == d.Digest()) { // the second for what was seen by an older build
		return false
	}
	later := d.Epoch == s.Epoch && (d.Generation > s.Generation || d.Generation == s.Generation && p.From.N > from.N)
	less := p.Journal == id && p.Acked < acked || p.Journal.IsZero() && acked > 0 // lost all that this host ever said
	return later && less
}

// Seen is what the fence remembers.
func (f *Fence) Seen() Seen {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen
}

// Keep writes down what was admitted and from which commit it followed, for the next
// life of the daemon.
func (f *Fence) Keep(p *domain.Placement) error {
	file, err := replaceFile(f.kept(), domain.EncodePlacement(&domain.Placement{Desired: p.Desired, From: p.From}), f.sync)
	if err != nil {
		return fmt.Errorf("keep placement: %w", err)
	}
	return file.Close()
}

// Kept is what was kept, if it is exactly what was admitted last: an older one, one
// that a crash overtook, and any after a conflict is nil.
func (f *Fence) Kept() (*domain.Placement, error) {
	b, err := os.ReadFile(f.kept())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read kept placement: %w", err)
	}
	p, err := domain.DecodePlacement(b)
	if err != nil {
		return nil, fmt.Errorf("read kept placement %s: %w", f.kept(), err)
	}
	d, seen := &p.Desired, f.Seen()
	if seen.Epoch != d.Epoch || seen.Generation != d.Generation || seen.Digest != d.Digest() || !seen.Conflict.IsZero() {
		return nil, fmt.Errorf("the kept placement is generation %d of epoch %d, not the last one that was admitted, %d of %d", d.Generation, d.Epoch, seen.Generation, seen.Epoch)
	}
	return p, nil
}

func (f *Fence) kept() string { return filepath.Join(filepath.Dir(f.path), keptFile) }

func (f *Fence) save(s Seen) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	file, err := replaceFile(f.path, append(b, '\n'), f.sync)
	if err != nil {
		return fmt.Errorf("write fence: %w", err)
	}
	return file.Close()
}
