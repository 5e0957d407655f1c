package emuhost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/gpuaas/gpuaas/hostd/program"
)

// failing has QEMU answer every write and every zeroing with EIO
// (docs/devel/testing/blkdebug.rst of QEMU).
const failing = `[inject-error]
event = "pwritev"
errno = "5"
[inject-error]
event = "pwritev_zero"
errno = "5"
`

// DrivePath is the file with the content of the drive that has that serial. It may be
// written only while the host is off.
func (h *Host) DrivePath(serial string) string { return h.path(serial + ".raw") }

// drive makes a drive's file unless there is one.
func (h *Host) drive(n NVMe) (path string, err error) {
	path = h.DrivePath(n.Serial)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if err := f.Truncate(int64(n.MiB) << 20); err != nil {
		return "", err
	}
	if n.Fill != nil {
		if err := n.Fill(f); err != nil {
			return "", fmt.Errorf("emuhost: filling drive %s: %w", n.Serial, err)
		}
	}
	return path, nil
}

// disks makes what is not there yet: the root disk, which holds only what differs
// from the image's, and the rules of drives that fail.
func (h *Host) disks(ctx context.Context) error {
	if err := os.WriteFile(h.path("fail.cfg"), []byte(failing), 0o600); err != nil {
		return err
	}
	if _, err := os.Stat(h.path("root.qcow2")); err == nil {
		return nil
	}
	base, err := filepath.EvalSymlinks(Image("root.ext4"))
	if err != nil {
		return err
	}
	name, args := emulator("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, h.path("root.qcow2"))
	_, err = program.Execute(ctx, name, args...)
	return err
}
