package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd"
	"github.com/gpuaas/gpuaas/hostd/discovery"
	"github.com/gpuaas/gpuaas/hostd/machine/linux"
	"github.com/gpuaas/gpuaas/hostd/pci"
	"github.com/gpuaas/gpuaas/hostd/program"
	"github.com/gpuaas/gpuaas/hostd/vm"
)

// linuxConfig are the settings of a real host; deploy/hostd/hostd.yaml explains them.
type linuxConfig struct {
	Uplink     string            `yaml:"uplink"`
	Closed     []string          `yaml:"closed"`
	Libvirt    string            `yaml:"libvirt"`
	Emulated   bool              `yaml:"emulated"`
	Kernel     string            `yaml:"kernel"` // guests boot this file instead of their drive: for tests
	Features   *[]string         `yaml:"features"`
	Confident  string            `yaml:"confidential_firmware"`
	LockMemory bool              `yaml:"lock_memory"`
	Users      usersConfig       `yaml:"users"`
	VFs        map[string]uint16 `yaml:"vfs"`
	Reserve    reserveConfig     `yaml:"reserve"`
	SlotsMax   int               `yaml:"slots_max"`
	VF         string            `yaml:"vf"`
	Probe      string            `yaml:"probe"` // program that looks at a GPU after its reset
	NICs       []string          `yaml:"internal_nics"`
	ACS        acsConfig         `yaml:"acs"`
	GPUs       []gpuConfig       `yaml:"gpus"`
}

type usersConfig struct {
	First uint32 `yaml:"first"`
	Count uint32 `yaml:"count"`
}

type reserveConfig struct {
	Cores     int `yaml:"cores"`
	MemoryMiB int `yaml:"memory_mib"`
}

type acsConfig struct {
	Name  string   `yaml:"name"`
	Ports []string `yaml:"ports"`
}

type gpuConfig struct {
	IDs         string `yaml:"ids"`
	Class       string `yaml:"class"`
	Name        string `yaml:"name"`
	Model       string `yaml:"model"`
	MemoryBytes uint64 `yaml:"memory_bytes"`
	ByLocation  bool   `yaml:"by_location"`
}

// options makes the machine's options of the settings.
func (c *linuxConfig) options(dir string, host domain.HostID, log *slog.Logger) (linux.Options, error) {
	o := linux.Options{
		Dir: filepath.Join(dir, "linux"), Uplink: c.Uplink, Libvirt: c.Libvirt, Emulated: c.Emulated, Kernel: c.Kernel,
		ConfidentialFirmware: c.Confident, LockMemory: c.LockMemory, Probe: c.Probe, Users: vm.Users{First: c.Users.First, Count: c.Users.Count},
		Discovery: discovery.Config{
			Host: host.String(), VF: discovery.VFKind(c.VF), InternalNICs: c.NICs, SlotsMax: c.SlotsMax,
			Reserve: discovery.Reserve{Cores: c.Reserve.Cores, MemoryMiB: c.Reserve.MemoryMiB},
			ACS:     discovery.ACSProfile{Name: c.ACS.Name, Ports: c.ACS.Ports},
		},
		Log: log,
	}
	if len(program.Missing("nvidia-smi")) == 0 {
		o.Discovery.GPUFacts = discovery.NvidiaSMI(program.Execute)
	}
	if c.Features != nil {
		f, err := domain.FeaturesOf(*c.Features)
		if err != nil {
			return o, fmt.Errorf("linux.features: %w", err)
		}
		o.Features = &f
	}
	for _, g := range c.GPUs {
		o.Discovery.GPUs = append(o.Discovery.GPUs, discovery.GPU{IDs: g.IDs, Class: g.Class, Name: g.Name, Model: g.Model, MemoryBytes: g.MemoryBytes, ByLocation: g.ByLocation})
	}
	for _, s := range c.Closed {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return o, fmt.Errorf("linux.closed: %w", err)
		}
		o.Closed = append(o.Closed, p)
	}
	for s, n := range c.VFs {
		a, err := pci.Parse(s)
		if err != nil {
			return o, fmt.Errorf("linux.vfs: %w", err)
		}
		if o.VFs == nil {
			o.VFs = map[pci.Address]uint16{}
		}
		o.VFs[a] = n
	}
	return o, nil
}

// later is what the machine asks of parts that are made after it.
type later struct {
	agent  atomic.Pointer[hostd.Agent]
	images atomic.Pointer[hostd.ImageCache]
}

// Map is the slot map in force.
func (l *later) Map() *domain.SlotMap {
	if agent := l.agent.Load(); agent != nil {
		return agent.Approved()
	}
	return nil
}

// ClearImages has the cache of images forget what no VM has.
func (l *later) ClearImages(ctx context.Context) (removed int, left []string, err error) {
	if images := l.images.Load(); images != nil {
		return images.Clear(ctx)
	}
	return 0, nil, errors.New("the cache of images is not open yet")
}

// checkCommand looks at a real host and says what it would propose and what is wrong.
func checkCommand(stderr io.Writer) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "check --config FILE",
		Short: "Say which slots this host would propose, what is unsafe, and what looks into tenants' drives",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c := config{Machine: "linux"}
			if err := c.read(file); err != nil {
				return err
			}
			return check(cmd.Context(), &c, cmd.OutOrStdout(), slog.New(slog.NewTextHandler(stderr, nil)))
		},
	}
	cmd.Flags().StringVar(&file, "config", "/etc/hostd.yaml", "YAML file with the settings")
	return cmd
}

func check(ctx context.Context, c *config, out io.Writer, log *slog.Logger) error {
	o, err := c.Linux.options(c.Dir, domain.HostID{}, log)
	if err != nil {
		return err
	}
	found, blind, err := linux.Check(ctx, o)
	if err != nil {
		return err
	}
	for _, s := range found.Slots {
		fmt.Fprintf(out, "slot %d: GPU %s (%s), drive %s (%s, %s), VF %s, NUMA node %d: %s\n",
			s.Index, s.GPU.Address, s.GPU.Serial, s.NVMe.Address, s.NVMe.Serial, s.OnDisk, cmp.Or(s.IBVF.Address, "none"), s.NUMANode, s.Why)
	}
	for _, s := range found.Spares {
		fmt.Fprintf(out, "spare %s %s (%s): %s\n", s.Kind, s.Device.Address, s.Device.Serial, s.Why)
	}
	for _, u := range found.Unsafe {
		fmt.Fprintf(out, "unsafe %s: %s\n", u.Address, u.Reason)
	}
	if err := missingVFs(o, out); err != nil {
		return err
	}
	for _, b := range blind {
		fmt.Fprintf(out, "the host looks into drives: %s\n", b)
	}
	if len(blind) > 0 {
		return fmt.Errorf("%d findings: see deploy/hostd/README.md", len(blind))
	}
	return nil
}

// missingVFs says which virtual functions are not there yet: a slot shown without one gets
// one when hostd runs.
func missingVFs(o linux.Options, out io.Writer) error {
	sys, err := pci.Open(cmp.Or(o.Discovery.Sys, "/sys"))
	if err != nil {
		return err
	}
	defer sys.Close()
	for _, pf := range slices.SortedFunc(maps.Keys(o.VFs), pci.Address.Compare) {
		d, err := sys.Device(pf)
		if err != nil {
			return fmt.Errorf("linux.vfs: %w", err)
		}
		switch has, want := d.NumVFs, o.VFs[pf]; {
		case want == 0 || want > d.TotalVFs:
			fmt.Fprintf(out, "virtual functions: %s can have 1 to %d, not %d\n", pf, d.TotalVFs, want)
		case has == 0:
			fmt.Fprintf(out, "virtual functions: %s has 0, want %d: hostd makes them when it starts, and gives each slot one\n", pf, want)
		case has != want:
			fmt.Fprintf(out, "virtual functions: %s has %d, want %d: take them away first (echo 0 > sriov_numvfs), when no VM has one\n", pf, has, want)
		}
	}
	return nil
}
