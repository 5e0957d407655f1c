package nvme

import (
	"context"
	"fmt"
	"io"
	"time"
	"unsafe"
)

// AllNamespaces is the broadcast namespace id.
const AllNamespaces = 0xFFFFFFFF

// Command is one admin command, as the submission queue entry has it.
type Command struct {
	Opcode                                   uint8
	NSID                                     uint32
	CDW10, CDW11, CDW12, CDW13, CDW14, CDW15 uint32
	Data                                     []byte        // filled by commands that read; its length is the transfer's
	Write                                    bool          // Data goes to the controller
	Timeout                                  time.Duration // after it the kernel aborts the command; 0: [AdminTimeout]
}

// AdminTimeout bounds an admin command that does not say otherwise: what only asks
// is answered in milliseconds, and a controller under a reset in seconds.
const AdminTimeout = 30 * time.Second

// Controller is one NVMe controller. Its methods may be called at the same time.
// Errors are a [Status] when the controller completed the command with one, and a
// unix.Errno when the command did not get there or did not come back.
type Controller interface {
	// Admin runs one admin command and returns dword 0 of its completion.
	Admin(ctx context.Context, c *Command) (uint32, error)

	// Namespace opens the blocks of an active namespace, exclusively: a namespace
	// that is mounted or held (LVM, md, a VM) is EBUSY.
	Namespace(ctx context.Context, nsid uint32) (Blocks, error)

	// Reset resets the controller and waits until it is ready again. Caches are
	// empty after it; a sanitize in progress goes on.
	Reset(ctx context.Context) error

	io.Closer
}

// Blocks is the data of one namespace, past all caches of the host. Offsets and
// lengths are in bytes, multiples of BlockBytes; buffers come from [Buffer]. When
// a call returns because ctx ended, its buffer is still the call's: drop it.
type Blocks interface {
	Size() int64       // bytes, as the host sees the namespace
	BlockBytes() int64 // bytes of a logical block
	ReadAt(ctx context.Context, p []byte, off int64) error
	WriteAt(ctx context.Context, p []byte, off int64) error
	WriteZeroes(ctx context.Context, off, n int64) error // the command of that name; never a fallback
	Flush(ctx context.Context) error                     // what was written is on the medium after it
	io.Closer
}

// bufferAlign satisfies O_DIRECT on any drive that discovery proposes.
const bufferAlign = 4096

// Buffer is memory for [Blocks]: n bytes, aligned for direct I/O.
func Buffer(n int) []byte {
	b := make([]byte, n+bufferAlign)
	off := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (bufferAlign - 1))
	return b[off : off+n : off+n]
}

// Status is a completion's status field without its phase tag: status code in bits
// 7:0, status code type in bits 10:8, "more" in bit 13, "do not retry" in bit 14
// (Base 2.0, Completion Queue Entry: Status Field).
type Status uint16

// Code is the status without the bits that say how to go on.
func (s Status) Code() Status { return s & 0x7FF }

// Statuses that decisions depend on.
const (
	InvalidOpcode      Status = 0x001
	InvalidField       Status = 0x002
	InternalError      Status = 0x006
	AbortRequested     Status = 0x007
	InvalidNamespace   Status = 0x00B
	SanitizeFailed     Status = 0x01C
	SanitizeInProgress Status = 0x01D
	WriteProtected     Status = 0x020
	NamespaceNotReady  Status = 0x082
	FormatInProgress   Status = 0x084
	InvalidFormat      Status = 0x10A
	InvalidLogPage     Status = 0x109
	WriteFault         Status = 0x280
	UnrecoveredRead    Status = 0x281
	AccessDenied       Status = 0x286
)

var statusNames = map[Status]string{
	InvalidOpcode: "invalid command opcode", InvalidField: "invalid field in command", InternalError: "internal error",
	AbortRequested: "command abort requested", InvalidNamespace: "invalid namespace or format", SanitizeFailed: "sanitize failed",
	SanitizeInProgress: "sanitize in progress", WriteProtected: "namespace is write protected", NamespaceNotReady: "namespace not ready",
	FormatInProgress: "format in progress", InvalidFormat: "invalid format", InvalidLogPage: "invalid log page", WriteFault: "write fault",
	UnrecoveredRead: "unrecovered read error", AccessDenied: "access denied",
}

func (s Status) Error() string {
	name := statusNames[s.Code()]
	if name == "" {
		name = "status"
	}
	return fmt.Sprintf("nvme: %s (0x%03x)", name, uint16(s.Code()))
}
