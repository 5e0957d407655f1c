//go:build lab

package main_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/domain/domaintest"
	"github.com/gpuaas/gpuaas/hostd/emuhost"
	"github.com/gpuaas/gpuaas/streams/server"
	"github.com/gpuaas/gpuaas/streams/streamstest"
)

// The real gpuaas with its NATS and its Postgres, and hostd with simulated hosts, run in
// an emulated machine whose disk records what is written and flushed. Its power is cut
// while clients outside write. What a disk can have kept of that is put together at many
// moments of the record, mounted, and judged by starting the site on it.

const (
	powerDiskMiB  = 2048
	powerPort     = 8080
	powerLoad     = 20 * time.Second // before the power is cut
	powerCuts     = 5                // judged of one run
	programSerial = "PROGRAMS"
)

// powerTally is how far the campaign is.
type powerTally struct {
	Cuts         int        `json:"cuts"`
	Runs         int        `json:"runs"`
	Acknowledged int        `json:"acknowledged"` // before the cut, over all cuts
	UnderWay     int        `json:"under_way"`    // asked for, and not answered before the cut
	Done         int        `json:"done"`         // of these, what the log had when the power was back
	Unflushed    int        `json:"unflushed_writes"`
	Newest       []trialRun `json:"newest"`
}

// TestLabPowerCut cuts the power once.
func TestLabPowerCut(t *testing.T) {
	one := cutPower(t, seedOfRun(), powerLoad/2, 1)
	if one.Acknowledged == 0 {
		t.Error("no command was acknowledged before the cut: this tested nothing")
	}
}

// TestPowerCuts goes on where it ended the last time.
func TestPowerCuts(t *testing.T) {
	if !*campaignLong {
		t.Skip("make test-long")
	}
	if why := emuhost.Missing(); why != "" {
		t.Skip("SKIPPED, no power was cut: " + why)
	}
	file := filepath.Join(*campaignCache, "powercuts.json")
	var sum powerTally
	if err := domaintest.ReadCount(file, &sum); err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); time.Since(began) < *campaignFor; {
		var one powerTally
		seed := seedOfRun()
		if !t.Run(fmt.Sprint(seed), func(t *testing.T) { one = cutPower(t, seed, powerLoad, powerCuts) }) {
			t.FailNow()
		}
		sum.Cuts, sum.Runs, sum.Acknowledged = sum.Cuts+one.Cuts, sum.Runs+1, sum.Acknowledged+one.Acknowledged
		sum.UnderWay, sum.Done, sum.Unflushed = sum.UnderWay+one.UnderWay, sum.Done+one.Done, sum.Unflushed+one.Unflushed
		sum.Newest = append(sum.Newest, one.Newest...)
		sum.Newest = sum.Newest[max(0, len(sum.Newest)-keepRuns):]
		if err := domaintest.WriteCount(file, sum); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d power cuts in %d runs, %d commands acknowledged before them and none lost, %d under way and none done twice (%s)", sum.Cuts, sum.Runs, sum.Acknowledged, sum.UnderWay, file)
}

// outage is a site on a disk of its own, which runs here or in the emulated machine.
type outage struct {
	*trial
	disk    string // the image that is, or will be, mounted at dir
	before  string // a copy of it, as the emulated machine found it
	tools   string // what the machine needs of this one
	mounted bool
	hosts   *program
	began   time.Time
}

// cutPower runs a site in the emulated machine, takes the power away, and judges what is
// left at some moments.
func cutPower(t *testing.T, seed uint64, load time.Duration, cuts int) (sum powerTally) {
	t.Helper()
	if why := emuhost.Missing(); why != "" {
		t.Skip("SKIPPED, no power was cut: " + why)
	}
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 2))
	if files, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres"); len(files) == 0 || os.Geteuid() != 0 {
		t.Skip("SKIPPED, no power was cut: it takes root, to mount the disk, and a Postgres of Debian's")
	}
	o := &outage{trial: &trial{t: t, dir: dataDir(t)}, began: time.Now(), tools: t.TempDir()}
	o.disk, o.before = filepath.Join(o.tools, "site.ext4"), filepath.Join(o.tools, "before.ext4")
	t.Cleanup(o.unmount)
	o.sites = []*site{{t: t, dir: filepath.Join(o.dir, "cp"), args: []string{"serve", "--site", trialName, "--log-level", "warn", "--snapshot-every", "50"}}}
	o.found()
	history, from, to := o.outside(seed, load)

	record, err := emuhost.OpenRecord(o.disk)
	if err != nil {
		t.Fatal(err)
	}
	defer record.Close()
	o.whole(record)
	moments := record.Moments(from+(to-from)/4, to) // when something was acknowledged, on a slow machine too
	for i := range cuts {
		at := worst(moments, random)
		o.command("cp", "--sparse=always", o.before, o.disk)
		left, err := record.Cut(o.disk, at, random)
		if err != nil {
			t.Fatal(err)
		}
		one := o.after(seed+uint64(i)+1, history, left)
		sum.Cuts++
		sum.Acknowledged += one.Acknowledged
		sum.UnderWay += one.UnderWay
		sum.Done += one.Done
		sum.Unflushed += left.Kept + left.Lost + left.Torn
		o.step(fmt.Sprintf("cut %d judged", i+1))
		if t.Failed() {
			break
		}
	}
	sum.Newest = []trialRun{{time.Now().UTC().Format(time.DateOnly), domaintest.Commit(), seed, len(history)}}
	return sum
}

// worst is, of a few moments, one at which much was written and not flushed.
func worst(moments []emuhost.Moment, random *rand.Rand) int64 {
	var out emuhost.Moment
	for range 16 {
		if m := moments[random.IntN(len(moments))]; m.Unflushed >= out.Unflushed {
			out = m
		}
	}
	return out.At
}

func (o *outage) step(what string) {
	o.t.Logf("%-24s %5.1f s", what, time.Since(o.began).Seconds())
	o.began = time.Now()
}

func (o *outage) command(name string, args ...string) {
	o.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		o.t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

func (o *outage) mount() {
	o.t.Helper()
	o.command("mount", "-o", "loop", o.disk, o.dir)
	o.mounted = true
}

func (o *outage) unmount() {
	if o.mounted {
		o.sites[0].gone()
		if o.hosts != nil {
			o.hosts.kill()
		}
		o.mounted = false
		eventually(o.t, limit, "the end of who uses the disk", func() error { return syscall.Unmount(o.dir, 0) })
	}
}

// found makes the disk and the site on it, here: in the machine it would take minutes.
func (o *outage) found() {
	t := o.t
	if err := os.WriteFile(o.disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(o.disk, powerDiskMiB<<20); err != nil {
		t.Fatal(err)
	}
	o.command("mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0", o.disk)
	o.mount()
	if err := os.Mkdir(o.sites[0].dir, 0o755); err != nil {
		t.Fatal(err)
	}
	o.sites[0].start()
	o.startHosts("sim: {boot: 40ms, wipe: 40ms, sync: true}\n", func(args ...string) { o.hosts = run(t, nil, "hostd", args...) })
	if err := o.hosts.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	o.hosts.ended(t, limit)
	o.sites[0].interrupt()
	o.unmount()
	o.command("cp", "--sparse=always", o.disk, o.before)
	o.step("the site is founded")
}

// outside switches the machine on, has clients outside of it write, and takes the power
// away. It returns what they asked for, and the sizes that the record of the disk had when
// they began and at the end.
func (o *outage) outside(seed uint64, load time.Duration) (history []*operation, from, to int64) {
	t := o.t
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	h, err := emuhost.Boot(ctx, emuhost.Options{Dir: t.TempDir(), Topology: emuhost.Topology{Ports: []emuhost.Port{
		{Name: "programs", Devices: []emuhost.Device{emuhost.NVMe{Serial: programSerial, MiB: 512, Fill: o.programs}}},
		{Name: "site", Devices: []emuhost.Device{emuhost.Disk{File: o.disk}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}()
	o.step("the machine is on")
	script := fmt.Sprintf(`mkdir -p /programs %[1]s
mount -o ro /dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_%[2]s /programs; mount /dev/disk/by-id/virtio-site %[1]s
cp -rsn /programs/usr / ; cat /programs/passwd >> /etc/passwd
ulimit -c 0; cd /; hostd run --config %[1]s/hostd.yaml --machine sim --fleet %[1]s/fleet.json > /tmp/hostd.log 2>&1 &
exec gpuaas serve --data-dir %[3]s --listen 10.0.2.15:%[4]d --insecure-plain --site %[5]s --log-level info --snapshot-every 50`, o.dir, programSerial, o.sites[0].dir, powerPort, trialName)
	inside, err := h.Start(emuhost.Command{Args: []string{"sh", "-ec", script}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("in the machine:\n%s%s", inside.Stdout(), inside.Stderr())
		}
	})
	port := streamstest.Port(t)
	if _, err := h.Monitor(ctx, "human-monitor-command", map[string]string{"command-line": fmt.Sprintf("hostfwd_add uplink tcp:127.0.0.1:%d-10.0.2.15:%d", port, powerPort)}); err != nil {
		t.Fatal(err)
	}
	s := o.sites[0]
	s.mu.Lock()
	s.base, s.client = fmt.Sprintf("http://127.0.0.1:%d", port), newClient(nil)
	s.mu.Unlock()
	s.client.Timeout = 30 * time.Second
	eventually(t, 3*time.Minute, "the site in the machine", func() error {
		select {
		case <-inside.Done():
			t.Fatalf("it ended: %v", inside.Wait(ctx))
		default:
		}
		_, ok, why := o.role(0)
		return errNo(ok, why)
	})
	o.step("its site answers")

	size := func() int64 {
		n, err := emuhost.RecordBytes(o.disk)
		if err != nil {
			t.Error(err)
		}
		return n
	}
	c := o.newClients("c", time.Now())
	c.mark = size
	from = size()
	c.start(seed)
	select {
	case <-time.After(load): // how long they work is what is asked for
	case <-inside.Done():
		t.Errorf("it ended: %v", inside.Wait(ctx))
	}
	to = size()
	c.dark.Store(true)
	// What QEMU was told to write it has written when it stands still; the power goes then.
	if _, err := h.Monitor(ctx, "stop", nil); err != nil {
		t.Fatal(err)
	}
	h.PowerCut()
	history = c.end()
	o.step(fmt.Sprintf("%d commands, power off", len(history)))
	return history, from, to
}

// programs fills a drive with what the machine runs: this build and this machine's Postgres.
func (o *outage) programs(f *os.File) error {
	root := filepath.Join(o.tools, "programs")
	to := filepath.Join(root, "usr", "local", "bin")
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	build := exec.Command("go", "build", "-o", to+"/", "github.com/gpuaas/gpuaas/cmd/gpuaas", "github.com/gpuaas/gpuaas/cmd/hostd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w: %s", err, out)
	}
	// Both are Debian's; a library that the machine has already stays as it is there.
	const copyPostgres = `cd / && getent passwd postgres > "$1/passwd"
d=$(ls -d /usr/lib/postgresql/*/bin | tail -n1)
cp -a --parents "${d%/bin}" /usr/share/postgresql "$1"
ldd "$d/postgres" "$d/initdb" | awk '/=> \//{print $3}' | sort -u | while read -r l; do
  mkdir -p "$1/usr/lib/x86_64-linux-gnu"; cp -L "$l" "$1/usr/lib/x86_64-linux-gnu/"; done
mke2fs -q -t ext4 -d "$1" "$2"`
	if out, err := exec.Command("sh", "-ec", copyPostgres, "programs", root, f.Name()).CombinedOutput(); err != nil {
		return fmt.Errorf("programs: %w: %s", err, out)
	}
	return nil
}

// whole wants the record to lead from what the disk was to what it is: it misses nothing.
func (o *outage) whole(record *emuhost.Record) {
	o.t.Helper()
	all := filepath.Join(o.tools, "all.ext4")
	o.command("cp", "--sparse=always", o.before, all)
	if err := record.Replay(all); err != nil {
		o.t.Fatal(err)
	}
	o.command("cmp", all, o.disk)
	if err := os.Remove(all); err != nil {
		o.t.Fatal(err)
	}
}

// after starts the site on what a cut left, has the clients ask again for what was not
// answered, goes on for a while, and judges everything.
func (o *outage) after(seed uint64, all []*operation, left emuhost.Left) (sum powerTally) {
	t := o.t
	t.Helper()
	o.mount()
	defer o.unmount()
	s := o.sites[0]
	s.client = newClient(nil)
	s.start()
	o.hosts = run(t, nil, "hostd", "run", "--config", filepath.Join(o.dir, "hostd.yaml"), "--machine", "sim", "--fleet", filepath.Join(o.dir, "fleet.json"))
	o.settleNATS()
	there := map[any]bool{}
	for _, c := range o.commits() {
		for i := range c.Decisions {
			there[c.Decisions[i].Command.IdemKey] = true
		}
	}

	c := o.newClients(fmt.Sprintf("again%d-", seed), time.Now().Add(-time.Hour))
	one := &wisher{c: c, random: rand.New(rand.NewPCG(seed, 3))}
	var history []*operation
	for _, before := range all {
		if before.begun > left.At {
			continue
		}
		again := *before
		history = append(history, &again)
		if again.answered && again.marked <= left.At {
			sum.Acknowledged++
			continue
		}
		sum.UnderWay++
		if there[again.key] {
			sum.Done++
		}
		again.answered, again.unsure, again.ret, again.status, again.seq, again.code, again.state = false, true, 0, 0, 0, "", ""
		one.key = o.keyOf(&again)
		if again.verb == launch {
			again.on, again.slots = "", nil
		}
		one.pursue(&again)
	}
	c.start(seed)
	eventually(t, limit, "new commands", func() error { return errNo(c.acked.Load() >= 20, fmt.Sprint(c.acked.Load(), " answers")) })
	history = append(history, c.end()...)
	t.Logf("cut at byte %d: %d writes flushed, after that %d kept, %d lost, %d torn; %d commands acknowledged, %d under way of which the log has %d", left.At, left.Durable, left.Kept, left.Lost, left.Torn, sum.Acknowledged, sum.UnderWay, sum.Done)
	o.judge(history)
	if t.Failed() {
		t.Logf("the site said:\n%s\nhostd:\n%s", s.out.tail(), o.hosts.out.tail())
	}
	return sum
}

// settleNATS takes the address and the trust of the server that runs now.
func (o *outage) settleNATS() {
	o.t.Helper()
	url, err := os.ReadFile(filepath.Join(o.sites[0].dir, "nats.url"))
	if err == nil {
		o.natsURLs = strings.TrimSpace(string(url))
		o.trust, err = server.OpenTrust(filepath.Join(o.sites[0].dir, "nats", "trust"), trialName)
	}
	if err != nil {
		o.t.Fatal(err)
	}
}

// keyOf is the key of the client that asked.
func (o *outage) keyOf(op *operation) string {
	if n := op.client / clientsEach; n < len(o.tenants) {
		return o.tenants[n].key
	}
	return o.sites[0].operator().key
}
