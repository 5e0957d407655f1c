package discovery

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/pci"
)

// Config says what to look for. Host is required; zero fields take the default.
type Config struct {
	// Host names this host for ever: part of serials by location, which have to be
	// unique in the whole site.
	Host string

	Sys, Proc, Dev string // "/sys", "/proc", "/dev"

	GPUs         []GPU    // what counts as a GPU: the first that matches; default [NVIDIA]
	InternalNICs []string // "vendor:device" globs of network functions that belong to the baseboard
	VF           VFKind   // default [VFAny]
	Reserve      Reserve
	ACS          ACSProfile
	SlotsMax     int             // default and at most 64
	Features     domain.Features // what the host can give its VMs

	// StateDir is where what was read of devices is remembered until they are bound to
	// vfio-pci, in devices.json; "": nowhere, then bound devices are unsafe.
	StateDir string
	// ReadOnly leaves that as it is: a look beside a daemon, or before there is one.
	ReadOnly bool

	// Approved gives the map in force, so that what is approved stays together and is
	// not read; nil, or a nil map: none.
	Approved func() *domain.SlotMap

	// GPUFacts asks a vendor's tool what it knows of its GPUs; see [NvidiaSMI]. It is
	// called once a look, when a GPU is bound to a driver other than vfio-pci. nil:
	// only the driver's own files are read.
	GPUFacts func(ctx context.Context) (map[pci.Address]Facts, error)

	// Prove reads the identity of a device that is bound to vfio-pci and was last read
	// in another boot, by binding it to its own driver for a moment. It is called only
	// for GPUs and drives, and has to refuse a device that a VM has. nil: such devices
	// are unsafe until somebody does so.
	Prove func(ctx context.Context, a pci.Address) (Facts, error)

	// Disks looks at block devices; nil: those in Dev.
	Disks Disks
}

// Facts are what a device's own driver says of it. Empty fields are not known.
type Facts struct {
	Serial    string `json:"serial"`
	Model     string `json:"model,omitempty"`
	Firmware  string `json:"firmware,omitempty"`
	UUID      string `json:"uuid,omitempty"`      // of a GPU
	ModuleID  uint32 `json:"module_id,omitempty"` // of a GPU
	SizeBytes uint64 `json:"size_bytes,omitempty"`
	LBABytes  uint32 `json:"lba_bytes,omitempty"` // of a drive
}

// GPU is a kind of device that is rented as a GPU. Patterns are globs as of
// path.Match.
type GPU struct {
	IDs         string // "10de:2330", "10de:*"
	Class       string // six hexadecimal digits, "0302*"; "": any
	Name        string // the slot map's class; "": "pci-vendor-device"
	Model       string // shown if the driver does not say; "": Name
	MemoryBytes uint64 // 0: not known
	ByLocation  bool   // may be known by location if it has no serial
}

// NVIDIA is the default match list. Of kinds that are not in it nothing but the
// name is missing.
var NVIDIA = []GPU{
	{IDs: "10de:20b2", Class: "0302*", Name: "a100-sxm4-80gb", Model: "NVIDIA A100-SXM4-80GB", MemoryBytes: 80 << 30},
	{IDs: "10de:20b5", Class: "0302*", Name: "a100-pcie-80gb", Model: "NVIDIA A100 80GB PCIe", MemoryBytes: 80 << 30},
	{IDs: "10de:26b9", Class: "0302*", Name: "l40s", Model: "NVIDIA L40S", MemoryBytes: 48 << 30},
	{IDs: "10de:2330", Class: "0302*", Name: "h100-sxm5-80gb", Model: "NVIDIA H100 80GB HBM3", MemoryBytes: 80 << 30},
	{IDs: "10de:2331", Class: "0302*", Name: "h100-pcie-80gb", Model: "NVIDIA H100 PCIe", MemoryBytes: 80 << 30},
	{IDs: "10de:2335", Class: "0302*", Name: "h200-sxm-141gb", Model: "NVIDIA H200", MemoryBytes: 141 << 30},
	{IDs: "10de:2901", Class: "0302*", Name: "b200-sxm-180gb", Model: "NVIDIA B200", MemoryBytes: 180 << 30},
	{IDs: "10de:*", Class: "030[02]*"},
}

// VFKind says which virtual functions slots get.
type VFKind string

// The kinds.
const (
	VFAny        VFKind = "any"        // InfiniBand where the host has it, else Ethernet, else none
	VFInfiniBand VFKind = "infiniband" // a GPU without one is a spare
	VFEthernet   VFKind = "ethernet"
	VFNone       VFKind = "none"
)

// Reserve is what stays with the host, of each NUMA node. -1 is nothing.
type Reserve struct {
	Cores     int // whole cores; default a sixteenth, of the first node at least one
	MemoryMiB int // default a sixteenth, at least 1 GiB or a quarter, at most 32 GiB
}

// ACSProfile is an operator's word on ports that isolate without saying so by ACS,
// or whose lack of it is accepted. The slot map carries all of it: whoever vouches for
// another port proposes another map.
type ACSProfile struct {
	Name  string   // "" with no ports: "strict"
	Ports []string // "vendor:device" globs of bridges, at most 32
}

const (
	acsPortsMax   = 32
	acsPatternMax = 64 // characters
)

// complete checks what was given and fills in the rest.
func (c *Config) complete() error {
	if c.Host == "" {
		return errors.New("discovery: Config.Host is required: it makes serials by location unique")
	}
	for _, d := range []struct {
		of    *string
		value string
	}{{&c.Sys, "/sys"}, {&c.Proc, "/proc"}, {&c.Dev, "/dev"}} {
		if *d.of == "" {
			*d.of = d.value
		}
	}
	if c.GPUs == nil {
		c.GPUs = NVIDIA
	}
	switch c.VF {
	case "":
		c.VF = VFAny
	case VFAny, VFInfiniBand, VFEthernet, VFNone:
	default:
		return fmt.Errorf("discovery: %q is no kind of VF: want any, infiniband, ethernet or none", c.VF)
	}
	switch {
	case c.ACS.Name == "" && len(c.ACS.Ports) > 0:
		return errors.New("discovery: an ACS profile that vouches for ports needs a name: the operator approves it with the slot map")
	case c.ACS.Name == "":
		c.ACS.Name = "strict"
	case c.ACS.Name == "strict" && len(c.ACS.Ports) > 0:
		return errors.New(`discovery: the ACS profile "strict" vouches for no port: give it another name`)
	}
	if len(c.ACS.Ports) > acsPortsMax || slices.ContainsFunc(c.ACS.Ports, func(p string) bool { return p == "" || len(p) > acsPatternMax }) {
		return fmt.Errorf("discovery: an ACS profile vouches for at most %d ports, each a pattern of 1 to %d characters", acsPortsMax, acsPatternMax)
	}
	c.ACS.Ports = slices.Compact(slices.Sorted(slices.Values(c.ACS.Ports)))
	if c.SlotsMax <= 0 || c.SlotsMax > slotsMax {
		c.SlotsMax = slotsMax
	}
	if c.Approved == nil {
		c.Approved = func() *domain.SlotMap { return nil }
	}
	if c.Disks == nil {
		c.Disks = blockDevices{c.Dev}
	}
	patterns := append(append([]string(nil), c.InternalNICs...), c.ACS.Ports...)
	for _, g := range c.GPUs {
		patterns = append(patterns, g.IDs, g.Class)
	}
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Errorf("discovery: %q: %w", p, err)
		}
	}
	return nil
}

// slotsMax is how many slots a map can have (domain, maxSlotsOnMap).
const slotsMax = 64

// gpu returns the kind of GPU that a device is, nil if it is none.
func (c *Config) gpu(d *pci.Device) *GPU {
	for i := range c.GPUs {
		g := &c.GPUs[i]
		if matches(g.IDs, d.IDs()) && (g.Class == "" || matches(g.Class, fmt.Sprintf("%06x", d.Class))) && !d.VF {
			return g
		}
	}
	return nil
}

func (g *GPU) name(d *pci.Device) string {
	if g.Name != "" {
		return g.Name
	}
	return fmt.Sprintf("pci-%04x-%04x", d.Vendor, d.ID)
}

func matches(pattern, s string) bool { ok, _ := path.Match(pattern, s); return ok }

func anyMatches(patterns []string, s string) bool {
	for _, p := range patterns {
		if matches(p, s) {
			return true
		}
	}
	return false
}
