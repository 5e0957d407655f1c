package hostd_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd"
	"github.com/gpuaas/gpuaas/hostd/machine"
)

// pieces is the image of a test: large enough for several pieces.
func pieces(n int) []byte { return bytes.Repeat([]byte("0123456789abcdef"), n/16) }

func TestImageCache(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 16, 512 << 10, 1<<20 + 48} { // a whole number of pieces ends with an empty one
		s := newSite(t, domain.HostID{7}, nil)
		image := pieces(size)
		digest := domain.DigestOf(image)
		s.images[digest] = image
		c, err := hostd.NewImageCache(t.TempDir(), s.RequestImage, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				path, err := c.Path(t.Context(), digest)
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, image) {
					t.Errorf("%d bytes in the cache, %d in the image, err %v", len(got), size, err)
				}
			})
		}
		wg.Wait()
	}
}

func TestImageGoesOnWhereItStopped(t *testing.T) {
	t.Parallel()
	s := newSite(t, domain.HostID{7}, nil)
	image := pieces(2 << 20)
	digest := domain.DigestOf(image)
	s.images[digest] = image
	asked := 0
	flaky := func(ctx context.Context, payload []byte) ([]byte, error) {
		if asked++; asked == 3 {
			return nil, errors.New("no line")
		}
		return s.RequestImage(ctx, payload)
	}
	c, err := hostd.NewImageCache(t.TempDir(), flaky, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	var fault *machine.Fault
	if _, err := c.Path(t.Context(), digest); !errors.As(err, &fault) || fault.Code != "image.unavailable" {
		t.Fatalf("err %v", err)
	}
	if _, err := c.Path(t.Context(), digest); err != nil {
		t.Fatal(err)
	}
	if asked != 3+3 { // two pieces were kept; two more and the empty end
		t.Errorf("asked %d times", asked)
	}
}

func TestImageWithAnotherDigestIsNotKept(t *testing.T) {
	t.Parallel()
	s := newSite(t, domain.HostID{7}, nil)
	digest := domain.DigestOf([]byte("what was promised"))
	s.images[digest] = []byte("what came")
	dir := t.TempDir()
	c, err := hostd.NewImageCache(dir, s.RequestImage, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	var fault *machine.Fault
	if _, err := c.Path(t.Context(), digest); !errors.As(err, &fault) || fault.Code != "image.digest_mismatch" || fault.Theirs {
		t.Fatalf("err %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestImageCacheIsBounded(t *testing.T) {
	t.Parallel()
	s := newSite(t, domain.HostID{7}, nil)
	dir := t.TempDir()
	c, err := hostd.NewImageCache(dir, s.RequestImage, 2500, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		image := bytes.Repeat([]byte{byte(i)}, 1000)
		digest := domain.DigestOf(image)
		s.images[digest] = image
		if _, err := c.Path(t.Context(), digest); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 2 {
		t.Errorf("%d images of 1000 bytes in a cache of 2500", len(left))
	}
}
