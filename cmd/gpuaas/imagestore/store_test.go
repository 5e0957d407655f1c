package imagestore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/gpuaas/gpuaas/api"
	"github.com/gpuaas/gpuaas/domain"
)

var me, them = domain.UserID{1}, domain.UserID{2}

// rawImage is a disk with a boot sector.
func rawImage(n int) []byte {
	b := bytes.Repeat([]byte{7}, n)
	b[510], b[511] = 0x55, 0xaa
	return b
}

func qcow2(change func(b []byte)) []byte {
	b := make([]byte, 4096)
	copy(b, "QFI\xfb")
	binary.BigEndian.PutUint32(b[4:], 3)
	binary.BigEndian.PutUint64(b[24:], 1<<30)
	binary.BigEndian.PutUint32(b[100:], 104)
	change(b)
	return b
}

type clock struct{ now time.Time }

func (c *clock) time() time.Time { return c.now }

func open(t *testing.T, dir string, c *clock) *Store {
	t.Helper()
	s, err := Open(dir, c.time)
	if err == nil {
		err = s.TakeUp()
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func begin(t *testing.T, s *Store, b []byte) api.Upload {
	t.Helper()
	u, err := s.Begin(api.NewUpload{Owner: me, Digest: domain.DigestOf(b), SizeBytes: int64(len(b))})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func code(err error) string {
	var e *domain.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return fmt.Sprint(err)
}

// An upload goes on where it stopped: after a piece that broke off, and after the
// process ended between any two pieces.
func TestUploadGoesOnWhereItStopped(t *testing.T) {
	t.Parallel()
	dir, c, b := t.TempDir(), &clock{time.Now()}, rawImage(1<<20)
	s := open(t, dir, c)
	u := begin(t, s, b)
	if again := begin(t, s, b); again.ID != u.ID {
		t.Errorf("who asks again has another upload")
	}
	if _, err := s.Append(t.Context(), u.ID, me, 0, io.MultiReader(bytes.NewReader(b[:1000]), iotest.ErrReader(io.ErrUnexpectedEOF))); code(err) != "request.malformed" {
		t.Fatal(err)
	}
	for at := int64(1000); at < int64(len(b)); {
		s = open(t, dir, c)
		got, err := s.Upload(u.ID, me)
		if err != nil || got.Offset != at || got.Complete {
			t.Fatalf("%+v, %v: want the offset %d", got, err, at)
		}
		// What a crash left behind the last durable byte is not taken for any.
		f, _ := os.OpenFile(filepath.Join(dir, "uploads", u.ID+".part"), os.O_APPEND|os.O_WRONLY, 0)
		_, _ = f.WriteString("half a piece")
		_ = f.Close()
		end := min(at+300_000, int64(len(b)))
		if got, err = s.Append(t.Context(), u.ID, me, at, bytes.NewReader(b[at:end])); err != nil {
			t.Fatal(err)
		}
		at = got.Offset
	}
	path, ok := s.Path(domain.DigestOf(b))
	got, err := os.ReadFile(path)
	if !ok || err != nil || !bytes.Equal(got, b) {
		t.Fatalf("%v %v: %d bytes", ok, err, len(got))
	}
	s = open(t, dir, c)
	if got, err := s.Upload(u.ID, me); err != nil || !got.Complete || got.Content.DiskBytes != 1<<20 || got.Content.Format != domain.ImageRaw {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := s.Append(t.Context(), u.ID, me, int64(len(b)), bytes.NewReader(nil)); code(err) != "upload.offset" {
		t.Error(err)
	}
}

func TestImagesThatAreRefused(t *testing.T) {
	t.Parallel()
	c := &clock{time.Now()}
	for want, b := range map[string][]byte{
		"image.backing_file":  qcow2(func(b []byte) { binary.BigEndian.PutUint64(b[8:], 512); binary.BigEndian.PutUint32(b[16:], 9) }),
		"image.external_data": qcow2(func(b []byte) { b[79] = 1 << 2 }),
		"image.encrypted":     qcow2(func(b []byte) { b[35] = 2 }),
		"image.corrupt":       qcow2(func(b []byte) { b[79] = 1 << 1 }),
		"image.format":        bytes.Repeat([]byte("tarball "), 512),
	} {
		s := open(t, t.TempDir(), c)
		u := begin(t, s, b)
		if _, err := s.Append(t.Context(), u.ID, me, 0, bytes.NewReader(b)); code(err) != want {
			t.Errorf("%v, want %s", err, want)
		}
		if _, ok := s.Path(domain.DigestOf(b)); ok {
			t.Errorf("%s is in the store", want)
		}
		if _, err := s.Upload(u.ID, me); code(err) != "upload.not_found" {
			t.Errorf("%s: the upload is still there: %v", want, err)
		}
	}
	s, b := open(t, t.TempDir(), c), rawImage(1024)
	u, err := s.Begin(api.NewUpload{Owner: me, Digest: domain.Digest{9}, SizeBytes: 1024})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Append(t.Context(), u.ID, me, 0, bytes.NewReader(append(b, 0))); code(err) != "upload.too_large" {
		t.Error(err)
	}
	if _, err := s.Append(t.Context(), u.ID, me, 0, bytes.NewReader(b)); code(err) != "image.digest_mismatch" {
		t.Error(err)
	}
}

func TestUploadsAreBoundedAndTheirOwnersAlone(t *testing.T) {
	t.Parallel()
	dir, c, b := t.TempDir(), &clock{time.Now()}, rawImage(4096)
	s := open(t, dir, c)
	var last api.Upload
	for i := range maxUserUploads { // the last one is of b
		last = begin(t, s, rawImage(4096*(maxUserUploads-i)))
	}
	if _, err := s.Begin(api.NewUpload{Owner: me, Digest: domain.Digest{1}, SizeBytes: 1}); code(err) != "upload.too_many" {
		t.Error(err)
	}
	if _, err := s.Begin(api.NewUpload{Owner: them, Digest: domain.Digest{1}, SizeBytes: 1 << 60}); code(err) != "image.no_space" {
		t.Error(err)
	}
	for _, id := range []string{last.ID, "upl_nothing", "../content/x"} {
		if _, err := s.Append(t.Context(), id, them, 0, bytes.NewReader(b)); code(err) != "upload.not_found" {
			t.Error(err)
		}
		if err := s.Abort(id, them); code(err) != "upload.not_found" {
			t.Error(err)
		}
	}
	// Two at once: one writes.
	var wg sync.WaitGroup
	results := make([]string, 8)
	for i := range results {
		wg.Go(func() {
			_, err := s.Append(t.Context(), last.ID, me, 0, bytes.NewReader(b))
			results[i] = code(err)
		})
	}
	wg.Wait()
	done := 0
	for _, r := range results {
		if r == "<nil>" {
			done++
		} else if r != "upload.busy" && r != "upload.offset" {
			t.Error(r)
		}
	}
	if done != 1 {
		t.Errorf("%d were accepted", done)
	}
	last = begin(t, s, b) // what is complete does not count
	if err := s.Abort(last.ID, me); err != nil {
		t.Error(err)
	}
	begin(t, s, b)
	c.now = c.now.Add(uploadLife)
	begin(t, s, b) // the others have expired
	if entries, _ := os.ReadDir(filepath.Join(dir, "uploads")); len(entries) != 2 {
		t.Errorf("%v is left of expired uploads", entries)
	}
}

func TestSweepKeepsWhatIsNeeded(t *testing.T) {
	t.Parallel()
	dir, c := t.TempDir(), &clock{time.Now()}
	s := open(t, dir, c)
	file := filepath.Join(t.TempDir(), "a.raw")
	var digests []domain.Digest
	for i := range 2 {
		if err := os.WriteFile(file, rawImage(512*(i+1)), 0o600); err != nil {
			t.Fatal(err)
		}
		d, content, err := s.Adopt(file)
		if err != nil || content.SizeBytes != uint64(512*(i+1)) {
			t.Fatal(content, err)
		}
		digests = append(digests, d)
	}
	sweep := func() (left []bool) {
		if err := s.Sweep(func(d domain.Digest) (bool, error) { return d == digests[0], nil }); err != nil {
			t.Fatal(err)
		}
		for _, d := range digests {
			_, ok := s.Path(d)
			left = append(left, ok)
		}
		return left
	}
	if left := sweep(); !left[0] || !left[1] {
		t.Errorf("young images were swept: %v", left)
	}
	c.now = c.now.Add(uploadLife)
	if left := sweep(); !left[0] || left[1] {
		t.Errorf("left: %v", left)
	}
}
