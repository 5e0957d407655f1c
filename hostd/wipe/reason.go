package wipe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/gpuaas/gpuaas/hostd/nvme"
)

// The reasons of a result that is not verified. They are stable: operators look
// them up in docs/operations.md.
const (
	// Which drive it is.
	WrongSerial   = "wipe.wrong_serial"   // another drive than the approved one is in the slot
	DeviceSwapped = "wipe.device_swapped" // the drive changed while it was being erased
	DeviceGone    = "wipe.device_gone"    // it does not answer any more, or never did
	InUse         = "wipe.in_use"         // something on the host holds it
	SharedDrive   = "wipe.shared_drive"   // another controller reaches its namespaces

	// What the tenant left changed.
	BaselineMissing   = "wipe.baseline_missing"
	BaselineDamaged   = "wipe.baseline_damaged"
	FirmwareChanged   = "wipe.firmware_changed"
	FirmwarePending   = "wipe.firmware_pending" // a revision waits for the next reset
	FeaturesChanged   = "wipe.features_changed" // what the controller advertises
	NamespacesChanged = "wipe.namespaces_changed"
	FormatChanged     = "wipe.format_changed" // and could not be restored
	ProtectedWrites   = "wipe.write_protected"
	Locked            = "wipe.locked"
	SizeMismatch      = "wipe.size_mismatch" // the kernel shows another size than the drive says

	// How the erasure failed.
	UnknownPolicy      = "wipe.unknown_policy"
	Unsupported        = "wipe.unsupported" // the drive can do nothing that the policy allows
	SanitizeFailed     = "wipe.sanitize_failed"
	SanitizeStuck      = "wipe.sanitize_stuck"
	SanitizeLate       = "wipe.sanitize_late"
	SanitizeBackwards  = "wipe.sanitize_backwards"
	SanitizeOther      = "wipe.sanitize_other" // the log speaks of another sanitize
	SanitizeNotStarted = "wipe.sanitize_not_started"
	FormatStuck        = "wipe.format_stuck"
	CanaryNotLanded    = "wipe.canary_not_landed"
	CanarySurvived     = "wipe.canary_survived"
	NotBlank           = "wipe.not_blank"
	MediaError         = "wipe.media_error"
	Degraded           = "wipe.degraded" // the drive's own health says so
	BadPage            = "wipe.bad_page" // an answer that makes no sense
	Timeout            = "wipe.timeout"
	Interrupted        = "wipe.interrupted"
	CommandFailed      = "wipe.command_failed"
	IOError            = "wipe.io_error"
	RecordDamaged      = "wipe.record_damaged"

	// GPU, virtual function, host.
	ResetFailed  = "wipe.reset_failed"
	PowerCycle   = "wipe.power_cycle_needed"
	ProbeFailed  = "wipe.probe_failed"
	VFNotReset   = "wipe.vf_not_reset"
	HostRemnants = "wipe.remnants"
	NotDone      = "wipe.not_done" // no way to do it is configured
)

// failure is why a device is not erased, or not known to be.
type failure struct {
	code   string
	detail string
	scope  string // "" is the device
	cause  error
}

func (f *failure) Error() string { return f.code + ": " + f.detail }

// Unwrap gives the cause.
func (f *failure) Unwrap() error { return f.cause }

func refuse(code, format string, args ...any) error {
	return &failure{code: code, detail: fmt.Sprintf(format, args...)}
}

// reasons are what errors of a device mean, most telling first.
var reasons = []struct {
	err  error
	code string
}{
	{unix.ENODEV, DeviceGone},
	{unix.ENXIO, DeviceGone},
	{unix.ENOENT, DeviceGone},
	{fs.ErrNotExist, DeviceGone},
	{unix.EBUSY, InUse},
	{unix.ENODATA, MediaError},
	{unix.EILSEQ, MediaError},
	{unix.EREMOTEIO, MediaError},
	{unix.ETIME, Timeout},
	{unix.ETIMEDOUT, Timeout},
	{context.DeadlineExceeded, Timeout},
	{unix.EINTR, Interrupted},
	{unix.EAGAIN, Interrupted},
	{context.Canceled, Interrupted},
}

var statusReasons = map[nvme.Status]string{
	nvme.WriteFault: MediaError, nvme.UnrecoveredRead: MediaError, nvme.AccessDenied: Locked, nvme.WriteProtected: ProtectedWrites,
	nvme.SanitizeFailed: SanitizeFailed, nvme.AbortRequested: Timeout, nvme.InvalidNamespace: NamespacesChanged,
}

// explain makes a failure of any error: one that no rule knows is an I/O error.
func explain(err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	f = &failure{code: IOError, detail: err.Error(), cause: err}
	var page *nvme.PageError
	var status nvme.Status
	switch {
	case errors.As(err, &page):
		f.code = BadPage
	case errors.As(err, &status):
		f.code = CommandFailed
		if code, ok := statusReasons[status.Code()]; ok {
			f.code = code
		}
	default:
		for _, r := range reasons {
			if errors.Is(err, r.err) {
				f.code = r.code
				break
			}
		}
	}
	return f
}
