package discovery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/disk"
)

// Disks looks at block devices. A name is the kernel's now, dev its "major:minor":
// an implementation has to refuse a name that means another device.
type Disks interface {
	// Busy reports whether the kernel has given the device, or a part of it, to
	// anybody: a file system, device mapper, md, swap, ZFS.
	Busy(name, dev string) (bool, error)
	// Identify says in a few words what is on it. It must not interpret partitions
	// in the kernel, and ends with ctx.
	Identify(ctx context.Context, name, dev string) (string, error)
}

// claimed says which block devices are in use and for what: mounted, or swapped to.
// The root file system and its like are named.
func (l *look) claimed() (map[string]string, error) {
	out := map[string]string{}
	mounts, err := l.proc.Bytes("self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("discovery: cannot tell which disks are mounted: %w", err)
	}
	for line := range strings.SplitSeq(string(mounts), "\n") {
		// "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw" (proc(5))
		f := strings.Fields(line)
		dash := slices.Index(f, "-")
		if len(f) < 7 || dash < 0 || dash+2 >= len(f) {
			continue
		}
		use := "it is mounted"
		switch f[4] {
		case "/", "/boot", "/boot/efi", "/usr", "/var", "/home":
			use = "it holds the host's own file system " + f[4]
		}
		l.claim(out, f[2], f[dash+2], use)
	}
	swaps, err := l.proc.Bytes("swaps")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("discovery: cannot tell which disks are swapped to: %w", err)
	}
	for line := range strings.SplitSeq(string(swaps), "\n") {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[0], "/dev/") {
			l.claim(out, "", f[0], "the host swaps to it")
		}
	}
	return out, nil
}

// claim marks the block device with that number, or that name if the number is no
// disk's (btrfs, overlay), and all that it is made of.
func (l *look) claim(out map[string]string, dev, source, use string) {
	name, err := l.sys.Tree.Base("dev/block/" + dev)
	if err != nil || dev == "" {
		if !strings.HasPrefix(source, "/dev/") {
			return
		}
		name = path.Base(source)
	}
	l.claimBelow(out, name, use, 0)
}

func (l *look) claimBelow(out map[string]string, name, use string, depth int) {
	if old, ok := out[name]; depth > 16 || ok && strings.Contains(old, "host's own") {
		return
	}
	out[name] = use
	slaves, _ := l.sys.Tree.List(path.Join("class/block", name, "slaves")) // none: a disk, or a partition
	for _, s := range slaves {
		l.claimBelow(out, s, use, depth+1)
	}
}

// partsMax bounds a disk's partitions: GPT has 128 entries.
const partsMax = 256

// inUse looks at the drive's block devices and their partitions: what the kernel
// made of the partition table when it found the drive.
func (l *look) inUse(c *candidate, claimed map[string]string) {
	for _, b := range c.blocks {
		parts := []string{b.name}
		names, err := l.sys.Tree.List(path.Join("class/block", b.name))
		if err != nil {
			c.against("cannot tell whether it is in use: %s", plain(err))
			return
		}
		for _, n := range names {
			if strings.HasPrefix(n, b.name+"p") && digits(n[len(b.name)+1:]) && len(parts) < partsMax {
				parts = append(parts, n)
			}
		}
		for i, p := range parts {
			if use := claimed[p]; use != "" {
				c.against("%s (%s)", use, p)
			}
			dir := path.Join("class/block", b.name, "holders")
			if i > 0 {
				dir = path.Join("class/block", b.name, p, "holders")
			}
			holders, err := l.sys.Tree.List(dir)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				c.against("cannot tell whether it is in use: %s", plain(err))
			}
			for _, h := range holders {
				c.against("%s holds it (%s)", l.holder(h), p)
			}
		}
		if l.approvedDrive(c.dev.Serial) {
			continue // the daemon itself may be writing or erasing it
		}
		busy, err := l.c.Disks.Busy(b.name, b.dev)
		switch {
		case err != nil:
			c.against("cannot tell whether it is in use: %s", plain(err))
		case busy && len(c.bad) == 0:
			c.against("something on the host has it in use")
		}
	}
}

// holder names what stands on a disk.
func (l *look) holder(name string) string {
	switch {
	case strings.HasPrefix(name, "md"):
		return "RAID array " + tidy(name, 32)
	case strings.HasPrefix(name, "dm-"):
		uuid, _ := l.sys.Tree.Text(path.Join("class/block", name, "dm/uuid"))
		switch {
		case strings.HasPrefix(uuid, "LVM-"):
			return "LVM volume " + tidy(name, 32)
		case strings.HasPrefix(uuid, "CRYPT-"):
			return "encrypted volume " + tidy(name, 32)
		case strings.HasPrefix(uuid, "mpath-"):
			return "multipath device " + tidy(name, 32)
		}
	}
	return tidy(name, 32)
}

// readMax and lookTime bound what is read of one drive to say what is on it.
const (
	readMax  = 64 << 20
	lookTime = 5 * time.Second
)

// contents says what is on a drive that nobody has. Drives of approved slots are
// not read: a tenant's data may be on them.
func (l *look) contents(c *candidate) {
	switch {
	case l.approvedDrive(c.dev.Serial):
		c.onDisk = "not read: the drive is approved"
	case len(c.bad) > 0 || len(c.blocks) != 1:
		c.onDisk = "not read"
	default:
		ctx, cancel := context.WithTimeout(l.ctx, lookTime)
		defer cancel()
		what, err := l.c.Disks.Identify(ctx, c.blocks[0].name, c.blocks[0].dev)
		if err != nil {
			what = "cannot be read: " + plain(err)
		}
		c.onDisk = tidy(what, 128)
	}
}

func (l *look) approvedDrive(serial string) bool {
	m := l.c.Approved()
	return m != nil && slices.ContainsFunc(m.Slots, func(s domain.SlotSpec) bool { return s.NVMe.Serial == serial })
}

// BlockDevices are those of a folder such as "/dev".
func BlockDevices(dir string) Disks { return blockDevices{dir} }

// blockDevices are those of a folder such as /dev.
type blockDevices struct{ dir string }

var errOther = errors.New("the name means another device by now")

// open opens the device to read, and makes sure that it is the one that was meant.
func (b blockDevices) open(name, dev string, flags int) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(b.dir, name), os.O_RDONLY|syscall.O_CLOEXEC|syscall.O_NONBLOCK|flags, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil {
		sys, ok := st.Sys().(*syscall.Stat_t)
		if !ok || st.Mode()&os.ModeDevice == 0 || fmt.Sprintf("%d:%d", unix.Major(sys.Rdev), unix.Minor(sys.Rdev)) != dev {
			err = fmt.Errorf("%s: %w", name, errOther)
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Busy implements [Disks]: who has a block device has it exclusively, and a mounted
// partition makes the whole disk taken.
func (b blockDevices) Busy(name, dev string) (bool, error) {
	f, err := b.open(name, dev, syscall.O_EXCL)
	if errors.Is(err, syscall.EBUSY) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, f.Close()
}

// Identify implements [Disks].
func (b blockDevices) Identify(ctx context.Context, name, dev string) (string, error) {
	f, err := b.open(name, dev, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return "", err
	}
	return identify(ctx, f, size)
}

var errEnough = errors.New("enough was read")

// identify reads a bounded part of a drive. Only a drive that was read whole is
// called empty.
func identify(ctx context.Context, r io.ReaderAt, size int64) (string, error) {
	what, err := disk.IdentifyReader(&bounded{ctx: ctx, r: r, left: readMax}, size)
	if errors.Is(err, errEnough) {
		return fmt.Sprintf("nothing known in the first %d MiB, all zero; not read further", readMax>>20), nil
	}
	return what, err
}

// bounded is a reader that has had enough after so many bytes, or with ctx.
type bounded struct {
	ctx  context.Context
	r    io.ReaderAt
	left int64
}

func (b *bounded) ReadAt(p []byte, at int64) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, errEnough
	}
	return b.r.ReadAt(p, at)
}
