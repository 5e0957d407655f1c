package imagestore

import (
	"context"
	crand "crypto/rand"
	"crypto/sha256"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gpuaas/gpuaas/api"
	"github.com/gpuaas/gpuaas/domain"
)

// Bounds of uploads.
const (
	maxUploads     = 16             // open at once, of the site
	maxUserUploads = 4              // of them, one user's
	maxComplete    = 64             // of one user, that may still be registered
	uploadLife     = 24 * time.Hour // since its last byte
)

// upload is one on its way. Its state file says how many bytes are durable; what the
// part file has beyond them is cut off.
type upload struct {
	busy sync.Mutex // one writer
	s    uploadState
}

type uploadState struct {
	api.Upload
	Hash []byte `json:"hash"` // SHA-256's state after Offset bytes
}

func unknownUpload() error {
	return domain.Errorf(domain.NotFound, "upload.not_found", "no such upload: it may have expired")
}

// Begin opens an upload. Whoever lost the answer asks again: the upload to which
// nothing came yet is the same one. Codes: upload.too_many, image.no_space.
func (s *Store) Begin(n api.NewUpload) (api.Upload, error) {
	s.expire()
	s.mu.Lock()
	defer s.mu.Unlock()
	open, own, complete, reserved := 0, 0, 0, n.SizeBytes
	for _, u := range s.uploads {
		mine := u.s.Owner == n.Owner
		switch {
		case u.s.NewUpload == n && u.s.Offset == 0:
			return u.s.Upload, nil
		case u.s.Complete && mine:
			complete++
		case !u.s.Complete:
			reserved += u.s.SizeBytes - u.s.Offset
			if open++; mine {
				own++
			}
		}
	}
	if own >= maxUserUploads || open >= maxUploads || complete >= maxComplete {
		return api.Upload{}, domain.Errorf(domain.Exhausted, "upload.too_many", "there are too many uploads: finish or delete one of yours (at most %d), or try again later", maxUserUploads)
	}
	if !s.room(reserved) {
		return api.Upload{}, domain.Errorf(domain.Unavailable, "image.no_space", "the site's disk has no room for this image now")
	}
	u := &upload{s: uploadState{Upload: api.Upload{NewUpload: n, ID: "upl_" + strings.ToLower(crand.Text()), Expires: s.clock().Add(uploadLife)}, Hash: stateOf(sha256.New())}}
	f, err := os.OpenFile(s.part(u), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return api.Upload{}, err
	}
	if err := errors.Join(f.Close(), s.save(u)); err != nil {
		return api.Upload{}, err
	}
	s.uploads[u.s.ID] = u
	return u.s.Upload, nil
}

func stateOf(h hash.Hash) []byte {
	b, _ := h.(encoding.BinaryMarshaler).MarshalBinary() // crypto/sha256: never fails
	return b
}

func (s *Store) part(u *upload) string {
	return filepath.Join(s.dir, "uploads", u.s.ID+".part")
}
func (s *Store) stateFile(id string) string { return filepath.Join(s.dir, "uploads", id+".json") }

// save makes the upload's state durable.
func (s *Store) save(u *upload) error {
	b, err := json.Marshal(&u.s)
	if err != nil {
		return err
	}
	path := s.stateFile(u.s.ID)
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// lookup finds a user's upload. Another's is not there.
func (s *Store) lookup(id string, owner domain.UserID) (*upload, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.uploads[id]
	return u, u != nil && u.s.Owner == owner && s.clock().Before(u.s.Expires)
}

// Upload says how far an upload is. Code: upload.not_found.
func (s *Store) Upload(id string, owner domain.UserID) (api.Upload, error) {
	u, ok := s.lookup(id, owner)
	if !ok {
		return api.Upload{}, unknownUpload()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return u.s.Upload, nil
}

// Append adds bytes at the offset that the upload has. What came before r ended or
// failed stays, so the next one goes on there; the last byte completes the upload.
// Codes: upload.not_found, upload.busy, upload.offset, upload.too_large,
// image.digest_mismatch, and those of the inspection; after the last two the upload is
// gone.
func (s *Store) Append(ctx context.Context, id string, owner domain.UserID, offset int64, r io.Reader) (api.Upload, error) {
	u, ok := s.lookup(id, owner)
	if !ok {
		return api.Upload{}, unknownUpload()
	}
	if !u.busy.TryLock() {
		e := domain.Errorf(domain.Conflict, "upload.busy", "another request writes to this upload: try again when it has ended")
		e.Retryable = true
		return api.Upload{}, e
	}
	defer u.busy.Unlock()
	if _, ok := s.lookup(id, owner); !ok {
		return api.Upload{}, unknownUpload() // it was ended meanwhile
	}
	if u.s.Complete || offset != u.s.Offset {
		return api.Upload{}, domain.Errorf(domain.Conflict, "upload.offset", "the upload is at the offset %d: go on there", u.s.Offset)
	}
	if err := s.write(ctx, u, r); err != nil {
		return api.Upload{}, err
	}
	if u.s.Offset < u.s.SizeBytes {
		return s.Upload(id, owner)
	}
	if err := s.finish(u); err != nil {
		var refused *domain.Error
		if errors.As(err, &refused) {
			s.forget(u)
		}
		return api.Upload{}, err
	}
	return s.Upload(id, owner)
}

// write adds what r has, as far as it comes, and makes it durable.
func (s *Store) write(ctx context.Context, u *upload, r io.Reader) error {
	h := sha256.New()
	if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(u.s.Hash); err != nil {
		return fmt.Errorf("upload %s: %w", u.s.ID, err)
	}
	f, err := os.OpenFile(s.part(u), os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(u.s.Offset); err != nil {
		return err
	}
	if _, err := f.Seek(u.s.Offset, io.SeekStart); err != nil {
		return err
	}
	room := u.s.SizeBytes - u.s.Offset
	n, rerr := io.Copy(io.MultiWriter(f, h), io.LimitReader(contextReader{ctx, r}, room+1))
	if n > room {
		return domain.Errorf(domain.Invalid, "upload.too_large", "the upload was announced with %d bytes, and more came", u.s.SizeBytes)
	}
	if err := f.Sync(); err != nil {
		return err
	}
	s.mu.Lock()
	u.s.Offset += n
	u.s.Hash, u.s.Expires = stateOf(h), s.clock().Add(uploadLife)
	err = s.save(u)
	s.mu.Unlock()
	if err == nil && rerr != nil {
		err = domain.Errorf(domain.Invalid, "request.malformed", "the body ended early: go on at the offset %d", u.s.Offset)
	}
	return err
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(b)
}

// finish checks the whole and moves it to the images.
func (s *Store) finish(u *upload) error {
	h := sha256.New()
	if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(u.s.Hash); err != nil {
		return fmt.Errorf("upload %s: %w", u.s.ID, err)
	}
	if got := domain.Digest(h.Sum(nil)); got != u.s.Digest {
		return domain.Errorf(domain.Invalid, "image.digest_mismatch", "what was sent is %s, announced was %s: begin again", got, u.s.Digest)
	}
	content, err := inspect(s.part(u))
	if err != nil {
		return err
	}
	if err := s.keep(s.part(u), u.s.Digest); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	u.s.Complete, u.s.Content = true, content
	return s.save(u)
}

// Abort ends an upload. Codes: upload.not_found, upload.busy.
func (s *Store) Abort(id string, owner domain.UserID) error {
	u, ok := s.lookup(id, owner)
	if !ok {
		return unknownUpload()
	}
	if !u.busy.TryLock() {
		return domain.Errorf(domain.Conflict, "upload.busy", "another request writes to this upload: try again when it has ended")
	}
	defer u.busy.Unlock()
	s.forget(u)
	return nil
}

func (s *Store) forget(u *upload) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.uploads, u.s.ID)
	_ = os.Remove(s.part(u)) // what stays is swept at the next start
	_ = os.Remove(s.stateFile(u.s.ID))
}

// expire forgets the uploads that nobody goes on with.
func (s *Store) expire() {
	s.mu.Lock()
	var old []*upload
	for _, u := range s.uploads {
		if s.expired(u) {
			old = append(old, u)
		}
	}
	s.mu.Unlock()
	for _, u := range old {
		if !u.busy.TryLock() {
			continue
		}
		if s.expired(u) { // still: somebody may just have gone on with it
			s.forget(u)
		}
		u.busy.Unlock()
	}
}

// expired reports whether nobody went on with an upload for too long. The caller holds
// s.mu or the upload.
func (s *Store) expired(u *upload) bool { return !s.clock().Before(u.s.Expires) }

// uploading reports whether an upload brought these bytes and may still be
// registered.
func (s *Store) uploading(d domain.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.uploads {
		if u.s.Digest == d {
			return true
		}
	}
	return false
}

// findUploads takes up what an earlier process left. What is not whole is removed:
// its owner begins again.
func (s *Store) findUploads() error {
	entries, err := os.ReadDir(filepath.Join(s.dir, "uploads"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), ".json"); ok {
			u := &upload{}
			if b, err := os.ReadFile(s.stateFile(id)); err == nil && json.Unmarshal(b, &u.s) == nil && u.s.ID == id && s.whole(u) {
				s.uploads[id] = u
			}
		}
	}
	for _, e := range entries {
		id, _, _ := strings.Cut(e.Name(), ".")
		if s.uploads[id] == nil || leftover(e.Name()) {
			_ = os.Remove(filepath.Join(s.dir, "uploads", e.Name()))
		}
	}
	return nil
}

// whole reports whether an upload's bytes are there as its state says. One that was
// cut between the move to the images and the note of it has arrived.
func (s *Store) whole(u *upload) bool {
	if st, err := os.Stat(s.part(u)); err == nil {
		return !u.s.Complete && st.Size() >= u.s.Offset
	}
	content, ok := s.Content(u.s.Digest)
	if ok && u.s.Offset == u.s.SizeBytes {
		u.s.Complete, u.s.Content = true, content
		return true
	}
	return false
}
