package sim

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/machine"
)

// Fault is one line of a fault script: where it strikes, how often, what it does.
// The script is text, one fault a line, '#' begins a comment:
//
//	start   slot=2 times=1 fail=domain.start_failed   # the first start on slot 2 fails
//	disk    fail=image.unbootable theirs              # the tenant's image is to blame
//	any     slow=500ms                                # every operation takes longer
//	wipe    slot=3 fail=nvme.timeout                  # the wipe says nothing
//	start   slot=1 fail=drive.other blame=nvme        # and names what is to blame
//	wipe    slot=3 result=failed                      # the wipe says that it failed
//	wipe    slot=1 component=nvme serial=XYZ          # the evidence names another drive
//	ready   slot=0 never                              # boots, shows life, is never ready
//	alive   slot=0 never                              # never a sign of life either
//	device  slot=0 component=gpu after=3s detail=xid_79
//	host    silent after=2s for=10s                   # nothing of the host is heard
type Fault struct {
	On        string // disk, seed, network, start, stop, reboot, remove, wipe, any; ready, alive, device, host
	Slot      int    // -1: any
	Times     int    // how often; 0: always
	Fail      string // the error's code
	Blame     string // component that the error names
	Theirs    bool
	Slow      time.Duration
	Result    domain.WipeResult
	Component string
	Serial    string
	Never     bool
	Silent    bool
	After     time.Duration // since the machine was made
	For       time.Duration // 0: for ever
	Detail    string
	struck    int
}

var faultPoints = map[string]bool{
	"disk": true, "seed": true, "network": true, "start": true, "stop": true, "reboot": true, "remove": true, "wipe": true, "any": true,
	"ready": true, "alive": true, "device": true, "host": true,
}

// ParseFaults reads a fault script.
func ParseFaults(r io.Reader) ([]Fault, error) {
	var out []Fault
	sc := bufio.NewScanner(r)
	for n := 1; sc.Scan(); n++ {
		line, _, _ := strings.Cut(sc.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		f := Fault{On: fields[0], Slot: -1, Component: "nvme"}
		if !faultPoints[f.On] {
			return nil, fmt.Errorf("fault script line %d: nothing happens at %q", n, f.On)
		}
		for _, word := range fields[1:] {
			if err := f.set(word); err != nil {
				return nil, fmt.Errorf("fault script line %d: %s: %w", n, word, err)
			}
		}
		out = append(out, f)
	}
	return out, sc.Err()
}

func (f *Fault) set(word string) (err error) {
	key, value, _ := strings.Cut(word, "=")
	switch key {
	case "slot":
		f.Slot, err = strconv.Atoi(value)
	case "times":
		f.Times, err = strconv.Atoi(value)
	case "fail":
		f.Fail = value
	case "blame":
		f.Blame = value
	case "theirs":
		f.Theirs = true
	case "slow":
		f.Slow, err = time.ParseDuration(value)
	case "result":
		err = f.Result.UnmarshalText([]byte(value))
	case "component":
		f.Component = value
	case "serial":
		f.Serial = value
	case "never":
		f.Never = true
	case "silent":
		f.Silent = true
	case "after":
		f.After, err = time.ParseDuration(value)
	case "for":
		f.For, err = time.ParseDuration(value)
	case "detail":
		f.Detail = value
	default:
		err = fmt.Errorf("unknown word")
	}
	return err
}

// strikes finds the faults for an operation on some slots and counts them.
func (m *Machine) strikes(on string, slots []uint32) []Fault {
	var out []Fault
	for i := range m.faults {
		f := &m.faults[i]
		operation := on != "ready" && on != "alive"
		if f.On != on && !(f.On == "any" && operation) || f.Times > 0 && f.struck >= f.Times || !f.on(slots) {
			continue
		}
		f.struck++
		out = append(out, *f)
	}
	return out
}

func (f *Fault) on(slots []uint32) bool {
	if f.Slot < 0 {
		return true
	}
	for _, s := range slots {
		if int(s) == f.Slot {
			return true
		}
	}
	return false
}

// suffer waits for what is slow and fails for what fails.
func suffer(ctx context.Context, faults []Fault) error {
	for _, f := range faults {
		if err := sleep(ctx, f.Slow); err != nil {
			return err
		}
		if f.Fail != "" {
			return &machine.Fault{
				Code: f.Fail, Theirs: f.Theirs, Err: fmt.Errorf("scripted fault on %s", f.On),
				Slot: uint32(max(f.Slot, 0)), Component: f.Blame,
			}
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Silent reports whether the script says that nothing of the host is heard now;
// whoever wires the host's link asks.
func (m *Machine) Silent() bool {
	since := time.Since(m.made)
	for i := range m.o.Faults {
		f := &m.o.Faults[i]
		if f.On == "host" && f.Silent && since >= f.After && (f.For == 0 || since < f.After+f.For) {
			return true
		}
	}
	return false
}
