package discovery

import (
	"fmt"
	"strings"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/pci"
	"github.com/gpuaas/gpuaas/hostd/pci/attr"
)

const vfio = "vfio-pci"

// serialMax bounds a serial; NVMe's have 20 characters, GPU UUIDs 40.
const serialMax = 96

// identify finds out who a GPU or a drive is: by what its driver says now, else by
// what it said before, else by asking again. It fills in the candidate's serial,
// model, firmware and sizes. ok is false if none of these knows.
func (l *look) identify(c *candidate, live Facts) (ok bool) {
	e := l.entryOf(c.pci)
	before, known := l.book.find(e)
	c.dev.PCISerial = e.PCISerial
	e.From = domain.SerialOfDevice
	switch {
	case live.Serial != "":
		if known {
			live = stay(live, before.Facts)
		}
		if known && before.From == domain.SerialOfPCI { // as it was first known, and perhaps approved
			live.Serial, e.From = before.Serial, before.From
		}
		e.Facts = live
		l.book.keep(e)
	case known:
		e.Facts, e.From = before.Facts, before.From
	case c.kind == kindGPU && c.gpu.ByLocation:
		return false // its place names it, in every boot: there is nothing to ask
	case c.pci.Driver == vfio && l.c.Prove != nil:
		proved, err := l.c.Prove(l.ctx, c.pci.Address)
		if err != nil {
			c.against("its identity cannot be proved: %s", plain(err))
			return false
		}
		e.Facts = proved
		if proved.Serial == "" {
			return false
		}
		l.book.keep(e)
	default:
		return false
	}
	l.take(c, e.Facts, e.From)
	return true
}

// stay keeps a GPU known by the name it had, whichever of serial and UUID could be
// read first: it may be approved by that.
func stay(now, before Facts) Facts {
	if now.UUID == "" || now.UUID != before.UUID {
		return now
	}
	if now.Serial == now.UUID || before.Serial == before.UUID {
		now.Serial = before.Serial
	}
	if now.ModuleID == 0 {
		now.ModuleID = before.ModuleID
	}
	return now
}

func (l *look) take(c *candidate, f Facts, from domain.SerialSource) {
	if len(f.Serial) > serialMax || !attr.Printable(f.Serial) || !attr.Printable(f.Model+f.Firmware+f.UUID) {
		c.against("its serial number is no text of at most %d printable characters", serialMax)
		return
	}
	d := &c.dev
	d.Serial, d.SerialFrom, d.UUID, d.ModuleID, d.Firmware = f.Serial, from, f.UUID, f.ModuleID, tidy(f.Firmware, 64)
	if f.Model != "" {
		d.Model = tidy(f.Model, 64)
	}
	if f.SizeBytes != 0 {
		d.SizeBytes = f.SizeBytes
	}
	d.LBABytes = f.LBABytes
}

// otherSerial is for a GPU that no driver knows: what PCI itself says of it, or
// where it is if that is allowed for its kind.
func (l *look) otherSerial(c *candidate) {
	c.dev.PCISerial = l.pciSerial(c.pci)
	switch {
	case c.dev.PCISerial != "":
		l.take(c, Facts{Serial: c.dev.PCISerial}, domain.SerialOfPCI)
	case l.vpdSerial(c.pci) != "":
		l.take(c, Facts{Serial: c.pci.IDs() + ":" + l.vpdSerial(c.pci)}, domain.SerialOfPCI)
	case c.gpu.ByLocation:
		l.take(c, Facts{Serial: l.location(c.pci)}, domain.SerialOfLocation)
	default:
		c.against("nothing identifies it: no serial from its driver, no Device Serial Number, no VPD; bind it to its own driver once")
		return
	}
	e := l.entryOf(c.pci) // so that it is known by the same when it is bound to vfio-pci
	e.Facts, e.From = Facts{Serial: c.dev.Serial}, c.dev.SerialFrom
	l.book.keep(e)
}

func (l *look) vpdSerial(d *pci.Device) string {
	if d.Driver == vfio { // its guest may be reading it
		return ""
	}
	v, err := l.sys.VPD(d)
	if err != nil {
		return ""
	}
	return v.Fields["SN"]
}

// location names a place on this host by the slots down to it, which stay when
// buses are numbered anew: "location:host/pci0000:16/01.0/00.0".
func (l *look) location(d *pci.Device) string {
	var b strings.Builder
	fmt.Fprintf(&b, "location:%s/%s", l.c.Host, d.Root)
	for _, a := range append(append([]pci.Address(nil), d.Above...), d.Address) {
		fmt.Fprintf(&b, "/%02x.%d", a.Device, a.Function)
	}
	return b.String()
}
