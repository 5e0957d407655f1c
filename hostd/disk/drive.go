package disk

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Create makes the drive's file if there is none: sparse, of exactly size bytes.
// An existing file of another size is an error: data may be on it.
func Create(path string, size uint64) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("disk: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("disk: %w", err)
	}
	switch uint64(st.Size()) {
	case size:
		return nil
	case 0:
		return errors.Join(f.Truncate(int64(size)), f.Sync())
	}
	return fmt.Errorf("disk: %s has %d bytes, want %d", path, st.Size(), size)
}

// extent is a range of bytes that the file system has stored.
type extent struct{ from, to int64 }

// maxExtents bounds what [extents] returns; a file more torn than that is taken
// as one extent.
const maxExtents = 1 << 20

// extents lists what of f is stored, in order. A file system that cannot tell
// answers with the whole file.
func extents(f *os.File, size int64) []extent {
	fd, all := int(f.Fd()), []extent{{0, size}}
	var out []extent
	for at := int64(0); at < size; {
		from, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return out // nothing behind at
		}
		if err != nil || len(out) == maxExtents {
			return all
		}
		to, err := unix.Seek(fd, from, unix.SEEK_HOLE)
		if err != nil || to <= from {
			return all
		}
		out = append(out, extent{from, min(to, size)})
		at = to
	}
	return out
}
