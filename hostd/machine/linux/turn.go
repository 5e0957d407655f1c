package linux

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/gpuaas/gpuaas/hostd/pci"
)

// turns keep acts on one drive apart: an image that is written, a wipe, a look at
// its serial.
type turns struct {
	mu sync.Mutex
	of map[pci.Address]chan struct{}
}

// take waits for the turn on all of the drives, in the order of their addresses so
// that two who want the same do not wait for each other.
func (t *turns) take(ctx context.Context, drives ...pci.Address) (release func(), err error) {
	var held []chan struct{}
	release = func() {
		for _, c := range held {
			<-c
		}
	}
	for _, a := range slices.Compact(slices.SortedFunc(slices.Values(drives), pci.Address.Compare)) {
		t.mu.Lock()
		if t.of == nil {
			t.of = map[pci.Address]chan struct{}{}
		}
		c := t.of[a]
		if c == nil {
			c = make(chan struct{}, 1)
			t.of[a] = c
		}
		t.mu.Unlock()
		select {
		case c <- struct{}{}:
			held = append(held, c)
		case <-ctx.Done():
			release()
			return nil, fmt.Errorf("linux: the drive at %s is busy: %w", a, ctx.Err())
		}
	}
	return release, nil
}
