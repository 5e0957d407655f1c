package attr

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Bounds of what is read.
const (
	FileMax = 64 << 10 // bytes of one attribute; config space is 4 KiB, VPD at most 32 KiB
	ListMax = 8192     // names in one directory
	textMax = 4096     // bytes of one line; a page, which is all sysfs shows
)

// Errors besides those of the file system.
var (
	ErrTooLarge = errors.New("larger than an attribute can be")
	ErrText     = errors.New("not a line of printable text")
	ErrNumber   = errors.New("not a number in range")
)

// Tree is a directory tree such as /sys. Names are relative to its root, with
// slashes. It may be used by several goroutines.
type Tree struct{ root *os.Root }

// Open opens the tree at dir.
func Open(dir string) (*Tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("attr: %w", err)
	}
	return &Tree{root: root}, nil
}

// Close lets the tree go.
func (t *Tree) Close() error { return t.root.Close() }

// Bytes is the content of a file. A file that is not there is fs.ErrNotExist;
// anything that is no file is an error.
func (t *Tree) Bytes(name string) ([]byte, error) {
	f, err := t.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not hold us up
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return nil, err
	} else if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrInvalid)
	}
	b, err := io.ReadAll(io.LimitReader(f, FileMax+1)) // sysfs sizes are not the content's
	if err != nil {
		return nil, err
	}
	if len(b) > FileMax {
		return nil, fmt.Errorf("%s: %w", name, ErrTooLarge)
	}
	return b, nil
}

// Text is the one line of a file, without the spaces around it. A control
// character, or anything beyond ASCII, is ErrText: such text came from a device
// and goes to people's terminals.
func (t *Tree) Text(name string) (string, error) {
	b, err := t.Bytes(name)
	if err != nil {
		return "", err
	}
	s := strings.Trim(string(b), " \n\x00") // devices pad with either
	if len(s) > textMax || !Printable(s) {
		return "", fmt.Errorf("%s: %w", name, ErrText)
	}
	return s, nil
}

// Printable reports whether s is ASCII without control characters.
func Printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// Uint is a file's number, decimal or with 0x, of at most so many bits.
func (t *Tree) Uint(name string, bits int) (uint64, error) {
	s, err := t.Text(name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "0x"), base(s), bits)
	if err != nil {
		return 0, fmt.Errorf("%s: %q: %w", name, cut(s), ErrNumber)
	}
	return n, nil
}

// Int is a file's decimal number, perhaps negative.
func (t *Tree) Int(name string) (int64, error) {
	s, err := t.Text(name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %q: %w", name, cut(s), ErrNumber)
	}
	return n, nil
}

func base(s string) int {
	if strings.HasPrefix(s, "0x") {
		return 16
	}
	return 10
}

// cut keeps what an error quotes short.
func cut(s string) string { return s[:min(len(s), 64)] }

// List is the names in a directory, sorted. A directory that is not there is
// fs.ErrNotExist, one of more than ListMax names ErrTooLarge.
func (t *Tree) List(name string) ([]string, error) {
	f, err := t.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(ListMax + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(names) > ListMax {
		return nil, fmt.Errorf("%s: %w", name, ErrTooLarge)
	}
	slices.Sort(names)
	return names, nil
}

// Link is where a symbolic link points, as a name in the tree. It follows one
// link and looks at nothing behind it: that the target exists, or is no link
// itself, is not said. A link out of the tree is fs.ErrInvalid.
func (t *Tree) Link(name string) (string, error) {
	to, err := t.root.Readlink(name)
	if err != nil {
		return "", err
	}
	to = path.Join(path.Dir(name), to)
	if !fs.ValidPath(to) || !Printable(to) {
		return "", fmt.Errorf("%s: leads out of the tree: %w", name, fs.ErrInvalid)
	}
	return to, nil
}

// Base is the last part of where a symbolic link points: the name of a driver, of
// a group, of another device.
func (t *Tree) Base(name string) (string, error) {
	to, err := t.Link(name)
	return path.Base(to), err
}

// Exists reports whether there is something of that name.
func (t *Tree) Exists(name string) bool {
	_, err := t.root.Lstat(name)
	return err == nil
}

// Inode numbers a file or directory. A device that went and came back has another
// one: kernfs gives a number again only after it went through all of them.
func (t *Tree) Inode(name string) (uint64, error) {
	st, err := t.root.Stat(name)
	if err != nil {
		return 0, err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, fmt.Errorf("%s: no inode", name)
	}
	return sys.Ino, nil
}
