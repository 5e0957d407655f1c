package linux

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/wipe"
)

// prober runs the operator's program that looks at a slot's GPU after its reset, in a
// trusted VM or however it likes: Options.Probe. It implements wipe.Probe.
//
// The program gets "gpu=0000:17:00.0", the same for each of the GPU's other functions
// and "ib_vf=" for the virtual function, all with vfio-pci, where they have to be when
// it ends; the drive is not its to touch. It prints one JSON object and exits with 0:
//
//	{"clean": true, "found": "80 GiB scrubbed and read back"}
//	{"clean": false, "found": "link 3 is down", "reason": "wipe.probe_nvlink", "scope": "baseboard"}
//
// Anything else, and no answer in time, is a failed probe.
type prober struct{ m *Machine }

// probeWait bounds the program: a VM boots, and scrubs some hundred gigabytes.
const probeWait = 30 * time.Minute

// probeMaxBytes bounds what it may say.
const probeMaxBytes = 64 << 10

type probeAnswer struct {
	Clean  *bool  `json:"clean"` // required
	Found  string `json:"found"`
	Reason string `json:"reason"` // "wipe.probe_...": stable, for the operator; "": wipe.probe_failed
	Scope  string `json:"scope"`  // "device", "baseboard" or "host"; "": device
}

var probeReason = regexp.MustCompile(`^wipe\.probe_[a-z0-9_]{1,40}$`)

// Run implements wipe.Probe.
func (p prober) Run(ctx context.Context, slot *domain.SlotSpec) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	args := []string{"gpu=" + slot.GPU.Address}
	for _, f := range slot.GPU.Functions {
		args = append(args, "gpu="+f.Address)
	}
	if slot.IBVF.Address != "" {
		args = append(args, "ib_vf="+slot.IBVF.Address)
	}
	out, err := p.m.o.Run(ctx, p.m.o.Probe, args...)
	if err != nil {
		return "", fmt.Errorf("linux: %w", err)
	}
	if len(out) > probeMaxBytes {
		return "", fmt.Errorf("linux: %s said %d bytes, at most %d are read", p.m.o.Probe, len(out), probeMaxBytes)
	}
	var a probeAnswer
	d := json.NewDecoder(bytes.NewReader(out))
	if err := d.Decode(&a); err != nil || a.Clean == nil || d.More() {
		return "", errors.Join(fmt.Errorf("linux: %s said no object with \"clean\"", p.m.o.Probe), err)
	}
	found := printable(a.Found)
	if *a.Clean {
		return found, nil
	}
	if !probeReason.MatchString(a.Reason) {
		a.Reason = wipe.ProbeFailed
	}
	return "", &wipe.Finding{Reason: a.Reason, Scope: scopeOf(a.Scope), Err: errors.New("the probe found: " + found)}
}

func scopeOf(s string) string {
	if s == "baseboard" || s == "host" {
		return s
	}
	return "device"
}

// printable is a program's text in evidence.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s[:min(len(s), 400)])
}
