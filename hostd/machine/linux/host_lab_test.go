//go:build lab

package linux

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd"
	"github.com/gpuaas/gpuaas/hostd/discovery"
	"github.com/gpuaas/gpuaas/hostd/emuhost"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/pci"
	"github.com/gpuaas/gpuaas/hostd/program"
)

// TestLabLongLinux has this machine at work in an emulated host: discovery, first wipe,
// two tenants one after the other on the same slot, whose guests look for what the
// other left. The test runs itself inside. Its guests boot by UEFI from their drives. The
// same with the real programs around it is TestLabEmulatedHost of cmd/gpuaas.
func TestLabLongLinux(t *testing.T) {
	if why := emuhost.Missing(); why != "" {
		t.Skip("SKIPPED, no host was booted: " + why)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	h, err := emuhost.Boot(ctx, emuhost.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if t.Failed() {
			c := h.Console()
			t.Logf("console:\n%s", c[max(0, len(c)-3000):])
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, s := range []string{emuhost.Libvirt, emuhost.OpenVSwitch} {
		if err := h.Service(ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	for from, to := range map[string]string{os.Args[0]: "/var/lib/linux.test", emuhost.Image("bare.qcow2"): "/var/lib/bare.qcow2"} {
		if err := h.CopyIn(ctx, from, to); err != nil {
			t.Fatal(err)
		}
	}
	const conf = "../../../deploy/hostd/"
	for from, to := range map[string]string{
		conf + "10-hostd-drives.rules": udevRules, conf + "lvmlocal.conf": "/etc/lvm/lvmlocal.conf",
		conf + "mdadm.conf": "/etc/mdadm/mdadm.conf", conf + "multipath.conf": "/etc/multipath/conf.d/hostd.conf",
	} {
		if _, err := h.Run(ctx, "mkdir", "-p", filepath.Dir(to)); err != nil {
			t.Fatal(err)
		}
		if err := h.CopyIn(ctx, from, to); err != nil {
			t.Fatal(err)
		}
	}
	p, err := h.Start(emuhost.Command{Args: []string{"sh", "-c", "chmod +x /var/lib/linux.test; cd /var/lib; LINUX_TEST_INSIDE=1 ./linux.test -test.run '^TestInside$' -test.v -test.timeout 12m"}})
	if err != nil {
		t.Fatal(err)
	}
	err = p.Wait(ctx)
	t.Logf("inside:\n%s%s", p.Stdout(), p.Stderr())
	if err != nil {
		t.Error(err)
	}
}

// TestInside is what runs in the emulated host.
func TestInside(t *testing.T) {
	if os.Getenv("LINUX_TEST_INSIDE") == "" {
		t.Skip("runs inside the host of TestLabLongLinux")
	}
	pf, err := pci.Parse("0000:05:00.0")
	if err != nil {
		t.Fatal(err)
	}
	images, err := hostd.NewImageCache("/var/lib/hostd/images", nil, 0, 0)
	if err == nil {
		err = images.Keep(nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	const probe = "/var/lib/probe" // a stand-in that only says where it was told to look
	if err := os.WriteFile(probe, []byte("#!/bin/sh\nprintf '{\"clean\": true, \"found\": \"%s\"}' \"$*\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	o := Options{
		ClearImages: images.Clear, Probe: probe,

		Dir: "/var/lib/hostd/linux", Emulated: true, Uplink: "uplink", VFs: map[pci.Address]uint16{pf: 2}, ConsoleFileBytes: 2 << 20,
		Discovery: discovery.Config{
			Host:    "emuhost",
			GPUs:    []discovery.GPU{{IDs: "1234:11e8", Name: "edu", ByLocation: true}, {IDs: "1af4:1110", Name: "edu", ByLocation: true}},
			Reserve: discovery.Reserve{Cores: 1, MemoryMiB: 1152},
		},
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if why := Missing(o); why != "" {
		t.Fatal(why)
	}
	timed := func(what string) func() {
		began := time.Now()
		return func() { t.Logf("%-24s %6.2f s", what, time.Since(began).Seconds()) }
	}
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	stop := timed("New")
	m, err := New(t.Context(), o)
	must("New", err)
	stop()
	defer func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}()
	stop = timed("Discover")
	sm, err := m.Discover(t.Context())
	must("Discover", err)
	stop()
	for _, u := range sm.Unsafe {
		t.Logf("unsafe %s: %s", u.Address, u.Reason)
	}
	for _, s := range sm.Slots {
		t.Logf("slot %+v", s)
	}
	if len(sm.Slots) == 0 {
		t.Fatal("no slot was proposed")
	}
	if out := m.Blind(t.Context()); len(out) != 0 {
		t.Errorf("with the files of deploy/hostd: %q", out)
	}
	slot := sm.Slots[0]
	wipe := func(generation uint32) {
		t.Helper()
		defer timed("Wipe")()
		ev, err := m.Wipe(t.Context(), slot, domain.PlacedWipe{Policy: domain.WipeAuto, Lease: domain.Lease{Index: slot.Index, Generation: generation, Nonce: domain.DigestOf([]byte{byte(generation)})}})
		must("Wipe", err)
		for _, d := range ev {
			t.Logf("evidence %+v", d)
			if d.Result != domain.WipeVerified {
				t.Errorf("%s is %s", d.Component, d.Result)
			}
			if d.Component == "gpu" && !slices.Contains(d.Log, "probe: gpu="+slot.GPU.Address+" ib_vf="+slot.IBVF.Address) {
				t.Errorf("the probe was not asked: %q", d.Log)
			}
		}
	}
	wipe(0)
	for i, name := range []string{"alpha", "beta"} {
		v := &machine.VM{
			PlacedVM: domain.PlacedVM{
				VM: domain.VMID{byte(i + 1)}, Tenant: domain.TenantID{byte(i + 1)}, Hostname: name, Power: domain.PowerOn, Boot: 1,
				MAC: fmt.Sprintf("02:00:00:00:00:%02x", i+1),
			},
			Slots: []domain.SlotSpec{slot}, ImagePath: "/var/lib/bare.qcow2", UserData: []byte("#!/bin/sh\n# secret: s3cret-" + name + "\n"),
		}
		for _, step := range []struct {
			name string
			do   func(context.Context, *machine.VM) error
		}{{"PrepareDisk", m.PrepareDisk}, {"PrepareSeed", m.PrepareSeed}, {"AttachNetwork", m.AttachNetwork}, {"Start", m.Start}, {"Start again", m.Start}} {
			stop := timed(step.name)
			must(step.name, step.do(t.Context(), v))
			stop()
		}
		stop := timed("ready")
		err := awaitEvent(t.Context(), m, machine.GuestReady, 2*time.Minute)
		console, _, cerr := m.Console(t.Context(), v.VM, 0, 1<<20)
		t.Logf("console of %s (%v):\n%s", name, cerr, console)
		if err != nil {
			out, _ := program.Execute(t.Context(), "sh", "-c", "ls -la /var/lib/hostd/linux/vms/*; ss -x | grep ready; virsh dumpxml 1 | grep -A6 'channel type'; tail -3 /var/log/libvirt/qemu/*.log")
			t.Logf("%s", out)
		}
		must("ready", err)
		stop()
		for _, want := range []string{"found no secret", "wrote secret=s3cret-" + name, "serial " + slot.NVMe.Serial} {
			if !strings.Contains(string(console), want) {
				t.Errorf("%s did not say %q", name, want)
			}
		}
		if strings.Contains(string(console), "found secret") {
			t.Errorf("%s found what another left", name)
		}
		stop = timed("Stop")
		must("Stop", m.Stop(t.Context(), v.VM, 30*domain.Second))
		stop()
		must("Remove", m.Remove(t.Context(), v.VM))
		if left, err := m.traces(v.VM); err != nil || len(left) != 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		wipe(uint32(i + 1))
	}
}

func awaitEvent(ctx context.Context, m *Machine, kind machine.EventKind, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		select {
		case e, ok := <-m.Events():
			if !ok {
				return errors.New("the machine was closed")
			}
			if e.Kind == kind {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
