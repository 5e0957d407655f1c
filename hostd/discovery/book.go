package discovery

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/durable"
	"github.com/gpuaas/gpuaas/hostd/pci"
)

// book remembers what devices said of themselves while their own driver had them.
type book struct {
	path    string // "": only in memory
	frozen  bool   // nothing is written
	entries []entry
	changed bool
}

// entry is one device. It is the same one if it has the same Device Serial Number,
// or in the same boot is the same node of sysfs.
type entry struct {
	Address   pci.Address         `json:"address"`
	PCIID     string              `json:"pci_id"`
	Subsystem string              `json:"subsystem"`
	PCISerial string              `json:"pci_serial,omitempty"`
	Boot      string              `json:"boot_id"`
	Inode     uint64              `json:"inode"`
	From      domain.SerialSource `json:"serial_from"`
	Facts
}

const bookMax = 256 // entries; the oldest go first

func openBook(dir string) (*book, error) {
	b := &book{}
	if dir == "" {
		return b, nil
	}
	b.path = filepath.Join(dir, "devices.json")
	err := durable.ReadJSON(b.path, &b.entries)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("discovery: what was remembered of devices is damaged; if it is moved away, devices bound to vfio-pci have to be read anew: %w", err)
	}
	return b, nil
}

func (b *book) save() error {
	if !b.changed || b.path == "" || b.frozen {
		return nil
	}
	if err := durable.WriteJSON(b.path, b.entries); err != nil {
		return fmt.Errorf("discovery: %w", err)
	}
	b.changed = false
	return nil
}

// find returns what is remembered of a device that is provably the same.
func (b *book) find(e entry) (entry, bool) {
	for i := len(b.entries) - 1; i >= 0; i-- {
		if b.entries[i].same(e) {
			return b.entries[i], true
		}
	}
	return entry{}, false
}

func (e entry) same(o entry) bool {
	if e.PCIID != o.PCIID || e.Subsystem != o.Subsystem {
		return false
	}
	if e.PCISerial != "" || o.PCISerial != "" {
		return e.PCISerial == o.PCISerial
	}
	return e.Boot != "" && e.Boot == o.Boot && e.Inode == o.Inode && e.Address == o.Address
}

// keep remembers a device, in the place of what was known of it.
func (b *book) keep(e entry) {
	for i := range b.entries {
		if b.entries[i] == e {
			return
		}
	}
	b.changed = true
	b.entries = slices.DeleteFunc(b.entries, func(o entry) bool { return o.same(e) })
	b.entries = append(b.entries, e)
	if n := len(b.entries); n > bookMax {
		b.entries = slices.Delete(b.entries, 0, n-bookMax)
	}
}

// entryOf is a device as it is to be recognized.
func (l *look) entryOf(d *pci.Device) entry {
	e := entry{Address: d.Address, PCIID: d.IDs(), Subsystem: d.Subsystem(), PCISerial: l.pciSerial(d), Boot: l.boot}
	if inode, err := l.sys.Tree.Inode(d.Path); err == nil {
		e.Inode = inode
	} else {
		e.Boot = "" // nothing to recognize it by
	}
	return e
}

// pciSerial is the Device Serial Number as lspci prints it; "" if it has none, or
// another device of the host has the same: then it names nobody. The functions of
// one device share theirs.
func (l *look) pciSerial(d *pci.Device) string {
	if d.SerialNumber == 0 {
		return ""
	}
	for _, o := range l.devices {
		if o.SerialNumber == d.SerialNumber && !o.Address.SameDevice(d.Address) && !o.Bridge() {
			return ""
		}
	}
	n := d.SerialNumber
	return fmt.Sprintf("%02x-%02x-%02x-%02x-%02x-%02x-%02x-%02x", byte(n>>56), byte(n>>48), byte(n>>40), byte(n>>32), byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}
