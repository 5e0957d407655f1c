package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/durable"
)

// consoleMark ties a file to its place in the console's whole history: the byte at
// position p of that file has offset Base+p.
type consoleMark struct {
	File fileID `json:"file"`
	Base int64  `json:"base"`
}

// fileID names a file for ever: by inode and, because inodes are used again, by
// birth. Renaming changes neither.
type fileID struct {
	Inode uint64 `json:"inode"`
	Born  int64  `json:"born"` // nanoseconds; 0 where the file system does not say
}

// identify returns the file's identity and size.
func identify(fd int, path string) (fileID, int64, error) {
	var st unix.Statx_t
	flags := unix.AT_STATX_SYNC_AS_STAT
	if path == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	if err := unix.Statx(fd, path, flags, unix.STATX_INO|unix.STATX_SIZE|unix.STATX_BTIME, &st); err != nil {
		return fileID{}, 0, err
	}
	return fileID{st.Ino, st.Btime.Sec*1e9 + int64(st.Btime.Nsec)}, int64(st.Size), nil
}

// consoleFiles are the console's files from old to new: virtlogd renames
// console.log to console.log.0 and that to console.log.1 when it is full.
var consoleFiles = []string{"console.log.1", "console.log.0", "console.log"}

// maxConsoleRead bounds one answer.
const maxConsoleRead = 1 << 20

// piece is one file of the console.
type piece struct {
	path string
	id   fileID
	base int64
	size int64
}

// Console reads the serial console. Offsets count all bytes since the VM was made,
// over stops and reboots; virtlogd keeps the last of
// them, two to three files full. An offset
// that is gone answers with the oldest byte there is.
func (g *Guests) Console(ctx context.Context, id domain.VMID, offset int64, limit int) (b []byte, next int64, err error) {
	if !g.known(id) {
		return nil, 0, fmt.Errorf("guest: no VM %s", id)
	}
	g.consoles.Lock()
	defer g.consoles.Unlock()
	pieces, err := g.pieces(id)
	if err != nil || len(pieces) == 0 {
		return nil, max(offset, 0), err
	}
	offset = max(offset, pieces[0].base)
	limit = min(max(limit, 0), maxConsoleRead)
	for _, p := range pieces {
		at := offset - p.base
		if at < 0 || at >= p.size || len(b) == limit {
			continue
		}
		chunk, err := readAt(p.path, p.id, at, min(p.size-at, int64(limit-len(b))))
		if err != nil {
			return nil, offset, err
		}
		b = append(b, chunk...)
		offset += int64(len(chunk))
	}
	return b, offset, ctx.Err()
}

// pieces finds the console's files and where each begins, and remembers it for the
// newest.
func (g *Guests) pieces(id domain.VMID) ([]piece, error) {
	var mark consoleMark
	path := g.File(id, "console.json")
	if err := durable.ReadJSON(path, &mark); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var pieces []piece
	for _, name := range consoleFiles {
		p := piece{path: g.File(id, name)}
		var err error
		p.id, p.size, err = identify(unix.AT_FDCWD, p.path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("guest: %w", err)
		}
		pieces = append(pieces, p)
	}
	if len(pieces) == 0 {
		return nil, nil
	}
	place(pieces, mark, g.o.ConsoleFileBytes)
	last := pieces[len(pieces)-1]
	if mark == (consoleMark{last.id, last.base}) {
		return pieces, nil
	}
	return pieces, durable.WriteJSON(path, consoleMark{last.id, last.base})
}

// place gives each piece its base. The marked file is the fixed point. If it is
// gone, rotated away while nobody read, then it was full, and the oldest piece
// left begins behind it: what was lost between the two is not counted.
func place(pieces []piece, mark consoleMark, fileBytes int64) {
	fixed := -1
	for i, p := range pieces {
		if p.id == mark.File {
			fixed = i
		}
	}
	if fixed < 0 {
		fixed = 0
		if mark.File != (fileID{}) {
			mark.Base += fileBytes
		}
	}
	pieces[fixed].base = mark.Base
	for i := fixed + 1; i < len(pieces); i++ {
		pieces[i].base = pieces[i-1].base + pieces[i-1].size
	}
	for i := fixed - 1; i >= 0; i-- {
		pieces[i].base = pieces[i+1].base - pieces[i].size
	}
}

// readAt reads n bytes of the file, if it still is the one meant: it may have been
// renamed a moment ago, then the reader comes again.
func readAt(path string, want fileID, at, n int64) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("guest: %w", err)
	}
	defer f.Close()
	if got, _, err := identify(int(f.Fd()), ""); err != nil || got != want {
		return nil, err
	}
	b := make([]byte, n)
	k, err := f.ReadAt(b, at)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("guest: %w", err)
	}
	return b[:k], nil
}
