package vm

import (
	"encoding/xml"
	"errors"
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// maxDrives is what the fixed addresses on the root bus have room for.
const maxDrives = 8

// ReadyPort is the name of the virtio-serial port on which a guest says ready: it
// writes the line "ready" to /dev/virtio-ports/org.gpuaas.ready.0 at every boot.
const ReadyPort = "org.gpuaas.ready.0"

// Drive is a file-backed NVMe drive. Serial has at most 20 characters (NVMe base
// specification, identify controller, bytes 04-23).
type Drive struct {
	Path   string
	Serial string
}

// Spec is one domain: a lab VM with emulated devices (MemoryMiB, CPUs, Drives,
// Accelerators), or one whose devices, cores and memory are those of real slots
// (Passthrough). Paths are as the libvirtd process sees them.
type Spec struct {
	Name  string
	UUID  string
	Owner *Owner // nil: not said
	KVM   bool   // false: software emulation

	Firmware     string // UEFI code, read-only
	FirmwareVars string // template of the variable store
	NVRAM        string // this domain's variable store, made by libvirt
	SecureBoot   bool   // Firmware is built for it and FirmwareVars has the keys enrolled
	Kernel       string // boot this file, without firmware and without looking at a drive
	VTPM         bool   // a TPM 2.0 by swtpm; its state goes with Host.Undefine

	MemoryMiB    uint64
	CPUs         uint
	Drives       []Drive
	Accelerators int // stand-in GPUs: QEMU's edu device

	Passthrough *Passthrough

	Seed        string // cloud-init NoCloud image
	Bridge      string // Linux bridge that libvirt plugs Tap into; "": Tap is there and plugged in already
	Tap         string
	MAC         string
	ConsoleLog  string // serial console, appended to and rotated by virtlogd
	ReadySocket string // unix socket QEMU listens on, the host end of ReadyPort
}

// Owner is whose VM a domain is. It stands in the domain's metadata for whoever
// looks at a host without the control plane; the guest does not see it.
type Owner struct {
	XMLName    xml.Name `xml:"urn:gpuaas:vm:1 owner"`
	Tenant     string   `xml:"tenant,attr"`
	Allocation string   `xml:"allocation,attr"`
}

// document is a domain with what libvirtxml 9 has no words for. Its field hides
// the one of the same name inside.
type document struct {
	libvirtxml.Domain
	LaunchSecurity *launchSecurity `xml:"launchSecurity"`
}

// XML renders the domain. The boot drive, and nothing else of a slot, has boot
// order 1; the seed is the last resort only so that libvirt does not choose a boot
// order of its own.
func (s *Spec) XML() (string, error) {
	if err := s.validate(); err != nil {
		return "", err
	}
	doc := &document{Domain: libvirtxml.Domain{
		Type:     "qemu",
		Name:     s.Name,
		UUID:     s.UUID,
		Memory:   &libvirtxml.DomainMemory{Value: uint(s.MemoryMiB), Unit: "MiB"},
		VCPU:     &libvirtxml.DomainVCPU{Placement: "static", Value: s.CPUs},
		CPU:      &libvirtxml.DomainCPU{Mode: "maximum", Check: "none"},
		Features: &libvirtxml.DomainFeatureList{ACPI: &libvirtxml.DomainFeature{}, APIC: &libvirtxml.DomainFeatureAPIC{}},
		Clock:    &libvirtxml.DomainClock{Offset: "utc"},
		OS:       s.boot(),
		// A guest's power-off ends the domain, its reboot does not, a crash is a stop.
		OnPoweroff: "destroy", OnReboot: "restart", OnCrash: "destroy",
		PM: &libvirtxml.DomainPM{
			SuspendToMem:  &libvirtxml.DomainPMPolicy{Enabled: "no"},
			SuspendToDisk: &libvirtxml.DomainPMPolicy{Enabled: "no"},
		},
		Devices: s.devices(),
	}}
	d := &doc.Domain
	if s.KVM {
		d.Type = "kvm"
		d.CPU.Mode = "host-passthrough"
	}
	if s.SecureBoot {
		d.Features.SMM = &libvirtxml.DomainFeatureSMM{State: "on"} // guards the variable store
	}
	if s.Owner != nil {
		b, err := xml.Marshal(s.Owner)
		if err != nil {
			return "", fmt.Errorf("domain %s: %w", s.Name, err)
		}
		d.Metadata = &libvirtxml.DomainMetadata{XML: "\n    " + string(b) + "\n  "}
	}
	if args := s.arguments(); len(args) > 0 {
		d.QEMUCommandline = &libvirtxml.DomainQEMUCommandline{Args: args}
	}
	if s.Passthrough != nil {
		s.passThrough(doc)
	}
	b, err := xml.MarshalIndent(doc, "", "  ")
	if err != nil {
		return "", fmt.Errorf("domain %s: %w", s.Name, err)
	}
	return string(b), nil
}

// boot is how the domain begins: a kernel at once, or the firmware, which looks
// at the drives in their boot order.
func (s *Spec) boot() *libvirtxml.DomainOS {
	o := &libvirtxml.DomainOS{Type: &libvirtxml.DomainOSType{Arch: "x86_64", Machine: "q35", Type: "hvm"}}
	if s.Kernel != "" {
		o.Kernel = s.Kernel
		return o
	}
	o.Loader = &libvirtxml.DomainLoader{Path: s.Firmware, Readonly: "yes", Type: "pflash"}
	if s.SecureBoot {
		o.Loader.Secure = "yes"
	}
	o.NVRam = &libvirtxml.DomainNVRam{NVRam: s.NVRAM, Template: s.FirmwareVars}
	return o
}

func (s *Spec) validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("domain %s: %s", s.Name, fmt.Sprintf(format, args...))
	}
	switch {
	case s.Name == "" || s.UUID == "":
		return errors.New("domain without name or UUID")
	case s.Kernel == "" && (s.Firmware == "" || s.FirmwareVars == "" || s.NVRAM == ""):
		return bad("nothing to boot by: want Firmware, FirmwareVars and NVRAM, or a Kernel")
	case s.Kernel != "" && s.SecureBoot:
		return bad("Secure Boot is the firmware's, and a kernel is booted without it")
	}
	if s.Passthrough != nil {
		if s.MemoryMiB != 0 || s.CPUs != 0 || len(s.Drives) != 0 || s.Accelerators != 0 {
			return bad("memory, CPUs and devices of a VM with real slots are its slots'")
		}
		if err := s.Passthrough.validate(s.KVM); err != nil {
			return fmt.Errorf("domain %s: %w", s.Name, err)
		}
		return nil
	}
	switch {
	case s.MemoryMiB == 0 || s.CPUs == 0:
		return bad("no memory or no CPUs")
	case len(s.Drives) == 0 || len(s.Drives) > maxDrives:
		return bad("%d drives, want 1 to %d", len(s.Drives), maxDrives)
	case s.Accelerators < 0 || s.Accelerators > maxDrives:
		return bad("%d accelerators, want 0 to %d", s.Accelerators, maxDrives)
	}
	for _, d := range s.Drives {
		if d.Serial == "" || len(d.Serial) > 20 || strings.ContainsAny(d.Serial, ", =") {
			return bad("%q is no NVMe serial number", d.Serial)
		}
	}
	return nil
}
