package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/gpuaas/gpuaas/domain"
)

// consoleMark ties a file to its place in the console's whole history: the byte at
// position p of the file with that inode has offset Base+p.
type consoleMark struct {
	Inode uint64 `json:"inode"`
	Base  int64  `json:"base"`
}

// consoleFiles are the console's files from old to new: virtlogd renames
// console.log to console.log.0 and that to console.log.1 when it is full.
var consoleFiles = []string{"console.log.1", "console.log.0", "console.log"}

// consoleFileBytes is the size at which virtlogd begins a new file.
const consoleFileBytes = 512 << 10

// maxConsoleRead bounds one answer.
const maxConsoleRead = 1 << 20

// piece is one file of the console.
type piece struct {
	path  string
	inode uint64
	base  int64
	size  int64
}

// Console reads the serial console. Offsets count all bytes since the VM was made,
// over stops and reboots; of those the last half to one and a half MiB are kept. An offset
// that is gone answers with the oldest byte there is.
func (m *Machine) Console(ctx context.Context, id domain.VMID, offset int64, limit int) (b []byte, next int64, err error) {
	if !m.exists(id) {
		return nil, 0, fmt.Errorf("lab: no VM %s", id)
	}
	m.consoles.Lock()
	defer m.consoles.Unlock()
	pieces, err := m.pieces(id)
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
		chunk, err := readAt(p.path, p.inode, at, min(p.size-at, int64(limit-len(b))))
		if err != nil {
			return nil, offset, err
		}
		b = append(b, chunk...)
		offset += int64(len(chunk))
	}
	return b, offset, ctx.Err()
}

// pieces finds the console's files and where each begins, and remembers it for the
// newest: a file keeps its inode when it is renamed.
func (m *Machine) pieces(id domain.VMID) ([]piece, error) {
	var mark consoleMark
	path := m.vmFile(id, "console.json")
	if err := readJSON(path, &mark); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var pieces []piece
	for _, name := range consoleFiles {
		st, err := os.Stat(m.vmFile(id, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("lab: %w", err)
		}
		pieces = append(pieces, piece{path: m.vmFile(id, name), inode: st.Sys().(*syscall.Stat_t).Ino, size: st.Size()})
	}
	if len(pieces) == 0 {
		return nil, nil
	}
	place(pieces, mark)
	last := pieces[len(pieces)-1]
	if mark.Inode == last.inode && mark.Base == last.base {
		return pieces, nil
	}
	return pieces, writeJSON(path, consoleMark{last.inode, last.base})
}

// place gives each piece its base. The marked file is the fixed point. If it is
// gone, rotated away while nobody read, then it was full, and the oldest piece
// left begins behind it: what was lost between the two is not counted.
func place(pieces []piece, mark consoleMark) {
	fixed := -1
	for i, p := range pieces {
		if p.inode == mark.Inode {
			fixed = i
		}
	}
	if fixed < 0 {
		fixed = 0
		if mark.Inode != 0 {
			mark.Base += consoleFileBytes
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

// readAt reads n bytes of the file, if it still is the one with that inode: it may
// have been renamed a moment ago, then the reader comes again.
func readAt(path string, inode uint64, at, n int64) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Sys().(*syscall.Stat_t).Ino != inode {
		return nil, err
	}
	b := make([]byte, n)
	k, err := f.ReadAt(b, at)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("lab: %w", err)
	}
	return b[:k], nil
}
