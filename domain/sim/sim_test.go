package sim_test

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/gpuaas/gpuaas/domain/sim"
)

var (
	seed     = flag.Uint64("sim.seed", 1, "the first schedule's seed")
	steps    = flag.Int("sim.steps", 1000, "steps with faults")
	off      = flag.String("sim.off", "", "kinds of faults that never happen")
	frequent = flag.String("sim.often", "", "kinds of faults that happen again and again")
	story    = flag.Bool("sim.story", false, "print what hosts are told, what they report and what is committed")
	count    = flag.Uint64("sim.count", 1000, "schedules of TestSchedules")
)

func TestMain(m *testing.M) {
	flag.Parse()
	debug.SetGCPercent(800) // a schedule makes and drops some megabytes; there are many
	os.Exit(m.Run())
}

// schedule is the one of a seed. Every fourth has the faults again and again that take a
// site apart: some states only come about where a second loss meets what the first left.
func schedule(seed uint64, steps int) sim.Config {
	c := sim.Config{Seed: seed, Steps: steps}
	if seed%4 == 3 {
		c.Often = disaster
	}
	return c
}

const disaster sim.Faults = 1<<sim.LostTail | 1<<sim.HostCrash | 1<<sim.Crash | 1<<sim.HostSilent

// batch runs schedules side by side, until one fails, and counts what they saw. Each is
// one goroutine's: how many run at once changes nothing.
func batch(first, n uint64, steps int) (all sim.Seen, total sim.Result, failure *sim.Failure) {
	var next atomic.Uint64
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				at := next.Add(1) - 1
				if at >= n {
					return
				}
				r := sim.Run(schedule(first+at, steps))
				mu.Lock()
				all.Add(&r.Seen)
				total.Steps, total.Commits, total.Events = total.Steps+r.Steps, total.Commits+r.Commits, total.Events+r.Events
				if r.Failure != nil {
					if failure == nil || r.Failure.Config.Seed < failure.Config.Seed {
						failure = r.Failure
					}
					next.Store(n)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return all, total, failure
}

// TestSchedules runs a batch of schedules with faults of every kind. One that fails is
// made smaller and printed with the command that runs it again.
func TestSchedules(t *testing.T) {
	t.Parallel()
	n := *count
	if testing.Short() {
		n = min(n, 100)
	}
	all, total, failure := batch(*seed, n, *steps)
	if failure != nil {
		if *shrink {
			failure = sim.Shrink(failure)
		}
		t.Fatal(failure)
	}
	t.Logf("%d schedules, %d steps, %d commits, %d events", n, total.Steps, total.Commits, total.Events)
	if never := all.Never(); len(never) > 0 && n >= 1000 {
		t.Errorf("%d schedules, and never seen: %s", n, strings.Join(never, ", "))
	}
}

// TestReplay runs one schedule, as the command of a failure says.
func TestReplay(t *testing.T) {
	without, err := sim.ParseFaults(*off)
	if err != nil {
		t.Fatal(err)
	}
	again, err := sim.ParseFaults(*frequent)
	if err != nil {
		t.Fatal(err)
	}
	c := sim.Config{Seed: *seed, Steps: *steps, Off: without, Often: again}
	if *story {
		c.Story = os.Stdout
	}
	r := sim.Run(c)
	if r.Failure != nil {
		t.Fatal(r.Failure)
	}
	t.Logf("trace %016x, %d steps, %d commits, %d events", r.Hash, r.Steps, r.Commits, r.Events)
}

var traceLine = regexp.MustCompile(`trace [0-9a-f]{16}, .* events`)

// TestSameSeedSameTrace: a seed is a run, event for event, also in another process with
// another number of threads and another seed of every hash table.
func TestSameSeedSameTrace(t *testing.T) {
	t.Parallel()
	hashes := map[uint64]bool{}
	for n := range uint64(8) {
		c := sim.Config{Seed: 1_000_000 + n, Steps: 1000}
		r, again := sim.Run(c), sim.Run(c)
		if r.Hash != again.Hash || r.Steps != again.Steps || r.Events != again.Events {
			t.Fatalf("seed %d: trace %016x of %d steps, then %016x of %d", c.Seed, r.Hash, r.Steps, again.Hash, again.Steps)
		}
		if hashes[r.Hash] {
			t.Errorf("seed %d has the trace of another seed", c.Seed)
		}
		hashes[r.Hash] = true
		want := fmt.Sprintf("trace %016x, %d steps, %d commits, %d events", r.Hash, r.Steps, r.Commits, r.Events)
		cmd := exec.Command(os.Args[0], "-test.run=^TestReplay$", "-test.v", fmt.Sprintf("-sim.seed=%d", c.Seed), fmt.Sprintf("-sim.steps=%d", c.Steps))
		cmd.Env = append(os.Environ(), fmt.Sprintf("GOMAXPROCS=%d", 1+n%3))
		out, err := cmd.CombinedOutput()
		if got := traceLine.FindString(string(out)); err != nil || got != want {
			t.Fatalf("seed %d in another process: %v, %q, want %q\n%s", c.Seed, err, got, want, out)
		}
	}
}

// TestSeeds runs the schedules that failed once.
func TestSeeds(t *testing.T) {
	t.Parallel()
	f, err := os.Open("testdata/seeds")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		line, why, _ := strings.Cut(in.Text(), "#")
		word := strings.Fields(line)
		if len(word) == 0 {
			continue
		}
		var c sim.Config
		if _, err := fmt.Sscan(line, &c.Seed, &c.Steps); err != nil || why == "" {
			t.Fatalf("%q: want seed, steps, perhaps the kinds that are off and those that are often, and after # why it is here", in.Text())
		}
		for _, w := range word[2:] {
			into, kinds := &c.Off, w
			if often, is := strings.CutPrefix(w, "often:"); is {
				into, kinds = &c.Often, often
			}
			if *into, err = sim.ParseFaults(kinds); err != nil {
				t.Fatal(err)
			}
		}
		if r := sim.Run(c); r.Failure != nil {
			t.Errorf("%s: %v", strings.TrimSpace(why), r.Failure)
		}
	}
}

func TestFaultNames(t *testing.T) {
	t.Parallel()
	all := ^sim.Faults(0)
	if got, err := sim.ParseFaults(all.String()); err != nil || got.String() != all.String() || len(strings.Split(all.String(), ",")) < 30 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := sim.ParseFaults("crash,earthquake"); err == nil {
		t.Error("an unknown kind is taken")
	}
}

// BenchmarkSchedules is how fast one core is, in schedules of 2,000 steps: by the clock,
// and by the processor's time, which others on the machine do not take.
func BenchmarkSchedules(b *testing.B) {
	n, steps, began := uint64(0), 0, cpuSeconds()
	for b.Loop() {
		n++
		r := sim.Run(sim.Config{Seed: n, Steps: 2000})
		if r.Failure != nil {
			b.Fatal(r.Failure)
		}
		steps += r.Steps
	}
	used := cpuSeconds() - began
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "schedules/s")
	b.ReportMetric(float64(n)/used, "schedules/cpu-s")
	b.ReportMetric(float64(steps)/used, "steps/cpu-s")
}

func cpuSeconds() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}
