package discovery

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/pci"
	"github.com/gpuaas/gpuaas/hostd/pci/attr"
)

// Discovery looks at one host, whenever it is asked. Looks must not overlap.
type Discovery struct {
	c    Config
	book *book
}

// New checks the configuration and reads what was remembered of devices.
func New(c Config) (*Discovery, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	b, err := openBook(c.StateDir)
	if err != nil {
		return nil, err
	}
	b.frozen = c.ReadOnly
	return &Discovery{c: c, book: b}, nil
}

// Discover looks at the host and proposes a slot map: deterministic, the same
// hardware gives the same map. A map without slots is no error: its unsafe devices
// say why. An error means that the host as a whole could not be read.
func (d *Discovery) Discover(ctx context.Context) (*domain.SlotMap, error) {
	sys, err := pci.Open(d.c.Sys)
	if err != nil {
		return nil, err
	}
	defer sys.Close()
	proc, err := attr.Open(d.c.Proc)
	if err != nil {
		return nil, err
	}
	defer proc.Close()
	l := &look{c: &d.c, ctx: ctx, sys: sys, proc: proc, book: d.book, devices: map[pci.Address]*pci.Device{}, claims: map[uint32][]pci.Address{}}
	return l.whole()
}

// look is one look at the host.
type look struct {
	c    *Config
	ctx  context.Context // of this one look
	sys  *pci.Sysfs
	proc *attr.Tree
	book *book
	boot string // id of the host's boot; "": not known

	nodes   []*node
	order   []pci.Address
	devices map[pci.Address]*pci.Device
	claims  map[uint32][]pci.Address // IOMMU group -> devices that say they are in it
	broken  []domain.UnsafeDevice    // devices that could not be read

	found []*candidate
}

// candidate is a device that could be part of a slot, with what is against it.
type candidate struct {
	kind   string // kindGPU, kindNVMe, kindVF
	pci    *pci.Device
	own    []*pci.Device // the device's other functions
	dev    domain.Device
	node   int
	gpu    *GPU // of a GPU
	pf     pci.Address
	group  string // of VFs of one PF: what they are listed together by
	blocks []block
	onDisk string
	ether  bool // of a VF
	bad    []string
	notes  []string      // what an operator should know, and nothing against it
	approx []pci.Address // ports on its way that only the profile vouches for
}

// The kinds, named as in the slot map.
const (
	kindGPU  = "gpu"
	kindNVMe = "nvme"
	kindVF   = "ib_vf"
)

func (c *candidate) against(format string, args ...any) {
	c.bad = append(c.bad, fmt.Sprintf(format, args...))
}

func (l *look) whole() (*domain.SlotMap, error) {
	var err error
	if l.nodes, err = l.topology(); err != nil {
		return nil, err
	}
	l.boot, _ = l.proc.Text("sys/kernel/random/boot_id")
	if err := l.readAll(); err != nil {
		return nil, err
	}
	l.gpus()
	if err := l.drives(); err != nil {
		return nil, err
	}
	l.vfs()
	for _, c := range l.found {
		l.judge(c)
	}
	l.judgeSerials()
	if err := l.ctx.Err(); err != nil {
		return nil, err
	}
	if err := l.book.save(); err != nil {
		return nil, err
	}
	return l.propose()
}

// devicesMax bounds the PCI functions of one host. Large ones have some thousand,
// most of them VFs.
const devicesMax = 4096

// readAll reads every PCI function: also those that nobody rents, because they may
// share a group or stand on the way. One that cannot be read is remembered as such.
func (l *look) readAll() error {
	var err error
	if l.order, err = l.sys.Addresses(); err != nil {
		return fmt.Errorf("discovery: %w", err)
	}
	if len(l.order) > devicesMax {
		return fmt.Errorf("discovery: %d PCI functions, at most %d are believed", len(l.order), devicesMax)
	}
	for _, a := range l.order {
		if err := l.ctx.Err(); err != nil {
			return err
		}
		d, err := l.sys.Device(a)
		if err != nil {
			l.broken = append(l.broken, domain.UnsafeDevice{Address: a.String(), Reason: "cannot be read: " + plain(err)})
			continue
		}
		l.devices[a] = d
		if d.Grouped {
			l.claims[d.Group] = append(l.claims[d.Group], a)
		}
	}
	return nil
}

// siblings are the other functions of the same device, in order, and whether all
// of them could be read.
func (l *look) siblings(d *pci.Device) (out []*pci.Device, all bool) {
	all = true
	at, _ := slices.BinarySearchFunc(l.order, pci.Address{Domain: d.Address.Domain, Bus: d.Address.Bus, Device: d.Address.Device}, pci.Address.Compare)
	for ; at < len(l.order) && l.order[at].SameDevice(d.Address); at++ {
		if a := l.order[at]; a == d.Address {
			continue
		} else if s := l.devices[a]; s != nil {
			out = append(out, s)
		} else {
			all = false
		}
	}
	return out, all
}

// plain is an error for a person's terminal and for the wire.
func plain(err error) string {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) && len(joined.Unwrap()) > 0 {
		err = joined.Unwrap()[0]
	}
	return tidy(err.Error(), 160)
}

// tidy keeps text short and printable.
func tidy(s string, most int) string {
	out := []byte(s[:min(len(s), most)])
	for i, b := range out {
		if b < ' ' || b > '~' {
			out[i] = '?'
		}
	}
	return string(out)
}
