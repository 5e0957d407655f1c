package discovery_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/discovery"
	"github.com/gpuaas/gpuaas/hostd/pci"
	"github.com/gpuaas/gpuaas/hostd/program"
)

// smi is what `nvidia-smi -q` prints, cut to the lines that matter and some that
// look like them.
const smi = `
==============NVSMI LOG==============

Timestamp                                 : Tue Nov 25 10:00:00 2025
Driver Version                            : 570.124.06

Attached GPUs                             : 2
GPU 00000000:13:00.0
    Product Name                          : NVIDIA H100 80GB HBM3
    MIG Mode
        Current                           : Disabled
    Serial Number                         : 1654923000123
    GPU UUID                              : GPU-aaaa
    VBIOS Version                         : 96.00.61.00.01
    Module ID                             : 4
    Inforom Version
        Image Version                     : G520.0200.00.05
    Processes
        GPU instance ID                   : N/A
            Serial Number                 : 666
GPU 00000000:16:00.0
    Product Name                          : NVIDIA H100 80GB HBM3
    Serial Number                         : N/A
    GPU UUID                              : GPU-bbbb
    VBIOS Version                         : 96.00.61.00.01
GPU nonsense
    GPU UUID                              : GPU-cccc
`

func TestNvidiaSMI(t *testing.T) {
	t.Parallel()
	ask := discovery.NvidiaSMI(func(_ context.Context, name string, args ...string) ([]byte, error) {
		if name != "nvidia-smi" || len(args) != 1 || args[0] != "-q" {
			t.Errorf("%s %v", name, args)
		}
		return []byte(smi), nil
	})
	got, err := ask(context.Background())
	want := map[pci.Address]discovery.Facts{
		{Bus: 0x13}: {Serial: "1654923000123", Model: "NVIDIA H100 80GB HBM3", Firmware: "96.00.61.00.01", UUID: "GPU-aaaa", ModuleID: 4},
		{Bus: 0x16}: {Serial: "GPU-bbbb", Model: "NVIDIA H100 80GB HBM3", Firmware: "96.00.61.00.01", UUID: "GPU-bbbb"},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

// A driver that hangs keeps nvidia-smi from dying: the look goes on without it, and
// starts no second one.
func TestNvidiaSMIHangs(t *testing.T) {
	t.Parallel()
	ends, ended := make(chan struct{}), make(chan struct{}, 2)
	ask := discovery.NvidiaSMI(func(context.Context, string, ...string) ([]byte, error) {
		defer func() { ended <- struct{}{} }()
		<-ends
		return []byte(smi), nil
	})
	gaveUp, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ask(gaveUp); !errors.Is(err, context.Canceled) {
		t.Errorf("called off: %v", err)
	}
	if _, err := ask(t.Context()); err == nil || !strings.Contains(err.Error(), "still hangs") {
		t.Errorf("a second one beside it: %v", err)
	}
	close(ends)
	<-ended
	for { // until the first has let go
		if got, err := ask(t.Context()); err == nil {
			if len(got) != 2 {
				t.Errorf("after it ended: %v", got)
			}
			return
		}
		runtime.Gosched()
	}
}

// The real program's way: what nvidia-smi prints is remembered before the GPU goes to
// vfio-pci, where nobody can ask it; and what it fails with is said to the operator.
func TestNvidiaSMIProgram(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	install := func(script string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(bin, "nvidia-smi"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h := desktop(t)
	c := h.config()
	c.GPUFacts = discovery.NvidiaSMI(program.Execute)
	install("echo 'Failed to initialize NVML: Driver/library version mismatch' >&2; exit 18")
	m := h.discover(c)
	if len(m.Slots) != 1 || m.Slots[0].GPU.Serial != "GPU-5a1c" || m.Slots[0].GPU.ModuleID != 0 || !strings.Contains(m.Slots[0].Why, "version mismatch") {
		t.Errorf("it fails: %s%+v", lines(m), m.Slots)
	}
	install("test \"$1\" = -q && sed -e s/:13:00.0/:01:00.0/ -e s/GPU-aaaa/GPU-5a1c/ <<END\n" + smi + "END\n")
	m = h.discover(c)
	if len(m.Slots) != 1 || m.Slots[0].GPU.Serial != "GPU-5a1c" || m.Slots[0].GPU.ModuleID != 4 || m.Slots[0].GPU.Firmware != "96.00.61.00.01" {
		t.Errorf("asked: %s%+v", lines(m), m.Slots)
	}
	h.Bind("0000:01:00.0", "vfio-pci")
	install("exit 1")
	m = h.discover(c)
	if len(m.Slots) != 1 || m.Slots[0].GPU.Serial != "GPU-5a1c" || m.Slots[0].GPU.ModuleID != 4 {
		t.Errorf("bound to vfio-pci: %s", lines(m))
	}
}

// A GPU's serial and module id are read while its own driver has it, and stay when
// it is bound to vfio-pci, or its tool fails once. With a Device Serial Number they
// stay in the next boot too.
func TestGPUIdentityStays(t *testing.T) {
	t.Parallel()
	h := desktop(t)
	const gpu = "0000:01:00.0"
	c := h.config()
	facts := map[pci.Address]discovery.Facts{{Bus: 1}: {Serial: "1654923000123", UUID: "GPU-5a1c", ModuleID: 4, Firmware: "96.00.61"}}
	var fails error
	c.GPUFacts = func(context.Context) (map[pci.Address]discovery.Facts, error) {
		if fails != nil {
			return nil, fails
		}
		return facts, nil
	}
	is := func(when string, want bool) {
		t.Helper()
		m := h.discover(c)
		got := len(m.Slots) == 1 && m.Slots[0].GPU.Serial == "1654923000123" && m.Slots[0].GPU.ModuleID == 4 && m.Slots[0].GPU.Firmware == "96.00.61" && m.Slots[0].GPU.SerialFrom == domain.SerialOfDevice
		if got != want {
			t.Errorf("%s: known is %v\n%s%v", when, got, lines(m), m.Unsafe)
		}
	}
	is("asked", true)
	fails = errors.New("nvidia-smi: timed out")
	is("its tool fails, the driver still says the UUID", true)
	h.Bind(gpu, "vfio-pci")
	is("bound to vfio-pci", true)
	h.Proc("sys/kernel/random/boot_id", "boot-2\n")
	is("bound in another boot", false)

	h.withSerial(gpu, 0x1234)
	h.Bind(gpu, "nvidia")
	fails = nil
	is("asked, with a Device Serial Number", true)
	h.Bind(gpu, "vfio-pci")
	h.Proc("sys/kernel/random/boot_id", "boot-3\n")
	is("bound in another boot, with a Device Serial Number", true)
	h.withSerial(gpu, 0x4321)
	is("another card", false)
	h.withSerial(gpu, 0x1234)
	h.Write(h.Path(gpu)+"/subsystem_device", "0x0001\n")
	is("the same number on another board", false)
}

// A GPU that was approved by its Device Serial Number keeps that name when its
// driver knows another.
func TestFirstNameStays(t *testing.T) {
	t.Parallel()
	h := desktop(t)
	h.withSerial("0000:01:00.0", 0x1234)
	h.Bind("0000:01:00.0", "vfio-pci")
	before := h.discover(h.config())
	h.Bind("0000:01:00.0", "nvidia")
	after := h.discover(h.config())
	if len(before.Slots) != 1 || len(after.Slots) != 1 || after.Slots[0].GPU.Serial != before.Slots[0].GPU.Serial || !strings.HasPrefix(before.Slots[0].GPU.Serial, "00-00") || after.Slots[0].GPU.UUID != "GPU-5a1c" {
		t.Errorf("%s%s", lines(before), lines(after))
	}
}
