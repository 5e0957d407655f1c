package vm

import (
	"errors"
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// Limits of a spec: what the fixed addresses on the root bus have room for.
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

// Spec is one domain. Paths are as the libvirtd process sees them.
type Spec struct {
	Name         string
	UUID         string
	MemoryMiB    uint64
	CPUs         uint
	KVM          bool   // false: software emulation
	Firmware     string // UEFI code, read-only
	FirmwareVars string // template of the variable store
	NVRAM        string // this domain's variable store, made by libvirt
	Drives       []Drive
	Accelerators int    // stand-in GPUs: QEMU's edu device
	Seed         string // cloud-init NoCloud image
	Bridge       string
	Tap          string
	MAC          string
	ConsoleLog   string // serial console, appended to and rotated by virtlogd
	ReadySocket  string // unix socket QEMU listens on, the host end of ReadyPort
}

// XML renders the domain. The first drive is the boot drive; the seed is the last
// resort only so that libvirt does not choose a boot order of its own.
func (s *Spec) XML() (string, error) {
	if err := s.validate(); err != nil {
		return "", err
	}
	d := libvirtxml.Domain{
		Type:     "qemu",
		Name:     s.Name,
		UUID:     s.UUID,
		Memory:   &libvirtxml.DomainMemory{Value: uint(s.MemoryMiB), Unit: "MiB"},
		VCPU:     &libvirtxml.DomainVCPU{Placement: "static", Value: s.CPUs},
		CPU:      &libvirtxml.DomainCPU{Mode: "maximum", Check: "none"},
		Features: &libvirtxml.DomainFeatureList{ACPI: &libvirtxml.DomainFeature{}, APIC: &libvirtxml.DomainFeatureAPIC{}},
		Clock:    &libvirtxml.DomainClock{Offset: "utc"},
		OS: &libvirtxml.DomainOS{
			Type:   &libvirtxml.DomainOSType{Arch: "x86_64", Machine: "q35", Type: "hvm"},
			Loader: &libvirtxml.DomainLoader{Path: s.Firmware, Readonly: "yes", Type: "pflash"},
			NVRam:  &libvirtxml.DomainNVRam{NVRam: s.NVRAM, Template: s.FirmwareVars},
		},
		// A guest's power-off ends the domain, its reboot does not, a crash is a stop.
		OnPoweroff: "destroy", OnReboot: "restart", OnCrash: "destroy",
		PM: &libvirtxml.DomainPM{
			SuspendToMem:  &libvirtxml.DomainPMPolicy{Enabled: "no"},
			SuspendToDisk: &libvirtxml.DomainPMPolicy{Enabled: "no"},
		},
		Devices:         s.devices(),
		QEMUCommandline: &libvirtxml.DomainQEMUCommandline{Args: s.arguments()},
	}
	if s.KVM {
		d.Type = "kvm"
		d.CPU.Mode = "host-passthrough"
	}
	return d.Marshal()
}

func (s *Spec) validate() error {
	switch {
	case s.Name == "" || s.UUID == "":
		return errors.New("domain without name or UUID")
	case s.MemoryMiB == 0 || s.CPUs == 0:
		return fmt.Errorf("domain %s: no memory or no CPUs", s.Name)
	case len(s.Drives) == 0 || len(s.Drives) > maxDrives:
		return fmt.Errorf("domain %s: %d drives, want 1 to %d", s.Name, len(s.Drives), maxDrives)
	case s.Accelerators < 0 || s.Accelerators > maxDrives:
		return fmt.Errorf("domain %s: %d accelerators, want 0 to %d", s.Name, s.Accelerators, maxDrives)
	}
	for _, d := range s.Drives {
		if d.Serial == "" || len(d.Serial) > 20 || strings.ContainsAny(d.Serial, ", =") {
			return fmt.Errorf("domain %s: %q is no NVMe serial number", s.Name, d.Serial)
		}
	}
	return nil
}

func (s *Spec) devices() *libvirtxml.DomainDeviceList {
	port := uint(0)
	l := &libvirtxml.DomainDeviceList{
		Emulator:    "/usr/bin/qemu-system-x86_64",
		Controllers: []libvirtxml.DomainController{{Type: "usb", Model: "none"}},
		Serials: []libvirtxml.DomainSerial{{
			Source: &libvirtxml.DomainChardevSource{Pty: &libvirtxml.DomainChardevSourcePty{}},
			Target: &libvirtxml.DomainSerialTarget{Port: &port},
			Log:    &libvirtxml.DomainChardevLog{File: s.ConsoleLog, Append: "on"},
		}},
		Channels: []libvirtxml.DomainChannel{{
			Source: &libvirtxml.DomainChardevSource{UNIX: &libvirtxml.DomainChardevSourceUNIX{Mode: "bind", Path: s.ReadySocket}},
			Target: &libvirtxml.DomainChannelTarget{VirtIO: &libvirtxml.DomainChannelTargetVirtIO{Name: ReadyPort}},
		}},
		MemBalloon: &libvirtxml.DomainMemBalloon{Model: "none"},
		RNGs: []libvirtxml.DomainRNG{{
			Model:   "virtio",
			Backend: &libvirtxml.DomainRNGBackend{Random: &libvirtxml.DomainRNGBackendRandom{Device: "/dev/urandom"}},
		}},
	}
	if s.Seed != "" {
		l.Disks = append(l.Disks, libvirtxml.DomainDisk{
			Device:   "disk",
			Driver:   &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "raw"},
			Source:   &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: s.Seed}},
			Target:   &libvirtxml.DomainDiskTarget{Dev: "vda", Bus: "virtio"},
			ReadOnly: &libvirtxml.DomainDiskReadOnly{},
			Serial:   "cidata",
			Boot:     &libvirtxml.DomainDeviceBoot{Order: 9},
		})
	}
	if s.Bridge != "" {
		l.Interfaces = append(l.Interfaces, libvirtxml.DomainInterface{
			MAC:    &libvirtxml.DomainInterfaceMAC{Address: s.MAC},
			Source: &libvirtxml.DomainInterfaceSource{Bridge: &libvirtxml.DomainInterfaceSourceBridge{Bridge: s.Bridge}},
			Target: &libvirtxml.DomainInterfaceTarget{Dev: s.Tap},
			Model:  &libvirtxml.DomainInterfaceModel{Type: "virtio"},
			ROM:    &libvirtxml.DomainROM{Enabled: "no"}, // no network boot to wait for
		})
	}
	return l
}

// arguments are the devices libvirt 9 has no words for.
func (s *Spec) arguments() []libvirtxml.DomainQEMUCommandlineArg {
	var a []libvirtxml.DomainQEMUCommandlineArg
	add := func(flag, value string) {
		a = append(a, libvirtxml.DomainQEMUCommandlineArg{Value: flag}, libvirtxml.DomainQEMUCommandlineArg{Value: value})
	}
	for i, d := range s.Drives {
		file := strings.ReplaceAll(d.Path, ",", ",,")
		add("-drive", fmt.Sprintf("if=none,id=gpuaas-drive%d,format=raw,discard=unmap,cache=writeback,file=%s", i, file))
		dev := fmt.Sprintf("nvme,id=gpuaas-nvme%d,drive=gpuaas-drive%d,serial=%s,bus=pcie.0,addr=0x%x", i, i, d.Serial, 0x10+i)
		if i == 0 {
			dev += ",bootindex=1"
		}
		add("-device", dev)
	}
	for i := range s.Accelerators {
		add("-device", fmt.Sprintf("edu,id=gpuaas-gpu%d,bus=pcie.0,addr=0x%x", i, 0x08+i))
	}
	return a
}
