//go:build lab

package main_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/client"
	"github.com/gpuaas/gpuaas/hostd/emuhost"
)

// faultConfig is hostd.yaml of the host of faults. Each VM's QEMU has an account of its
// own. Guests start directly: that they boot from their drives is shown elsewhere.
const faultConfig = `dir: ` + hostDir + `
machine: linux
device_patience: 20s
linux:
  uplink: uplink
  emulated: true
  kernel: ` + directKernel + `
  vf: none
  users: {first: 70000, count: 64}
  reserve: {cores: 0, memory_mib: 540}
  gpus: [{ids: "1234:11e8", name: edu, by_location: true}]
`

// confinedConfig is libvirt's, as on a real host: QEMU's files are its account's, its
// system calls filtered.
const confinedConfig = `user = "root"
group = "root"
security_driver = "none"
dynamic_ownership = 1
remember_owner = 0
seccomp_sandbox = 1
cgroup_controllers = []
namespaces = []
`

const (
	drive0, drive1, driveBad, driveOther = "NVMEFAULT0", "NVMEFAULT1", "NVMEBAD", "NVMEOTHER"
	firstUser                            = 70000
)

// faultyHost has a slot on its first NUMA node and two on its second, one of them with
// a drive that cannot be erased, and two GPUs that share an IOMMU group. What earlier
// owners left on the good drives a host activates by itself, if nobody stops it; what is
// on the bad one is there to break who reads it.
func faultyHost() emuhost.Topology {
	return emuhost.Topology{Nodes: 2, Cores: 4, Ports: []emuhost.Port{
		{Name: "gpu0", Node: 0, Devices: []emuhost.Device{emuhost.GPU{}, emuhost.Audio{}}},
		{Name: "gpu1", Node: 1, Devices: []emuhost.Device{emuhost.GPU{}}},
		{Name: "gpu2", Node: 1, Devices: []emuhost.Device{emuhost.GPU{}}},
		{Name: "nvme0", Node: 0, Devices: []emuhost.Device{emuhost.NVMe{Serial: drive0, MiB: 128, Fill: emuhost.Used(emuhost.UsedLVM)}}},
		{Name: "nvme1", Node: 1, Devices: []emuhost.Device{emuhost.NVMe{Serial: drive1, MiB: 128, Fill: emuhost.Used(emuhost.UsedMD)}}},
		{Name: "nvme2", Node: 1, Devices: []emuhost.Device{emuhost.NVMe{Serial: driveBad, MiB: 64, Fails: true, Fill: hostile}}},
		{Name: "shared", Shared: true, Devices: []emuhost.Device{emuhost.GPU{}, emuhost.GPU{}}},
	}}
}

// hostile fills a drive with a GPT of four billion partitions under a good checksum, an MBR
// whose extended partitions contain themselves and end beyond the drive, and labels of LVM
// and md with nonsense behind them.
func hostile(f *os.File) error {
	const all = math.MaxUint32
	le := binary.LittleEndian
	b := make([]byte, 8<<10)
	for i, p := range [4]struct {
		kind          byte
		first, blocks uint32
	}{{0xee, 1, all}, {0x05, 0, all}, {0x05, 1, all}, {0x83, all - 1, all}} {
		e := b[446+16*i:]
		e[4] = p.kind
		le.PutUint32(e[8:], p.first)
		le.PutUint32(e[12:], p.blocks)
	}
	b[510], b[511] = 0x55, 0xaa
	gpt := b[512 : 512+92] // UEFI specification, 5.3.2
	copy(gpt, "EFI PART\x00\x00\x01\x00\x5c")
	le.PutUint64(gpt[24:], 1)              // where this is
	le.PutUint64(gpt[32:], 1)              // and its copy
	le.PutUint64(gpt[48:], math.MaxUint64) // last block
	le.PutUint64(gpt[72:], 2)              // where the entries are
	le.PutUint32(gpt[80:], all)            // how many
	le.PutUint32(gpt[84:], 128)            // of how many bytes
	le.PutUint32(gpt[16:], crc32.ChecksumIEEE(gpt))
	copy(b[1024:], "LABELONE\xff\xff\xff\xff\xff\xff\xff\xffLVM2 001")
	copy(b[4096:], "\xfc\x4e\x2b\xa9"+strings.Repeat("\xff", 252))
	_, err := f.WriteAt(b, 0)
	return err
}

// TestLabFaultyHost has the real hostd on a host with everything that must not be let
// to a tenant, and takes power and devices from it while tenants are there.
func TestLabFaultyHost(t *testing.T) {
	if why := emuhost.Missing(); why != "" {
		t.Skip("SKIPPED, no host was booted: " + why)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	r := newRacked(t, faultConfig, map[string]string{"/etc/libvirt/qemu.conf": confinedConfig}, faultyHost())
	r.sh("mkdir -p " + hostDir + " && chmod 711 " + hostDir + " && dpkg-statoverride --update --add libvirt-qemu libvirt-qemu 0751 /var/lib/libvirt/qemu")
	r.join()
	slots := r.faultyMap()
	r.catalog()

	alpha, beta := r.newTenant("alpha"), r.newTenant("beta")
	a := alpha.rent("first", "s3cret-alpha")
	b := beta.rent("second", "s3cret-beta")
	r.confined(slots, a, b)

	lost := r.powerCycle(alpha, beta, slots, a, b)

	// hostd dies wherever it is, while one tenant leaves and the next one comes.
	r.crashSoon(rng)
	kept := slots[a.VMs[0].SlotIDs[0]]
	if lost.ID == kept.ID {
		t.Fatal("both tenants had one slot")
	}
	alpha.release("first")
	r.becomes(kept.ID, "available")
	r.crashSoon(rng)
	beta.rent("third", "s3cret-gamma")
	r.crashSoon(rng)
	beta.release("third")
	r.becomes(kept.ID, "available")
	for !r.crashTime.IsZero() {
		r.mayCrash()
		time.Sleep(rackPoll) // until the last of them has come
	}

	// A drive is pulled: nobody gets its slot.
	if err := r.host.Unplug(r.ctx, r.portOf(kept)); err != nil {
		t.Fatal(err)
	}
	if got := r.becomes(kept.ID, "quarantined"); got.Component != "nvme" {
		t.Errorf("quarantined for %s: %s", got.Component, got.Reason)
	}
	if out, code := beta.try("allocations", "create", "fourth", "--sku", "gpu-1x", "--image", "bare"); code == 0 || !strings.Contains(out, "capacity.exhausted") {
		t.Errorf("a launch with no good slot left: exit code %d: %s", code, out)
	}
	r.step("drive pulled, quarantined")
	r.swapIn(lost, kept)
	for _, s := range []string{"s3cret-alpha", "s3cret-gamma"} {
		if found := r.files(s); found != "" {
			t.Errorf("%s is still in %s", s, found)
		}
	}
}

// faultyMap looks at what the host proposes and refuses to propose, approves it, and
// waits until the good slots are available and the bad one is in quarantine.
func (r *racked) faultyMap() map[string]slot {
	r.t.Helper()
	var maps client.SlotMaps
	r.until("proposal", func() error {
		r.alive()
		if r.op.json(&maps, "hosts", "slot-map", rackName); maps.Proposal == nil {
			return errors.New("none yet")
		}
		return nil
	})
	r.step("slot map proposed")
	shown := r.op.run("hosts", "slot-map", rackName)
	r.t.Logf("what the operator sees:\n%s", shown)
	if n := len(maps.Proposal.Slots); n != 3 {
		r.t.Fatalf("%d slots are proposed, want 3", n)
	}
	for _, want := range []string{drive0, drive1, driveBad, "LVM", "RAID", "GPT, "} {
		if !strings.Contains(shown, want) {
			r.t.Errorf("the slot map does not show %q", want)
		}
	}
	grouped := 0
	for _, u := range maps.Proposal.Unsafe {
		if strings.Contains(u.Reason, "group") {
			grouped++
		}
	}
	if grouped < 2 {
		r.t.Errorf("the two GPUs of one IOMMU group are not listed as unsafe: %+v", maps.Proposal.Unsafe)
	}
	r.notActivated()
	r.op.run("hosts", "approve", rackName, "--yes", "--digest", maps.ProposalDigest, "--wipe-policy", "auto")
	out := map[string]slot{}
	bad := 0
	var slots []slot
	r.until("the slots", func() error {
		if slots = list[slot](r.site.operator(), "/v1/slots"); len(slots) != 3 {
			return fmt.Errorf("%d slots", len(slots))
		}
		return nil
	})
	for _, s := range slots {
		want := "available"
		if s.NVMe.Serial == driveBad {
			want, bad = "quarantined", bad+1
		}
		s = r.becomes(s.ID, want)
		if want == "quarantined" && s.Component != "nvme" {
			r.t.Errorf("the bad drive's slot is quarantined for %s: %s", s.Component, s.Reason)
		}
		out[s.ID] = s
	}
	if bad != 1 || len(out) != 3 {
		r.t.Fatalf("%d slots, %d of them with the bad drive", len(out), bad)
	}
	r.notActivated()
	r.step("first wipes, one failed")
	r.t.Logf("what is said of the bad drive:\n%s", r.op.run("slots", "list", "--state", "quarantined"))
	return out
}

// notActivated: neither LVM nor md has touched what is on the drives.
func (r *racked) notActivated() {
	r.t.Helper()
	if got := r.sh("ls /dev/tenantvg /dev/mapper /dev/md /dev/md[0-9]* 2>/dev/null | grep -v -e control -e : || true; cat /proc/mdstat 2>/dev/null | grep -c ^md || true"); strings.TrimSpace(got) != "0" {
		r.t.Errorf("the host has activated what is on a tenant's drive: %s", got)
	}
}

// becomes waits until a slot is in a state. Quarantine is not waited out.
func (r *racked) becomes(id, state string) (sl slot) {
	r.t.Helper()
	r.until("slot "+id+" to be "+state, func() error {
		r.mayCrash()
		r.alive()
		sl = slot{}
		r.site.operator().get("/v1/slots/"+id, &sl)
		if sl.State == "quarantined" && state != "quarantined" {
			r.t.Fatalf("slot %d is quarantined: %s %s\n%s", sl.Index, sl.Component, sl.Reason, r.op.run("slots", "erasure", fmt.Sprintf("%s/%d", rackName, sl.Index)))
		}
		if sl.State != state {
			return errors.New(sl.State)
		}
		return nil
	})
	return sl
}

// confined: each VM's QEMU runs as its slot's account, without capabilities, behind a
// filter of its system calls, and that account reaches nothing of another VM's.
func (r *racked) confined(slots map[string]slot, vms ...client.Allocation) {
	r.t.Helper()
	pid := map[string]string{}
	for _, a := range vms {
		vm := a.VMs[0]
		uid := firstUser + slots[vm.SlotIDs[0]].Index
		pid[vm.ID] = r.sh("pgrep -f '[g]uest=" + vm.ID + "'")
		status := r.sh("cat /proc/" + pid[vm.ID] + "/status")
		for field, want := range map[string]string{
			"Uid": fmt.Sprintf("%[1]d\t%[1]d\t%[1]d\t%[1]d", uid), "CapEff": "0000000000000000", "Seccomp": "2", "NoNewPrivs": "1",
		} {
			got := regexp.MustCompile(`(?m)^` + field + `:\t(.*)$`).FindStringSubmatch(status)
			if got == nil || got[1] != want {
				r.t.Errorf("%s of QEMU of %s is %q, want %q", field, a.Name, got, want)
			}
		}
	}
	// As the first VM's account: its own group of devices opens, nothing of the other's does.
	one, two := vms[0].VMs[0], vms[1].VMs[0]
	uid := firstUser + slots[one.SlotIDs[0]].Index
	as := fmt.Sprintf("setpriv --reuid %[1]d --regid %[1]d --clear-groups ", uid)
	groups := func(vm client.VM) []string {
		return strings.Fields(r.sh("for f in /proc/" + pid[vm.ID] + "/fd/*; do readlink $f; done | grep -o '/dev/vfio/[0-9][0-9]*' | sort -u"))
	}
	mine, theirs := groups(one), groups(two)
	if len(mine) < 2 || len(theirs) < 2 {
		r.t.Fatalf("IOMMU groups %q and %q", mine, theirs)
	}
	for _, g := range mine { // busy, but not forbidden
		if out := r.sh(as + "sh -c 'exec 3<>" + g + "' 2>&1 || true"); strings.Contains(out, "ermission") {
			r.t.Errorf("QEMU's account cannot open its own %s: %s", g, out)
		}
	}
	forbidden := append(theirs, "/proc/"+pid[two.ID]+"/mem", hostDir+"/linux/vms/"+two.ID+"/seed.iso", hostDir+"/linux/vms/"+two.ID+"/console.log", hostDir+"/identity.json", "/run/libvirt/libvirt-sock")
	for _, f := range forbidden {
		script := "test ! -e " + f + " || ! " + as + "sh -c 'exec 3<" + f + "' 2>/dev/null"
		if strings.HasSuffix(f, "sock") {
			script = "! " + as + "virsh -c qemu:///system list >/dev/null 2>&1"
		}
		if _, err := r.host.Run(r.ctx, "sh", "-ec", script); err != nil {
			r.t.Errorf("QEMU of %s can open %s", vms[0].Name, f)
		}
	}
	r.step("confinement")
}

// powerCycle takes the power while both tenants' VMs run. When it comes back one of
// the drives is another one. The other tenant's VM comes back by itself, with its disk
// and address; the one whose drive is gone does not start, and its slot is nobody's.
func (r *racked) powerCycle(alpha, beta renter, slots map[string]slot, a, b client.Allocation) (lost slot) {
	r.t.Helper()
	lost = slots[b.VMs[0].SlotIDs[0]]
	before := layout(alpha.run("allocations", "console", "first"))
	r.host.PowerCut()
	if err := r.host.Close(); err != nil {
		r.t.Fatal(err)
	}
	for i, p := range r.at.Topology.Ports {
		for k, d := range p.Devices {
			if n, ok := d.(emuhost.NVMe); ok && n.Serial == lost.NVMe.Serial {
				r.at.Topology.Ports[i].Devices[k] = emuhost.NVMe{Serial: driveOther, MiB: n.MiB}
			}
		}
	}
	r.boot()
	r.services()
	r.notActivated()
	r.startHostd()
	r.until("the first tenant's VM to come back", func() error {
		r.alive()
		got := alpha.allocation("first")
		if got.State == "failed" || got.State == "released" {
			r.t.Fatalf("the VM whose devices are all there is %s: %s", got.State, got.Reason)
		}
		if got.State != "running" {
			return errors.New(got.State)
		}
		// The console's older words may have gone with the power.
		if said := alpha.run("allocations", "console", "first"); !strings.Contains(said, "drive boots 2") || !strings.Contains(said, "BARE ready") {
			return errors.New("it is said to run, and has not booted again")
		}
		return nil
	})
	if said := alpha.says("first", "drive boots 2"); !strings.Contains(said, "serial "+slots[a.VMs[0].SlotIDs[0]].NVMe.Serial) {
		r.t.Error("it has another drive")
	} else if now := layout(said); len(before) < 8 || !slices.Equal(now, before) {
		r.t.Errorf("its devices are at %q, were at %q", now, before)
	}
	if now := alpha.allocation("first"); now.VMs[0].Address != a.VMs[0].Address {
		r.t.Errorf("it has the address %s, had %s", now.VMs[0].Address, a.VMs[0].Address)
	}
	r.step("power cycle, one VM back")
	if got := r.becomes(lost.ID, "quarantined"); got.Component != "nvme" {
		r.t.Errorf("the slot without its drive is quarantined for %s: %s", got.Component, got.Reason)
	}
	r.until("the second tenant's VM to be given up", func() error {
		r.alive()
		if got := beta.allocation("second"); got.State == "running" {
			return errors.New("it is said to run, without its drive")
		}
		return nil
	})
	r.t.Logf("the tenant whose drive is gone is told: %+v", beta.allocation("second"))
	r.step("the other one quarantined")
	return lost
}

// swapIn approves the map with the drive that stands where a tenant's drive was: its
// slot can be sold again, and the drive that left unwiped is not forgotten.
func (r *racked) swapIn(lost, pulled slot) {
	r.t.Helper()
	r.op.run("slots", "retire", fmt.Sprintf("%s/%d", rackName, pulled.Index), "--reason", "drive-pulled", "--yes")
	var maps client.SlotMaps
	r.until("a map with the other drive", func() error {
		r.alive()
		r.op.json(&maps, "hosts", "slot-map", rackName)
		if maps.Proposal == nil || !slices.ContainsFunc(maps.Proposal.Slots, func(s client.SlotSpec) bool { return s.NVMe.Serial == driveOther }) {
			return errors.New("none yet")
		}
		return nil
	})
	r.op.run("hosts", "approve", rackName, "--digest", maps.ProposalDigest)
	r.until("the slot with the other drive", func() error {
		var now slot
		r.site.operator().get("/v1/slots/"+lost.ID, &now)
		return errNo(now.State == "available" && now.NVMe.Serial == driveOther, now.State+" with "+now.NVMe.Serial)
	})
	if out := r.op.run("wipe-duties", "list"); !strings.Contains(out, lost.NVMe.Serial) {
		r.t.Errorf("nobody knows any more that %s left unwiped: %s", lost.NVMe.Serial, out)
	}
	shown := r.op.run("devices", "show", lost.NVMe.Serial)
	r.t.Logf("what an auditor sees of the drive that left:\n%s", shown)
	for _, want := range []string{driveOther, "owed"} {
		if !strings.Contains(shown, want) {
			r.t.Errorf("the story of %s does not name %s", lost.NVMe.Serial, want)
		}
	}
	r.step("the other drive in its place")
}

// layout is what the guest finds on its PCI buses at its newest boot, and where.
func layout(console string) (out []string) {
	_, newest, _ := strings.Cut(console[max(0, strings.LastIndex(console, "BARE up ")):], "\n")
	for line := range strings.Lines(newest) {
		if strings.HasPrefix(line, "BARE pci ") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

func (te renter) release(name string) {
	te.r.t.Helper()
	te.run("allocations", "release", name, "--yes")
}

// portOf is the port of the host with the slot's drive.
func (r *racked) portOf(s slot) string {
	r.t.Helper()
	for _, p := range r.at.Topology.Ports {
		if n, ok := p.Devices[0].(emuhost.NVMe); ok && n.Serial == s.NVMe.Serial {
			return p.Name
		}
	}
	r.t.Fatalf("no port has the drive %s", s.NVMe.Serial)
	return ""
}
