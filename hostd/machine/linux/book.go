package linux

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/gpuaas/gpuaas/hostd/durable"
	"github.com/gpuaas/gpuaas/hostd/guest"
	"github.com/gpuaas/gpuaas/hostd/pci"
)

// book remembers of each drive where it was when its serial was last read, in
// DIR/drives.json. While the host runs, a function of sysfs with the same inode is
// the same device: one that was swapped has another.
type book struct {
	path string
	boot string // id of this boot of the host

	mu     sync.Mutex
	drives map[string]sighting // by serial
}

// sighting is one reading of a drive's serial.
type sighting struct {
	Address pci.Address `json:"address"`
	Boot    string      `json:"boot_id"`
	Inode   uint64      `json:"inode"`
	Written bool        `json:"written"` // something may have been written since it was last proved to read as zero everywhere
}

func openBook(dir, proc string) (*book, error) {
	b := &book{path: filepath.Join(dir, "drives.json"), drives: map[string]sighting{}}
	var err error
	if b.boot, err = guest.BootID(proc); err != nil {
		return nil, fmt.Errorf("linux: %w", err)
	}
	if err := durable.ReadJSON(b.path, &b.drives); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("linux: what was remembered of drives is damaged; if it is moved away, their serials are read anew: %w", err)
	}
	return b, nil
}

// saw remembers that the drive was read at the address, now.
func (b *book) saw(serial string, a pci.Address, inode uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, known := b.drives[serial]
	if known && s.Address == a && s.Boot == b.boot && s.Inode == inode {
		return nil
	}
	return b.set(serial, sighting{Address: a, Boot: b.boot, Inode: inode, Written: s.Written || !known})
}

// is says whether the drive was read at this address from this very device.
func (b *book) is(serial string, a pci.Address, inode uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, known := b.drives[serial]
	return known && s.Address == a && s.Boot == b.boot && s.Inode == inode
}

// knows says whether the drive was ever read as a slot's.
func (b *book) knows(serial string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, known := b.drives[serial]
	return known
}

// been says whether a slot's drive was ever read at the address.
func (b *book) been(a pci.Address) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.drives {
		if s.Address == a {
			return true
		}
	}
	return false
}

// write notes, before it happens, that the drive is written.
func (b *book) write(serial string) (wasZero bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, known := b.drives[serial]
	if s.Written || !known {
		return false, nil
	}
	s.Written = true
	return true, b.set(serial, s)
}

// zeroed notes that every byte of the drive was read back as zero.
func (b *book) zeroed(serial string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, known := b.drives[serial]
	if !known || !s.Written {
		return nil
	}
	s.Written = false
	return b.set(serial, s)
}

// set makes it durable first. The caller holds b.mu.
func (b *book) set(serial string, s sighting) error {
	old, had := b.drives[serial]
	b.drives[serial] = s
	if err := durable.WriteJSON(b.path, b.drives); err != nil {
		if delete(b.drives, serial); had {
			b.drives[serial] = old
		}
		return fmt.Errorf("linux: %w", err)
	}
	return nil
}
