package hostd_test

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd"
)

// The evidence of a wipe says which of tenants' own images went, and which is left
// because it is still being fetched.
func TestImageCacheClear(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		own := []byte("acme's own")
		arrives := make(chan struct{})
		c, err := hostd.NewImageCache(t.TempDir(), func(context.Context, []byte) ([]byte, error) { <-arrives; return own, nil }, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.Clear(t.Context()); err == nil {
			t.Error("cleared before it is known which are needed")
		}
		clear := func(removed, left int) {
			t.Helper()
			n, names, err := c.Clear(t.Context())
			if err != nil || n != removed || len(names) != left {
				t.Errorf("removed %d, left %v, %v; want %d and %d", n, names, err, removed, left)
			}
		}
		vm := domain.PlacedVM{ImageHash: domain.DigestOf(own), Private: true}
		keep := func(vms ...domain.PlacedVM) {
			t.Helper()
			if err := c.Keep(vms); err != nil {
				t.Fatal(err)
			}
		}
		keep(vm)
		clear(0, 0)
		fetched := make(chan error)
		go func() { _, err := c.Path(t.Context(), domain.DigestOf(own)); fetched <- err }()
		synctest.Wait()
		keep() // its VM is gone while it is on its way
		clear(0, 1)
		close(arrives)
		if err := <-fetched; err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		clear(1, 0)
		clear(0, 0)
	})
}
