//go:build lab

package vm

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"libvirt.org/go/libvirtxml"
)

// TestLabLongFirmwareFindsRoom starts the domain of a host with eight GPUs on two NUMA
// nodes, in software emulation, with test devices that have a GPU's BARs in the
// places of the GPUs: the firmware has to give every one of them an address. The
// same QEMU shows whether its account and its system calls are confined.
func TestLabLongFirmwareFindsRoom(t *testing.T) {
	l := newLibvirt(t, "dynamic_ownership = 1\nseccomp_sandbox = 1\n")
	dir := l.root
	s := realHost(8, 2)
	s.KVM = false
	s.Seed, s.Tap, s.ReadySocket = "", "", ""
	s.Firmware, s.FirmwareVars = "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"
	s.NVRAM, s.ConsoleLog = dir+"/nvram.fd", dir+"/console.log"
	p := s.Passthrough
	p.HugepageKiB, p.LockMemory = nil, false
	for i := range p.Slots {
		// Processors are emulated by one or two of this machine's.
		p.Slots[i].MemoryMiB, p.Slots[i].Threads = 64, p.Slots[i].Threads[:2]
	}
	if p.Pins.MMIO64MiB != 2<<20 {
		t.Fatalf("a window of %d MiB", p.Pins.MMIO64MiB)
	}
	text, err := s.XML()
	if err != nil {
		t.Fatal(err)
	}
	var d libvirtxml.Domain
	if err := d.Unmarshal(text); err != nil {
		t.Fatal(err)
	}
	add := func(args ...string) {
		for _, a := range args {
			d.QEMUCommandline.Args = append(d.QEMUCommandline.Args, libvirtxml.DomainQEMUCommandlineArg{Value: a})
		}
	}
	for i, h := range d.Devices.Hostdevs {
		if i%3 != 0 {
			continue // the test device has I/O ports, as today's devices do not, and there is no room for 24
		}
		// In JSON, as libvirt's own: QEMU makes the others first, and the ports are not there yet.
		add("-device", fmt.Sprintf(`{"driver":"pci-testdev","id":"t%d","bus":"pci.%d","addr":"0x0","membar":%d}`, i, *h.Address.PCI.Bus, uint64(128<<30)))
	}
	// This machine has neither the devices nor the cores.
	d.Devices.Hostdevs, d.CPUTune, d.NUMATune = nil, nil, nil
	if text, err = d.Marshal(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "domain.xml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	l.must("define --validate " + path)
	defer l.virsh("destroy vm_1; undefine vm_1 --nvram")
	l.must("start vm_1")
	l.confined("vm_1", p.User.UID)

	end := time.Now().Add(3 * time.Minute)
	var bars []bar
	for {
		bars = l.bars("vm_1")
		placed := 0
		for _, b := range bars {
			if b.address > 0 {
				placed++
			}
		}
		if len(bars) == 8 && placed == 8 {
			break
		}
		if time.Now().After(end) {
			b, _ := os.ReadFile(s.ConsoleLog)
			t.Fatalf("the firmware gave addresses to %d of 8 BARs: %v\n%s", placed, bars, b[max(0, len(b)-2000):])
		}
		time.Sleep(time.Second) // the firmware is at work
	}
	t.Log(bars, time.Since(end.Add(-3*time.Minute)))
}

// confined: QEMU runs as the VM's own account, without capabilities, behind a
// filter for its system calls.
func (e *embedded) confined(name string, uid uint32) {
	e.t.Helper()
	b, err := os.ReadFile(filepath.Join(e.root, "run", "qemu", name+".pid"))
	if err != nil {
		e.t.Fatal(err)
	}
	status, err := os.ReadFile("/proc/" + strings.TrimSpace(string(b)) + "/status")
	if err != nil {
		e.t.Fatal(err)
	}
	id := strconv.Itoa(int(uid))
	for field, want := range map[string]string{
		"Uid": strings.Join([]string{id, id, id, id}, "\t"), "Gid": strings.Join([]string{id, id, id, id}, "\t"),
		"CapEff": "0000000000000000", "CapPrm": "0000000000000000", "Seccomp": "2", "NoNewPrivs": "1",
	} {
		got := regexp.MustCompile(`(?m)^` + field + `:\t(.*)$`).FindSubmatch(status)
		if got == nil || strings.TrimSpace(string(got[1])) != want {
			e.t.Errorf("QEMU's %s is %q, want %q", field, got, want)
		}
	}
}

type bar struct {
	address, size int64
}

// bars are the memory BARs of 1 GiB and more, as the firmware set them.
func (e *embedded) bars(name string) []bar {
	e.t.Helper()
	out := e.must("qemu-monitor-command " + name + ` '{"execute":"query-pci"}'`)
	type device struct {
		Regions []struct {
			BAR, Address, Size int64
			Type               string
		}
		Bridge *struct{ Devices []json.RawMessage } `json:"pci_bridge"`
	}
	var reply struct {
		Return []struct{ Devices []json.RawMessage }
	}
	if err := json.Unmarshal([]byte(out), &reply); err != nil {
		e.t.Fatalf("%v: %s", err, out)
	}
	var bars []bar
	var walk func([]json.RawMessage)
	walk = func(raw []json.RawMessage) {
		for _, r := range raw {
			var d device
			if err := json.Unmarshal(r, &d); err != nil {
				e.t.Fatalf("%v: %s", err, r)
			}
			for _, region := range d.Regions {
				if region.Size >= 1<<30 {
					bars = append(bars, bar{region.Address, region.Size})
				}
			}
			if d.Bridge != nil {
				walk(d.Bridge.Devices)
			}
		}
	}
	for _, b := range reply.Return {
		walk(b.Devices)
	}
	return bars
}

// TestLabSecureBoot starts VMs that were promised Secure Boot and a TPM, with the keys
// that OVMF comes with: an image that nobody signed is refused by the firmware, the same
// guest as Debian signed it runs, and its kernel knows that it may not be changed.
func TestLabSecureBoot(t *testing.T) {
	l := newLibvirt(t, "seccomp_sandbox = 1\n")
	for _, c := range []struct {
		name  string
		args  []string // of deploy/lab/mkimage.sh
		want  []string // on the console, in the end
		never string
	}{
		{"unsigned", nil, []string{"Access Denied"}, "TINY"},
		{"signed", []string{"--signed"}, []string{"TINY lockdown integrity", "TINY tpm 2", "TINY boots 1"}, "Access Denied"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := &embedded{t, l.root}
			image, err := exec.Command("../../deploy/lab/mkimage.sh", c.args...).Output()
			if err != nil {
				t.Fatalf("mkimage.sh: %v (make lab-image)", err)
			}
			path := func(of string) string { return filepath.Join(l.root, c.name+"."+of) }
			if out, err := exec.Command("qemu-img", "convert", "-O", "raw", strings.TrimSpace(string(image)), path("raw")).CombinedOutput(); err != nil {
				t.Fatalf("qemu-img: %v\n%s", err, out)
			}
			s := &Spec{
				Name: "vm_1", UUID: "7a0c8f0a-3d5e-4f7e-9a58-1d2c3b4a5968", SecureBoot: true, VTPM: true,
				Firmware: "/usr/share/OVMF/OVMF_CODE_4M.ms.fd", FirmwareVars: "/usr/share/OVMF/OVMF_VARS_4M.ms.fd",
				NVRAM: path("nvram.fd"), ConsoleLog: path("console.log"),
				MemoryMiB: 384, CPUs: 1, Drives: []Drive{{Path: path("raw"), Serial: "SIGNED0"}},
			}
			text, err := s.XML()
			if err == nil {
				err = os.WriteFile(path("xml"), []byte(text), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			l.must("define --validate " + path("xml"))
			defer l.virsh("destroy vm_1; undefine vm_1 --nvram --tpm")
			began := time.Now()
			l.must("start vm_1")
			for {
				b, _ := os.ReadFile(s.ConsoleLog)
				said := string(b)
				if strings.Contains(said, c.never) {
					t.Fatalf("the console says %q:\n%s", c.never, said)
				}
				missing := slices.DeleteFunc(slices.Clone(c.want), func(w string) bool { return strings.Contains(said, w) })
				if len(missing) == 0 {
					t.Logf("%v after %v", c.want, time.Since(began).Round(time.Second))
					return
				}
				if time.Since(began) > 4*time.Minute {
					t.Fatalf("the console does not say %q:\n%s", missing, said[max(0, len(said)-3000):])
				}
				time.Sleep(time.Second) // the firmware is at work
			}
		})
	}
}
