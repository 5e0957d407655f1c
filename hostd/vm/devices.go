package vm

import (
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// emulator is QEMU, as Debian and Ubuntu install it.
const emulator = "/usr/bin/qemu-system-x86_64"

// Indexes of the root ports of what every domain has, and at the same time the
// numbers of the buses behind them. What a domain lacks leaves its port empty, so
// that nothing else moves.
const (
	portNIC = 1 + iota
	portSerial
	portSeed
	portRNG
	firstSlotPort
)

// deviceRoot is the device number of those root ports, four functions of one
// device.
const deviceRoot = 0x01

func (s *Spec) devices() *libvirtxml.DomainDeviceList {
	port := uint(0)
	serial := uint(0)
	l := &libvirtxml.DomainDeviceList{
		Emulator: emulator,
		Controllers: []libvirtxml.DomainController{
			{Type: "usb", Model: "none"},
			{Type: "pci", Index: index(0), Model: "pcie-root"},
			rootPort(portNIC, 0, deviceRoot, 0, true),
			rootPort(portSerial, 0, deviceRoot, 1, false),
			rootPort(portSeed, 0, deviceRoot, 2, false),
			rootPort(portRNG, 0, deviceRoot, 3, false),
			{Type: "virtio-serial", Index: &serial, Address: behind(portSerial)},
		},
		Serials: []libvirtxml.DomainSerial{{
			Source: &libvirtxml.DomainChardevSource{Pty: &libvirtxml.DomainChardevSourcePty{}},
			Target: &libvirtxml.DomainSerialTarget{Port: &port},
			Log:    &libvirtxml.DomainChardevLog{File: s.ConsoleLog, Append: "on"},
		}},
		MemBalloon: &libvirtxml.DomainMemBalloon{Model: "none"},
		// A guest makes its host keys in its first seconds. It should not have to trust
		// the processor alone for them; what it can draw is bounded.
		RNGs: []libvirtxml.DomainRNG{{
			Model:   "virtio",
			Rate:    &libvirtxml.DomainRNGRate{Bytes: 64 << 10, Period: 1000},
			Backend: &libvirtxml.DomainRNGBackend{Random: &libvirtxml.DomainRNGBackendRandom{Device: "/dev/urandom"}},
			Address: behind(portRNG),
		}},
	}
	if s.ReadySocket != "" {
		l.Channels = []libvirtxml.DomainChannel{{
			Source: &libvirtxml.DomainChardevSource{UNIX: &libvirtxml.DomainChardevSourceUNIX{Mode: "bind", Path: s.ReadySocket}},
			Target: &libvirtxml.DomainChannelTarget{VirtIO: &libvirtxml.DomainChannelTargetVirtIO{Name: ReadyPort}},
		}}
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
			Address:  behind(portSeed),
		})
	}
	if s.Tap != "" {
		l.Interfaces = append(l.Interfaces, s.nic())
	}
	if s.VTPM {
		l.TPMs = []libvirtxml.DomainTPM{{
			Model:   "tpm-crb",
			Backend: &libvirtxml.DomainTPMBackend{Emulator: &libvirtxml.DomainTPMBackendEmulator{Version: "2.0"}},
		}}
	}
	return l
}

// nic is the domain's network interface. A tap that is there already (one of Open
// vSwitch's, guarded before the guest's first frame) is opened and never plugged
// anywhere by libvirt.
func (s *Spec) nic() libvirtxml.DomainInterface {
	nic := libvirtxml.DomainInterface{
		MAC:     &libvirtxml.DomainInterfaceMAC{Address: s.MAC},
		Source:  &libvirtxml.DomainInterfaceSource{Bridge: &libvirtxml.DomainInterfaceSourceBridge{Bridge: s.Bridge}},
		Target:  &libvirtxml.DomainInterfaceTarget{Dev: s.Tap},
		Model:   &libvirtxml.DomainInterfaceModel{Type: "virtio"},
		ROM:     &libvirtxml.DomainROM{Enabled: "no"}, // no network boot to wait for
		Address: behind(portNIC),
	}
	if s.Bridge == "" {
		nic.Source = &libvirtxml.DomainInterfaceSource{Ethernet: &libvirtxml.DomainInterfaceSourceEthernet{}}
		nic.Target.Managed = "no"
	}
	return nic
}

// arguments are the emulated devices libvirt 9 has no words for.
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
