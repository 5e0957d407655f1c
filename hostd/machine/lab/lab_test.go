//go:build lab

package lab_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/machine/lab"
)

// bootLimit is how long a guest may take to say ready on a busy machine.
const bootLimit = 90 * time.Second

// host is a lab and what a test needs around it.
type host struct {
	t     *testing.T
	ctx   context.Context
	o     lab.Options
	m     *lab.Machine
	image string
	seen  []machine.Event
}

func newHost(t *testing.T) *host {
	t.Helper()
	if why := lab.Missing(); why != "" {
		t.Skip("SKIPPED, no VM was booted: " + why)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 9*time.Minute)
	t.Cleanup(cancel)
	out, err := exec.CommandContext(ctx, "../../../deploy/lab/mkimage.sh").Output()
	if err != nil {
		t.Skipf("SKIPPED, no VM was booted: the image cannot be built: %v", err)
	}
	h := &host{t: t, ctx: ctx, image: strings.TrimSpace(string(out)), o: lab.Options{Dir: t.TempDir(), Slots: 2}}
	if testing.Verbose() {
		h.o.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	h.open()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		stop := h.timed("Shutdown")
		if err := h.m.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		stop()
		h.nothingLeft()
		goleak.VerifyNone(t)
	})
	return h
}

func (h *host) open() {
	h.t.Helper()
	defer h.timed("lab.New")()
	m, err := lab.New(h.ctx, h.o)
	if err != nil {
		h.t.Fatal(err)
	}
	h.m = m
}

// nothingLeft looks for processes that the lab left behind.
func (h *host) nothingLeft() {
	h.t.Helper()
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range environs {
		b, _ := os.ReadFile(path)
		cmd, _ := os.ReadFile(filepath.Dir(path) + "/cmdline")
		if bytes.Contains(b, []byte("GPUAAS_LAB="+h.o.Dir)) || bytes.Contains(cmd, []byte(h.o.Dir)) {
			h.t.Errorf("left behind: %s %q", path, cmd)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	h.must(err)
	if bytes.Contains(mounts, []byte(h.o.Dir)) {
		h.t.Error("a mount is left behind")
	}
}

func (h *host) timed(what string) func() {
	began := time.Now()
	return func() { h.t.Logf("%-28s %6.2f s", what, time.Since(began).Seconds()) }
}

func (h *host) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// vm is a VM of one slot for a new tenant.
func (h *host) vm(slot domain.SlotSpec, name, userData string) *machine.VM {
	var id, tenant [16]byte
	_, _ = rand.Read(id[:])
	_, _ = rand.Read(tenant[:])
	return &machine.VM{
		PlacedVM: domain.PlacedVM{
			VM: id, Tenant: tenant, Hostname: name, Power: domain.PowerOn, Boot: 1,
			Leases: []domain.Lease{{Index: slot.Index, Generation: 1}},
			MAC:    fmt.Sprintf("02:00:00:00:00:%02x", 0x10+slot.Index),
		},
		Slots: []domain.SlotSpec{slot}, ImagePath: h.image,
		SSHKeys: []string{"ssh-ed25519 AAAAC3Nza tester"}, UserData: []byte(userData),
	}
}

// up takes the VM through all steps and waits until its guest is ready.
func (h *host) up(v *machine.VM) {
	h.t.Helper()
	steps := []struct {
		name string
		do   func(context.Context, *machine.VM) error
	}{
		{"PrepareDisk", h.m.PrepareDisk},
		{"PrepareSeed", h.m.PrepareSeed},
		{"AttachNetwork", h.m.AttachNetwork},
		{"Start", h.m.Start},
	}
	for _, s := range steps {
		stop := h.timed(s.name)
		if err := s.do(h.ctx, v); err != nil {
			h.t.Fatalf("%s: %v", s.name, err)
		}
		stop()
	}
	h.ready(v, "start to ready")
}

func (h *host) ready(v *machine.VM, what string) {
	h.t.Helper()
	defer h.timed(what)()
	h.await(machine.GuestAlive, v.VM)
	h.await(machine.GuestReady, v.VM)
}

// await waits for an event, which may have come already.
func (h *host) await(kind machine.EventKind, id domain.VMID) machine.Event {
	h.t.Helper()
	limit := time.After(bootLimit)
	for {
		for i, e := range h.seen {
			if e.Kind == kind && e.VM == id {
				h.seen = append(h.seen[:i], h.seen[i+1:]...)
				return e
			}
		}
		select {
		case e, ok := <-h.m.Events():
			if !ok {
				h.t.Fatalf("no %s from %s: the machine was closed", kind, id)
			}
			h.seen = append(h.seen, e)
		case <-limit:
			h.t.Fatalf("no %s from %s; seen %v; console:\n%s", kind, id, h.seen, clip(h.console(id)))
		}
	}
}

// console is all that is kept of the console.
func (h *host) console(id domain.VMID) string {
	var all []byte
	for at := int64(0); ; {
		b, next, err := h.m.Console(h.ctx, id, at, 1<<20)
		h.must(err)
		if len(b) == 0 {
			return string(all)
		}
		all, at = append(all, b...), next
	}
}

// clip is the end of a console, for a failure's message.
func clip(s string) string { return s[max(0, len(s)-4000):] }

func (h *host) observed(id domain.VMID) *machine.Observed {
	h.t.Helper()
	began := time.Now()
	all, err := h.m.Observe(h.ctx)
	h.must(err)
	if d := time.Since(began); d > time.Second {
		h.t.Errorf("Observe took %v", d)
	}
	for i := range all {
		if all[i].VM == id {
			return &all[i]
		}
	}
	return nil
}

func (h *host) wants(v *machine.VM, running, ready bool, boot uint32) {
	h.t.Helper()
	o := h.observed(v.VM)
	if o == nil || o.Running != running || (o.Ready != 0) != ready || o.Boot != boot || o.Since == 0 {
		h.t.Fatalf("observed %+v, want running %v, ready %v, boot %d", o, running, ready, boot)
	}
}

func (h *host) says(v *machine.VM, lines ...string) {
	h.t.Helper()
	c := h.console(v.VM)
	for _, l := range lines {
		if !strings.Contains(c, l) {
			h.t.Errorf("the console does not say %q:\n%s", l, clip(c))
		}
	}
}

// TestLabLife is the life of one VM and of the drive under it, with a neighbour.
func TestLabLife(t *testing.T) {
	h := newHost(t)
	sm, err := h.m.Discover(h.ctx)
	h.must(err)
	for _, s := range sm.Slots {
		if s.OnDisk != "empty" {
			t.Errorf("slot %d has %q on its drive, want empty", s.Index, s.OnDisk)
		}
	}
	secret := fmt.Sprintf("s3cret-%d", time.Now().UnixNano())
	a := h.vm(sm.Slots[0], "alpha", "#!/bin/sh\n# secret: "+secret+"\necho hello from user data\n")
	h.up(a)
	h.wants(a, true, true, 1)
	h.says(a, "TINY hostname alpha", "TINY out: hello from user data", "TINY boots 1", "instance-id: \""+a.VM.String()+"\"",
		"ssh-ed25519 AAAAC3Nza tester", "serial "+sm.Slots[0].NVMe.Serial, "TINY address "+h.observed(a.VM).Address, "TINY accelerator")
	h.must(h.m.Start(h.ctx, a)) // again: left alone

	sm, err = h.m.Discover(h.ctx)
	h.must(err)
	t.Logf("on the drive: %s", sm.Slots[0].OnDisk)
	if !strings.HasPrefix(sm.Slots[0].OnDisk, "GPT, 2 partitions") {
		t.Errorf("drive has %q", sm.Slots[0].OnDisk)
	}
	if _, err := h.m.Wipe(h.ctx, sm.Slots[0], domain.PlacedWipe{Policy: domain.WipeAuto}); err == nil {
		t.Fatal("a wipe under a running VM was not refused")
	}

	stop := h.timed("Stop (power button)")
	h.must(h.m.Stop(h.ctx, a.VM, 30*domain.Second))
	stop()
	h.wants(a, false, true, 1)
	h.says(a, "TINY power button")

	a.Boot = 2
	h.up(a)
	h.wants(a, true, true, 2)
	h.says(a, "TINY boots 2", "TINY found secret="+secret)

	stop = h.timed("Reboot (to the reset)")
	h.must(h.m.Reboot(h.ctx, a.VM))
	stop()
	h.ready(a, "reset to ready")
	h.wants(a, true, true, 3)
	h.says(a, "TINY boots 3")
	if n := strings.Count(h.console(a.VM), "TINY power button"); n != 2 {
		t.Errorf("the guest saw the power button %d times, want 2: one stop, one reboot", n)
	}

	// The daemon dies; libvirtd too. Another daemon finds the VM as it was.
	h.must(h.m.Close())
	h.seen = nil
	h.kill("lv/run/libvirtd.pid")
	h.open()
	h.wants(a, true, true, 3)

	// libvirtd and dnsmasq die under a daemon that lives: it brings them back.
	h.kill("lv/run/libvirtd.pid", "net/dnsmasq.pid")
	stop = h.timed("libvirtd back")
	for {
		if _, err := h.m.Observe(h.ctx); err == nil {
			break
		}
		h.must(h.ctx.Err())
		time.Sleep(50 * time.Millisecond)
	}
	stop()
	h.wants(a, true, true, 3)

	// A neighbour of another tenant: cannot reach alpha, and powers off by itself.
	b := h.vm(sm.Slots[1], "beta", "#!/bin/sh\nping -c 2 -W 2 "+h.observed(a.VM).Address+" && echo REACHED || echo isolated\n"+
		"ping -c 1 -W 2 10.77.1.1 >/dev/null && echo gateway answers\n"+get(h.observed(a.VM).Address)+" | grep -q alpha && echo REACHED\n(sleep 3; poweroff -f) &\nexit 0\n")
	h.up(b)
	h.says(b, "TINY out: isolated", "TINY out: gateway answers")
	if c := h.console(b.VM); strings.Contains(c, "out: REACHED") {
		t.Errorf("beta reached alpha:\n%s", c)
	}
	h.await(machine.GuestStopped, b.VM)
	h.wants(b, false, true, 1)
	h.must(h.m.Remove(h.ctx, b.VM))

	// Away with alpha; its secret is on the drive until the wipe, and not after it.
	stop = h.timed("Remove")
	h.must(h.m.Remove(h.ctx, a.VM))
	stop()
	h.must(h.m.Remove(h.ctx, a.VM)) // again: nothing
	if o := h.observed(a.VM); o != nil {
		t.Errorf("removed, and still observed: %+v", o)
	}
	drive := filepath.Join(h.o.Dir, "drives", "slot0.raw")
	if !contains(t, drive, secret) {
		t.Error("the secret is not on the drive before the wipe: the wipe proves nothing")
	}
	h.wipe(sm.Slots[0])
	h.wipe(sm.Slots[1])
	if contains(t, drive, secret) {
		t.Error("the secret survived the wipe")
	}

	c := h.vm(sm.Slots[0], "gamma", "")
	h.up(c)
	h.says(c, "TINY boots 1", "TINY found no secret", "TINY hostname gamma")

	// A neighbour of the same tenant: reaches gamma (so the wall above is a wall),
	// but not with an address that is not its own.
	h.uplink()
	d := h.vm(sm.Slots[1], "delta", "#!/bin/sh\n"+get(h.observed(c.VM).Address)+"\n"+
		"ping -c 2 -W 2 192.0.2.9 >/dev/null && echo outside answers\n"+
		"ip addr add 10.77.0.99/24 dev eth0; ping -I 10.77.0.99 -c 2 -W 2 10.77.0.1 >/dev/null && echo SPOOFED || echo honest\n")
	d.Tenant = c.Tenant
	h.up(d)
	h.says(d, "TINY out: gamma is up", "TINY out: outside answers", "TINY out: honest")
	h.must(h.m.Stop(h.ctx, c.VM, 0)) // pulls the plug
	h.wants(c, false, true, 1)
	h.must(h.m.Remove(h.ctx, c.VM))
	h.must(h.m.Remove(h.ctx, d.VM))
}

// TestLabKill kills the daemon without warning, right after a start, with a VM of two
// slots whose guest floods its console.
func TestLabKill(t *testing.T) {
	if dir := os.Getenv("LAB_TEST_CHILD"); dir != "" {
		killedChild(t, dir)
	}
	h := newHost(t)
	h.must(h.m.Close())
	cmd := exec.CommandContext(h.ctx, os.Args[0], "-test.run=^TestLabKill$", "-test.v")
	cmd.Env = append(os.Environ(), "LAB_TEST_CHILD="+h.o.Dir, "LAB_TEST_IMAGE="+h.image)
	out, err := cmd.CombinedOutput()
	if !strings.Contains(fmt.Sprint(err), "signal: killed") {
		t.Fatalf("the child ended with %v: %s", err, out)
	}
	h.open()
	all, err := h.m.Observe(h.ctx)
	h.must(err)
	if len(all) != 1 || !all[0].Running || all[0].Boot != 1 || len(all[0].Slots) != 2 {
		t.Fatalf("after the kill: %+v", all)
	}
	sm, err := h.m.Discover(h.ctx)
	h.must(err)
	v := h.vm(sm.Slots[0], "", "")
	v.VM, v.Boot = all[0].VM, 2
	v.Slots = sm.Slots
	h.ready(v, "kill to ready")

	// The flood: what is kept on disk is bounded, and the offsets go on counting.
	files, err := filepath.Glob(filepath.Join(h.o.Dir, "vms", v.VM.String(), "console.log*"))
	h.must(err)
	var kept int64
	for _, f := range files {
		st, err := os.Stat(f)
		h.must(err)
		kept += st.Size()
	}
	b, next, err := h.m.Console(h.ctx, v.VM, 0, 1<<20)
	h.must(err)
	t.Logf("the console keeps %d bytes in %d files; the first read ends at offset %d", kept, len(files), next)
	if kept > 3*(512<<10)+4096 || len(files) < 2 || len(b) == 0 {
		t.Errorf("the console keeps %d bytes in %d files", kept, len(files))
	}
	for n := 1; n > 0; {
		var more []byte
		from := next
		more, next, err = h.m.Console(h.ctx, v.VM, next, 64<<10)
		h.must(err)
		if n = len(more); next != from+int64(n) {
			t.Fatalf("read %d bytes from %d, next is %d", n, from, next)
		}
	}

	// Down and up again: what was running is off, and starts.
	h.must(h.m.Shutdown(h.ctx))
	h.nothingLeft()
	h.seen = nil
	h.open()
	h.wants(v, false, true, 1) // lost in the boot that was cut off
	h.up(v)
	h.wants(v, true, true, 2)
	h.must(h.m.Remove(h.ctx, v.VM))
}

// killedChild is the daemon that dies.
func killedChild(t *testing.T, dir string) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	m, err := lab.New(ctx, lab.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, ctx: ctx, m: m, o: lab.Options{Dir: dir}, image: os.Getenv("LAB_TEST_IMAGE")}
	sm, err := m.Discover(ctx)
	h.must(err)
	v := h.vm(sm.Slots[0], "epsilon", "#!/bin/sh\ndd if=/dev/zero bs=64k count=28 2>/dev/null | tr '\\0' x | fold -w 100 > /dev/console\n")
	v.Slots = sm.Slots
	h.must(m.PrepareDisk(ctx, v))
	h.must(m.PrepareSeed(ctx, v))
	h.must(m.AttachNetwork(ctx, v))
	h.must(m.Start(ctx, v))
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
}

func (h *host) wipe(slot domain.SlotSpec) {
	h.t.Helper()
	defer h.timed("Wipe and read back")()
	ev, err := h.m.Wipe(h.ctx, slot, domain.PlacedWipe{Policy: domain.WipeAuto, Lease: domain.Lease{Nonce: domain.DigestOf([]byte("n"))}})
	h.must(err)
	for _, d := range ev {
		if d.Result != domain.WipeVerified || d.Component == "nvme" && (d.BytesRead != slot.NVMe.SizeBytes || d.Serial != slot.NVMe.Serial) {
			h.t.Errorf("evidence %+v", d)
		}
	}
}

// uplink gives the lab a way out to a host that knows no route back: only
// masquerading lets it answer.
func (h *host) uplink() {
	h.t.Helper()
	outside := exec.CommandContext(h.ctx, "unshare", "--net", "sleep", "infinity")
	h.must(outside.Start())
	h.t.Cleanup(func() { _ = outside.Process.Kill(); _ = outside.Wait() })
	pid, inside := strconv.Itoa(outside.Process.Pid), strings.TrimSpace(h.file("lv/namespace.pid"))
	own, err := os.Readlink("/proc/self/ns/net")
	h.must(err)
	for link := own; link == own; time.Sleep(10 * time.Millisecond) { // until unshare has done it
		h.must(h.ctx.Err())
		link, err = os.Readlink("/proc/" + pid + "/ns/net")
		h.must(err)
	}
	for _, s := range []string{
		inside + " ip link add uplink type veth peer name eth0 netns " + pid,
		inside + " ip addr add 192.0.2.1/24 dev uplink", inside + " ip link set uplink up",
		pid + " ip addr add 192.0.2.9/24 dev eth0", pid + " ip link set eth0 up",
	} {
		args := append([]string{"--net", "--target"}, strings.Fields(s)...)
		if out, err := exec.CommandContext(h.ctx, "nsenter", args...).CombinedOutput(); err != nil {
			h.t.Fatalf("%s: %v: %s", s, err, out)
		}
	}
}

// kill kills the processes without warning.
func (h *host) kill(pidFiles ...string) {
	h.t.Helper()
	for _, f := range pidFiles {
		pid, err := strconv.Atoi(strings.TrimSpace(h.file(f)))
		h.must(err)
		h.must(syscall.Kill(pid, syscall.SIGKILL))
	}
}

func (h *host) file(name string) string {
	h.t.Helper()
	b, err := os.ReadFile(filepath.Join(h.o.Dir, name))
	h.must(err)
	return string(b)
}

// get is a shell command that asks a neighbour's web server who it is.
func get(address string) string {
	return "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 " + address + " 80"
}

func contains(t *testing.T, path, what string) bool {
	t.Helper()
	out, err := exec.Command("grep", "-c", "-a", what, path).Output()
	if err != nil && len(out) == 0 {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out)) != "0"
}
