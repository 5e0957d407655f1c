package hostd_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/machine/sim"
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

// An image of a tenant's own leaves the host with the last VM that has it, whatever
// else happens; the others stay.
func TestPrivateImagesLeaveWithTheirLastVM(t *testing.T) {
	t.Parallel()
	s := newSite(t, domain.HostID{7}, nil)
	dir := t.TempDir()
	open := func() *hostd.ImageCache {
		c, err := hostd.NewImageCache(dir, s.RequestImage, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := open()
	everybodys, own, half := []byte("everybody's"), []byte("acme's own"), pieces(2<<20)
	vm := func(b []byte, private bool) domain.PlacedVM {
		return domain.PlacedVM{ImageHash: domain.DigestOf(b), Private: private}
	}
	for _, b := range [][]byte{everybodys, own} {
		s.images[domain.DigestOf(b)] = b
	}
	keep := func(want int, vms ...domain.PlacedVM) {
		t.Helper()
		if err := c.Keep(vms); err != nil {
			t.Fatal(err)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != want {
			t.Errorf("in the cache: %v, want %d files", left, want)
		}
	}
	keep(1, vm(own, true), vm(everybodys, false)) // the mark, before the first byte
	for _, b := range [][]byte{everybodys, own} {
		if _, err := c.Path(t.Context(), domain.DigestOf(b)); err != nil {
			t.Fatal(err)
		}
	}
	keep(3, vm(own, true), vm(own, true))
	keep(3, vm(own, true))
	c = open() // after a restart it is still known whose it is
	keep(1)
	if _, err := os.Stat(filepath.Join(dir, strings.TrimPrefix(domain.DigestOf(everybodys).String(), "sha256:"))); err != nil {
		t.Error("everybody's image went")
	}

	// One of which only a part has come goes too.
	s.images[domain.DigestOf(half)] = half
	asked := 0
	c2, err := hostd.NewImageCache(dir, func(ctx context.Context, payload []byte) ([]byte, error) {
		if asked++; asked == 2 {
			return nil, errors.New("no line")
		}
		return s.RequestImage(ctx, payload)
	}, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	c = c2
	keep(2, vm(half, true))
	if _, err := c.Path(t.Context(), domain.DigestOf(half)); err == nil {
		t.Fatal("fetched without a line")
	}
	keep(3, vm(half, true))
	keep(1)
}

// A slot is not wiped, and nothing new is done, while a tenant's own image is still
// on the host.
func TestAPrivateImageIsGoneBeforeItsSlotIsWiped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRack(t, sim.Options{Slots: 2})
		dir, image := t.TempDir(), []byte("acme's own")
		digest := domain.DigestOf(image)
		r.site.images[digest] = image
		cache, err := hostd.NewImageCache(dir, r.site.RequestImage, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		var stuck atomic.Bool
		r.images, r.keep = cache.Path, func(vms []domain.PlacedVM) error {
			if stuck.Load() {
				return errors.New("read-only file system")
			}
			return cache.Keep(vms)
		}
		left := func() []string {
			names, _ := filepath.Glob(filepath.Join(dir, "*"))
			return names
		}
		r.start()
		r.approve()
		v := vm(1, 0)
		v.ImageHash, v.Private = digest, true
		r.site.place(func(d *domain.Desired) { d.VMs = append(d.VMs, v) })
		r.awaitSaid("ready 1 boot 1")
		if len(left()) != 2 {
			t.Errorf("in the cache: %v", left())
		}
		stuck.Store(true)
		r.site.place(func(d *domain.Desired) { release(d, 1) })
		time.Sleep(5 * time.Minute) // of the bubble
		if r.site.heard("wiped 0 gen 1 attempt 1 verified") || len(left()) != 2 {
			t.Errorf("wiped, with %v in the cache", left())
		}
		stuck.Store(false)
		r.awaitSaid("wiped 0 gen 1 attempt 1 verified")
		if len(left()) != 0 {
			t.Errorf("in the cache: %v", left())
		}
	})
}

// Who waits for another's fetch of the same image waits no longer than it wants.
func TestImageThatAnotherFetches(t *testing.T) {
	t.Parallel()
	s := newSite(t, domain.HostID{7}, nil)
	image := pieces(1 << 10)
	digest := domain.DigestOf(image)
	s.images[digest] = image
	asked, goOn := make(chan struct{}), make(chan struct{})
	c, err := hostd.NewImageCache(t.TempDir(), func(ctx context.Context, payload []byte) ([]byte, error) {
		close(asked)
		<-goOn
		return s.RequestImage(ctx, payload)
	}, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	first := make(chan error, 1)
	go func() { _, err := c.Path(t.Context(), digest); first <- err }()
	<-asked
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Path(ctx, digest); !errors.Is(err, context.Canceled) {
		t.Errorf("err %v", err)
	}
	close(goOn)
	if err := <-first; err != nil {
		t.Error(err)
	}
}
