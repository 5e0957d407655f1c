package main_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var (
	floodLong        = flag.Bool("flood.long", false, "measure what a flood by one tenant costs another, against real programs")
	floodConnections = flag.Int("flood.connections", 1024, "connections of the flood")
	floodAsked       = flag.Int("flood.asked", 600, "requests of each kind that the quiet tenant makes in each part")
)

// floodEnv makes a process of the tests' program a flood, or, without an address, a
// bystander that uses every processor and asks nobody.
const floodEnv = "GPUAAS_TEST_FLOOD"

// flooded is what a flood is told on its command line, and what it counts.
type flooded struct {
	Address     string
	Key         string
	Tenant      string
	Project     string
	Connections int
	Answers     map[string]int
}

// kinds are what both tenants ask: a command that is made durable, a question to the
// loop, a list from the read models, and who one is.
var kinds = []string{"command", "question", "list", "whoami"}

func (f *flooded) request(kind string, i int) (method, path, body string) {
	switch kind {
	case "command":
		return "PUT", "/v1/policies/projects/" + f.Project + "/quota.gpus", fmt.Sprintf(`{"value":%d}`, 1+i%1000)
	case "question":
		return "POST", "/v1/projects/" + f.Project + "/allocations", `{"sku":"gpu-1x","image":"tiny","dry_run":true}`
	case "list":
		return "GET", "/v1/projects/" + f.Project + "/allocations", ""
	}
	return "GET", "/v1/whoami", ""
}

// beFlood is the other process: it says what it counted when its input ends.
func beFlood(arg string) int {
	if arg == "bystander" {
		for range runtime.NumCPU() {
			go func() {
				for n := uint64(1); n != 0; n += 2 { // odd for ever: ends with the process
				}
			}()
		}
		_, _ = io.Copy(io.Discard, os.Stdin)
		return 0
	}
	var f flooded
	if err := json.Unmarshal([]byte(arg), &f); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// What it computes is not the site's doing: it takes what others leave.
	if err := syscall.Setpriority(syscall.PRIO_PROCESS, 0, 19); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var mu sync.Mutex
	f.Answers = map[string]int{}
	for c := range f.Connections {
		go func() {
			for i := c; ; { // ends with the process; a connection that is refused is tried again
				i = f.ask(i, func(code string) { mu.Lock(); f.Answers[code]++; mu.Unlock() })
			}
		}()
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	mu.Lock()
	defer mu.Unlock()
	_ = json.NewEncoder(os.Stdout).Encode(f.Answers)
	return 0
}

// ask uses one connection until it ends, without a pause, whatever the answers are.
func (f *flooded) ask(i int, count func(string)) int {
	c, err := net.DialTimeout("tcp", strings.TrimPrefix(f.Address, "http://"), limit)
	if err != nil {
		count("no connection")
		time.Sleep(10 * time.Millisecond)
		return i
	}
	defer c.Close()
	in := bufio.NewReader(c)
	for { // ends with the connection
		method, path, body := f.request(kinds[i%len(kinds)], i)
		i++
		if _, err := fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", method, path, f.Key, len(body), body); err != nil {
			count("broken")
			return i
		}
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			count("broken")
			return i
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			count("broken")
			return i
		}
		count(strconv.Itoa(res.StatusCode))
	}
}

// other starts this program as another process; stop ends it and returns what it said.
func other(t *testing.T, arg string) (stop func() string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), floodEnv+"="+arg)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return func() string {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		return strings.TrimSpace(out.String())
	}
}

// TestFlood: one tenant asks as fast as it can, from another process, and a quiet
// tenant's p99 stays within three times what it is beside a process that is as hungry
// and asks nobody: what the machine has too little of is nobody's unfairness. The
// flood itself runs with the lowest priority. It prints figures, and is no part of the
// short tests.
func TestFlood(t *testing.T) {
	if !*floodLong {
		t.Skip("make test-long")
	}
	s := newSite(t, "serve", "--site", "flood", "--log-level", "warn")
	op := s.operator()
	flood, quiet := s.flooded(op, "flood"), s.flooded(op, "quiet")
	op.do(201, "POST", "/v1/skus", map[string]any{"name": "gpu-1x", "shape": 1})
	me := caller{s, quiet.Key}
	measure := func() map[string]time.Duration {
		all, p99 := []time.Duration{}, map[string]time.Duration{}
		keep := func(kind string, took []time.Duration) {
			slices.Sort(took)
			p99[kind] = took[len(took)*99/100]
		}
		for _, kind := range kinds {
			took := make([]time.Duration, 0, *floodAsked)
			for i := range *floodAsked {
				method, path, body := quiet.request(kind, i)
				var sent any
				if body != "" {
					sent = json.RawMessage(body)
				}
				at := time.Now()
				a, err := me.ask(method, path, sent)
				if err != nil || a.status == 429 || a.status >= 500 {
					t.Fatalf("the quiet tenant: %v %+v", err, a)
				}
				took = append(took, time.Since(at))
			}
			all = append(all, took...)
			keep(kind, took)
		}
		keep("all", all)
		return p99
	}
	measure() // connections, caches
	alone := measure()
	stop := other(t, "bystander")
	beside := measure()
	stop()
	flood.Connections = *floodConnections
	arg, err := json.Marshal(flood)
	if err != nil {
		t.Fatal(err)
	}
	stop = other(t, string(arg))
	eventually(t, limit, "the flood", func() error { // it has begun
		if n := s.metric(t, "gpuaas_http_requests_total"); n < 10_000 {
			return fmt.Errorf("%v", n)
		}
		return nil
	})
	at, before := time.Now(), s.metric(t, "gpuaas_http_requests_total")
	busy := measure()
	rate := (s.metric(t, "gpuaas_http_requests_total") - before) / time.Since(at).Seconds()
	t.Logf("the flood: %d connections, %.0f answers a second: %s", flood.Connections, rate, stop())
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	for _, kind := range append(kinds, "all") {
		t.Logf("p99 of %s: %.1f ms alone, %.1f beside a bystander, %.1f beside the flood: %.1f times alone, %.1f times the bystander's", kind,
			ms(alone[kind]), ms(beside[kind]), ms(busy[kind]), float64(busy[kind])/float64(alone[kind]), float64(busy[kind])/float64(beside[kind]))
	}
	if busy["all"] > 3*max(alone["all"], beside["all"]) {
		t.Error("the quiet tenant's p99 is more than 3 times what it is without the flood")
	}
	s.interrupt()
}

func (s *site) flooded(op caller, name string) *flooded {
	s.t.Helper()
	var tenant, key, project struct{ ID, Secret string }
	op.do(201, "POST", "/v1/tenants", map[string]any{"name": name}).into(s.t, &tenant)
	op.do(201, "POST", "/v1/tenants/"+tenant.ID+"/api-keys", map[string]any{"name": "k", "role": "owner"}).into(s.t, &key)
	op.do(201, "POST", "/v1/tenants/"+tenant.ID+"/projects", map[string]any{"name": "main"}).into(s.t, &project)
	return &flooded{Address: s.address(), Key: key.Secret, Tenant: tenant.ID, Project: project.ID}
}

// metric is the sum of a metric over its labels.
func (s *site) metric(t *testing.T, name string) (sum float64) {
	t.Helper()
	_, body, err := look(s.address(), "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, name); ok && (rest[0] == '{' || rest[0] == ' ') {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(rest, ' '):]), 64)
			if err != nil {
				t.Fatal(err)
			}
			sum += v
		}
	}
	return sum
}
