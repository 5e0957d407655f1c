package vfio

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What a hot reset asks of vfio (include/uapi/linux/vfio.h).
const (
	vfioSetIOMMU          = ';'<<8 | (100 + 2)
	vfioGroupSetContainer = ';'<<8 | (100 + 4)
	vfioGroupGetDeviceFD  = ';'<<8 | (100 + 6)
	vfioDeviceHotReset    = ';'<<8 | (100 + 13)

	vfioType1v2IOMMU = 3
)

// hotResetGroups bounds what is below one bridge.
const hotResetGroups = 16

// HotReset implements Kernel: VFIO_DEVICE_PCI_HOT_RESET by the owner of all groups. The
// kernel saves and restores the configuration of every function that it resets.
func (l Linux) HotReset(function string, group uint32, groups []uint32) (err error) {
	if len(groups) == 0 || len(groups) > hotResetGroups {
		return fmt.Errorf("hot reset of %s: %d groups", function, len(groups))
	}
	dev := l.Dev
	if dev == "" {
		dev = "/dev"
	}
	var open []*os.File
	defer func() { // the device before its groups, and those before what they are in
		for i := len(open) - 1; i >= 0; i-- {
			err = errors.Join(err, open[i].Close())
		}
	}()
	node := func(name string) (*os.File, error) {
		f, err := os.OpenFile(path.Join(dev, "vfio", name), os.O_RDWR, 0)
		if err == nil {
			open = append(open, f)
		}
		return f, err
	}
	ask := func(what string, f *os.File, request, argument uintptr) (uintptr, error) {
		r, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, argument)
		if errno != 0 {
			return 0, fmt.Errorf("hot reset of %s: %s: %w", function, what, errno)
		}
		return r, nil
	}
	container, err := node("vfio")
	if err != nil {
		return fmt.Errorf("hot reset of %s: %w", function, err)
	}
	request := struct {
		argsz, flags, count uint32
		fds                 [hotResetGroups]int32
	}{argsz: uint32(12 + 4*len(groups)), count: uint32(len(groups))}
	fd := int32(container.Fd())
	var owner *os.File
	for i, g := range groups {
		f, err := node(strconv.FormatUint(uint64(g), 10))
		if err != nil {
			return fmt.Errorf("hot reset of %s: IOMMU group %d: %w", function, g, err)
		}
		if _, err := ask("container", f, vfioGroupSetContainer, uintptr(unsafe.Pointer(&fd))); err != nil {
			return err
		}
		request.fds[i] = int32(f.Fd())
		if g == group {
			owner = f
		}
	}
	if owner == nil {
		return fmt.Errorf("hot reset of %s: its group %d is not among %v", function, group, groups)
	}
	if _, err := ask("IOMMU", container, vfioSetIOMMU, vfioType1v2IOMMU); err != nil {
		return err
	}
	name, err := unix.BytePtrFromString(function)
	if err != nil {
		return fmt.Errorf("hot reset: %w", err)
	}
	got, err := ask("device", owner, vfioGroupGetDeviceFD, uintptr(unsafe.Pointer(name)))
	if err != nil {
		return err
	}
	device := os.NewFile(got, function)
	open = append(open, device)
	_, err = ask("reset", device, vfioDeviceHotReset, uintptr(unsafe.Pointer(&request)))
	return err
}
