// Package vfiotest is a kernel for tests: it does to a sysfs tree of package pcitest
// what Linux does when drivers are bound and unbound, and fails as it is told to.
package vfiotest

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/gpuaas/gpuaas/hostd/pci"
	"github.com/gpuaas/gpuaas/hostd/pci/pcitest"
)

// Drive is what the nvme driver shows of a controller.
type Drive struct {
	Serial   string
	File     string // what stands behind its block device; "": an empty one of Bytes is made
	Bytes    int64
	LBABytes int    // 0: 512
	Hidden   bool   // the namespace does not appear
	Firmware string // "": "1.0"
}

// Kernel implements vfio.Kernel over a tree. Its fields are set before it is used.
type Kernel struct {
	Tree *pcitest.Tree
	Dev  string // folder of device nodes

	// Before is called before a write is done and After when it was; an error is the
	// write's. Either may block.
	Before, After func(name, value string) error

	// Refuses lists functions that a driver does not take: "vfio-pci 0000:01:00.0".
	Refuses map[string]bool
	// Default is the host's own driver of a function, by address.
	Default map[string]string

	t      testing.TB
	mu     sync.Mutex
	drives map[string]Drive
	next   int
	open   map[uint32]bool
	resets []string
}

// New makes a kernel over a tree.
func New(t testing.TB, tree *pcitest.Tree) *Kernel {
	k := &Kernel{
		Tree: tree, Dev: t.TempDir(), t: t,
		Refuses: map[string]bool{}, Default: map[string]string{}, drives: map[string]Drive{}, open: map[uint32]bool{},
	}
	tree.Mkdir("class/block")
	for _, d := range []string{"vfio-pci", "nvme"} {
		tree.Mkdir("bus/pci/drivers/" + d)
	}
	return k
}

// AddDrive puts a drive at the address of an NVMe function that is in the tree and
// binds it to nvme.
func (k *Kernel) AddDrive(address string, d Drive) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if d.File == "" {
		d.File = filepath.Join(k.Dev, "medium-"+d.Serial)
		if err := os.WriteFile(d.File, nil, 0o600); err != nil {
			k.t.Error(err)
		}
		if err := os.Truncate(d.File, d.Bytes); err != nil {
			k.t.Error(err)
		}
	}
	if d.LBABytes == 0 {
		d.LBABytes = 512
	}
	if d.Firmware == "" {
		d.Firmware = "1.0"
	}
	k.drives[address] = d
	k.Default[address] = "nvme"
	k.bind(address, "nvme")
}

// Swap puts another drive where one was, without anybody being told.
func (k *Kernel) Swap(address, serial string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	d := k.drives[address]
	d.Serial = serial
	k.drives[address] = d
}

// Hide has the drive with that serial show no namespace from now on: its controller's
// owner deleted it.
func (k *Kernel) Hide(serial string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for a, d := range k.drives {
		if d.Serial == serial {
			d.Hidden = true
			k.drives[a] = d
		}
	}
}

// Medium is the file behind the drive with that serial.
func (k *Kernel) Medium(serial string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, d := range k.drives {
		if d.Serial == serial {
			return d.File
		}
	}
	k.t.Errorf("no drive %s", serial)
	return ""
}

// Open says that a process has the group open, as a VM's QEMU does; or not any more.
func (k *Kernel) Open(group uint32, open bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.open[group] = open
}

// Resets are the resets that were done: "flr 0000:01:00.0".
func (k *Kernel) Resets() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]string(nil), k.resets...)
}

// Reboot has every function in the hands of the host's own driver again, and drives
// under other names than before.
func (k *Kernel) Reboot() {
	k.mu.Lock()
	defer k.mu.Unlock()
	entries, err := os.ReadDir(filepath.Join(k.Tree.Dir, "bus/pci/devices"))
	if err != nil {
		k.t.Error(err)
	}
	k.next = len(k.drives) - 1
	for _, e := range entries {
		k.unbind(e.Name())
		k.Tree.Write(k.Tree.Path(e.Name())+"/driver_override", "(null)\n")
	}
	for _, e := range entries {
		if d := k.Default[e.Name()]; d != "" {
			k.bind(e.Name(), d)
		}
	}
	k.open = map[uint32]bool{}
}

// Write implements vfio.Kernel.
func (k *Kernel) Write(name, value string) error {
	if k.Before != nil {
		if err := k.Before(name, value); err != nil {
			return err
		}
	}
	if err := k.write(name, strings.TrimSpace(value)); err != nil {
		return err
	}
	if k.After != nil {
		return k.After(name, value)
	}
	return nil
}

func (k *Kernel) write(name, value string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	address := path.Base(path.Dir(name)) // of an attribute of a device
	switch path.Base(name) {
	case "driver_override":
		if value == "" {
			value = "(null)"
		}
		return k.attribute(address, "driver_override", value)
	case "unbind":
		driver := path.Base(path.Dir(name))
		if k.driver(value) != driver {
			return fmt.Errorf("%s: %w", name, syscall.ENODEV)
		}
		k.unbind(value)
		return nil
	case "drivers_probe":
		return k.probe(value)
	case "reset_method":
		if strings.Fields(value)[0] == "bus" && k.siblings(address) > 0 {
			return fmt.Errorf("%s: %w", name, syscall.EINVAL) // whatever it lists
		}
		return k.attribute(address, path.Base(name), value)
	case "sriov_numvfs", "sriov_drivers_autoprobe":
		return k.attribute(address, path.Base(name), value)
	case "reset":
		method, _, _ := strings.Cut(k.read(address, "reset_method"), " ")
		k.resets = append(k.resets, method+" "+address)
		return nil
	}
	return fmt.Errorf("%s: %w", name, syscall.EACCES)
}

// siblings counts the other functions on the bus of a function.
func (k *Kernel) siblings(address string) (n int) {
	entries, err := os.ReadDir(filepath.Join(k.Tree.Dir, "bus/pci/devices"))
	if err != nil {
		k.t.Error(err)
	}
	for _, e := range entries {
		if e.Name() != address && path.Dir(k.Tree.Path(e.Name())) == path.Dir(k.Tree.Path(address)) {
			n++
		}
	}
	return n
}

// HotReset implements vfio.Kernel.
func (k *Kernel) HotReset(function string, group uint32, groups []uint32) error {
	name := k.Tree.Path(function) + "/hot"
	if k.Before != nil {
		if err := k.Before(name, ""); err != nil {
			return err
		}
	}
	k.mu.Lock()
	for _, g := range groups {
		if k.open[g] {
			k.mu.Unlock()
			return fmt.Errorf("IOMMU group %d: %w", g, syscall.EBUSY)
		}
	}
	k.resets = append(k.resets, fmt.Sprintf("hot %s of %v", function, groups))
	k.mu.Unlock()
	if k.After != nil {
		return k.After(name, "")
	}
	return nil
}

func (k *Kernel) probe(address string) error {
	if k.Tree.Path(address) == "" || !k.exists("bus/pci/devices/"+address) {
		return syscall.ENODEV
	}
	if k.driver(address) != "" {
		return nil
	}
	want := k.read(address, "driver_override")
	if want == "(null)" || want == "" {
		want = k.Default[address]
	}
	if want == "" || k.Refuses[want+" "+address] || want == "nvme" && k.drives[address].Serial == "" {
		return nil // the kernel says nothing
	}
	k.bind(address, want)
	return nil
}

func (k *Kernel) bind(address, driver string) {
	k.Tree.Bind(address, driver)
	d, isDrive := k.drives[address]
	if driver != "nvme" || !isDrive {
		return
	}
	// Names are given as controllers appear, and do not stay.
	name := fmt.Sprintf("nvme%d", k.next)
	k.next++
	dir := k.Tree.Path(address) + "/nvme/" + name
	k.Tree.Write(dir+"/state", "live\n")
	k.Tree.Write(dir+"/serial", d.Serial+"\n")
	k.Tree.Write(dir+"/model", "Fake NVMe\n")
	k.Tree.Write(dir+"/firmware_rev", d.Firmware+"\n")
	if d.Hidden {
		return
	}
	block := dir + "/" + name + "n1"
	k.Tree.Write(block+"/dev", fmt.Sprintf("259:%d\n", k.next))
	k.Tree.Write(block+"/size", fmt.Sprintf("%d\n", d.Bytes/512))
	k.Tree.Write(block+"/queue/logical_block_size", fmt.Sprintf("%d\n", d.LBABytes))
	k.Tree.Mkdir(block + "/holders")
	k.Tree.Link("class/block/"+name+"n1", block)
	if err := os.Symlink(d.File, filepath.Join(k.Dev, name+"n1")); err != nil {
		k.t.Error(err)
	}
}

func (k *Kernel) unbind(address string) {
	if names, err := os.ReadDir(filepath.Join(k.Tree.Dir, k.Tree.Path(address), "nvme")); err == nil {
		for _, n := range names {
			k.Tree.Remove("class/block/" + n.Name() + "n1")
			_ = os.Remove(filepath.Join(k.Dev, n.Name()+"n1"))
		}
		k.Tree.Remove(k.Tree.Path(address) + "/nvme")
	}
	k.Tree.Bind(address, "")
}

// Unplug takes the function away.
func (k *Kernel) Unplug(address string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.unbind(address)
	k.Tree.Remove("bus/pci/devices/" + address)
	k.Tree.Remove(k.Tree.Path(address))
}

// Pull takes the function from under the process that has it: it answers nothing any
// more, and stays in sysfs until it is let go.
func (k *Kernel) Pull(address string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.Tree.Write(k.Tree.Path(address)+"/config", strings.Repeat("\xff", 256))
}

// Driver is the driver that has the function.
func (k *Kernel) Driver(address string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.driver(address)
}

func (k *Kernel) driver(address string) string {
	to, err := os.Readlink(filepath.Join(k.Tree.Dir, k.Tree.Path(address), "driver"))
	if err != nil {
		return ""
	}
	return filepath.Base(to)
}

// Viable implements vfio.Kernel.
func (k *Kernel) Viable(group uint32) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.open[group] {
		return fmt.Errorf("IOMMU group %d: %w", group, syscall.EBUSY)
	}
	fs, err := pci.Open(k.Tree.Dir)
	if err != nil {
		return err
	}
	defer fs.Close()
	members, err := fs.Group(group)
	if err != nil {
		return err
	}
	for _, m := range members {
		d, err := fs.Device(m)
		if err != nil {
			return err
		}
		if d.Driver != "vfio-pci" && !d.Bridge() && d.Driver != "" {
			return errors.New("not viable")
		}
	}
	return nil
}

func (k *Kernel) read(address, name string) string {
	b, _ := os.ReadFile(filepath.Join(k.Tree.Dir, k.Tree.Path(address), name))
	return strings.TrimSpace(string(b))
}

func (k *Kernel) attribute(address, name, value string) error {
	if !k.exists(k.Tree.Path(address)) {
		return syscall.ENOENT
	}
	k.Tree.Write(k.Tree.Path(address)+"/"+name, value+"\n")
	return nil
}

func (k *Kernel) exists(name string) bool {
	_, err := os.Lstat(filepath.Join(k.Tree.Dir, name))
	return err == nil
}
