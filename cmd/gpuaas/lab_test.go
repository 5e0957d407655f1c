//go:build lab

package main_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/hostd/machine/lab"
)

// bootLimit is how long a real guest may take to say ready on a busy machine.
const bootLimit = 3 * time.Minute

// TestLabLife is the life of a real VM under the whole program: it survives kill -9
// of the control plane, its disk outlives a stop, and its drive is proven erased.
func TestLabLife(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, no VM was booted: the lab needs root")
	}
	if why := lab.Missing(); why != "" {
		t.Skip("SKIPPED, no VM was booted: " + why)
	}
	image, err := exec.Command("../../deploy/lab/mkimage.sh").Output()
	if err != nil {
		t.Skipf("SKIPPED, no VM was booted: the image cannot be built: %v", err)
	}
	images := t.TempDir()
	if err := os.Symlink(strings.TrimSpace(string(image)), filepath.Join(images, "tiny.qcow2")); err != nil {
		t.Fatal(err)
	}
	const credit = 50_000_000
	s := newSite(t, "dev", "--machine", "lab", "--images", images, "--hosts", "1", "--gpus-per-host", "2", "--log-level", "warn")
	te := s.newTenant("acme", credit)
	te.refused(422, "image.not_found", "POST", "/v1/projects/"+te.project+"/allocations", obj{"sku": "gpu-1x", "image": "other"})

	secret := fmt.Sprintf("s3cret-%d", time.Now().UnixNano())
	a := te.launch(obj{"name": "real", "sku": "gpu-1x", "image": "tiny", "user_data": "#!/bin/sh\n# secret: " + secret + "\necho hello from user data\n"})
	got := te.booted(a.ID)
	sl := s.slotBecomes(got.VMs[0].SlotIDs[0], "active")
	says(te, a.ID, "TINY boots 1")
	says(te, a.ID, "TINY out: hello from user data")

	// Off and on: the disk is the same.
	te.do(202, "POST", "/v1/allocations/"+a.ID+"/stop", nil)
	eventually(t, bootLimit, "stop", func() error { return te.is(a.ID, "stopped") })
	te.do(202, "POST", "/v1/allocations/"+a.ID+"/start", nil)
	te.booted(a.ID)
	says(te, a.ID, "TINY boots 2")
	says(te, a.ID, "TINY found secret="+secret)

	// kill -9 of the control plane, which takes hostd along: the VM runs on.
	before := qemu(t, s.dir)
	s.program.kill()
	s.start()
	eventually(t, bootLimit, "the adopted VM", func() error { return te.is(a.ID, "running") })
	if after := qemu(t, s.dir); after != before {
		t.Errorf("QEMU is process %d, was %d", after, before)
	}
	if n := strings.Count(says(te, a.ID, "TINY boots 2"), "TINY up "); n != 2 {
		t.Errorf("the console shows %d boots, want 2", n)
	}

	te.do(202, "DELETE", "/v1/allocations/"+a.ID, nil)
	eventually(t, bootLimit, "release", func() error { return te.is(a.ID, "released") })
	s.slotBecomes(sl.ID, "available")
	drive := filepath.Join(s.dir, "hosts", "lab-01", "lab", "drives", "slot"+strconv.Itoa(sl.Index)+".raw")
	st, err := os.Stat(drive)
	if err != nil {
		t.Fatal(err)
	}
	if read := erased(t, te, a.ID, sl); read != uint64(st.Size()) || read != sl.NVMe.Bytes {
		t.Errorf("%d bytes were read back, the drive has %d, its map says %d", read, st.Size(), sl.NVMe.Bytes)
	}
	if out, err := exec.Command("grep", "-c", "-a", "-F", secret, drive).CombinedOutput(); err == nil {
		t.Errorf("the secret is still on the drive: %s", out)
	}
	exactBalance(t, te, credit, a.ID)
	verified(t, s)

	// Ctrl-C takes the lab down: no QEMU, libvirtd, dnsmasq or hostd is left.
	s.interrupt()
	if left := processesOf(s.dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), s.dir) {
		t.Errorf("a mount is left behind (%v)", err)
	}
}

// is objects unless the allocation is in the state.
func (te tenant) is(id, state string) error {
	a, err := te.ask("GET", "/v1/allocations/"+id, nil)
	if err != nil {
		return err
	}
	var got allocation
	a.into(te.s.t, &got)
	if got.State == "failed" && state != "failed" {
		te.s.t.Fatalf("%s failed: %s", id, got.Reason)
	}
	if got.State != state {
		return errors.New("it is " + got.State)
	}
	return nil
}

// booted waits until a real guest is ready.
func (te tenant) booted(id string) (a allocation) {
	te.s.t.Helper()
	began := time.Now()
	eventually(te.s.t, bootLimit, "boot of "+id, func() error { return te.is(id, "running") })
	te.s.t.Logf("running after %.1f s", time.Since(began).Seconds())
	te.get("/v1/allocations/"+id, &a)
	return a
}

// qemu is the one QEMU of the data directory.
func qemu(t *testing.T, dir string) (pid int) {
	t.Helper()
	for p, line := range processesOf(dir) {
		if strings.Contains(strings.Fields(line)[0], "qemu-system") {
			if pid != 0 {
				t.Fatalf("two QEMUs: %d and %d", pid, p)
			}
			pid = p
		}
	}
	if pid == 0 {
		t.Fatal("no QEMU runs")
	}
	return pid
}
