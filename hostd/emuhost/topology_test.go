package emuhost

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestTopologyRefusals(t *testing.T) {
	t.Parallel()
	drive := func(serial string, mib int) Port {
		return Port{Name: "p" + serial, Devices: []Device{NVMe{Serial: serial, MiB: mib}}}
	}
	for _, c := range []struct {
		name string
		t    Topology
	}{
		{"three nodes", Topology{Nodes: 3, Ports: []Port{drive("A", 1)}}},
		{"a port without a name", Topology{Ports: []Port{{Devices: []Device{GPU{}}}}}},
		{"a name twice", Topology{Ports: []Port{{Name: "a", Devices: []Device{GPU{}}}, {Name: "a", Devices: []Device{GPU{}}}}}},
		{"a name that is an option", Topology{Ports: []Port{{Name: "a,bus=b", Devices: []Device{GPU{}}}}}},
		{"a node that is not there", Topology{Ports: []Port{{Name: "a", Node: 1, Devices: []Device{GPU{}}}}}},
		{"an empty port", Topology{Ports: []Port{{Name: "a"}}}},
		{"nine functions", Topology{Ports: []Port{{Name: "a", Devices: slices.Repeat([]Device{GPU{}}, 9)}}}},
		{"a serial twice", Topology{Ports: []Port{drive("A", 1), {Name: "b", Devices: []Device{NVMe{Serial: "A", MiB: 1}}}}}},
		{"a serial that is a path", Topology{Ports: []Port{drive("../A", 1)}}},
		{"a serial of 21 characters", Topology{Ports: []Port{drive(strings.Repeat("A", 21), 1)}}},
		{"an odd core for two nodes", Topology{Nodes: 2, Cores: 3, Ports: []Port{drive("A", 1)}}},
		{"an empty drive", Topology{Ports: []Port{drive("A", 0)}}},
	} {
		if err := c.t.validate(); err == nil {
			t.Errorf("%s is accepted", c.name)
		}
	}
	for _, good := range []Topology{Default(), Faulty()} {
		if err := good.validate(); err != nil {
			t.Error(err)
		}
	}
}

func TestArguments(t *testing.T) {
	t.Parallel()
	h := &Host{o: Options{Dir: t.TempDir(), MemoryMiB: 1024, Topology: Topology{Nodes: 2, Cores: 4, Ports: []Port{
		{Name: "both", Node: 1, Devices: []Device{GPU{}, Audio{}}},
		{Name: "shared", Shared: true, Devices: []Device{GPU{}, Display{}}},
		{Name: "drive", Devices: []Device{NVMe{Serial: "S", MiB: 1, VFs: 2}}},
		{Name: "bad", Devices: []Device{NVMe{Serial: "B", MiB: 1, Fails: true, BlockBytes: 4096}}},
		{Name: "big", Devices: []Device{BigGPU{MiB: 64}}},
	}}}}
	args, err := h.arguments()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"pcie-root-port,id=both.port,chassis=1,slot=1,bus=root1",
		"edu,id=both,bus=both.port,addr=0.0,multifunction=on", "ich9-intel-hda,id=both.1,bus=both.port,addr=0.1",
		"pcie-pci-bridge,id=shared.bridge,bus=shared.port", "edu,id=shared,bus=shared.bridge,addr=1", "bochs-display,id=shared.1,bus=shared.bridge,addr=2",
		"nvme,serial=S,subsys=drive.subsystem,sriov_max_vfs=2,sriov_vq_flexible=4,sriov_vi_flexible=2,id=drive,bus=drive.port,addr=0.0",
		"nvme,serial=B,drive=bad.drive,logical_block_size=4096,physical_block_size=4096,id=bad,bus=bad.port,addr=0.0",
		"file=blkdebug:" + h.path("fail.cfg") + ":" + h.path("B.raw") + ",if=none,format=raw,discard=unmap,detect-zeroes=unmap,id=bad.drive",
		"pcie-root-port,id=big.port,chassis=5,slot=5,bus=root0,pref64-reserve=128M",
		"4,sockets=2,cores=2", "node,nodeid=1,cpus=2-3,memdev=memory1",
	} {
		if !slices.Contains(args, want) {
			t.Errorf("no %q in %q", want, args)
		}
	}
}

// TestDriveContent: a drive is filled once, and a failure to fill it leaves none.
func TestDriveContent(t *testing.T) {
	t.Parallel()
	h := &Host{o: Options{Dir: t.TempDir()}}
	fills := 0
	n := NVMe{Serial: "S", MiB: 2, Fill: func(f *os.File) error { fills++; _, err := f.WriteAt([]byte("used"), 512); return err }}
	for range 2 {
		path, err := h.drive(n)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Size() != 2<<20 || path != filepath.Join(h.o.Dir, "S.raw") {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	if fills != 1 {
		t.Errorf("filled %d times", fills)
	}
	bad := NVMe{Serial: "T", MiB: 1, Fill: func(*os.File) error { return os.ErrInvalid }}
	if _, err := h.drive(bad); err == nil {
		t.Error("a drive that cannot be filled is there")
	}
	if _, err := os.Stat(h.DrivePath("T")); err == nil {
		t.Error("half a drive is left")
	}
}
