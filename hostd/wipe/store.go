package wipe

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

// Store keeps what the host has to remember of its devices: baselines, and which
// erasure is under way. One small file for each, by the device's serial, replaced
// whole; what is written is on the disk before the call returns.
type Store struct{ dir string }

// OpenStore opens the store in dir, and makes it if there is none.
func OpenStore(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("wipe: %w", err)
	}
	return &Store{dir}, nil
}

// storeMaxBytes bounds a file: the survey of a drive with all namespaces is 20 KB.
const storeMaxBytes = 1 << 20

// path is the file of a device; the serial is the device's own word and may hold
// anything, so it is not part of a name.
func (s *Store) path(kind, serial string) string {
	h := sha256.Sum256([]byte(serial))
	return filepath.Join(s.dir, fmt.Sprintf("%x.%s.json", h[:12], kind))
}

// load reads a file into v and returns the digest of its bytes; found is false if
// there is none.
func (s *Store) load(kind, serial string, v any) (d domain.Digest, found bool, err error) {
	d, err = s.read(s.path(kind, serial), v)
	if errors.Is(err, fs.ErrNotExist) {
		return d, false, nil
	}
	return d, err == nil, err
}

func (s *Store) read(path string, v any) (d domain.Digest, err error) {
	f, err := os.Open(path)
	if err != nil {
		return d, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, storeMaxBytes))
	if err != nil {
		return d, err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return d, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return domain.DigestOf(b), nil
}

// save replaces a file.
func (s *Store) save(kind, serial string, v any) (d domain.Digest, err error) {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return d, err
	}
	path := s.path(kind, serial)
	f, err := os.CreateTemp(s.dir, ".new-*")
	if err != nil {
		return d, err
	}
	defer os.Remove(f.Name())
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return d, err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return d, err
	}
	return domain.DigestOf(b), s.sync()
}

func (s *Store) sync() error {
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (s *Store) remove(kind, serial string) error {
	if err := os.Remove(s.path(kind, serial)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.sync()
}

// The kinds of files.
const (
	kindBaseline = "baseline"
	kindErasing  = "erasing"
	kindFunction = "function"
	kindSlot     = "slot"
	kindFresh    = "fresh"
	kindCycle    = "powercycle"
	kindRefused  = "refused"
	kindAccepted = "accepted"
)

// baseline is a drive's baseline.
func (s *Store) baseline(serial string) (*Survey, domain.Digest, error) {
	b := new(Survey)
	d, found, err := s.load(kindBaseline, serial, b)
	switch {
	case err != nil:
		return nil, d, refuse(BaselineDamaged, "%v", err)
	case !found:
		return nil, d, nil
	case b.Serial != serial:
		return nil, d, refuse(BaselineDamaged, "the baseline of %q speaks of %q", serial, b.Serial)
	}
	return b, d, nil
}

// Forget drops what is known of a device, because it left the host, or what is kept of
// it is damaged. Wipes refuse it until what it is now was accepted, or it is a slot's
// new device.
func (s *Store) Forget(serial string) error {
	var errs []error
	for _, kind := range []string{kindBaseline, kindErasing, kindFunction, kindRefused, kindAccepted, kindFresh, kindCycle} {
		errs = append(errs, s.remove(kind, serial))
	}
	return errors.Join(errs...)
}

// held is the device that a slot had when it was last wiped.
type held struct {
	Slot      domain.SlotID `json:"slot_id"`
	Component string        `json:"component"`
	Serial    string        `json:"serial"`
}

func heldKey(slot domain.SlotID, component string) string { return slot.String() + " " + component }

// fresh reports whether no tenant can have had the device on this host, so that its
// baseline may be taken: by the first wipe of the slot, or when the slot is known to
// have had another device before. A tenant gets a device only after a wipe of it,
// which leaves both a baseline and this record: where neither is, the host has lost
// its files, and nothing is known.
func (s *Store) fresh(w *domain.PlacedWipe, component, serial string) (bool, error) {
	if w.Lease.Generation == 0 {
		return true, nil
	}
	r := new(held)
	_, found, err := s.load(kindSlot, heldKey(w.Lease.Slot, component), r)
	if err != nil {
		return false, refuse(RecordDamaged, "%v", err)
	}
	return found && r.Slot == w.Lease.Slot && r.Component == component && r.Serial != serial, nil
}

// hold records the slot's device, once its baseline is kept.
func (s *Store) hold(w *domain.PlacedWipe, component, serial string) error {
	now, was := held{w.Lease.Slot, component, serial}, held{}
	if _, found, err := s.load(kindSlot, heldKey(now.Slot, component), &was); err == nil && found && was == now {
		return nil
	}
	_, err := s.save(kindSlot, heldKey(now.Slot, component), &now)
	return err
}

// taken is the lease in whose wipe a device's baseline was taken.
type taken struct {
	Serial string        `json:"serial"`
	Lease  domain.Digest `json:"lease"`
}

// take records, before a baseline is kept, in whose wipe it is taken: every attempt of
// that wipe says so.
func (s *Store) take(serial string, w *domain.PlacedWipe) error {
	_, err := s.save(kindFresh, serial, &taken{serial, w.Lease.Digest()})
	return err
}

// taken says whether the device's baseline is of a wipe of this lease.
func (s *Store) taken(serial string, w *domain.PlacedWipe) (bool, error) {
	t := new(taken)
	_, found, err := s.load(kindFresh, serial, t)
	if err != nil {
		return false, refuse(RecordDamaged, "%v", err)
	}
	return found && t.Serial == serial && t.Lease == w.Lease.Digest(), nil
}

// erasing is what an interrupted run leaves for the next: that all canaries were on
// the drive when the erasure was about to begin.
type erasing struct {
	Serial   string        `json:"serial"`
	Lease    domain.Digest `json:"lease"` // of the lease and attempt: another wipe's record says nothing
	Method   string        `json:"method"`
	Action   uint32        `json:"action"` // CDW10 of the sanitize
	Canaries []uint32      `json:"canaries"`
	At       time.Time     `json:"at"`
}

func leaseDigest(w *domain.PlacedWipe) domain.Digest {
	return domain.DigestOf(fmt.Appendf(nil, "%s %d", w.Lease.Digest(), w.Attempt))
}

// erasing reads the record of a run that was interrupted while it sanitized for
// this very wipe, nil if there is none.
func (s *Store) erasing(serial string, w *domain.PlacedWipe) (*erasing, error) {
	r := new(erasing)
	_, found, err := s.load(kindErasing, serial, r)
	if err != nil {
		return nil, refuse(RecordDamaged, "%v", err)
	}
	if !found || r.Serial != serial || r.Lease != leaseDigest(w) {
		return nil, nil
	}
	return r, nil
}
