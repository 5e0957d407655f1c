package plan_test

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/plan"
)

var update = flag.Bool("update", false, "rewrite the expected steps of the scenarios")

// Each file in testdata holds scenarios: a title, what is desired, what is
// observed, and the steps that follow. Review a rewrite as a diff.
func TestScenarios(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := rewrite(t, b)
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(b), string(got)); diff != "" {
				t.Errorf("run with -update and review (-want +got):\n%s", diff)
			}
		})
	}
}

// rewrite reads scenarios and writes them again with the steps that Diff gives.
func rewrite(t *testing.T, b []byte) []byte {
	var out bytes.Buffer
	var s scenario
	for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); {
		line := sc.Text()
		switch {
		case strings.HasPrefix(line, "# "):
			s = newScenario()
		case strings.HasPrefix(line, "given "), strings.HasPrefix(line, "want "):
			if err := s.read(strings.Fields(line)); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
		case line == "steps:":
			out.WriteString(line + "\n" + s.steps() + "\n")
			continue
		default:
			continue // a former step, or an empty line
		}
		out.WriteString(line + "\n")
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n"))
}

type scenario struct {
	d domain.Desired
	s plan.State
}

func newScenario() scenario {
	return scenario{
		d: domain.Desired{Site: "s", Epoch: 1, Generation: 1, SlotMap: domain.Digest{1}},
		s: plan.State{
			Known: map[domain.VMID][]uint32{}, GivenUp: map[domain.VMID]uint32{}, Wiped: map[plan.WipeKey]bool{},
			Dirty: map[uint32]domain.VMID{}, Broken: map[uint32]string{},
		},
	}
}

// read understands:
//
//	want vm A on 1 slots 0,1      want wipe slot 0 gen 3 attempt 1      want no map
//	given vm A running|off|lost 1 slots 0,1   given known A slots 0   given dirty slot 0 by A
//	given failed A boot 1   given wiped slot 0 gen 3 attempt 1   given broken slot 0 reason
func (s *scenario) read(f []string) error {
	switch f[0] + " " + f[1] {
	case "want no":
		s.d.SlotMap = domain.Digest{}
	case "want vm":
		v := domain.PlacedVM{VM: vmID(f[2]), Boot: uint32(number(f[4]))}
		if err := v.Power.UnmarshalText([]byte(f[3])); err != nil {
			return err
		}
		for _, slot := range slots(f[5:]) {
			v.Leases = append(v.Leases, lease(slot, 1))
		}
		s.d.VMs = append(s.d.VMs, v)
	case "want wipe":
		s.d.Wipes = append(s.d.Wipes, wipe(f[2:]))
	case "given vm":
		s.s.VMs = append(s.s.VMs, machine.Observed{VM: vmID(f[2]), Running: f[3] == "running", Lost: f[3] == "lost", Boot: uint32(number(f[4])), Slots: slots(f[5:])})
	case "given known":
		s.s.Known[vmID(f[2])] = slots(f[3:])
	case "given dirty":
		s.s.Dirty[uint32(number(f[3]))] = vmID(f[5])
	case "given failed":
		s.s.GivenUp[vmID(f[2])] = uint32(number(f[4]))
	case "given wiped":
		w := wipe(f[2:])
		s.s.Wiped[plan.KeyOf(&w)] = true
	case "given broken":
		s.s.Broken[uint32(number(f[3]))] = f[4]
	default:
		return fmt.Errorf("unknown line")
	}
	return nil
}

func (s *scenario) steps() string {
	var out strings.Builder
	for i, step := range plan.Diff(&s.d, s.s) {
		fmt.Fprintf(&out, "  %d %s", i+1, step.Op)
		switch step.Op {
		case plan.Wipe:
			fmt.Fprintf(&out, " slot %d gen %d attempt %d", step.Slots[0], step.Wipe.Lease.Generation, step.Wipe.Attempt)
		case plan.Remove:
			fmt.Fprintf(&out, " %s", vmName(step.VM))
		default:
			fmt.Fprintf(&out, " %s boot %d", vmName(step.VM), step.Boot)
		}
		if step.Reason != "" {
			fmt.Fprintf(&out, " because %s", step.Reason)
		}
		for _, a := range step.After {
			fmt.Fprintf(&out, " after %d", a+1)
		}
		out.WriteString("\n")
	}
	if drift := plan.Drift(&s.d, s.s); drift != "" {
		for _, v := range s.s.VMs {
			drift = strings.ReplaceAll(drift, v.VM.String(), vmName(v.VM))
		}
		fmt.Fprintf(&out, "  drift: %s\n", drift)
	}
	if out.Len() == 0 {
		return "  none\n"
	}
	return out.String()
}

func vmID(name string) domain.VMID { return domain.VMID{name[0]} }
func vmName(id domain.VMID) string { return string(id[:1]) }
func lease(slot, g uint32) domain.Lease {
	return domain.Lease{Slot: domain.SlotID{byte(slot + 1)}, Index: slot, Generation: g}
}

func wipe(f []string) domain.PlacedWipe { // slot 0 gen 3 attempt 1
	return domain.PlacedWipe{Lease: lease(uint32(number(f[1])), uint32(number(f[3]))), Attempt: uint32(number(f[5])), Policy: domain.WipeAuto}
}

func slots(f []string) []uint32 { // slots 0,1
	if len(f) < 2 {
		return nil
	}
	var out []uint32
	for _, n := range strings.Split(f[1], ",") {
		out = append(out, uint32(number(n)))
	}
	return out
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}

func TestStepsAreOrderedAndPointIntoTheDesiredState(t *testing.T) {
	t.Parallel()
	d := &domain.Desired{SlotMap: domain.Digest{1}, VMs: []domain.PlacedVM{{VM: domain.VMID{1}, Power: domain.PowerOn, Boot: 1, Leases: []domain.Lease{lease(0, 1)}}}}
	steps := plan.Diff(d, plan.State{})
	if len(steps) != 4 || !slices.ContainsFunc(steps, func(s plan.Step) bool { return s.Placed == &d.VMs[0] }) {
		t.Fatalf("steps %+v", steps)
	}
}
