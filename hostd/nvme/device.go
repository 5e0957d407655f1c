package nvme

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ioctls of linux/nvme_ioctl.h.
const (
	ioctlAdmin   = 0xC0484E41 // _IOWR('N', 0x41, struct nvme_passthru_cmd)
	ioctlIO      = 0xC0484E43 // _IOWR('N', 0x43, struct nvme_passthru_cmd)
	ioctlReset   = 0x4E44     // _IO('N', 0x44)
	ioctlRescan  = 0x4E46     // _IO('N', 0x46)
	ioctlAdmin64 = 0xC0504E47 // _IOWR('N', 0x47, struct nvme_passthru_cmd64)
)

// passthru is struct nvme_passthru_cmd64. The 32-bit form is the same but for the
// last twelve bytes, of which it has the first four.
type passthru struct {
	opcode, flags                            uint8
	_                                        uint16
	nsid, cdw2, cdw3                         uint32
	metadata, addr                           uint64
	metadataLen, dataLen                     uint32
	cdw10, cdw11, cdw12, cdw13, cdw14, cdw15 uint32
	timeoutMS                                uint32
	result32                                 uint32 // padding in the 64-bit form
	result                                   uint64
}

// Device is a controller of this host, by its character device.
type Device struct {
	f    *os.File
	find Finder
	name string // "nvme0"
}

// Open opens the controller that the kernel calls name, which must be the one of
// the PCI function that was approved: see [Finder.Open].
func (f Finder) openNamed(name string) (*Device, error) {
	file, err := os.OpenFile(f.dev(name), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("nvme: %w", err)
	}
	return &Device{f: file, find: f, name: name}, nil
}

// Close closes the character device; a command still under way keeps it open until
// it returns.
func (d *Device) Close() error { return d.f.Close() }

// Name is the kernel's present name of the controller; it changes between boots.
func (d *Device) Name() string { return d.name }

// Admin implements [Controller].
func (d *Device) Admin(ctx context.Context, c *Command) (uint32, error) {
	return pass(ctx, d.f, ioctlAdmin64, ioctlAdmin, c)
}

// pass sends one command by ioctl; request32 is tried where the kernel does not
// know request (before 5.4).
func pass(ctx context.Context, f *os.File, request, request32 uintptr, c *Command) (uint32, error) {
	timeout := c.Timeout
	if timeout == 0 {
		timeout = AdminTimeout
	}
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(deadline))
	}
	if timeout < time.Millisecond {
		return 0, context.DeadlineExceeded
	}
	// The ioctl cannot be called off: when ctx ends first, the kernel may still
	// write to the buffer, so it is one of our own.
	data := Buffer(len(c.Data))
	if c.Write {
		copy(data, c.Data)
	}
	p := &passthru{
		opcode: c.Opcode, nsid: c.NSID, dataLen: uint32(len(data)), timeoutMS: uint32(timeout.Milliseconds()),
		cdw10: c.CDW10, cdw11: c.CDW11, cdw12: c.CDW12, cdw13: c.CDW13, cdw14: c.CDW14, cdw15: c.CDW15,
	}
	err := blocking(ctx, func() error {
		var pin runtime.Pinner
		defer pin.Unpin()
		if len(data) > 0 {
			pin.Pin(unsafe.SliceData(data))
			p.addr = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(data))))
		}
		err := ioctl(f, request, p)
		if errors.Is(err, unix.ENOTTY) && request32 != request {
			if err = ioctl(f, request32, p); err == nil {
				p.result = uint64(p.result32)
			}
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	if !c.Write {
		copy(c.Data, data)
	}
	return uint32(p.result), nil
}

// ioctl returns the errno, or the NVMe status that the kernel hands back as a
// positive result.
func ioctl(f *os.File, request uintptr, p *passthru) error {
	var status uintptr
	var errno syscall.Errno
	raw, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("nvme: %w", err)
	}
	err = raw.Control(func(fd uintptr) {
		status, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(unsafe.Pointer(p)))
	})
	switch {
	case err != nil:
		return fmt.Errorf("nvme: %w", err)
	case errno != 0:
		return errno
	case status != 0:
		return Status(status)
	}
	return nil
}

// blocking runs a call that cannot be called off, and stops waiting when ctx ends.
// The call itself ends by the kernel's own timeout.
func blocking(ctx context.Context, call func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- call() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		select {
		case err := <-done: // at the same moment: the kernel's timeout is often ctx's own
			return err
		default:
			return ctx.Err()
		}
	}
}

// Reset implements [Controller]. The ioctl returns when the controller is ready
// again; the rescan after it has the kernel look at the namespaces anew.
func (d *Device) Reset(ctx context.Context) error {
	for _, request := range []uintptr{ioctlReset, ioctlRescan} {
		if err := blocking(ctx, func() error { return ioctl(d.f, request, nil) }); err != nil {
			return fmt.Errorf("nvme: reset: %w", err)
		}
	}
	return nil
}

var _ Controller = (*Device)(nil)
