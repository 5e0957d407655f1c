package imagestore

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gpuaas/gpuaas/api"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/image"
	"github.com/gpuaas/gpuaas/hostd/machine"
)

// Store is the images and uploads in one directory. It is safe for concurrent use
// within one process; others may read images beside it.
type Store struct {
	dir   string
	clock func() time.Time

	mu      sync.Mutex
	uploads map[string]*upload
}

// Open makes the directory, or uses what is in it. Uploads are there after
// [Store.TakeUp].
func Open(dir string, clock func() time.Time) (*Store, error) {
	s := &Store{dir: dir, clock: clock, uploads: map[string]*upload{}}
	for _, sub := range []string{"content", "uploads"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("image store: %w", err)
		}
	}
	return s, nil
}

// TakeUp goes on with the uploads that an earlier process left, and removes what of
// them is not whole. One process at a time may do so: the directory can be shared.
func (s *Store) TakeUp() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uploads = map[string]*upload{}
	if err := s.findUploads(); err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	return nil
}

// Path is the file of an image's bytes.
func (s *Store) Path(d domain.Digest) (string, bool) {
	path := s.content(d)
	st, err := os.Stat(path)
	return path, err == nil && st.Mode().IsRegular()
}

func (s *Store) content(d domain.Digest) string {
	return filepath.Join(s.dir, "content", fmt.Sprintf("%x", d[:]))
}

// Content says what an image's bytes are, if they are here.
func (s *Store) Content(d domain.Digest) (api.ImageContent, bool) {
	path, ok := s.Path(d)
	if !ok {
		return api.ImageContent{}, false
	}
	c, err := inspect(path)
	return c, err == nil
}

// inspect looks at an image as the host will, so that what a host would refuse is
// refused here. Codes: those of image.Inspect.
func inspect(path string) (api.ImageContent, error) {
	st, err := os.Stat(path)
	if err != nil {
		return api.ImageContent{}, err
	}
	info, err := image.Inspect(path)
	var fault *machine.Fault
	switch {
	case errors.As(err, &fault):
		e := domain.Errorf(domain.Invalid, fault.Code, "the image cannot be used: %v", fault.Err)
		return api.ImageContent{}, e
	case err != nil:
		return api.ImageContent{}, err
	}
	return api.ImageContent{SizeBytes: uint64(st.Size()), DiskBytes: info.SizeBytes, Format: domain.ImageFormat(info.Format)}, nil
}

// Adopt takes a file of the operator's into the store, by copy.
func (s *Store) Adopt(path string) (d domain.Digest, c api.ImageContent, err error) {
	if c, err = inspect(path); err != nil {
		return d, c, err
	}
	in, err := os.Open(path)
	if err != nil {
		return d, c, err
	}
	defer in.Close()
	h := sha256.New()
	if _, err := io.Copy(h, in); err != nil {
		return d, c, err
	}
	d = domain.Digest(h.Sum(nil))
	if _, ok := s.Path(d); ok {
		return d, c, nil
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return d, c, err
	}
	tmp, err := os.CreateTemp(filepath.Join(s.dir, "uploads"), "adopt-")
	if err != nil {
		return d, c, err
	}
	defer os.Remove(tmp.Name()) // gone already if all went well
	again := sha256.New()
	_, err = io.Copy(io.MultiWriter(tmp, again), in)
	if err == nil && domain.Digest(again.Sum(nil)) != d {
		err = fmt.Errorf("%s changed while it was read", path)
	}
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return d, c, err
	}
	return d, c, s.keep(tmp.Name(), d)
}

// keep moves a file, whose bytes are durable, to where its digest says.
func (s *Store) keep(path string, d domain.Digest) error {
	if err := os.Rename(path, s.content(d)); err != nil {
		return err
	}
	now := s.clock()
	_ = os.Chtimes(s.content(d), now, now) // youngest: a sweep leaves it to be registered
	return syncDir(filepath.Join(s.dir, "content"))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Sweep removes uploads that have expired, and content that nothing needs and that
// came longer ago than an upload may take to be registered.
func (s *Store) Sweep(needed func(domain.Digest) (bool, error)) error {
	s.expire()
	entries, err := os.ReadDir(filepath.Join(s.dir, "content"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		var d domain.Digest
		info, err := e.Info()
		if err != nil || d.UnmarshalText([]byte("sha256:"+e.Name())) != nil || s.clock().Sub(info.ModTime()) < uploadLife {
			continue
		}
		keep, err := needed(d)
		if err != nil {
			return err
		}
		if !keep && !s.uploading(d) {
			if err := os.Remove(s.content(d)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// room reports whether a file of that size leaves a tenth of the disk free: of what we
// could use, as admission counts it.
func (s *Store) room(size int64) bool {
	var st syscall.Statfs_t
	if syscall.Statfs(s.dir, &st) != nil {
		return true
	}
	usable := int64(st.Blocks-st.Bfree+st.Bavail) * st.Bsize
	return int64(st.Bavail)*st.Bsize-size > usable/10
}

func leftover(name string) bool { return strings.HasPrefix(name, "adopt-") }
