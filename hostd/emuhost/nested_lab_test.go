//go:build lab

package emuhost_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/hostd/emuhost"
	"github.com/gpuaas/gpuaas/hostd/image"
)

// bind hands functions to vfio-pci.
func bind(t *testing.T, ctx context.Context, h *emuhost.Host, functions ...string) {
	t.Helper()
	for _, f := range functions {
		got := sh(t, ctx, h, fmt.Sprintf(`modprobe vfio-pci; d=/sys/bus/pci/devices/%s
			if [ -e $d/driver ]; then echo %[1]s > $d/driver/unbind; fi
			echo vfio-pci > $d/driver_override; echo %[1]s > /sys/bus/pci/drivers_probe; basename $(readlink $d/driver)`, f))
		if got != "vfio-pci" {
			t.Fatalf("%s is bound to %q", f, got)
		}
	}
}

// unbind gives a function back to the driver that it had.
func unbind(t *testing.T, ctx context.Context, h *emuhost.Host, function string) {
	t.Helper()
	sh(t, ctx, h, fmt.Sprintf(`d=/sys/bus/pci/devices/%s; echo %[1]s > $d/driver/unbind; echo > $d/driver_override
		echo %[1]s > /sys/bus/pci/drivers_probe; udevadm settle`, function))
}

// guest is a libvirt domain with devices passed through.
type guest struct {
	name     string
	os       string // what is inside <os> beside the type
	devices  []string
	bootFrom string // of devices
	extra    string // further devices
}

func (g guest) xml() string {
	var hostdevs strings.Builder
	for _, d := range g.devices {
		boot := ""
		if d == g.bootFrom {
			boot = "<boot order='1'/>"
		}
		fmt.Fprintf(&hostdevs, `<hostdev mode='subsystem' type='pci' managed='no'><source><address domain='0x%s' bus='0x%s' slot='0x%s' function='0x%s'/></source>%s<rom bar='off'/></hostdev>`,
			d[:4], d[5:7], d[8:10], d[11:], boot)
	}
	return fmt.Sprintf(`<domain type='qemu'><name>%s</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type>%s</os><features><acpi/><apic/></features>
<cpu mode='custom'><model>qemu64</model></cpu><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
<devices><controller type='usb' model='none'/><serial type='file'><source path='/var/log/%[1]s.log'/></serial>
<channel type='unix'><source mode='bind' path='/run/%[1]s.ready'/><target type='virtio' name='org.gpuaas.ready.0'/></channel>%[3]s%[4]s
<memballoon model='none'/></devices></domain>`, g.name, g.os, hostdevs.String(), g.extra)
}

// start defines and starts the domain, and waits until it is ready.
func (g guest) start(t *testing.T, ctx context.Context, h *emuhost.Host) {
	t.Helper()
	p, err := h.Start(emuhost.Command{Args: []string{"sh", "-ec", "cat > /run/" + g.name + ".xml; virsh -q create /run/" + g.name + ".xml"}, Stdin: []byte(g.xml())})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := p.Wait(ctx); err != nil {
		t.Fatalf("%v\n%s", err, sh(t, ctx, h, "tail -5 /var/log/libvirt/libvirtd.log /var/log/libvirt/qemu/*.log || true"))
	}
	t.Logf("%s: created in %.1f s", g.name, time.Since(began).Seconds())
	g.until(t, ctx, h, "BARE ready")
	t.Logf("%s: ready %.1f s after the start", g.name, time.Since(began).Seconds())
}

// guestTries and guestPatience: the processor of a guest, emulated by an emulated one,
// misses its timer now and then and stands still, with all that it still has to do. It
// is switched off and on again.
const (
	guestTries    = 3
	guestPatience = 90 // seconds
)

// until waits until the guest has said something in its present boot.
func (g guest) until(t *testing.T, ctx context.Context, h *emuhost.Host, line string) {
	t.Helper()
	wait := fmt.Sprintf(`for i in $(seq %d); do sed -n '/BARE up/h;//!H;${x;p}' /var/log/%s.log | grep -qF %q && exit 0; sleep 0.5; done; exit 1`, 2*guestPatience, g.name, line)
	for try := 1; ; try++ {
		_, err := h.Run(ctx, "sh", "-c", wait)
		if err == nil {
			return
		}
		if try == guestTries || ctx.Err() != nil {
			t.Fatalf("%v: never %q; the guest said:\n%s", err, line, g.said(t, ctx, h))
		}
		t.Logf("no %q within %d s: the guest is switched off and on again; it said:\n%s\n%s", line, guestPatience, g.said(t, ctx, h),
			sh(t, ctx, h, `for c in "info registers" "info lapic" "info network"; do virsh qemu-monitor-command `+g.name+` --hmp "$c" || true; done`))
		sh(t, ctx, h, "virsh -q destroy "+g.name+"; virsh -q create /run/"+g.name+".xml")
	}
}

func (g guest) said(t *testing.T, ctx context.Context, h *emuhost.Host) string {
	t.Helper()
	return sh(t, ctx, h, "cat /var/log/"+g.name+".log")
}

// stop presses the power button and waits until the domain is gone.
func (g guest) stop(t *testing.T, ctx context.Context, h *emuhost.Host) {
	t.Helper()
	sh(t, ctx, h, "virsh -q shutdown "+g.name+"; for i in $(seq 150); do virsh -q list --name | grep -qx "+g.name+" || exit 0; sleep 0.2; done; exit 1")
}

func contains(t *testing.T, got string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("no %q in:\n%s", w, got)
		}
	}
}

const (
	gpu0  = "0000:01:00.0"
	gpu1  = "0000:02:00.0"
	nvme0 = "0000:03:00.0"
)

// TestLabLongNested has a tenant's VM with two GPUs and a drive, started directly, and the
// next tenant's, booted by UEFI from the drive after it was erased.
func TestLabLongNested(t *testing.T) {
	h, ctx := boot(t, emuhost.Options{})
	began := time.Now()
	if err := h.Service(ctx, emuhost.Libvirt); err != nil {
		t.Fatal(err)
	}
	t.Logf("libvirt answers after %.1f s", time.Since(began).Seconds())
	if err := h.CopyIn(ctx, emuhost.Image("bare.elf"), "/var/lib/bare.elf"); err != nil {
		t.Fatal(err)
	}
	if err := h.CopyIn(ctx, emuhost.Image("bare.qcow2"), "/var/lib/bare.qcow2"); err != nil {
		t.Fatal(err)
	}
	bind(t, ctx, h, gpu0, gpu1, nvme0)

	first := guest{name: "first", devices: []string{gpu0, gpu1, nvme0}, os: "<kernel>/var/lib/bare.elf</kernel><cmdline>secret=alpha</cmdline>"}
	first.start(t, ctx, h)
	contains(t, first.said(t, ctx, h), "BARE up direct", "id 010000ed answers", "memory 256 MiB found no secret", "serial NVMESLOT0", "found no secret", "wrote secret=alpha", "ready devices=3")
	first.stop(t, ctx, h)
	contains(t, first.said(t, ctx, h), "BARE power button")

	// Between the tenants: the drive shows the secret, is erased, and gets an image.
	unbind(t, ctx, h, nvme0)
	disk := sh(t, ctx, h, "basename $(readlink -e /dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_NVMESLOT0)") // nvmeN changes from boot to boot
	contains(t, sh(t, ctx, h, "dd if=/dev/"+disk+" bs=512 skip=1 count=1 iflag=direct 2>/dev/null | tr -d '\\0'"), "secret=alpha")
	sh(t, ctx, h, "nvme format /dev/"+disk+" --ses=1 --force")
	if left := sh(t, ctx, h, "dd if=/dev/"+disk+" bs=1M iflag=direct 2>/dev/null | tr -d '\\0' | wc -c"); left != "0" {
		t.Errorf("%s bytes are left after the format", left)
	}
	sh(t, ctx, h, "qemu-img convert -n -f qcow2 -O raw /var/lib/bare.qcow2 /dev/"+disk)
	bind(t, ctx, h, nvme0)

	// The second tenant's secret comes with the seed: there is no command line under UEFI.
	seed := filepath.Join(t.TempDir(), "seed.iso")
	if err := image.WriteSeed(seed, &image.Seed{InstanceID: "2", Hostname: "second", UserData: []byte("#cloud-config\n# secret: beta\n")}); err != nil {
		t.Fatal(err)
	}
	if err := h.CopyIn(ctx, seed, "/var/lib/seed.iso"); err != nil {
		t.Fatal(err)
	}
	second := guest{
		name: "second", extra: "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/var/lib/seed.iso'/><target dev='vda' bus='virtio'/><readonly/></disk>", devices: []string{gpu0, nvme0}, bootFrom: nvme0,
		os: "<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader><nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>/var/lib/second.fd</nvram>",
	}
	second.start(t, ctx, h)
	contains(t, second.said(t, ctx, h), "BARE up uefi", "serial NVMESLOT0", "found no secret", "BARE seed", "wrote secret=beta", "ready devices=2")
	if said := second.said(t, ctx, h); strings.Contains(said, "alpha") {
		t.Errorf("the second tenant found the first one's secret:\n%s", said)
	}
	second.stop(t, ctx, h)
}
