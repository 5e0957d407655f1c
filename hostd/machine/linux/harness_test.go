package linux

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/discovery"
	"github.com/gpuaas/gpuaas/hostd/guest/guesttest"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/network"
	"github.com/gpuaas/gpuaas/hostd/pci"
	"github.com/gpuaas/gpuaas/hostd/pci/pcitest"
	"github.com/gpuaas/gpuaas/hostd/program"
	"github.com/gpuaas/gpuaas/hostd/vfio"
	"github.com/gpuaas/gpuaas/hostd/vfio/vfiotest"
)

const driveBytes = 4 << 20

// world is a host with everything around the machine faked at its narrowest seam:
// a kernel over a sysfs tree, libvirt, programs, network, wipe. It outlives machines,
// as a real one outlives the daemon.
type world struct {
	t     testing.TB
	dir   string // the machine's
	root  string // the host's /etc, /run, /var
	proc  string
	image string
	tree  *pcitest.Tree
	k     *vfiotest.Kernel
	lv    *libvirt
	net   *fakeNetwork
	news  *fakeUevents
	links *wiredLinks // nil: the slots have no virtual functions
	slots []domain.SlotSpec
	m     *Machine
	run   program.Run
	watch time.Duration // Options.DeviceWatch
	wipe  func(slot domain.SlotSpec, w domain.PlacedWipe) ([]domain.DeviceWipe, error)

	mu   sync.Mutex
	step func(what string, after bool) error // called around every act on the host
	acts []string
}

// secret is in the user data and in the tenant's data: it has to be gone at the end.
const secret = "c4n4ry-of-the-tenant"

func newWorld(t testing.TB, slots int) *world { return newWorldWith(t, slots, false) }

// newWorldWith also gives each slot an Ethernet virtual function.
func newWorldWith(t testing.TB, slots int, vfs bool) *world {
	t.Helper()
	w := &world{
		t: t, dir: filepath.Join(t.TempDir(), "machine"), root: t.TempDir(), proc: t.TempDir(), tree: pcitest.New(t),
		net:   &fakeNetwork{ports: map[string]network.Port{}},
		watch: 5 * time.Millisecond, news: &fakeUevents{sent: make(chan any)},
	}
	w.k = vfiotest.New(t, w.tree)
	w.k.Before, w.k.After = w.around("sysfs", false), w.around("sysfs", true)
	w.lv = &libvirt{Host: guesttest.New()}
	w.lv.Polite = true
	w.lv.Before = func(call, _ string) error { return w.act("libvirt "+call, false) }
	w.lv.After = func(call, _ string) error { w.opens(call); return w.act("libvirt "+call, true) }
	w.net.act = w.act
	w.run = w.qemuImg
	w.wipe = w.erase
	w.tree.Mkdir("class/misc/tun")
	w.boot("1")
	w.write(filepath.Join(w.proc, "cpuinfo"), "vendor_id : GenuineIntel\n")
	for i := range slots {
		w.addSlot(i)
	}
	if vfs {
		w.addVFs()
	}
	w.tree.Add(pcitest.Function{Address: "0000:f0:00.0", IDs: "8086:1533", Class: pcitest.ClassNIC, Group: 999, Driver: "igb"})
	w.k.Default["0000:f0:00.0"] = "igb"
	img := make([]byte, 1<<20)
	copy(img, "boot sector and "+"all the rest")
	img[510], img[511] = 0x55, 0xaa
	w.image = filepath.Join(t.TempDir(), "image.raw")
	w.write(w.image, string(img))
	w.open()
	t.Cleanup(func() {
		if err := w.m.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// addSlot puts the devices of slot i into the tree: a GPU with an audio function and
// a drive, each below a port of its own, on cores 2i+2 and 2i+3.
func (w *world) addSlot(i int) {
	bus := 0x10 + 2*i
	gpu, audio, drive := fmt.Sprintf("0000:%02x:00.0", bus), fmt.Sprintf("0000:%02x:00.1", bus), fmt.Sprintf("0000:%02x:00.0", bus+1)
	for k, child := range []int{bus, bus + 1} {
		w.tree.Add(pcitest.Function{Address: fmt.Sprintf("0000:00:%02x.%d", i+1, k), Class: pcitest.ClassBridge, Group: 100 + 10*i + k, Driver: "pcieport", Type: pci.RootPort})
		_ = child
	}
	w.tree.Add(pcitest.Function{Address: gpu, Parent: fmt.Sprintf("0000:00:%02x.0", i+1), IDs: "10de:2330", Class: pcitest.Class3D, Group: 10 * i, Resets: "flr bus", Multi: true, Driver: "nouveau"})
	w.tree.Add(pcitest.Function{Address: audio, Parent: fmt.Sprintf("0000:00:%02x.0", i+1), IDs: "10de:22ba", Class: pcitest.ClassAudio, Group: 10 * i, Multi: true})
	w.tree.Add(pcitest.Function{Address: drive, Parent: fmt.Sprintf("0000:00:%02x.1", i+1), IDs: "144d:a80a", Class: pcitest.ClassNVMe, Group: 10*i + 1, Resets: "flr bus"})
	w.k.Default[gpu] = "nouveau"
	serial := fmt.Sprintf("DRIVE%d", i)
	w.k.AddDrive(drive, vfiotest.Drive{Serial: serial, Bytes: driveBytes})
	threads := []uint16{uint16(2*i + 2), uint16(2*i + 3)}
	for _, t := range append([]uint16{0, 1}, threads...) {
		w.tree.Write(fmt.Sprintf("devices/system/cpu/cpu%d/topology/thread_siblings_list", t), fmt.Sprintf("%d-%d\n", t&^1, t|1))
	}
	w.slots = append(w.slots, domain.SlotSpec{
		Index: uint32(i), Threads: threads, MemoryMiB: 1024,
		GPU:  domain.Device{Address: gpu, Serial: fmt.Sprintf("GPU%d", i), PCIID: "10de:2330", Functions: []domain.DeviceFunction{{Address: audio, PCIID: "10de:22ba"}}, BARs: []domain.BAR{{SizeBytes: 64 << 30, Wide: true, Prefetchable: true}}},
		NVMe: domain.Device{Address: drive, Serial: serial, PCIID: "144d:a80a", SizeBytes: driveBytes},
	})
}

// addVFs gives every slot a virtual function of one card.
func (w *world) addVFs() {
	const pf = "0000:60:00.0"
	w.tree.Add(pcitest.Function{Address: pf, IDs: "15b3:1021", Class: pcitest.ClassNIC, Group: 600, TotalVFs: 8, Driver: "mlx5_core"})
	w.tree.Mkdir(w.tree.Path(pf) + "/net/eth9")
	w.k.Default[pf] = "mlx5_core"
	w.links = &wiredLinks{w: w, links: links{}}
	for i := range w.slots {
		vf := fmt.Sprintf("0000:60:00.%d", i+1)
		w.tree.AddVF(pf, pcitest.Function{Address: vf, IDs: "15b3:101e", Class: pcitest.ClassNIC, Group: 601 + i, Resets: "flr"})
		w.slots[i].IBVF = domain.Device{Address: vf, Serial: fmt.Sprintf("card/vf%d", i), PCIID: "15b3:101e"}
		w.links.links[fmt.Sprint("eth9", i)] = vfio.VFConfig{MAC: fmt.Sprintf("02:00:00:00:01:%02x", i), Trust: true, Link: vfio.LinkAuto}
	}
}

// wiredLinks is what the card keeps of its virtual functions.
type wiredLinks struct {
	w     *world
	mu    sync.Mutex
	links links
}

func (l *wiredLinks) SetVF(ifname string, index int, c vfio.VFConfig) error {
	if err := l.w.act("vf set", false); err != nil {
		return err
	}
	l.mu.Lock()
	err := l.links.SetVF(ifname, index, c)
	l.mu.Unlock()
	return errors.Join(err, l.w.act("vf set", true))
}

func (l *wiredLinks) VF(ifname string, index int) (vfio.VFConfig, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.links.VF(ifname, index)
}

func (w *world) write(path, content string) {
	w.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// boot gives the host a new boot id.
func (w *world) boot(id string) {
	w.write(filepath.Join(w.proc, "sys/kernel/random/boot_id"), id+"\n")
}

// open makes the machine, or the next one after a crash.
func (w *world) open() {
	w.t.Helper()
	w.net.mu.Lock()
	w.net.down = false
	w.net.mu.Unlock()
	o, err := Options{
		Dir: w.dir, Discovery: discovery.Config{Host: "h", Sys: w.tree.Dir, Proc: w.proc, Dev: w.k.Dev},
		Network: w.net, Wiper: wiper{w}, Hypervisor: w.lv, Bus: w.k, Run: w.run, Emulated: true,
		DeviceWatch: w.watch, Uevents: w.news.open,
	}.withDefaults()
	if err != nil {
		w.t.Fatal(err)
	}
	if w.links != nil {
		o.Links = w.links
	}
	node := domain.NUMANode{MemoryMiB: 1 << 20, Threads: []uint16{0, 1}}
	for _, s := range w.slots {
		node.Threads = append(node.Threads, s.Threads...)
	}
	m := &Machine{o: o, scan: 50 * time.Millisecond, root: w.root, files: true, found: &domain.SlotMap{Slots: w.slots, Nodes: []domain.NUMANode{node}}}
	if w.m, err = open(w.t.Context(), m); err != nil {
		w.t.Fatal(err)
	}
}

// act is called around every act on the host.
func (w *world) act(what string, after bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !after {
		w.acts = append(w.acts, what)
	}
	if w.step == nil {
		return nil
	}
	return w.step(what, after)
}

func (w *world) around(kind string, after bool) func(name, value string) error {
	return func(name, value string) error {
		return w.act(kind+" "+filepath.Base(name)+" "+strings.TrimSpace(value), after)
	}
}

// opens has QEMU hold the groups of what it runs.
func (w *world) opens(call string) {
	if call != "start" && call != "destroy" && call != "power button" {
		return
	}
	running := false
	for name := range w.lv.Domains() {
		on, _ := w.lv.Running(w.t.Context(), name)
		running = running || on
	}
	for i := range w.slots {
		w.k.Open(uint32(10*i), running)
		w.k.Open(uint32(10*i+1), running)
		w.k.Open(uint32(601+i), running)
	}
}

// qemuImg does what the two commands do, on files.
func (w *world) qemuImg(_ context.Context, name string, args ...string) ([]byte, error) {
	if err := w.act(name+" "+args[0], false); err != nil {
		return nil, err
	}
	src, err := os.ReadFile(w.image)
	if err != nil {
		return nil, err
	}
	switch args[0] {
	case "convert":
		f, err := os.OpenFile(args[len(args)-1], os.O_WRONLY, 0)
		if err != nil {
			return nil, err
		}
		if _, err := f.Write(src); err != nil {
			return nil, err
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	case "compare":
		_, rest, _ := strings.Cut(args[len(args)-1], "file.filename=")
		path, _, _ := strings.Cut(rest, ",")
		b, err := os.ReadFile(path)
		if err != nil || !bytes.HasPrefix(b, src) {
			return nil, fmt.Errorf("content mismatch: %w", err)
		}
	}
	return nil, w.act(name+" "+args[0], true)
}

// erase is the stand-in of hostd/wipe.
func (w *world) erase(slot domain.SlotSpec, _ domain.PlacedWipe) ([]domain.DeviceWipe, error) {
	if d := w.k.Driver(slot.NVMe.Address); d != "nvme" {
		w.t.Errorf("drive %s is wiped while it is bound to %q", slot.NVMe.Serial, d)
	}
	medium := w.k.Medium(slot.NVMe.Serial)
	if err := errors.Join(os.Truncate(medium, 0), os.Truncate(medium, driveBytes)); err != nil {
		return nil, err
	}
	out := []domain.DeviceWipe{
		{Component: "gpu", Serial: slot.GPU.Serial, Result: domain.WipeVerified},
		{Component: "nvme", Serial: slot.NVMe.Serial, Result: domain.WipeVerified, Coverage: domain.CoverageAll, BytesRead: driveBytes, SizeBytes: driveBytes},
	}
	if slot.IBVF.Serial != "" {
		out = append(out, domain.DeviceWipe{Component: "ib_vf", Serial: slot.IBVF.Serial, Result: domain.WipeVerified})
	}
	return out, nil
}

type wiper struct{ w *world }

func (x wiper) Wipe(_ context.Context, slot domain.SlotSpec, p domain.PlacedWipe) ([]domain.DeviceWipe, error) {
	if err := x.w.act("wipe", false); err != nil {
		return nil, err
	}
	out, err := x.w.wipe(slot, p)
	return out, errors.Join(err, x.w.act("wipe", true))
}

// libvirt adds what the machine asks of libvirt beside its guests.
type libvirt struct{ *guesttest.Host }

func (libvirt) Machine(context.Context, bool) (string, error) { return "pc-q35-7.2", nil }
func (libvirt) Close() error                                  { return nil }

// fakeNetwork remembers ports. It implements Network.
type fakeNetwork struct {
	act func(what string, after bool) error

	mu     sync.Mutex
	ports  map[string]network.Port
	leases map[string]network.Lease
	down   bool
}

func (n *fakeNetwork) Start(context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down = false
	return nil
}

func (n *fakeNetwork) Running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.down
}

func (n *fakeNetwork) Attach(_ context.Context, p network.Port) (network.Port, error) {
	if err := n.act("network attach", false); err != nil {
		return p, err
	}
	n.mu.Lock()
	n.ports[p.VM] = p
	n.mu.Unlock()
	return p, n.act("network attach", true)
}

func (n *fakeNetwork) Detach(_ context.Context, vm string) error {
	if err := n.act("network detach", false); err != nil {
		return err
	}
	n.mu.Lock()
	delete(n.ports, vm)
	n.mu.Unlock()
	return n.act("network detach", true)
}

func (n *fakeNetwork) Port(vm string) (network.Port, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p, ok := n.ports[vm]
	return p, ok
}

func (n *fakeNetwork) Find(bridge string, source netip.Addr) (network.Port, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.ports {
		if bridge == "gbr0" && p.Address() == source.String() {
			return p, true
		}
	}
	return network.Port{}, false
}

func (n *fakeNetwork) Interfaces() []string { return nil }

func (n *fakeNetwork) Leases() (map[string]network.Lease, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.leases, nil
}

// vm is a VM on the first slots of the host.
func (w *world) vm(slots int) *machine.VM {
	v := &machine.VM{
		PlacedVM: domain.PlacedVM{VM: domain.VMID{0xab, 1}, Tenant: domain.TenantID{7}, Hostname: "trainer", Power: domain.PowerOn, Boot: 1, MAC: "02:00:00:00:00:11"},
		Slots:    w.slots[:slots], ImagePath: w.image, SSHKeys: []string{"ssh-ed25519 AAAA me"}, UserData: []byte("#!/bin/sh\n# " + secret + "\n"),
	}
	return v
}

// up takes the VM through all steps once.
func (w *world) up(ctx context.Context, v *machine.VM) error {
	for _, do := range []func(context.Context, *machine.VM) error{w.m.PrepareDisk, w.m.PrepareSeed, w.m.AttachNetwork, w.m.Start} {
		if err := do(ctx, v); err != nil {
			return err
		}
	}
	return nil
}

// down takes it away and erases its slots, once.
func (w *world) down(ctx context.Context, v *machine.VM) error {
	if err := w.m.Stop(ctx, v.VM, domain.Second); err != nil {
		return err
	}
	if err := w.m.Remove(ctx, v.VM); err != nil {
		return err
	}
	for _, s := range v.Slots {
		ev, err := w.m.Wipe(ctx, s, domain.PlacedWipe{Policy: domain.WipeAuto})
		if err != nil {
			return err
		}
		for _, d := range ev {
			if d.Result != domain.WipeVerified {
				w.t.Errorf("evidence %+v", d)
			}
		}
	}
	return nil
}

// given says which functions of the slots are not with vfio-pci.
func (w *world) notGiven(slots []domain.SlotSpec) (out []string) {
	for _, s := range slots {
		for _, a := range []string{s.GPU.Address, s.GPU.Functions[0].Address, s.NVMe.Address, s.IBVF.Address} {
			if a == "" {
				continue
			}
			if d := w.k.Driver(a); d != "vfio-pci" {
				out = append(out, a+" is with "+d)
			}
		}
	}
	return out
}

// isUp fails the test unless the VM runs as it should.
func (w *world) isUp(v *machine.VM) {
	w.t.Helper()
	running, err := w.lv.Running(w.t.Context(), v.VM.String())
	if err != nil || !running {
		w.t.Errorf("the domain runs: %v, %v", running, err)
	}
	if out := w.notGiven(v.Slots); len(out) > 0 {
		w.t.Errorf("while the VM runs: %v", out)
	}
	for i := range v.Slots {
		if w.links == nil {
			break
		}
		if c, err := w.links.VF("eth9", i); err != nil || !c.SpoofCheck || c.Trust || c.Link != vfio.LinkDown {
			w.t.Errorf("the VF of slot %d is not guarded: %+v, %v", i, c, err)
		}
	}
	want, err := os.ReadFile(w.image)
	if err != nil {
		w.t.Fatal(err)
	}
	got, err := os.ReadFile(w.k.Medium(v.Slots[0].NVMe.Serial))
	if err != nil || !bytes.HasPrefix(got, want) {
		w.t.Errorf("the boot drive does not hold the image: %v", err)
	}
	seen, err := w.m.Observe(w.t.Context())
	if err != nil || len(seen) != 1 || !seen[0].Running || seen[0].Boot != v.Boot || len(seen[0].Slots) != len(v.Slots) {
		w.t.Errorf("observed %+v, %v", seen, err)
	}
}

// isGone fails the test unless nothing of the VM is left on the host.
func (w *world) isGone(v *machine.VM) {
	w.t.Helper()
	if d := w.lv.Domains(); len(d) != 0 {
		w.t.Errorf("domains left: %v", d)
	}
	if len(w.net.ports) != 0 {
		w.t.Errorf("ports left: %v", w.net.ports)
	}
	if left, err := w.m.traces(v.VM); err != nil || len(left) != 0 {
		w.t.Errorf("left behind: %v, %v", left, err)
	}
	if out := w.notGiven(v.Slots); len(out) > 0 {
		w.t.Errorf("after the wipe: %v", out)
	}
	if seen, err := w.m.Observe(w.t.Context()); err != nil || len(seen) != 0 {
		w.t.Errorf("observed %+v, %v", seen, err)
	}
	if d := w.k.Driver("0000:f0:00.0"); d != "igb" {
		w.t.Errorf("the host's own network card is with %q", d)
	}
	for _, dir := range []string{w.dir, w.root, w.k.Dev} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(path)
			if err == nil && bytes.Contains(b, []byte(secret)) {
				w.t.Errorf("%s holds the tenant's secret", path)
			}
			return err
		})
		if err != nil {
			w.t.Error(err)
		}
	}
}
