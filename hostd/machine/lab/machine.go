package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/disk"
	"github.com/gpuaas/gpuaas/hostd/guest"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/network"
	"github.com/gpuaas/gpuaas/hostd/vm"
)

var _ machine.Machine = (*Machine)(nil)

// Machine is the lab host. It is safe for concurrent use. Acts on one VM are done
// one after the other, on different VMs at the same time.
type Machine struct {
	o      Options
	id     identity
	kvm    bool
	lock   *os.File
	d      *daemons
	host   *vm.Host
	net    *network.Network
	guests *guest.Guests

	closing sync.Once
	closed  error // of the first Close
}

// New brings the lab host up, or finds it as it was left: VMs that run are adopted.
// One process at a time can hold a Dir.
func New(ctx context.Context, o Options) (_ *Machine, err error) {
	o, err = o.withDefaults()
	if err != nil {
		return nil, err
	}
	if why := Missing(); why != "" {
		return nil, errors.New(why)
	}
	m := &Machine{o: o}
	for _, sub := range []string{"drives", "vms", "lv", "net"} {
		if err := os.MkdirAll(filepath.Join(o.Dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("lab: %w", err)
		}
	}
	if m.lock, err = lockDir(o.Dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = m.lock.Close()
		}
	}()
	if err := m.open(ctx); err != nil {
		return nil, err
	}
	return m, nil
}

// open loads what is in Dir and starts what does not run.
func (m *Machine) open(ctx context.Context) (err error) {
	if m.id, err = loadIdentity(m.o.Dir, m.o); err != nil {
		return err
	}
	for i := range m.id.Slots {
		path, err := m.drive(m.id.nvme(i))
		if err != nil {
			return err
		}
		if err := disk.Create(path, m.id.DriveBytes); err != nil {
			return err
		}
	}
	m.kvm = m.tryKVM(ctx)
	m.d = &daemons{dir: filepath.Join(m.o.Dir, "lv"), run: m.o.Run}
	if err := m.d.ensure(ctx); err != nil {
		return err
	}
	if m.net, err = network.New(filepath.Join(m.o.Dir, "net"), m.d.inside, network.KernelBridges{Namespace: m.d.holder}, network.Options{}); err != nil {
		return err
	}
	if err := m.net.Start(ctx); err != nil {
		return err
	}
	m.host = vm.NewHost(func(ctx context.Context) (net.Conn, error) { return m.d.dial(ctx, "libvirt-sock") })
	if err := m.host.Ping(ctx); err != nil {
		return errors.Join(err, m.host.Close())
	}
	boot, err := guest.BootID("/proc")
	if err != nil {
		return errors.Join(err, m.host.Close())
	}
	m.guests, err = guest.Open(ctx, guest.Options{
		Dir: filepath.Join(m.o.Dir, "vms"), Host: m.host, HostBoot: boot, Signs: m.signs, Dial: m.dialReady,
		Tend: m.tend, Repair: m.repair, RebootWait: m.o.RebootWait, ConsoleFileBytes: consoleFileBytes, Log: m.o.Log,
	})
	if err != nil {
		return errors.Join(err, m.host.Close())
	}
	m.o.Log.Info("lab host is up", "dir", m.o.Dir, "slots", m.id.Slots, "kvm", m.kvm, "vms", len(m.guests.States()))
	return nil
}

// signs are the last DHCP leases: a guest's sign of life.
func (m *Machine) signs() (map[string]guest.Sign, error) {
	leases, err := m.net.Leases()
	if err != nil {
		return nil, err
	}
	signs := make(map[string]guest.Sign, len(leases))
	for mac, l := range leases {
		signs[mac] = guest.Sign{At: l.At, Address: l.Address}
	}
	return signs, nil
}

func (m *Machine) dialReady(ctx context.Context, id domain.VMID) (net.Conn, error) {
	return m.d.dial(ctx, "gpuaas/"+readySocket(id))
}

// tend starts dnsmasq again when it is gone.
func (m *Machine) tend(ctx context.Context) error {
	if m.net.Running() {
		return nil
	}
	m.o.Log.Warn("dnsmasq is gone: starting it")
	return m.net.Start(ctx)
}

// repair starts what is missing when libvirtd does not answer.
func (m *Machine) repair(ctx context.Context) error {
	return errors.Join(m.d.ensure(ctx), m.net.Start(ctx))
}

// lockDir keeps a second process out. The kernel frees it with the process.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lab: %s is in use by another process: %w", dir, err), f.Close())
	}
	return f, nil
}

// Accelerated says whether guests run under KVM.
func (m *Machine) Accelerated() bool { return m.kvm }

// Events is the machine's own news.
func (m *Machine) Events() <-chan machine.Event { return m.guests.Events() }

// Close lets go of the host; VMs, libvirtd and network go on running.
func (m *Machine) Close() error {
	m.closing.Do(func() {
		m.guests.Close()
		m.closed = errors.Join(m.host.Close(), m.lock.Close())
	})
	return m.closed
}

// Shutdown pulls the plug of every VM, ends everything that the lab started and
// closes the machine. What stays are the files in Dir: drives, definitions,
// states. A later New starts from there, with all VMs off.
func (m *Machine) Shutdown(ctx context.Context) error {
	return errors.Join(m.guests.CutPower(ctx), m.Close(), m.net.Stop(ctx), m.d.stop(ctx))
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
