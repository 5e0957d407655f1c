package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

// images is a directory of image files: NAME.qcow2, NAME.raw or NAME.img is the
// image NAME. Digests are computed once a file; a file that changes under its name
// becomes another image. Without a directory every name is accepted and hosts get
// no bytes: that is for simulated hosts.
type images struct {
	dir    string
	mu     sync.Mutex
	byName map[string]imageFile
	byHash map[domain.Digest]string
}

type imageFile struct {
	path   string
	size   int64
	mtime  time.Time
	digest domain.Digest
}

func newImages(dir string) *images {
	return &images{dir: dir, byName: map[string]imageFile{}, byHash: map[domain.Digest]string{}}
}

// Resolve finds an image's digest by its name.
func (i *images) Resolve(name string) (domain.Digest, error) {
	if i.dir == "" {
		return domain.Digest{}, nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	unknown := domain.Errorf(domain.Invalid, "image.not_found", "image: this site has no image of that name")
	unknown.Field = "image"
	if name == "" || strings.ContainsAny(name, "/\\\x00") || name[0] == '.' {
		return domain.Digest{}, unknown
	}
	for _, ext := range []string{".qcow2", ".raw", ".img"} {
		path := filepath.Join(i.dir, name+ext)
		st, err := os.Stat(path)
		if err != nil || !st.Mode().IsRegular() {
			continue
		}
		f := i.byName[name]
		if f.path != path || f.size != st.Size() || !f.mtime.Equal(st.ModTime()) {
			d, err := digestFile(path)
			if err != nil {
				return domain.Digest{}, fmt.Errorf("image %s: %w", name, err)
			}
			f = imageFile{path, st.Size(), st.ModTime(), d}
			i.byName[name] = f
			i.byHash[d] = path
		}
		return f.digest, nil
	}
	return domain.Digest{}, unknown
}

// Path finds an image's file by its digest; images are looked through once more if
// it is not known yet (after a restart).
func (i *images) Path(d domain.Digest) (string, bool) {
	i.mu.Lock()
	path, ok := i.byHash[d]
	i.mu.Unlock()
	if ok || i.dir == "" {
		return path, ok
	}
	entries, _ := os.ReadDir(i.dir)
	for _, e := range entries {
		_, _ = i.Resolve(strings.TrimSuffix(e.Name(), filepath.Ext(e.Name())))
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	path, ok = i.byHash[d]
	return path, ok
}

func digestFile(path string) (domain.Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return domain.Digest{}, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return domain.Digest{}, err
	}
	return domain.Digest(h.Sum(nil)), nil
}
