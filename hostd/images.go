package hostd

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/machine"
)

// ImageRequest asks for a piece of an image. The answer is the raw bytes; fewer
// than Length mean that the image ends there.
type ImageRequest struct {
	Digest domain.Digest `json:"digest"`
	Offset int64         `json:"offset"`
	Length int           `json:"length"` // bytes, at most 512 KiB
}

const (
	imagePieceBytes = 512 << 10
	imageMaxBytes   = 256 << 30
)

// ImageCache keeps images on the host's own disk, by digest. An image is in it
// whole and verified, or not at all.
type ImageCache struct {
	dir      string
	fetch    func(ctx context.Context, payload []byte) ([]byte, error) // Link.RequestImage
	maxBytes int64
	turn     chan struct{} // bounds fetches at once

	mu    sync.Mutex
	locks map[domain.Digest]chan struct{} // each holds one: who fetches

	keeping sync.Mutex
	needed  map[string]bool // private images by name; nil: not known yet
	dropped int             // since the last Clear
}

// NewImageCache makes a cache that holds about maxBytes (0: 200 GiB) and fetches at
// most parallel images at once (0: 2).
func NewImageCache(dir string, fetch func(ctx context.Context, payload []byte) ([]byte, error), maxBytes int64, parallel int) (*ImageCache, error) {
	if maxBytes <= 0 {
		maxBytes = 200 << 30
	}
	if parallel <= 0 {
		parallel = 2
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("image cache: %w", err)
	}
	return &ImageCache{dir: dir, fetch: fetch, maxBytes: maxBytes, turn: make(chan struct{}, parallel), locks: map[domain.Digest]chan struct{}{}}, nil
}

// Path is the local file of an image, fetched first if needed. Codes:
// image.unavailable, image.digest_mismatch, image.too_large.
func (c *ImageCache) Path(ctx context.Context, digest domain.Digest) (string, error) {
	if digest.IsZero() {
		return "", &machine.Fault{Code: "image.no_digest", Err: errors.New("the placement names no image")}
	}
	lock := c.lock(digest)
	select {
	case lock <- struct{}{}: // two VMs with one image: one fetches
		defer func() { <-lock }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	path := filepath.Join(c.dir, fmt.Sprintf("%x", digest[:]))
	if _, err := os.Stat(path); err == nil {
		now := time.Now()
		return path, os.Chtimes(path, now, now) // youngest: last to go
	}
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if err := c.download(ctx, digest, path+".part"); err != nil {
		return "", err
	}
	if err := os.Rename(path+".part", path); err != nil {
		return "", err
	}
	c.evict(path)
	return path, nil
}

// privateMark is the end of the name of the file that says whose kind an image is: it
// is there before the image's first byte, so that a crash leaves no image behind of
// which it is not known.
const privateMark = ".private"

// Keep removes the images of tenants' own that none of the VMs has. One that is being
// fetched goes when that has ended: its VM's slot is not wiped before.
func (c *ImageCache) Keep(vms []domain.PlacedVM) error {
	c.keeping.Lock()
	defer c.keeping.Unlock()
	needed := map[string]bool{}
	for i := range vms {
		v := &vms[i]
		if !v.Private || v.ImageHash.IsZero() {
			continue
		}
		name := fmt.Sprintf("%x", v.ImageHash[:])
		needed[name] = true
		if err := mark(filepath.Join(c.dir, name+privateMark)); err != nil {
			return fmt.Errorf("image cache: %w", err)
		}
	}
	c.needed = needed
	_, err := c.sweep()
	return err
}

// sweep removes the private images that are not needed, but for those that are being
// fetched, which it returns. The caller holds c.keeping.
func (c *ImageCache) sweep() (busy []string, err error) {
	marks, err := filepath.Glob(filepath.Join(c.dir, "*"+privateMark))
	if err != nil {
		return nil, fmt.Errorf("image cache: %w", err)
	}
	for _, path := range marks {
		name := strings.TrimSuffix(filepath.Base(path), privateMark)
		var digest domain.Digest
		if digest.UnmarshalText([]byte("sha256:"+name)) != nil || c.needed[name] {
			continue // not a name of this cache, or a VM's
		}
		gone, err := c.drop(name, digest)
		if err != nil {
			return nil, fmt.Errorf("image cache: %w", err)
		}
		if gone {
			c.dropped++
		} else {
			busy = append(busy, name)
		}
	}
	return busy, nil
}

// clearWait is how long Clear waits for a fetch that nobody wants any more to end.
const clearWait = time.Minute

// Clear is for the evidence of a wipe: it removes the images of tenants' own that no
// VM has by the last Keep, and says how many went since the last time and which are
// left, because they are still being fetched.
func (c *ImageCache) Clear(ctx context.Context) (removed int, left []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, clearWait)
	defer cancel()
	for {
		c.keeping.Lock()
		if c.needed == nil {
			c.keeping.Unlock()
			return 0, nil, errors.New("image cache: which images are needed is not known yet")
		}
		busy, err := c.sweep()
		removed += c.dropped
		c.dropped = 0
		c.keeping.Unlock()
		if err != nil || len(busy) == 0 {
			return removed, nil, err
		}
		if sleep(ctx, 100*time.Millisecond) != nil {
			return removed, busy, nil
		}
	}
}

// mark makes an empty file, durably; one that is there stays.
func mark(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return errors.Join(err, f.Close())
	}
	return errors.Join(f.Close(), dir.Sync(), dir.Close())
}

// drop removes an image, what came of it, and last the mark. It is not gone while it
// is being fetched.
func (c *ImageCache) drop(name string, digest domain.Digest) (gone bool, err error) {
	lock := c.lock(digest)
	select {
	case lock <- struct{}{}:
		defer func() { <-lock }()
	default:
		return false, nil
	}
	for _, end := range []string{"", ".part", privateMark} {
		if err := os.Remove(filepath.Join(c.dir, name+end)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return false, err
		}
	}
	return true, nil
}

func (c *ImageCache) lock(d domain.Digest) chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.locks[d] == nil {
		c.locks[d] = make(chan struct{}, 1)
	}
	return c.locks[d]
}

// download fetches into part, from where an earlier attempt got to, and verifies
// the whole.
func (c *ImageCache) download(ctx context.Context, digest domain.Digest, part string) (err error) {
	f, err := os.OpenFile(part, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	hash := sha256.New()
	offset, err := io.Copy(hash, f) // what is there already
	if err != nil {
		return err
	}
	for {
		if offset > imageMaxBytes {
			return &machine.Fault{Code: "image.too_large", Err: fmt.Errorf("%s has more than %d bytes", digest, int64(imageMaxBytes))}
		}
		b, err := c.piece(ctx, digest, offset)
		if err != nil {
			return err
		}
		if _, err := io.MultiWriter(f, hash).Write(b); err != nil {
			return err
		}
		offset += int64(len(b))
		if len(b) < imagePieceBytes {
			break
		}
	}
	if got := domain.Digest(hash.Sum(nil)); got != digest {
		_ = os.Remove(part) // begin from nothing next time
		return &machine.Fault{Code: "image.digest_mismatch", Err: fmt.Errorf("%d bytes have %s, placed is %s", offset, got, digest)}
	}
	return f.Sync()
}

func (c *ImageCache) piece(ctx context.Context, digest domain.Digest, offset int64) ([]byte, error) {
	payload, err := json.Marshal(ImageRequest{Digest: digest, Offset: offset, Length: imagePieceBytes})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	b, err := c.fetch(ctx, payload)
	if err != nil {
		return nil, &machine.Fault{Code: "image.unavailable", Err: err}
	}
	if len(b) > imagePieceBytes {
		return nil, &machine.Fault{Code: "image.unavailable", Err: fmt.Errorf("a piece of %d bytes was asked for, %d came", imagePieceBytes, len(b))}
	}
	return b, nil
}

// evict lets the images go that were not used for longest, until the rest fits. A
// file in use stays readable for who has it open.
func (c *ImageCache) evict(keep string) {
	for range 64 { // more than ever are over the bound at once
		entries, err := os.ReadDir(c.dir)
		if err != nil {
			return
		}
		total, oldest, at := int64(0), "", time.Time{}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil {
				continue
			}
			total += info.Size()
			whole := len(e.Name()) == 2*sha256.Size && e.Name() != filepath.Base(keep)
			if whole && (oldest == "" || info.ModTime().Before(at)) {
				oldest, at = e.Name(), info.ModTime()
			}
		}
		if total <= c.maxBytes || oldest == "" {
			return
		}
		_ = os.Remove(filepath.Join(c.dir, oldest))
	}
}
