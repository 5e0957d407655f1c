package linux

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/discovery"
	"github.com/gpuaas/gpuaas/hostd/guest"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/metadata"
	"github.com/gpuaas/gpuaas/hostd/pci"
	"github.com/gpuaas/gpuaas/hostd/vfio"
	"github.com/gpuaas/gpuaas/hostd/vm"
	"github.com/gpuaas/gpuaas/hostd/wipe"
)

var _ machine.Machine = (*Machine)(nil)

// Machine is the real host. It is safe for concurrent use. Acts on one VM are done
// one after the other, on different VMs at the same time.
type Machine struct {
	o         Options
	lock      *os.File
	sys       *pci.Sysfs
	bind      *vfio.Binder
	host      Hypervisor
	guests    *guest.Guests
	discovery *discovery.Discovery
	book      *book
	store     *wipe.Store
	metadata  *metadata.Server

	life    context.Context // ends with Close
	stop    context.CancelFunc
	done    sync.WaitGroup
	closing sync.Once
	closed  error // of the first Close

	seizing atomic.Bool
	looking sync.Mutex // one look at the hardware at a time
	mu      sync.Mutex
	found   *domain.SlotMap       // by the last look; nil: none yet
	called  map[string]guest.Sign // by MAC: the last call of the metadata service

	faulted map[said]int // faults that are so, by how many looks found them; watchDevices' own

	turns   turns
	working map[string]bool // block devices that an act of ours has open; with mu

	scan  time.Duration // scanWait
	root  string        // tests: where the host's /etc, /run and /var are; "": /
	files bool          // tests: a drive's block device may be a file
}

// New finds the host as it is: VMs that run are adopted, virtual functions made. One
// process at a time can hold a Dir.
func New(ctx context.Context, o Options) (*Machine, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	return open(ctx, &Machine{o: o, scan: scanWait})
}

func open(ctx context.Context, m *Machine) (_ *Machine, err error) {
	m.working, m.called = map[string]bool{}, map[string]guest.Sign{}
	m.life, m.stop = context.WithCancel(context.Background())
	var undo []func() error
	defer func() {
		if err != nil {
			for _, f := range slices.Backward(undo) {
				err = errors.Join(err, f())
			}
		}
	}()
	vms := filepath.Join(m.o.Dir, "vms")
	if err := os.MkdirAll(vms, 0o711); err != nil {
		return nil, fmt.Errorf("linux: %w", err)
	}
	for _, dir := range []string{vms, filepath.Join(m.root, libvirtDir)} {
		if err := m.passable(dir); err != nil {
			return nil, err
		}
	}
	if err := m.sandboxed(); err != nil {
		return nil, err
	}
	if m.lock, err = lockDir(m.o.Dir); err != nil {
		return nil, err
	}
	undo = append(undo, m.lock.Close)
	if m.sys, err = pci.Open(m.o.Discovery.Sys); err != nil {
		return nil, fmt.Errorf("linux: %w", err)
	}
	undo = append(undo, m.sys.Close)
	m.bind = vfio.New(m.sys, m.o.Bus)
	if m.book, err = openBook(m.o.Dir, m.o.Discovery.Proc); err != nil {
		return nil, err
	}
	if m.store, err = wipe.OpenStore(filepath.Join(m.o.Dir, "wipe")); err != nil {
		return nil, fmt.Errorf("linux: %w", err)
	}
	if m.o.Wiper == nil {
		m.o.Wiper = eraser{m}
	}
	m.o.Discovery.Prove = m.prove
	if m.o.Discovery.Disks == nil {
		m.o.Discovery.Disks = discovery.BlockDevices(m.o.Discovery.Dev)
	}
	m.o.Discovery.Disks = &disks{m.o.Discovery.Disks, m}
	if m.discovery, err = discovery.New(m.o.Discovery); err != nil {
		return nil, fmt.Errorf("linux: %w", err)
	}
	for module, sign := range map[string]string{
		vfio.Driver: filepath.Join(m.o.Discovery.Sys, "bus/pci/drivers", vfio.Driver),
		"tun":       filepath.Join(m.o.Discovery.Sys, "class/misc/tun"),
	} {
		if _, err := os.Stat(sign); err == nil {
			continue
		}
		if _, err := m.o.Run(ctx, "modprobe", module); err != nil {
			return nil, fmt.Errorf("linux: %w", err)
		}
	}
	if err := m.makeVFs(ctx); err != nil {
		return nil, err
	}
	if err := m.openNetwork(ctx); err != nil {
		return nil, err
	}
	undo = append(undo, m.metadata.Close)
	if m.host = m.o.Hypervisor; m.host == nil {
		m.host = vm.NewHost(func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", m.o.Libvirt)
		})
	}
	undo = append(undo, m.host.Close)
	m.guests, err = guest.Open(ctx, guest.Options{
		Dir: vms, DirMode: 0o711, Host: m.host, HostBoot: m.book.boot, Signs: m.signs, Dial: m.dialReady, Doubt: m.doubt, Tend: m.tend,
		RebootWait: m.o.RebootWait, ConsoleFileBytes: m.o.ConsoleFileBytes, Log: m.o.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("linux: does libvirtd run? %w", err)
	}
	m.done.Go(func() { m.watchDevices(m.life) })
	m.done.Go(func() { m.watchUevents(m.life) })
	m.o.Log.Info("host is up", "dir", m.o.Dir, "vms", len(m.guests.States()))
	return m, nil
}

// lockDir keeps a second process out. The kernel frees it with the process.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("linux: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("linux: %s is in use by another process: %w", dir, err), f.Close())
	}
	return f, nil
}

// libvirtDir is where libvirt keeps a folder for each VM that runs. Debian's is closed to
// all accounts but libvirt's own.
const libvirtDir = "/var/lib/libvirt/qemu"

// passable says whether the VMs' own accounts can reach their files below dir.
func (m *Machine) passable(dir string) error {
	if m.o.Users == (vm.Users{}) {
		return nil
	}
	for at := dir; ; at = filepath.Dir(at) { // ends at the root
		st, err := os.Stat(at)
		if errors.Is(err, os.ErrNotExist) && at == dir {
			return nil // libvirt has its own elsewhere
		}
		if err != nil {
			return fmt.Errorf("linux: %w", err)
		}
		if st.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("linux: the VMs' accounts cannot pass through %s: chmod 711 %s", at, at)
		}
		if at == "/" {
			return nil
		}
	}
}

var noSandbox = regexp.MustCompile(`(?m)^\s*seccomp_sandbox\s*=\s*"?0`)

// sandboxed refuses a host whose libvirt was told to start QEMU without its filter of
// system calls, which it does not do by itself.
func (m *Machine) sandboxed() error {
	path := filepath.Join(m.root, "/etc/libvirt/qemu.conf")
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("linux: %w", err)
	}
	if noSandbox.Match(b) {
		return fmt.Errorf("linux: VMs would run without QEMU's filter of system calls: take seccomp_sandbox out of %s", path)
	}
	return nil
}

// makeVFs has every physical function of the configuration have its virtual ones.
func (m *Machine) makeVFs(ctx context.Context) error {
	for pf, n := range m.o.VFs {
		vfs, err := m.bind.MakeVFs(ctx, pf, n)
		if err != nil {
			return err
		}
		m.o.Log.Info("virtual functions", "of", pf, "are", vfs)
	}
	return nil
}

// Discover looks at the hardware and proposes a slot map.
func (m *Machine) Discover(ctx context.Context) (*domain.SlotMap, error) {
	m.looking.Lock()
	defer m.looking.Unlock()
	m.mu.Lock()
	first := m.found == nil
	m.mu.Unlock()
	if first {
		m.seizeEarly(ctx)
	}
	found, err := m.discovery.Discover(ctx)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	m.found = found
	m.mu.Unlock()
	if slots := m.approvedOf(found); len(slots) > 0 && m.seizing.CompareAndSwap(false, true) {
		m.done.Go(func() { // a wipe under way would hold up the look
			defer m.seizing.Store(false)
			m.seize(m.life, slots)
		})
	}
	if first {
		for _, w := range m.Blind(ctx) {
			m.o.Log.Warn("the host may look into tenants' drives", "finding", w)
		}
	}
	return found, nil
}

// Events is the machine's own news.
func (m *Machine) Events() <-chan machine.Event { return m.guests.Events() }

// Close lets go of the host; VMs and network go on running, devices stay where
// they are.
func (m *Machine) Close() error {
	m.closing.Do(func() {
		m.stop()
		m.done.Wait()
		m.guests.Close()
		m.closed = errors.Join(m.metadata.Close(), m.host.Close(), m.sys.Close(), m.lock.Close())
	})
	return m.closed
}

// Observe says which VMs exist, by libvirt's word and what is remembered.
func (m *Machine) Observe(ctx context.Context) ([]machine.Observed, error) {
	return m.guests.Observe(ctx)
}

// Stop presses the power button and, when grace has passed, pulls the plug.
func (m *Machine) Stop(ctx context.Context, id domain.VMID, grace domain.Duration) error {
	return m.guests.Stop(ctx, id, grace)
}

// Reboot has the guest go down and come up again. Fault: domain.not_running.
func (m *Machine) Reboot(ctx context.Context, id domain.VMID) error { return m.guests.Reboot(ctx, id) }

// Console reads the serial console; see guest.Guests.
func (m *Machine) Console(ctx context.Context, id domain.VMID, offset int64, limit int) (b []byte, next int64, err error) {
	return m.guests.Console(ctx, id, offset, limit)
}

// readySocket is the host's end of the VM's ready port.
func (m *Machine) readySocket(id domain.VMID) string { return m.guests.File(id, "ready.sock") }

// dialReady connects by the folder, because a socket's path has at most 107 bytes and
// Dir may be longer.
func (m *Machine) dialReady(ctx context.Context, id domain.VMID) (net.Conn, error) {
	dir, err := os.Open(m.guests.Dir(id))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var d net.Dialer
	return d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/ready.sock", dir.Fd()))
}
