package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/gpuaas/gpuaas/hostd/machine"
)

// Format is an image format this package writes to drives.
type Format string

// The formats.
const (
	QCOW2 Format = "qcow2"
	Raw   Format = "raw"
)

// Info is what an image's header says.
type Info struct {
	Format    Format
	SizeBytes uint64 // virtual size: what the drive must hold
}

// The header fields of qcow2 (QEMU, docs/interop/qcow2.txt).
const (
	qcow2Magic        = "QFI\xfb"
	qcow2ExternalData = 1 << 2 // incompatible feature: the data is in another file
	qcow2Corrupt      = 1 << 1
)

// Inspect reads the header of the image. Refusals are a machine.Fault of the
// tenant's: image.backing_file, image.external_data, image.encrypted,
// image.corrupt, image.format (neither qcow2 nor a raw disk with a boot sector).
func Inspect(path string) (Info, error) {
	f, err := os.Open(path)
	if err != nil {
		return Info{}, fmt.Errorf("image: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return Info{}, fmt.Errorf("image: %w", err)
	}
	head := make([]byte, 1024)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return Info{}, fmt.Errorf("image: %w", err)
	}
	head = head[:n]
	if bytes.HasPrefix(head, []byte(qcow2Magic)) {
		return inspectQCOW2(head)
	}
	return inspectRaw(head, st.Size())
}

func inspectQCOW2(h []byte) (Info, error) {
	if len(h) < 104 {
		return Info{}, refuse("image.corrupt", "qcow2 header cut short")
	}
	be := binary.BigEndian
	version, incompatible := be.Uint32(h[4:]), uint64(0)
	if version >= 3 {
		incompatible = be.Uint64(h[72:])
	}
	switch {
	case version != 2 && version != 3:
		return Info{}, refuse("image.format", "qcow2 version %d", version)
	case be.Uint64(h[8:]) != 0 || be.Uint32(h[16:]) != 0:
		return Info{}, refuse("image.backing_file", "the image refers to a backing file")
	case incompatible&qcow2ExternalData != 0:
		return Info{}, refuse("image.external_data", "the image refers to an external data file")
	case incompatible&qcow2Corrupt != 0:
		return Info{}, refuse("image.corrupt", "the image is marked corrupt")
	case be.Uint32(h[32:]) != 0:
		return Info{}, refuse("image.encrypted", "the image is encrypted")
	}
	return Info{QCOW2, be.Uint64(h[24:])}, nil
}

// inspectRaw takes a file for a raw disk only if it has what a disk that boots
// has in its first sector; so a VMDK, a tarball or a zipped image is refused
// instead of being written as it is.
func inspectRaw(h []byte, size int64) (Info, error) {
	if len(h) < 512 || h[510] != 0x55 || h[511] != 0xaa || size%512 != 0 {
		return Info{}, refuse("image.format", "neither qcow2 nor a raw disk with a boot sector")
	}
	return Info{Raw, uint64(size)}, nil
}

func refuse(code, format string, args ...any) error {
	return &machine.Fault{Code: code, Theirs: true, Err: fmt.Errorf(format, args...)}
}
