//go:build lab

package emuhost_test

import (
	"strings"
	"testing"

	"github.com/gpuaas/gpuaas/hostd/emuhost"
)

// TestLabLongFaulty: the host of faults has the faults.
func TestLabLongFaulty(t *testing.T) {
	h, ctx := boot(t, emuhost.Options{Topology: emuhost.Faulty()})
	if got := sh(t, ctx, h, "ls -d /sys/devices/system/node/node[0-9] | wc -l"); got != "2" {
		t.Errorf("%s NUMA nodes", got)
	}
	devices := map[string][]string{} // vendor:device -> "address node group"
	for _, l := range strings.Split(sh(t, ctx, h, `for d in /sys/bus/pci/devices/*; do
		echo "$(cat $d/vendor):$(cat $d/device) ${d##*/} $(cat $d/numa_node) $(basename $(readlink $d/iommu_group)) [$(cat $d/reset_method)]"; done`), "\n") {
		kind, rest, _ := strings.Cut(l, " ")
		devices[kind] = append(devices[kind], rest)
		if kind != "0x1b36:0x000c" {
			t.Log(l)
		}
	}
	group := func(line string) string { return strings.Fields(line)[2] }
	node := func(line string) string { return strings.Fields(line)[1] }
	gpus, audio := devices["0x1234:0x11e8"], devices["0x8086:0x293e"]
	if len(gpus) != 4 || len(audio) != 1 || len(devices["0x8086:0x10c9"]) != 1 || len(devices["0x1b36:0x0010"]) != 2 {
		t.Fatalf("devices are missing: %v", devices)
	}
	groups, nodes := map[string]int{}, map[string]int{}
	for _, g := range gpus {
		groups[group(g)]++
		nodes[node(g)]++
	}
	if len(groups) != 3 || groups[group(audio[0])] != 1 || nodes["0"] < 1 || nodes["1"] < 1 {
		t.Errorf("GPUs in groups %v, sound in %s, nodes %v", groups, group(audio[0]), nodes)
	}

	// The bad drive answers reads and fails whatever would erase it.
	const bad = "d=$(readlink -e /dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_NVMEBAD); "
	sh(t, ctx, h, bad+"dd if=$d of=/dev/null bs=1M count=4 iflag=direct")
	for _, erase := range []string{
		"nvme format $d --ses=1 --force", "nvme write-zeroes $d --start-block=0 --block-count=7",
		"dd if=/dev/zero of=$d bs=64k count=1 oflag=direct", "blkdiscard -f -z -l 1M $d",
	} {
		if out, err := h.Run(ctx, "timeout", "60", "sh", "-ec", bad+erase); err == nil {
			t.Errorf("%s works on the bad drive: %s", erase, out)
		} else {
			t.Logf("%s: %v", erase, err)
		}
	}

	if err := h.Unplug(ctx, "nvme0"); err != nil {
		t.Fatal(err)
	}
	if got := sh(t, ctx, h, "cat /sys/class/nvme/*/serial"); got != "NVMEBAD" {
		t.Errorf("after the good drive was pulled there is %q", got)
	}
}

// TestLabLongUsedDrives: a host that nobody told otherwise does with a tenant's drive what
// hostd has to prevent.
func TestLabLongUsedDrives(t *testing.T) {
	h, ctx := boot(t, emuhost.Options{Topology: emuhost.Topology{Ports: []emuhost.Port{
		{Name: "gpt", Devices: []emuhost.Device{emuhost.NVMe{Serial: "GPT", MiB: 128, Fill: emuhost.Used(emuhost.UsedGPT)}}},
		{Name: "lvm", Devices: []emuhost.Device{emuhost.NVMe{Serial: "LVM", MiB: 128, Fill: emuhost.Used(emuhost.UsedLVM)}}},
		{Name: "md", Devices: []emuhost.Device{emuhost.NVMe{Serial: "MD", MiB: 128, Fill: emuhost.Used(emuhost.UsedMD)}}},
		{Name: "large", Devices: []emuhost.Device{emuhost.NVMe{Serial: "BLOCKS4K", MiB: 128, BlockBytes: 4096}}},
	}}})
	t.Log(sh(t, ctx, h, "lsblk -o NAME,SIZE,TYPE,FSTYPE,LABEL,SERIAL,LOG-SEC"))
	for _, path := range []string{"/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_GPT-part1", "/dev/tenantvg/data", "/dev/md/tenantmd*"} {
		if got := sh(t, ctx, h, "udevadm settle; mount -o ro "+path+" /mnt; cat /mnt/secret; umount /mnt"); got != "secret of an earlier owner" {
			t.Errorf("%s has %q", path, got)
		}
	}
	if got := sh(t, ctx, h, "cat /sys/block/$(basename $(readlink -e /dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_BLOCKS4K))/queue/logical_block_size"); got != "4096" {
		t.Errorf("the drive with large blocks has %s", got)
	}
}
