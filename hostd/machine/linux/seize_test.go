package linux

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gpuaas/gpuaas/domain"
)

// TestSeize: after a boot of the host the functions of approved slots leave its
// drivers by themselves, also those of a VM that is off; those of others do not.
func TestSeize(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	v := w.vm(1)
	if err := w.m.PrepareDisk(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if err := w.m.Close(); err != nil {
		t.Fatal(err)
	}
	w.k.Reboot()
	w.boot("2")
	w.open()
	approved := &domain.SlotMap{Slots: w.slots[:2]}
	w.m.o.Discovery.Approved = func() *domain.SlotMap { return approved }
	got := w.m.approvedOf(&domain.SlotMap{Slots: w.slots})
	if len(got) != 2 {
		t.Fatalf("approved: %+v", got)
	}
	w.acts = nil
	w.m.seize(t.Context(), got)
	if out := w.notGiven(w.slots[:2]); len(out) != 0 {
		t.Errorf("not with vfio-pci: %v", out)
	}
	if d := w.k.Driver(w.slots[2].GPU.Address); d != "nouveau" {
		t.Errorf("a GPU that is not approved is with %q", d)
	}
	w.acts = nil
	w.m.seize(t.Context(), got)
	if len(w.acts) != 0 {
		t.Errorf("again: %q", w.acts)
	}
}

// TestSeizeEarly: before anything is looked at, what is where it was approved leaves the
// host's drivers, and only that.
func TestSeizeEarly(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, 5, true)
	w.k.Swap(w.slots[1].NVMe.Address, "OTHER")
	w.k.Reboot()
	approved := &domain.SlotMap{Slots: slices.Clone(w.slots[:4])}
	approved.Slots[2].GPU.PCIID = "8086:1533"
	approved.Slots[3].GPU.SerialFrom = domain.SerialOfDevice // nobody could ask it any more
	w.m.o.Discovery.Approved = func() *domain.SlotMap { return approved }
	w.m.seizeEarly(t.Context())
	if out := w.notGiven(w.slots[:1]); len(out) != 0 {
		t.Errorf("not with vfio-pci: %v", out)
	}
	for slot, want := range map[int]string{1: "nouveau", 2: "nouveau", 3: "nouveau", 4: "nouveau"} {
		if d := w.k.Driver(w.slots[slot].GPU.Address); d != want {
			t.Errorf("the GPU of slot %d is with %q", slot, d)
		}
	}
}

// TestWithoutAMapNothingOfASlotIsRead: while nobody says which map is in force, a drive
// that ever was a slot's is not read.
func TestWithoutAMapNothingOfASlotIsRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	if err := w.m.PrepareDisk(t.Context(), w.vm(1)); err != nil {
		t.Fatal(err)
	}
	w.tree.Write("class/block/nvme8n1/device/serial", "DRIVE0\n")
	w.tree.Write("class/block/nvme9n1/device/serial", "DRIVE1\n")
	if !w.m.once("nvme8n1") || w.m.once("nvme9n1") {
		t.Error("without a map")
	}
	w.m.o.Discovery.Approved = func() *domain.SlotMap { return &domain.SlotMap{} }
	if w.m.once("nvme8n1") {
		t.Error("with a map that says that it is none")
	}
}

func TestBlind(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	if out := w.m.Blind(t.Context()); len(out) != 0 {
		t.Errorf("a host without udev, LVM and so on: %q", out)
	}
	files := map[string][2]string{
		udevRules:               {"", "rules"},
		"/etc/lvm/lvm.conf":     {"# global_filter = [ \"r|/dev/nvme.*|\" ]\n", "global_filter = [ \"r|/dev/nvme.*|\" ]\n"},
		"/etc/mdadm/mdadm.conf": {"ARRAY /dev/md0\n", "AUTO -all\n"},
		"/etc/multipath.conf":   {"", "devnode \"^nvme\"\n"},
		"/etc/default/grub":     {"#GRUB_DISABLE_OS_PROBER=true\n", "GRUB_DISABLE_OS_PROBER=true\n"},
	}
	for _, there := range []string{"/run/udev/control", "/sbin/mdadm", "/sbin/multipathd", "/usr/bin/os-prober"} {
		w.write(filepath.Join(w.root, there), "")
	}
	for path, content := range files {
		if content[0] != "" {
			w.write(filepath.Join(w.root, path), content[0])
		}
	}
	if out := w.m.Blind(t.Context()); len(out) != 5 {
		t.Errorf("nothing is blinded: %q", out)
	}
	for path, content := range files {
		w.write(filepath.Join(w.root, path), content[1])
	}
	if out := w.m.Blind(t.Context()); len(out) != 0 {
		t.Errorf("all is blinded: %q", out)
	}
	// The proof of the pudding: udev knows what is on a slot's drive.
	w.tree.Write("class/block/nvme0n1/device/serial", "DRIVE0\n")
	w.write(filepath.Join(w.root, "/run/udev/data/b259:1"), "E:ID_FS_TYPE=LVM2_member\n")
	if out := w.m.Blind(t.Context()); len(out) != 1 || !strings.Contains(out[0], "DRIVE0") {
		t.Errorf("udev read a drive: %q", out)
	}
}
