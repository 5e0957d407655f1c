package wipe

import (
	"bytes"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/nvme"
	"github.com/gpuaas/gpuaas/hostd/nvme/nvmefake"
)

var policies = []domain.WipePolicy{domain.WipeAuto, domain.WipeSanitize, domain.WipeFormat, domain.WipeOverwrite}

type hook = func(op *nvmefake.Op, do func() error) error

// once does something before the first operation that when picks.
func once(when func(*nvmefake.Op) bool, then func()) hook {
	done := false
	return func(op *nvmefake.Op, do func() error) error {
		if !done && when(op) {
			done = true
			then()
		}
		return do()
	}
}

// failing has every operation that when picks end with err, undone.
func failing(when func(*nvmefake.Op) bool, err error) hook {
	return func(op *nvmefake.Op, do func() error) error {
		if when(op) {
			return err
		}
		return do()
	}
}

// answering changes what the drive answers to what when picks.
func answering(when func(*nvmefake.Op) bool, change func(b []byte)) hook {
	return func(op *nvmefake.Op, do func() error) error {
		err := do()
		if err == nil && when(op) {
			change(op.Data)
		}
		return err
	}
}

// after picks what kind of operation comes after the first that trigger picks.
func after(trigger, when func(*nvmefake.Op) bool) func(*nvmefake.Op) bool {
	seen := false
	return func(op *nvmefake.Op) bool {
		if seen {
			return when(op)
		}
		seen = trigger(op)
		return false
	}
}

// nth picks the n-th operation that when picks.
func nth(n int, when func(*nvmefake.Op) bool) func(*nvmefake.Op) bool {
	return func(op *nvmefake.Op) bool {
		if when(op) {
			n--
			return n == 0
		}
		return false
	}
}

func kind(k string) func(*nvmefake.Op) bool {
	return func(op *nvmefake.Op) bool { return op.Kind == k }
}
func always(*nvmefake.Op) bool               { return true }
func erases(op *nvmefake.Op) bool            { return op.Erases() }
func logs(id uint32) func(*nvmefake.Op) bool { return func(op *nvmefake.Op) bool { return op.Log(id) } }

func identifies(c uint32) func(*nvmefake.Op) bool {
	return func(op *nvmefake.Op) bool { return op.Identify(c) }
}

// crawl answers the sanitize log with a progress of its own.
func crawl(progress func(poll int) int) hook {
	poll := 0
	return answering(logs(0x81), func(b []byte) {
		p := progress(poll)
		b[0], b[1] = byte(p), byte(p>>8)
		poll++
	})
}

// endless is a drive in the middle of a tenant's sanitize that never ends.
func endless(d *drive) {
	d.SanitizeTakes = 1 << 60
	d.BeginSanitize(nvme.SanitizeBlocks)
}

// faults are drives that fail. None is ever verified, under any policy; each fails
// with one of its codes.
var faults = []struct {
	name   string
	codes  string // separated by |
	script func(d *drive)
}{
	{"wrong serial", WrongSerial, func(d *drive) { d.Serial = "SOMEBODY-ELSES" }},
	{"another model with the serial", DeviceSwapped, func(d *drive) { d.Model = "Copy" }},
	{"swapped after the canaries", DeviceSwapped, func(d *drive) { d.Hook = once(kind("flush"), func() { d.Serial = "OTHER" }) }},
	{"swapped by the erasure", DeviceSwapped, func(d *drive) {
		d.Hook = once(erases, func() { d.Change(func(d *nvmefake.Drive) { d.Serial = "OTHER" }) })
	}},
	{"swapped before the proof", DeviceSwapped, func(d *drive) { d.Hook = once(nth(2, kind("reset")), func() { d.Serial = "OTHER" }) }},
	{"swapped at the very end", DeviceSwapped, func(d *drive) { d.Hook = once(nth(2, logs(0x02)), func() { d.Serial = "OTHER" }) }},
	{"power cut at a canary", IOError, func(d *drive) {
		pick := nth(9, kind("write"))
		d.Hook = func(op *nvmefake.Op, do func() error) error {
			if pick(op) {
				d.PowerCut()
				return unix.EIO
			}
			return do()
		}
	}},
	{"power cut before the flush", CanaryNotLanded, func(d *drive) { d.Hook = once(kind("flush"), d.PowerCut) }},
	{"power cut in the erasure", DeviceGone, func(d *drive) {
		d.Hook = func(op *nvmefake.Op, do func() error) error {
			if op.Erases() {
				d.PowerCut()
				return unix.ENODEV
			}
			return do()
		}
	}},
	{"gone after the erasure began", DeviceGone, func(d *drive) { d.Hook = failing(after(erases, always), unix.ENODEV) }},
	{"never there", DeviceGone, func(d *drive) { d.Hook = failing(always, unix.ENODEV) }},
	{"gone at the reset", DeviceGone, func(d *drive) { d.Hook = failing(kind("reset"), unix.ENODEV) }},
	{"a block that cannot be read", MediaError, func(d *drive) {
		d.Hook = failing(after(erases, func(op *nvmefake.Op) bool { return op.Kind == "read" && op.Off <= 5<<20 && op.Off+op.N > 5<<20 }), unix.ENODATA)
	}},
	{"a block that cannot be written", MediaError, func(d *drive) { d.Hook = failing(nth(100, kind("write")), unix.ENODATA) }},
	{"media errors are counted", MediaError, func(d *drive) { d.Hook = once(erases, func() { d.MediaErr++ }) }},
	{"read only", Degraded, func(d *drive) { d.Critical = 1 << 3 }},
	{"reliability lost by the erasure", Degraded, func(d *drive) { d.Hook = once(erases, func() { d.Critical = 1 << 2 }) }},
	{"a namespace more", NamespacesChanged, func(d *drive) { d.AddNamespace(2, 1<<20) }},
	{"a namespace appears", NamespacesChanged, func(d *drive) { d.Hook = once(nth(2, kind("reset")), func() { d.AddNamespace(2, 1<<20) }) }},
	{"a namespace appears at the end", NamespacesChanged, func(d *drive) { d.Hook = once(nth(2, logs(0x02)), func() { d.AddNamespace(2, 1<<20) }) }},
	{"a hidden namespace", NamespacesChanged, func(d *drive) { d.Detached = []uint32{7} }},
	{"no namespace", NamespacesChanged, func(d *drive) { delete(d.Namespaces, 1) }},
	{"the namespace vanishes", NamespacesChanged, func(d *drive) { d.Hook = once(nth(2, kind("reset")), func() { delete(d.Namespaces, 1) }) }},
	{"the namespace made anew", NamespacesChanged, func(d *drive) { d.Namespaces[1].GUID[3]++ }},
	{"the namespace is smaller", NamespacesChanged, func(d *drive) { d.Namespaces[1].Bytes /= 2 }},
	{"capacity differs", NamespacesChanged, func(d *drive) { d.Capacity *= 2 }},
	{"locked", Locked, func(d *drive) { d.Locking.Enabled, d.Locking.Locked = true, true }},
	{"locks owned by someone", Locked, func(d *drive) { d.Locking.Enabled = true }},
	{"first blocks shadowed", Locked, func(d *drive) { d.Locking.Shadowed = true }},
	{"locked while erased", Locked, func(d *drive) {
		d.Hook = once(nth(2, kind("reset")), func() { d.Locking.Enabled, d.Locking.Locked = true, true })
	}},
	{"other firmware", FirmwareChanged, func(d *drive) { d.Firmware, d.Slots[0] = "EVIL0001", "EVIL0001" }},
	{"firmware that no slot holds", FirmwareChanged, func(d *drive) { d.Firmware = "EVIL0001" }},
	{"firmware in another slot", FirmwareChanged, func(d *drive) { d.Slots[1] = "EVIL0001" }},
	{"firmware waits for a reset", FirmwarePending, func(d *drive) { d.NextSlot = 2 }},
	{"firmware changes at the reset", FirmwareChanged, func(d *drive) {
		d.Hook = once(nth(2, kind("reset")), func() { d.Firmware, d.ActiveSlot = d.Slots[1], 2 })
	}},
	{"forgets how to sanitize", FeaturesChanged, func(d *drive) { d.SANICAP = 0 }},
	{"promises zeroes since today", FeaturesChanged, func(d *drive) { d.Namespaces[1].Deallocated = nvme.ReadsFF }},
	{"LBA format cannot be restored", FormatChanged, func(d *drive) {
		d.Namespaces[1].Format = 2
		d.Hook = failing(func(op *nvmefake.Op) bool { return op.Admin(nvme.OpFormat) }, nvme.InvalidFormat)
	}},
	{"LBA format is not restored", FormatChanged, func(d *drive) {
		d.Namespaces[1].Format = 1
		d.Hook = failing(func(op *nvmefake.Op) bool { return op.Admin(nvme.OpFormat) }, nil)
	}},
	{"write protected until power-off", ProtectedWrites, func(d *drive) { d.Namespaces[1].Protection = nvme.ProtectedUntilOff }},
	{"write protected for ever", ProtectedWrites, func(d *drive) { d.Namespaces[1].Protection = nvme.ProtectedForEver }},
	{"write protection stays", ProtectedWrites, func(d *drive) {
		d.Namespaces[1].Protection = nvme.ProtectedUntilTold
		d.Hook = failing(func(op *nvmefake.Op) bool { return op.Admin(nvme.OpSetFeatures) }, nil)
	}},
	{"another controller attached", SharedDrive, func(d *drive) { d.Namespaces[1].Attached = []uint16{1, 2} }},
	{"another controller instead", SharedDrive, func(d *drive) { d.Namespaces[1].Attached = []uint16{2} }},
	{"held by the host", InUse, func(d *drive) { d.Hook = failing(kind("open"), unix.EBUSY) }},
	{"the host sees another size", SizeMismatch, func(d *drive) {
		d.Hook = func(op *nvmefake.Op, do func() error) error {
			if op.Kind != "open" {
				return do()
			}
			d.Namespaces[1].Bytes -= 512
			err := do()
			d.Namespaces[1].Bytes += 512
			return err
		}
	}},
	{"writes that do nothing", CanaryNotLanded, func(d *drive) { d.Hook = failing(kind("write"), nil) }},
	{"one write that does nothing", CanaryNotLanded, func(d *drive) { d.Hook = failing(nth(200, kind("write")), nil) }},
	{"a flush that fails", IOError, func(d *drive) { d.Hook = failing(kind("flush"), unix.EIO) }},
	{"a flush that lies", CanaryNotLanded, func(d *drive) {
		d.Hook = func(op *nvmefake.Op, do func() error) error {
			switch op.Kind {
			case "flush":
				return nil
			case "reset":
				d.PowerCut()
			}
			return do()
		}
	}},
	{"reads from a cache that no reset empties", CanarySurvived, func(d *drive) {
		cache := map[int64][]byte{}
		d.Hook = func(op *nvmefake.Op, do func() error) error {
			if op.Kind == "write" {
				cache[op.Off] = bytes.Clone(op.Data)
			}
			err := do()
			if b := cache[op.Off]; op.Kind == "read" && len(b) == len(op.Data) {
				copy(op.Data, b)
			}
			return err
		}
	}},
	{"reads of the first half say zero", CanarySurvived, func(d *drive) {
		d.KeepsData = func(uint32, int64, []byte) bool { return true }
		d.Hook = answering(after(erases, func(op *nvmefake.Op) bool { return op.Kind == "read" && op.Off < driveSize/2 }), func(b []byte) { clear(b) })
	}},
	{"reads that do nothing", CanaryNotLanded, func(d *drive) { d.Hook = failing(kind("read"), nil) }},
	{"reads that do nothing after the erasure", NotBlank, func(d *drive) { d.Hook = failing(after(erases, kind("read")), nil) }},
	{"an erasure that does nothing", CanarySurvived, func(d *drive) { d.KeepsData = func(uint32, int64, []byte) bool { return true } }},
	{"only the first half is erased", CanarySurvived, func(d *drive) { d.KeepsData = func(_ uint32, i int64, _ []byte) bool { return i >= driveSize/8192 } }},
	{"only the second half is erased", CanarySurvived, func(d *drive) { d.KeepsData = func(_ uint32, i int64, _ []byte) bool { return i < driveSize/8192 } }},
	{"all is erased but 1% in the middle", CanarySurvived, func(d *drive) { d.KeepsData = func(_ uint32, i int64, _ []byte) bool { return i >= 1000 && i < 1021 } }},
	{"the last block is left", CanarySurvived, func(d *drive) { d.KeepsData = func(_ uint32, i int64, _ []byte) bool { return i == driveSize/4096-1 } }},
	{"canaries are erased, data is not", NotBlank, func(d *drive) {
		d.KeepsData = func(_ uint32, _ int64, b []byte) bool { return bytes.Contains(b, []byte(secret)) }
	}},
	{"the erasure times out", Timeout, func(d *drive) { d.Hook = failing(erases, unix.ETIME) }},
	{"the erasure is aborted", Timeout, func(d *drive) { d.Hook = failing(erases, nvme.AbortRequested) }},
	{"the erasure fails", CommandFailed, func(d *drive) { d.Hook = failing(erases, nvme.InternalError) }},
	{"the erasure is interrupted", Interrupted, func(d *drive) { d.Hook = failing(erases, unix.EINTR) }},
	{"the controller is reset for ever", Interrupted, func(d *drive) { d.Hook = failing(identifies(nvme.CNSController), unix.EAGAIN) }},
	{"nothing but signals", Interrupted, func(d *drive) { d.Hook = failing(always, unix.EINTR) }},
	{"reads time out", Timeout, func(d *drive) { d.Hook = failing(kind("read"), unix.ETIMEDOUT) }},
	{"an identity of zeroes", BadPage, func(d *drive) { d.Hook = answering(identifies(nvme.CNSController), func(b []byte) { clear(b) }) }},
	{"an identity of noise", BadPage, func(d *drive) {
		d.Hook = answering(identifies(nvme.CNSController), func(b []byte) { copy(b, bytes.Repeat([]byte{0x9B}, len(b))) })
	}},
	{"a namespace of zeroes", BadPage, func(d *drive) { d.Hook = answering(identifies(nvme.CNSNamespace), func(b []byte) { clear(b) }) }},
	{"a namespace of noise", BadPage, func(d *drive) {
		d.Hook = answering(identifies(nvme.CNSNamespace), func(b []byte) { copy(b, bytes.Repeat([]byte{0xFF}, len(b))) })
	}},
	{"a namespace list of noise", BadPage, func(d *drive) {
		d.Hook = answering(identifies(nvme.CNSActiveNamespaces), func(b []byte) { copy(b, bytes.Repeat([]byte{0xFF}, len(b))) })
	}},
	{"a firmware log cut short", BadPage, func(d *drive) { d.Hook = answering(logs(0x03), func(b []byte) { clear(b[4:]) }) }},
	{"a health log of zeroes", BadPage, func(d *drive) { d.Hook = answering(logs(0x02), func(b []byte) { clear(b) }) }},
	{"a sanitize log of noise", BadPage, func(d *drive) {
		d.Hook = answering(logs(0x81), func(b []byte) { copy(b, bytes.Repeat([]byte{0xFF}, len(b))) })
	}},
	{"a security page cut short", BadPage, func(d *drive) {
		d.Hook = answering(func(op *nvmefake.Op) bool { return op.Admin(nvme.OpSecurityReceive) }, func(b []byte) { b[3] -= 9 })
	}},
	{"a sanitize that stands still", SanitizeStuck, func(d *drive) {
		endless(d)
		d.Hook = crawl(func(int) int { return 0x4000 })
	}},
	{"a sanitize that goes backwards", SanitizeBackwards, func(d *drive) {
		d.SanitizeTakes = time.Minute
		d.BeginSanitize(nvme.SanitizeBlocks)
		d.Hook = crawl(func(poll int) int { return 0x4000 - poll })
	}},
	{"a sanitize that crawls, estimated at nothing", SanitizeLate, func(d *drive) {
		endless(d)
		d.EstimateBlock = 0
		d.Hook = crawl(func(poll int) int { return poll })
	}},
	{"a sanitize that crawls, estimated at a century", SanitizeLate, func(d *drive) {
		endless(d)
		d.EstimateBlock = 0xFFFFFFFE
		d.Hook = crawl(func(poll int) int { return poll })
	}},
	{"a sanitize that turns into another", SanitizeOther, func(d *drive) {
		endless(d)
		d.Hook = answering(nth(3, logs(0x81)), func(b []byte) { b[4] = 4 })
	}},
	{"a sanitize that forgets itself", SanitizeNotStarted, func(d *drive) {
		endless(d)
		d.Hook = answering(after(logs(0x81), logs(0x81)), func(b []byte) { clear(b[2:8]) })
	}},
	{"a sanitize that ends failed", SanitizeFailed, func(d *drive) {
		d.SanitizeFails = true
		d.BeginSanitize(nvme.SanitizeBlocks)
	}},
	{"a failed sanitize that cannot be repeated", SanitizeFailed, func(d *drive) {
		d.SanitizeFails = true
		d.FailedSanitize()
	}},
	{"a format that stands still", FormatStuck, func(d *drive) {
		d.Hook = answering(identifies(nvme.CNSNamespace), func(b []byte) { b[32] = 1<<7 | 50 })
	}},
	{"no baseline", BaselineMissing, func(d *drive) {
		if err := d.store.Forget(serial); err != nil {
			d.t.Fatal(err)
		}
	}},
	{"a baseline cut short", BaselineDamaged, func(d *drive) {
		if err := os.Truncate(d.store.path(kindBaseline, serial), 100); err != nil {
			d.t.Fatal(err)
		}
	}},
	{"another drive's baseline", BaselineDamaged, func(d *drive) {
		b, err := os.ReadFile(d.store.path(kindBaseline, serial))
		if err == nil {
			err = os.WriteFile(d.store.path(kindBaseline, serial), bytes.Replace(b, []byte(serial), []byte("ANOTHERS-SERIAL"), 1), 0o600)
		}
		if err != nil {
			d.t.Fatal(err)
		}
	}},
}
