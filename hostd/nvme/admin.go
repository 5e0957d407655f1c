package nvme

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// The admin opcodes in use.
const (
	OpGetLogPage      = 0x02
	OpIdentify        = 0x06
	OpSetFeatures     = 0x09
	OpGetFeatures     = 0x0A
	OpFormat          = 0x80
	OpSecurityReceive = 0x82
	OpSanitize        = 0x84
)

// The structures Identify returns (CNS).
const (
	CNSNamespace            = 0x00
	CNSController           = 0x01
	CNSActiveNamespaces     = 0x02
	CNSAllocatedNamespaces  = 0x10
	CNSNamespaceControllers = 0x12
	CNSControllers          = 0x13
)

// FeatureWriteProtect is the Namespace Write Protection Config feature.
const FeatureWriteProtect = 0x84

const (
	askTries = 4 // of a command that only asks
	askPause = time.Second
)

// ask runs a command that changes nothing, again when it was only interrupted (a
// signal, a controller that was just being reset).
func ask(ctx context.Context, c Controller, cmd *Command) (uint32, error) {
	for try := 1; ; try++ {
		dw0, err := c.Admin(ctx, cmd)
		if err == nil || try == askTries || !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return dw0, err
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(askPause):
		}
	}
}

func identify(ctx context.Context, c Controller, cns uint32, nsid uint32) ([]byte, error) {
	b := make([]byte, identifyBytes)
	if _, err := ask(ctx, c, &Command{Opcode: OpIdentify, NSID: nsid, CDW10: cns, Data: b}); err != nil {
		return nil, fmt.Errorf("identify (CNS %02xh, namespace %d): %w", cns, nsid, err)
	}
	return b, nil
}

// Identify asks the controller who it is.
func Identify(ctx context.Context, c Controller) (*Identity, error) {
	b, err := identify(ctx, c, CNSController, 0)
	if err != nil {
		return nil, err
	}
	return ParseIdentity(b)
}

// IdentifyNamespace asks for one active namespace.
func IdentifyNamespace(ctx context.Context, c Controller, nsid uint32) (*Namespace, error) {
	b, err := identify(ctx, c, CNSNamespace, nsid)
	if err != nil {
		return nil, err
	}
	return ParseNamespace(b, nsid)
}

// ActiveNamespaces lists the namespaces attached to this controller, at most 1024.
func ActiveNamespaces(ctx context.Context, c Controller) ([]uint32, error) {
	b, err := identify(ctx, c, CNSActiveNamespaces, 0)
	if err != nil {
		return nil, err
	}
	return ParseNamespaceList(b)
}

// AllocatedNamespaces lists all namespaces of the subsystem, attached or not. Only
// controllers with namespace management answer.
func AllocatedNamespaces(ctx context.Context, c Controller) ([]uint32, error) {
	b, err := identify(ctx, c, CNSAllocatedNamespaces, 0)
	if err != nil {
		return nil, err
	}
	return ParseNamespaceList(b)
}

// NamespaceControllers lists the controllers a namespace is attached to. Only
// controllers with namespace management answer.
func NamespaceControllers(ctx context.Context, c Controller, nsid uint32) ([]uint16, error) {
	b, err := identify(ctx, c, CNSNamespaceControllers, nsid)
	if err != nil {
		return nil, err
	}
	return ParseControllerList(b)
}

func logPage(ctx context.Context, c Controller, id uint32, size int) ([]byte, error) {
	b := make([]byte, size)
	dwords := uint32(size/4 - 1)
	cmd := &Command{Opcode: OpGetLogPage, NSID: AllNamespaces, CDW10: dwords&0xFFFF<<16 | id, CDW11: dwords >> 16, Data: b}
	if _, err := ask(ctx, c, cmd); err != nil {
		return nil, fmt.Errorf("log page %02xh: %w", id, err)
	}
	return b, nil
}

// ReadSanitizeStatus reads log page 81h.
func ReadSanitizeStatus(ctx context.Context, c Controller) (*SanitizeStatus, error) {
	b, err := logPage(ctx, c, logSanitize, sanitizeBytes)
	if err != nil {
		return nil, err
	}
	return ParseSanitizeStatus(b)
}

// ReadFirmware reads log page 03h.
func ReadFirmware(ctx context.Context, c Controller) (*Firmware, error) {
	b, err := logPage(ctx, c, logFirmware, firmwareBytes)
	if err != nil {
		return nil, err
	}
	return ParseFirmware(b)
}

// ReadSMART reads log page 02h.
func ReadSMART(ctx context.Context, c Controller) (*SMART, error) {
	b, err := logPage(ctx, c, logSMART, smartBytes)
	if err != nil {
		return nil, err
	}
	return ParseSMART(b)
}

// ReadErrors reads the newest entry of log page 01h, the one every controller has.
func ReadErrors(ctx context.Context, c Controller) ([]ErrorEntry, error) {
	b, err := logPage(ctx, c, logError, errorEntryBytes)
	if err != nil {
		return nil, err
	}
	return ParseErrors(b)
}

// ReadLocking reads the TCG Level 0 Discovery. A controller that knows no TCG
// protocol refuses the field, which means that it cannot lock.
func ReadLocking(ctx context.Context, c Controller) (*Locking, error) {
	b := make([]byte, discoveryBytes)
	cmd := &Command{Opcode: OpSecurityReceive, CDW10: 0x01<<24 | 0x0001<<8, CDW11: discoveryBytes, Data: b}
	if _, err := ask(ctx, c, cmd); Unsupported(err) {
		return new(Locking), nil
	} else if err != nil {
		return nil, fmt.Errorf("security receive: %w", err)
	}
	return ParseLocking(b)
}

// WriteProtection is the state of a namespace's write protection (Base 2.0,
// Namespace Write Protection Config, FID 84h).
type WriteProtection uint32

// The states. The last two cannot be left by a command.
const (
	Writable           WriteProtection = 0
	ProtectedUntilTold WriteProtection = 1
	ProtectedUntilOff  WriteProtection = 2
	ProtectedForEver   WriteProtection = 3
)

// ReadWriteProtection asks for a namespace's write protection.
func ReadWriteProtection(ctx context.Context, c Controller, nsid uint32) (WriteProtection, error) {
	v, err := ask(ctx, c, &Command{Opcode: OpGetFeatures, NSID: nsid, CDW10: FeatureWriteProtect})
	if err != nil {
		return 0, fmt.Errorf("write protection of namespace %d: %w", nsid, err)
	}
	if v &= 7; v > uint32(ProtectedForEver) {
		return 0, bad("write protection", "state %d", v)
	}
	return WriteProtection(v), nil
}

// AllowWrites takes a namespace's write protection away.
func AllowWrites(ctx context.Context, c Controller, nsid uint32) error {
	_, err := c.Admin(ctx, &Command{Opcode: OpSetFeatures, NSID: nsid, CDW10: FeatureWriteProtect, CDW11: uint32(Writable)})
	return err
}

// SecureErase is what a format erases beyond the mapping (SES).
type SecureErase uint32

// The settings.
const (
	EraseNothing  SecureErase = 0
	EraseUserData SecureErase = 1
	EraseCrypto   SecureErase = 2
)

// FormatTimeout bounds a format. Drives take seconds; those that really erase every
// block take minutes.
const FormatTimeout = time.Hour

// FormatNamespace formats a namespace with the given LBA format and returns when it
// is done (Base 2.0, Format NVM).
func FormatNamespace(ctx context.Context, c Controller, n *Namespace, ses SecureErase) error {
	cdw10 := uint32(n.Format)&0xF | uint32(n.Format)>>4&3<<12 | uint32(ses)<<9 | uint32(n.PI)&7<<5 | uint32(n.PI)>>3&1<<8
	if n.Extended {
		cdw10 |= 1 << 4
	}
	_, err := c.Admin(ctx, &Command{Opcode: OpFormat, NSID: n.ID, CDW10: cdw10, Timeout: FormatTimeout})
	return err
}

// SanitizeAction is what a sanitize does (SANACT).
type SanitizeAction uint32

// The actions.
const (
	ExitFailureMode  SanitizeAction = 1
	SanitizeBlocks   SanitizeAction = 2
	SanitizeRewrite  SanitizeAction = 3
	SanitizeKeysGone SanitizeAction = 4
)

// CDW10 is the command's dword: restricted completion (a drive whose sanitize
// failed gives no access to its data), one pass, blocks deallocated after it.
func (a SanitizeAction) CDW10() uint32 {
	if a == SanitizeRewrite {
		return uint32(a) | 1<<4
	}
	return uint32(a)
}

// StartSanitize starts a sanitize; it is over when the log page says so.
func StartSanitize(ctx context.Context, c Controller, a SanitizeAction) error {
	_, err := c.Admin(ctx, &Command{Opcode: OpSanitize, CDW10: a.CDW10()})
	return err
}

// Unsupported says that the controller refused a command because it does not know
// it: nothing was done.
func Unsupported(err error) bool {
	var s Status
	if !errors.As(err, &s) {
		return false
	}
	c := s.Code()
	return c == InvalidOpcode || c == InvalidField || c == InvalidFormat
}
