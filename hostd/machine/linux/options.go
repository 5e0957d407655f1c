package linux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/discovery"
	"github.com/gpuaas/gpuaas/hostd/guest"
	"github.com/gpuaas/gpuaas/hostd/metadata"
	"github.com/gpuaas/gpuaas/hostd/network"
	"github.com/gpuaas/gpuaas/hostd/pci"
	"github.com/gpuaas/gpuaas/hostd/program"
	"github.com/gpuaas/gpuaas/hostd/vfio"
	"github.com/gpuaas/gpuaas/hostd/vm"
)

// Options describe a real host. Dir and Discovery.Host are required.
type Options struct {
	Dir       string // everything of this machine; made if absent
	Discovery discovery.Config

	Libvirt  string // libvirtd's socket; "": /run/libvirt/libvirt-sock
	Emulated bool   // guests run in software: for hosts that are emulated themselves
	Kernel   string // guests boot this file instead of their drive: for tests of everything else

	Firmware, FirmwareVars string // UEFI code and template of variables; "": Debian's OVMF
	// For VMs with Secure Boot; "": Debian's OVMF with Microsoft's keys enrolled, as
	// distributions' boot loaders are signed.
	SecureFirmware, SecureFirmwareVars string
	ConfidentialFirmware               string // measured and without variables; required to offer confidential VMs

	// Features are what the host offers its VMs. nil: Secure Boot and vTPM, as far as
	// the programs for them are installed.
	Features *domain.Features

	Users      vm.Users // accounts that QEMU runs as, one for each VM; zero: libvirt's own
	LockMemory bool     // guests' memory is never swapped; with hugepages it cannot be anyway

	// VFs are the physical functions that get virtual ones at every start, and how many.
	VFs map[pci.Address]uint16

	// Probe is a program that looks at a slot's GPU after its reset: see prober. "": nobody
	// does, and the evidence says so.
	Probe string

	// ClearImages removes tenants' own images that no VM of this host has from the cache
	// of images, and says how many were there and which are left; see hostd.ImageCache.
	// nil: nobody looks for them, and no wipe is verified.
	ClearImages func(ctx context.Context) (removed int, left []string, err error)

	RebootWait       time.Duration // how long a guest may take to go down for a reboot; 0: 30 s
	ConsoleFileBytes int64         // virtlogd's max_size; 0: its default, 2 MiB
	DeviceWatch      time.Duration // between two looks at the running VMs' devices; 0: 5 s

	Uplink    string         // interface that leads out of the host; required with the real network
	Closed    []netip.Prefix // networks behind it that no guest may reach: management, storage, other hosts
	OVSRunDir string         // of Open vSwitch; "": /var/run/openvswitch

	Log *slog.Logger // nil: none

	// The seams to the host; nil: the real ones.
	Hypervisor Hypervisor
	Bus        vfio.Kernel
	Links      vfio.Links
	Run        program.Run
	Network    Network
	Sockets    metadata.Sockets
	Wiper      Wiper
	Uevents    func() (io.ReadCloser, error) // each Read gives one message; Close ends it
}

// Hypervisor is libvirt: vm.Host.
type Hypervisor interface {
	guest.Hypervisor
	Machine(ctx context.Context, kvm bool) (string, error)
	Close() error
}

// Network is the tenants' networks on this host.
type Network interface {
	Start(ctx context.Context) error
	Attach(ctx context.Context, p network.Port) (network.Port, error)
	Detach(ctx context.Context, vm string) error
	Port(vm string) (network.Port, bool)
	Leases() (map[string]network.Lease, error)
	Running() bool
	Find(bridge string, source netip.Addr) (network.Port, bool)
	Interfaces() []string
}

// Wiper erases the devices of a slot with proof. The drive is with the nvme driver
// when it is called, and is the one with the slot's serial.
type Wiper interface {
	Wipe(ctx context.Context, slot domain.SlotSpec, w domain.PlacedWipe) ([]domain.DeviceWipe, error)
}

func (o Options) withDefaults() (Options, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil || o.Dir == "" {
		return o, errors.New("linux: no folder")
	}
	o.Dir = dir
	if o.Network == nil && o.Uplink == "" {
		return o, errors.New("linux: which interface leads out? Uplink is required")
	}
	set := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	set(&o.Libvirt, "/run/libvirt/libvirt-sock")
	set(&o.Discovery.Sys, "/sys")
	set(&o.Discovery.Proc, "/proc")
	set(&o.Discovery.Dev, "/dev")
	set(&o.Discovery.StateDir, dir)
	set(&o.Firmware, "/usr/share/OVMF/OVMF_CODE_4M.fd")
	set(&o.FirmwareVars, "/usr/share/OVMF/OVMF_VARS_4M.fd")
	set(&o.SecureFirmware, "/usr/share/OVMF/OVMF_CODE_4M.ms.fd")
	set(&o.SecureFirmwareVars, "/usr/share/OVMF/OVMF_VARS_4M.ms.fd")
	if o.Features == nil {
		o.Features = o.possible()
	}
	o.Discovery.Features = *o.Features
	if o.ConsoleFileBytes == 0 {
		o.ConsoleFileBytes = 2 << 20
	}
	if o.DeviceWatch == 0 {
		o.DeviceWatch = 5 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Run == nil {
		o.Run = program.Execute
	}
	if o.Bus == nil {
		o.Bus = vfio.Linux{Sys: o.Discovery.Sys, Dev: o.Discovery.Dev}
	}
	if o.Sockets == nil {
		o.Sockets = metadata.Devices{}
	}
	if o.Links == nil {
		o.Links = vfio.Netlink{}
	}
	if o.Uevents == nil {
		o.Uevents = kernelUevents
	}
	if o.Probe != "" && !filepath.IsAbs(o.Probe) {
		return o, fmt.Errorf("linux: the probe %q has to be a whole path", o.Probe)
	}
	if o.Users != (vm.Users{}) {
		if _, err := o.Users.Of(0); err != nil {
			return o, fmt.Errorf("linux: %w", err)
		}
	}
	return o, nil
}

// Missing says what this machine lacks to be a real host, "" if nothing.
func Missing(o Options) string {
	if os.Geteuid() != 0 {
		return "the linux machine needs root: it binds drivers and makes network interfaces"
	}
	o, err := o.withDefaults()
	if err != nil {
		return err.Error()
	}
	if groups, err := os.ReadDir(filepath.Join(o.Discovery.Sys, "kernel/iommu_groups")); err != nil || len(groups) == 0 {
		return "there are no IOMMU groups: switch VT-d or AMD-Vi on in the firmware, and intel_iommu=on on the kernel's command line"
	}
	missing := program.Missing("qemu-img", "qemu-system-x86_64", "modprobe", "ovs-vsctl", "ovs-ofctl", "nft", "dnsmasq", "ip", "sysctl")
	if o.Kernel == "" {
		missing = append(missing, absent(o.Firmware, o.FirmwareVars)...)
	}
	missing = append(missing, o.lacks(*o.Features)...)
	if st, err := os.Stat(o.Probe); o.Probe != "" && (err != nil || st.Mode()&0o111 == 0) {
		return fmt.Sprintf("the probe %s is no program that can be run", o.Probe)
	}
	if len(missing) > 0 {
		return fmt.Sprintf("missing: %v: install the packages of deploy/hostd/packages.txt", missing)
	}
	return ""
}
