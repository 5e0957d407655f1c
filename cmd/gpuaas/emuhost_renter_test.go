//go:build lab

package main_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/gpuaas/gpuaas/client"
)

// gpuctl is gpuctl with somebody's key.
type gpuctl struct {
	r   *racked
	key string
}

// try runs it to its end.
func (g gpuctl) try(args ...string) (out string, code int) {
	g.r.t.Helper()
	cmd := exec.CommandContext(g.r.ctx, filepath.Join(g.r.tools, "gpuctl"), args...)
	cmd.Env = append(os.Environ(), "GPUCTL_SERVER="+g.r.site.address(), "GPUCTL_KEY="+g.key, "XDG_CONFIG_HOME="+filepath.Join(g.r.tools, "config"))
	b, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		g.r.t.Fatalf("gpuctl %v: %v", args, err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

// run wants it to do what it was told.
func (g gpuctl) run(args ...string) string {
	g.r.t.Helper()
	out, code := g.try(args...)
	if code != 0 {
		g.r.t.Fatalf("gpuctl %v: exit code %d: %s", args, code, out)
	}
	return out
}

// json runs it with -o json.
func (g gpuctl) json(into any, args ...string) {
	g.r.t.Helper()
	out := g.run(append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		g.r.t.Fatalf("gpuctl %v: %v: %s", args, err, out)
	}
}

// renter is a tenant at gpuctl.
type renter struct{ gpuctl }

func (r *racked) newTenant(name string) renter {
	r.t.Helper()
	r.op.run("tenants", "create", name)
	r.op.run("credits", "grant", name, "50", "--kind", "paid")
	key := filepath.Join(r.tools, name+".key")
	r.op.run("keys", "create", "owner", "--tenant", name, "--role", "owner", "--to-file", key)
	b, err := os.ReadFile(key)
	if err != nil {
		r.t.Fatal(err)
	}
	te := renter{gpuctl{r, strings.TrimSpace(string(b))}}
	te.run("projects", "create", "main")
	return te
}

// rent launches a VM and waits until it is ready.
func (te renter) rent(name, secret string) client.Allocation {
	te.r.t.Helper()
	data := filepath.Join(te.r.tools, name+".data")
	if err := os.WriteFile(data, []byte("#!/bin/sh\n# secret: "+secret+"\n"), 0o600); err != nil {
		te.r.t.Fatal(err)
	}
	te.run("allocations", "create", name, "--sku", "gpu-1x", "--image", "bare", "--user-data-file", data)
	te.r.until(name+" to run", func() error {
		te.r.mayCrash()
		te.r.alive()
		switch a := te.allocation(name); a.State {
		case "running":
			return nil
		case "failed", "released":
			out, _ := te.try("allocations", "console", name)
			te.r.t.Fatalf("%s is %s: %s; console:\n%s", name, a.State, a.Reason, out)
			return nil
		default:
			return errors.New(a.State)
		}
	})
	te.r.step(name + " runs")
	a := te.allocation(name)
	te.r.t.Logf("%s has the address %q", name, a.VMs[0].Address)
	return a
}

func (te renter) allocation(name string) (a client.Allocation) {
	te.r.t.Helper()
	te.json(&a, "allocations", "get", name)
	return a
}

// says waits until the console has all the words.
func (te renter) says(name string, words ...string) (console string) {
	te.r.t.Helper()
	te.r.until("console of "+name, func() error {
		console = te.run("allocations", "console", name)
		for _, w := range words {
			if !strings.Contains(console, w) {
				return fmt.Errorf("no %q in:\n%s", w, console)
			}
		}
		return nil
	})
	te.r.t.Logf("console of %s:\n%s", name, console)
	return console
}

// giveBack releases an allocation and wants the proof that exactly its devices were
// erased.
func (te renter) giveBack(name string, a client.Allocation, sl slot) {
	te.r.t.Helper()
	te.run("allocations", "release", name, "--yes")
	te.r.until("release of "+name, func() error {
		te.r.mayCrash()
		te.r.alive()
		var now slot
		te.r.site.operator().get("/v1/slots/"+sl.ID, &now)
		if now.State == "quarantined" {
			te.r.t.Fatalf("quarantined: %s %s\n%s", now.Component, now.Reason, te.r.op.run("slots", "erasure", rackName+"/0"))
		}
		if now.State != "available" {
			return errors.New(now.State)
		}
		return nil
	})
	te.r.step(name + " released and wiped")
	var e client.Erasure
	te.json(&e, "allocations", "erasure", a.ID)
	shown := te.run("allocations", "erasure", a.ID)
	te.r.t.Logf("what is shown of the erasure:\n%s", shown)
	if !e.Erased || len(e.Items) != 1 || e.Items[0].WipeResult != "verified" {
		te.r.t.Fatalf("the erasure is not proven: %+v", e)
	}
	proof, err := e.Items[0].Proof()
	if err != nil || proof == nil {
		te.r.t.Fatalf("no evidence: %v", err)
	}
	var serials []string
	for _, d := range proof.Devices {
		if d.Result != "verified" {
			te.r.t.Errorf("%s %s is %s", d.Component, d.Serial, d.Result)
		}
		serials = append(serials, d.Component+" "+d.Serial)
	}
	var maps client.SlotMaps
	te.r.op.json(&maps, "hosts", "slot-map", rackName)
	if maps.Approved == nil {
		te.r.t.Fatal("no map is approved")
	}
	s := maps.Approved.Slots[0]
	want := []string{"gpu " + s.GPU.Serial, "nvme " + s.NVMe.Serial, "ib_vf " + s.IBVF.Serial, "host slot 0"} // the last: the host's own remnants
	slices.Sort(want)
	slices.Sort(serials)
	if !slices.Equal(serials, want) {
		te.r.t.Errorf("erased were %q, the slot has %q", serials, want)
	}
	if want := "probe: sent to gpu=" + s.GPU.Address + " ib_vf=" + s.IBVF.Address; !strings.Contains(shown, want) {
		te.r.t.Errorf("the erasure does not show %q", want)
	}
	if !strings.Contains(shown, "signature  good") || !strings.Contains(shown, "nvme "+rackSerial+": verified") {
		te.r.t.Error("the erasure does not show the drive's serial under a good signature")
	}
}

// files are those of the running host that hold a text.
func (r *racked) files(text string) string {
	r.t.Helper()
	return r.sh("grep -rlaF --devices=skip -e " + text + " /var /run /etc /tmp /root /dev/shm 2>/dev/null || true")
}

// drive wants each text on the drive, or nowhere on it: all of its bytes are read.
func (r *racked) drive(want bool, texts ...string) {
	r.t.Helper()
	b, err := os.ReadFile(r.host.DrivePath(rackSerial))
	if err != nil {
		r.t.Fatal(err)
	}
	for _, s := range texts {
		if got := bytes.Contains(b, []byte(s)); got != want {
			r.t.Errorf("%q is on the drive: %v, want %v", s, got, want)
		}
	}
}

// nothingLeft looks for what tenants wrote: in the files of the running host, and,
// when it is off, on the drive itself.
func (r *racked) nothingLeft(secrets ...string) {
	r.t.Helper()
	for _, s := range secrets {
		if found := r.files(s); found != "" {
			r.t.Errorf("%s is still in %s", s, found)
		}
	}
	if err := r.hostd.Signal(syscall.SIGTERM); err != nil {
		r.t.Fatal(err)
	}
	if err := r.hostd.Wait(r.ctx); err != nil {
		r.t.Errorf("hostd after SIGTERM: %v", err)
	}
	if err := r.host.Shutdown(r.ctx); err != nil {
		r.t.Error(err)
	}
	r.drive(false, append(secrets, earlierText)...)
	r.step("nothing left, off")
}
