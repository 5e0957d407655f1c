package discovery

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/pci"
	"github.com/gpuaas/gpuaas/hostd/program"
)

// gpus finds the GPUs: function by function what the configuration lists, the other
// functions of the same device with it.
func (l *look) gpus() {
	var asked map[pci.Address]Facts
	var askErr error
	for _, a := range l.order {
		d := l.devices[a]
		if d == nil {
			continue
		}
		kind := l.c.gpu(d)
		if kind == nil || l.secondary(d) {
			continue
		}
		if l.c.GPUFacts != nil && asked == nil && d.Driver != "" && d.Driver != vfio {
			if asked, askErr = l.c.GPUFacts(l.ctx); asked == nil {
				asked = map[pci.Address]Facts{} // once a look
			}
		}
		c := l.candidate(kindGPU, d)
		c.gpu = kind
		c.dev.Model, c.dev.SizeBytes = kind.Model, kind.MemoryBytes
		if c.dev.Model == "" {
			c.dev.Model = kind.name(d)
		}
		live := Facts{}
		if d.Driver != vfio {
			live = merge(asked[a], l.driverFacts(d))
		}
		if known := l.identify(c, live); known && askErr != nil && c.dev.ModuleID == 0 {
			c.notes = append(c.notes, "the GPU's place among the NVLinks is not known: "+plain(askErr))
			continue
		} else if known || len(c.bad) > 0 {
			continue
		}
		if askErr != nil && d.Driver != vfio {
			c.against("its vendor's tool cannot be asked: %s", plain(askErr))
			continue
		}
		l.otherSerial(c)
	}
}

// secondary reports whether a lower function of the same device is the GPU.
func (l *look) secondary(d *pci.Device) bool {
	own, _ := l.siblings(d)
	return slices.ContainsFunc(own, func(o *pci.Device) bool { return o.Address.Function < d.Address.Function && l.c.gpu(o) != nil })
}

// candidate begins one with what PCI says of it.
func (l *look) candidate(kind string, d *pci.Device) *candidate {
	c := &candidate{kind: kind, pci: d, node: d.NUMANode}
	if c.node < 0 && len(l.nodes) == 1 {
		c.node = l.nodes[0].id // the firmware need not say what goes without saying
	}
	c.dev = domain.Device{
		Address: d.Address.String(), PCIID: d.IDs(), Subsystem: d.Subsystem(), Resets: d.Resets, IOMMUGroup: d.Group, Root: d.Root, Switch: l.switchAbove(d),
	}
	for _, b := range d.BARs {
		c.dev.BARs = append(c.dev.BARs, domain.BAR{Index: uint8(b.Index), SizeBytes: b.Size, Wide: b.Wide, Prefetchable: b.Prefetchable, IO: b.IO})
	}
	if kind != kindVF { // a VF's neighbours are other VFs
		own, all := l.siblings(d)
		if !all {
			c.against("another function of the device cannot be read")
		}
		c.own = own
		for _, o := range own {
			c.dev.Functions = append(c.dev.Functions, domain.DeviceFunction{Address: o.Address.String(), PCIID: o.IDs(), Class: fmt.Sprintf("%06x", o.Class), IOMMUGroup: o.Group})
		}
	}
	l.found = append(l.found, c)
	return c
}

// switchAbove is the upstream port of the nearest switch.
func (l *look) switchAbove(d *pci.Device) string {
	for i := len(d.Above) - 1; i >= 0; i-- {
		if p := l.devices[d.Above[i]]; p != nil && p.Type == pci.UpstreamPort {
			return p.Address.String()
		}
	}
	return ""
}

// driverFacts reads what NVIDIA's driver says in procfs: no serial, but a UUID.
func (l *look) driverFacts(d *pci.Device) Facts {
	b, err := l.proc.Bytes(path.Join("driver/nvidia/gpus", d.Address.String(), "information"))
	if err != nil {
		return Facts{}
	}
	var f Facts
	for line := range strings.SplitSeq(string(b), "\n") {
		key, value, _ := strings.Cut(line, ":")
		switch value = strings.TrimSpace(value); strings.TrimSpace(key) {
		case "Model":
			f.Model = value
		case "GPU UUID":
			f.UUID = value
		case "Video BIOS":
			f.Firmware = value
		}
	}
	if strings.Contains(f.UUID, "?") { // what the driver says before the GPU was first opened
		f.UUID = ""
	}
	f.Serial = f.UUID
	return f
}

// merge takes from a what it knows, and the rest from b.
func merge(a, b Facts) Facts {
	for _, f := range []struct{ to, from *string }{{&a.Serial, &b.Serial}, {&a.Model, &b.Model}, {&a.Firmware, &b.Firmware}, {&a.UUID, &b.UUID}} {
		if *f.to == "" {
			*f.to = *f.from
		}
	}
	if a.Serial == "" {
		a.Serial = a.UUID
	}
	return a
}

// smiWait bounds one question to nvidia-smi. With driver persistence off it starts
// every GPU first, which takes seconds each.
const smiWait = 40 * time.Second

// NvidiaSMI asks nvidia-smi for what only NVIDIA's driver knows: serial, UUID,
// NVLink module id, VBIOS version. Boards without a serial are known by UUID. A
// driver that hangs keeps the program from ending even when it is killed: the caller
// gets an error in time all the same, and no second one is started beside it.
func NvidiaSMI(run program.Run) func(ctx context.Context) (map[pci.Address]Facts, error) {
	type answer struct {
		out []byte
		err error
	}
	turn := make(chan struct{}, 1)
	return func(ctx context.Context) (map[pci.Address]Facts, error) {
		select {
		case turn <- struct{}{}:
		default:
			return nil, errors.New("nvidia-smi was asked before and still hangs")
		}
		ctx, cancel := context.WithTimeout(ctx, smiWait)
		defer cancel() // not before the answer is read, or it could be lost to it
		answers := make(chan answer, 1)
		go func() { // ends with the program
			out, err := run(ctx, "nvidia-smi", "-q")
			<-turn // before the answer: who has it may ask again at once
			answers <- answer{out, err}
		}()
		select {
		case a := <-answers:
			if a.err != nil {
				return nil, a.err
			}
			return parseSMI(string(a.out)), nil
		case <-ctx.Done():
			return nil, fmt.Errorf("nvidia-smi: %w", context.Cause(ctx))
		}
	}
}

// parseSMI reads `nvidia-smi -q`: a line "GPU 00000000:19:00.0" begins a GPU, and
// the first line with each key is the GPU's own.
func parseSMI(s string) map[pci.Address]Facts {
	out := map[pci.Address]Facts{}
	var at pci.Address
	var f *Facts
	keep := func() {
		if f != nil {
			out[at] = merge(*f, Facts{})
		}
	}
	for line := range strings.SplitSeq(s, "\n") {
		if name, ok := strings.CutPrefix(line, "GPU "); ok {
			keep()
			f = nil
			if a, err := smiAddress(strings.TrimSpace(name)); err == nil {
				at, f = a, new(Facts)
			}
			continue
		}
		key, value, _ := strings.Cut(line, ":")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if f == nil || value == "" || value == "N/A" || value == "0" && key == "Serial Number" {
			continue
		}
		first := func(to *string) {
			if *to == "" {
				*to = value
			}
		}
		switch key {
		case "Product Name":
			first(&f.Model)
		case "Serial Number":
			first(&f.Serial)
		case "GPU UUID":
			first(&f.UUID)
		case "VBIOS Version":
			first(&f.Firmware)
		case "Module ID", "Module Id", "GPU Module ID":
			if n, err := strconv.ParseUint(value, 10, 16); err == nil && f.ModuleID == 0 {
				f.ModuleID = uint32(n)
			}
		}
	}
	keep()
	return out
}

// smiAddress: "00000000:19:00.0", with a domain of eight digits in capitals.
func smiAddress(s string) (pci.Address, error) {
	s = strings.ToLower(s)
	if len(s) == len("00000000:19:00.0") {
		s = strings.TrimPrefix(s, "0000")
	}
	return pci.Parse(s)
}
