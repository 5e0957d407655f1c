//go:build lab

package main_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/client"
	"github.com/gpuaas/gpuaas/hostd/emuhost"
)

// rackSerial is the drive of the host that is racked, with what an earlier owner left.
const (
	rackSerial  = "NVMEUSED0"
	earlierText = "secret of an earlier owner"
)

// TestLabEmulatedHost racks an emulated host with a used drive at a site and sells it,
// twice: the real gpuaas outside, the real hostd inside, the operator and both tenants
// at gpuctl. The first guest boots by UEFI from the drive that is passed through to it.
func TestLabEmulatedHost(t *testing.T) {
	if why := emuhost.Missing(); why != "" {
		t.Skip("SKIPPED, no host was booted: " + why)
	}
	r := newRacked(t, rackConfig, nil, emuhost.Topology{Ports: []emuhost.Port{
		{Name: "gpu0", Devices: []emuhost.Device{emuhost.GPU{}}},
		{Name: "nvme0", Devices: []emuhost.Device{emuhost.NVMe{Serial: rackSerial, MiB: 256, Fill: emuhost.Used(emuhost.UsedGPT)}}},
		{Name: "nic0", Devices: []emuhost.Device{emuhost.NIC{MAC: "52:54:00:aa:00:01"}}},
	}})
	r.check("slot 0:", rackSerial, "GPT, 1 partitions: data", "virtual functions: 0000:03:00.0 has 0, want 2")
	r.join()
	r.drive(true, earlierText)
	sl := r.approve()
	r.drive(false, earlierText)
	r.catalog()

	alpha := r.newTenant("alpha")
	a := alpha.rent("first", "s3cret-alpha")
	alpha.says("first", "BARE up uefi", "serial "+rackSerial, "found no secret", "wrote secret=s3cret-alpha")
	r.drive(true, "s3cret-alpha")
	if r.files("s3cret-alpha") == "" {
		t.Error("no file of the host has the user data of a VM that runs: the search for it finds nothing")
	}
	r.killHostd("first", alpha)
	alpha.giveBack("first", a, sl)

	// Once through the firmware, which takes a minute and a half here, is enough.
	r.startDirectly()
	beta := r.newTenant("beta")
	r.crashWhen(`"vms":1,"wipes":0`) // its placement has come
	b := beta.rent("second", "s3cret-beta")
	if said := beta.says("second", "serial "+rackSerial, "found no secret", "wrote secret=s3cret-beta"); strings.Contains(said, "found secret") || strings.Contains(said, "s3cret-alpha") {
		t.Errorf("the second tenant found the first one's secret:\n%s", said)
	}
	r.crashWhen(`"kind":"removed"`) // the wipe begins
	beta.giveBack("second", b, sl)
	if r.crashes != 4 {
		t.Errorf("hostd was killed %d times, want 4", r.crashes)
	}
	r.nothingLeft("s3cret-alpha", "s3cret-beta")
}

// racked is a site with one emulated host.
type racked struct {
	t     *testing.T
	ctx   context.Context
	site  *site
	conf  string // hostd.yaml
	host  *emuhost.Host
	at    emuhost.Options // what the host was booted with
	hostd *emuhost.Process
	tools string // folder of the programs that this test builds

	crashAt   string    // when hostd logs it, it is killed, once; "": never
	crashFrom int       // bytes of its log that do not count
	crashTime time.Time // when hostd is killed, once, whatever it does; zero: never
	crashes   int
	op        gpuctl
	began     time.Time
}

const (
	hostDir = "/var/lib/hostd"
	// rackLimit is how long one step in the emulated host may take on busy cores.
	rackLimit = 8 * time.Minute
	rackPoll  = 200 * time.Millisecond
	rackName  = "emu-01"
	// directKernel is the small guest, for hosts that start it without firmware.
	directKernel = "/var/lib/bare.elf"
	hostConfig   = "/etc/hostd.yaml"
	hostProbe    = "/usr/local/bin/gpu-probe"
)

// rackConfig is hostd.yaml of the emulated host: its stand-ins for GPUs and its card.
const rackConfig = `dir: ` + hostDir + `
machine: linux
linux:
  uplink: uplink
  emulated: true
  vfs: {"0000:03:00.0": 2}
  reserve: {cores: 1, memory_mib: 1216}
  gpus: [{ids: "1234:11e8", name: edu, by_location: true}]
  probe: ` + hostProbe + `
`

// probeScript stands in for a program that looks into GPUs: it only says where it was sent.
const probeScript = `#!/bin/sh
printf '{"clean": true, "found": "sent to %s"}' "$*"
`

// newRacked starts the site and switches the host on, which is as deploy/hostd/README.md
// says, with files beside: their paths there, and here.
func newRacked(t *testing.T, conf string, files map[string]string, topology emuhost.Topology) *racked {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Minute)
	t.Cleanup(cancel)
	r := &racked{t: t, ctx: ctx, tools: t.TempDir(), began: time.Now(), conf: conf, at: emuhost.Options{Dir: t.TempDir(), Topology: topology}}
	build := exec.CommandContext(ctx, "go", "build", "-o", r.tools+"/", "github.com/gpuaas/gpuaas/cmd/gpuctl", "github.com/gpuaas/gpuaas/cmd/hostd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // hostd runs with another system's libraries
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	images := t.TempDir()
	if err := os.Symlink(emuhost.Image("bare.qcow2"), filepath.Join(images, "bare.qcow2")); err != nil {
		t.Fatal(err)
	}
	r.site = newSite(t, "dev", "--bare", "--images", images, "--nats-advertise", emuhost.Gateway, "--log-level", "warn")
	r.op = gpuctl{r, r.site.operator().key}
	r.step("site")
	if len(topology.Ports) > 3 {
		r.at.MemoryMiB = 2048
	}
	const deploy = "../../deploy/hostd/"
	r.at.Files = map[string]string{
		"/usr/local/bin/hostd": filepath.Join(r.tools, "hostd"), hostConfig: r.file("hostd.yaml", conf, 0o644), directKernel: emuhost.Image("bare.elf"),
		"/etc/udev/rules.d/10-hostd-drives.rules": deploy + "10-hostd-drives.rules", "/etc/lvm/lvmlocal.conf": deploy + "lvmlocal.conf",
		"/etc/mdadm/mdadm.conf": deploy + "mdadm.conf", "/etc/multipath/conf.d/hostd.conf": deploy + "multipath.conf",
		hostProbe: r.file("gpu-probe", probeScript, 0o755),
	}
	for to, content := range files {
		r.at.Files[to] = r.file(filepath.Base(to), content, 0o644)
	}
	r.boot()
	t.Cleanup(func() {
		if t.Failed() {
			r.explain()
		}
		if err := r.host.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// boot switches the host on, with the devices of r.at.
func (r *racked) boot() {
	r.t.Helper()
	host, err := emuhost.Boot(r.ctx, r.at)
	if err != nil {
		r.t.Fatal(err)
	}
	r.host = host
	r.step("host on")
}

// step says how long it took since the one before.
func (r *racked) step(what string) {
	r.t.Helper()
	r.t.Logf("%-28s %6.1f s", what, time.Since(r.began).Seconds())
	r.began = time.Now()
}

// explain shows what a failure leaves behind.
func (r *racked) explain() {
	end := func(b []byte) string { return string(b[max(0, len(b)-2500):]) }
	r.t.Logf("console:\n%s", end([]byte(r.host.Console())))
	if r.hostd != nil {
		r.t.Logf("hostd:\n%s", end(r.hostd.Stderr()))
	}
	r.t.Logf("site:\n%s", r.site.out.tail())
	r.t.Logf("emulator: %s", r.host.EmulatorSaid())
}

// sh runs a script in the host.
func (r *racked) sh(script string) string {
	r.t.Helper()
	out, err := r.host.Run(r.ctx, "sh", "-ec", script)
	if err != nil {
		r.t.Fatalf("%s: %v", script, err)
	}
	return strings.TrimSpace(string(out))
}

// until asks until f has no objection.
func (r *racked) until(what string, f func() error) {
	r.t.Helper()
	tick := time.NewTicker(rackPoll)
	defer tick.Stop()
	for deadline := time.Now().Add(rackLimit); ; {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: not within %v: %v", what, rackLimit, err)
		}
		<-tick.C
	}
}

// services starts what systemd would have started at boot.
func (r *racked) services() {
	r.t.Helper()
	for _, s := range []string{emuhost.Libvirt, emuhost.OpenVSwitch} {
		if err := r.host.Service(r.ctx, s); err != nil {
			r.t.Fatal(err)
		}
	}
}

// file makes a file of this machine.
func (r *racked) file(name, content string, mode os.FileMode) string {
	r.t.Helper()
	path := filepath.Join(r.tools, name)
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// startDirectly has hostd start guests from their kernel, without firmware.
func (r *racked) startDirectly() {
	r.t.Helper()
	r.crash()
	if err := r.host.CopyIn(r.ctx, r.file("hostd.yaml", r.conf+"  kernel: "+directKernel+"\n", 0o644), hostConfig); err != nil {
		r.t.Fatal(err)
	}
	r.startHostd()
}

// check is what its operator does before the host joins a site: nothing is found that
// looks into tenants' drives.
func (r *racked) check(words ...string) {
	r.t.Helper()
	out := r.sh("hostd check")
	r.t.Logf("hostd check:\n%s", out)
	for _, w := range words {
		if !strings.Contains(out, w) {
			r.t.Errorf("hostd check does not say %q", w)
		}
	}
}

// join exchanges a one-time token and starts hostd.
func (r *racked) join() {
	r.t.Helper()
	r.services()
	var made client.Host
	r.op.json(&made, "hosts", "add", rackName, "--rack", "r1", "--leaf", "l1", "--spine", "s1")
	server := strings.Replace(r.site.address(), "127.0.0.1", emuhost.Gateway, 1)
	with := func(dir, token string) error {
		p, err := r.host.Start(emuhost.Command{Args: []string{"hostd", "enroll", "--insecure", "--dir", dir, "--server", server}, Env: []string{"HOSTD_TOKEN=" + token}})
		if err != nil {
			return err
		}
		return p.Wait(r.ctx)
	}
	if err := with(hostDir, made.EnrolmentToken+"x"); err == nil {
		r.t.Error("a token that the site never gave enrolled a host")
	}
	if err := with(hostDir, made.EnrolmentToken); err != nil {
		r.t.Fatal(err)
	}
	if err := with("/tmp/other", made.EnrolmentToken); err == nil {
		r.t.Error("the token enrolled a second host, with other keys")
	}
	r.startHostd()
	r.step("enrolled")
}

func (r *racked) startHostd() {
	r.t.Helper()
	var err error
	if r.hostd, err = r.host.Start(emuhost.Command{Args: []string{"hostd", "run", "--config", hostConfig, "--machine", "linux"}}); err != nil {
		r.t.Fatal(err)
	}
}

// alive fails the test when hostd has ended.
func (r *racked) alive() {
	r.t.Helper()
	select {
	case <-r.hostd.Done():
		kernel, _ := r.host.Run(r.ctx, "sh", "-c", "dmesg | tail -n 30; free -m")
		r.t.Fatalf("hostd ended: %v\n%s\nkernel:\n%s", r.hostd.Wait(r.ctx), r.hostd.Stderr(), kernel)
	default:
	}
}

// approve looks at what the host proposes, approves exactly that, and waits until the
// first wipe is verified.
func (r *racked) approve() slot {
	r.t.Helper()
	var maps client.SlotMaps
	r.until("proposal", func() error {
		r.alive()
		r.op.json(&maps, "hosts", "slot-map", rackName)
		if maps.Proposal == nil {
			return errors.New("none yet")
		}
		return nil
	})
	r.step("slot map proposed")
	shown := r.op.run("hosts", "slot-map", rackName)
	r.t.Logf("what the operator sees:\n%s", shown)
	if len(maps.Proposal.Slots) != 1 {
		r.t.Fatalf("%d slots are proposed, want 1", len(maps.Proposal.Slots))
	}
	for _, want := range []string{rackSerial, "GPT, 1 partitions: data", "NOT EMPTY", maps.ProposalDigest} {
		if !strings.Contains(shown, want) {
			r.t.Errorf("the slot map does not show %q", want)
		}
	}
	if out, code := r.op.try("hosts", "approve", rackName, "--yes", "--digest", strings.Repeat("0", 64)); code == 0 {
		r.t.Errorf("a digest that nobody proposed was approved: %s", out)
	}
	r.op.run("hosts", "approve", rackName, "--yes", "--digest", maps.ProposalDigest, "--wipe-policy", "auto")
	var sl slot
	r.until("first wipe", func() error {
		r.alive()
		slots := list[slot](r.site.operator(), "/v1/slots")
		if len(slots) != 1 {
			return fmt.Errorf("%d slots", len(slots))
		}
		if sl = slots[0]; sl.State == "quarantined" {
			r.t.Fatalf("quarantined: %s %s\n%s", sl.Component, sl.Reason, r.op.run("slots", "erasure", rackName+"/0"))
		}
		if sl.State != "available" {
			return errors.New(sl.State)
		}
		return nil
	})
	r.step("first wipe, available")
	proof := r.op.run("slots", "erasure", rackName+"/0")
	r.t.Logf("the first wipe:\n%s", proof)
	for _, want := range []string{"verified", "nvme " + rackSerial + ": verified", "signature  good"} {
		if !strings.Contains(proof, want) {
			r.t.Errorf("the proof of the first wipe does not say %q", want)
		}
	}
	return sl
}

// catalog makes something to sell.
func (r *racked) catalog() {
	r.t.Helper()
	r.op.run("skus", "create", "gpu-1x", "--gpus", "1")
	r.op.run("skus", "price", "gpu-1x", "2.49")
}

// crash is kill -9 of hostd.
func (r *racked) crash() {
	r.t.Helper()
	if err := r.hostd.Signal(syscall.SIGKILL); err != nil {
		r.t.Fatal(err)
	}
	<-r.hostd.Done()
	r.crashes++
}

// crashWhen has mayCrash kill hostd when it next logs something.
func (r *racked) crashWhen(cue string) { r.crashAt, r.crashFrom = cue, len(r.hostd.Stderr()) }

// crashSoon has mayCrash kill hostd some time in the next seconds.
func (r *racked) crashSoon(rng *rand.Rand) {
	after := time.Duration(rng.IntN(4000)) * time.Millisecond
	r.t.Logf("hostd will be killed after %v", after)
	r.crashFrom, r.crashTime = len(r.hostd.Stderr()), time.Now().Add(after)
}

// mayCrash kills hostd at its cue, or when its time has come, and starts the next one.
func (r *racked) mayCrash() {
	r.t.Helper()
	cued := r.crashAt != "" && bytes.Contains(r.hostd.Stderr()[r.crashFrom:], []byte(r.crashAt))
	if !cued && (r.crashTime.IsZero() || time.Now().Before(r.crashTime)) {
		return
	}
	r.crash()
	r.t.Logf("kill -9 of hostd, whose last words were %s", r.hostd.Stderr()[r.crashFrom:])
	r.crashAt, r.crashTime = "", time.Time{}
	r.startHostd()
}

// killHostd is kill -9 while the tenant's VM runs: the VM does not notice, and the
// next hostd takes it over.
func (r *racked) killHostd(name string, te renter) {
	r.t.Helper()
	before := r.sh("pgrep -x qemu-system-x86")
	r.crash()
	if got := r.sh("virsh -q list --name --state-running | grep -c ."); got != "1" {
		r.t.Errorf("%s VMs run without hostd, want 1", got)
	}
	r.startHostd()
	r.until("adoption", func() error {
		r.alive()
		if !bytes.Contains(r.hostd.Stderr(), []byte(`"msg":"host is up"`)) {
			return errors.New("hostd is not up yet")
		}
		return nil
	})
	if said := string(r.hostd.Stderr()); !strings.Contains(said, `"vms":1`) {
		r.t.Errorf("the VM was not adopted:\n%s", said)
	}
	if after := r.sh("pgrep -x qemu-system-x86"); after != before {
		r.t.Errorf("QEMU is process %s, was %s", after, before)
	}
	// The console comes from the new hostd, and shows the one boot.
	if said := te.says(name, "BARE ready"); strings.Count(said, "BARE up ") != 1 {
		r.t.Errorf("the guest booted again:\n%s", said)
	}
	if a := te.allocation(name); a.State != "running" {
		r.t.Errorf("the allocation is %s after kill -9 of hostd", a.State)
	}
	r.step("kill -9 of hostd, adopted")
}
