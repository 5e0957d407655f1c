package main_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestGpuctl walks every verb of gpuctl at a real site, as scripts of an operator and
// of a tenant. Which verbs there are is asked of gpuctl itself: each has to have
// succeeded with a table and with -o json, and to have been refused, by the end.
func TestGpuctl(t *testing.T) {
	t.Parallel()
	c := &ctl{s: newSite(t, "dev", "--bare", "--host-silent-seconds", "3", "--log-level", "warn"), home: dataDir(t), walked: map[string]*steps{}, codes: map[int]bool{}, hostd: map[string]*program{}}
	c.findVerbs(t)
	if len(c.walked) < 70 {
		t.Fatalf("only %d verbs: %v", len(c.walked), slices.Sorted(maps.Keys(c.walked)))
	}
	disk := make([]byte, 1<<20)
	disk[510], disk[511] = 0x55, 0xaa // a boot sector
	if err := os.WriteFile(filepath.Join(c.home, "disk.raw"), disk, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"site", "tenant", "fleet", "here"} { // each goes on where the last one ended
		if !t.Run(name, func(t *testing.T) {
			testscript.Run(t, testscript.Params{
				Files: []string{filepath.Join("testdata", "gpuctl", name+".txtar")}, Setup: c.setUp, RequireExplicitExec: true,
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"gpuctl": c.does, "reveals": c.reveals, "refused": c.refused, "ends": c.ends, "until": c.until, "keep": keep, "host": c.host, "down": c.down,
				},
			})
		}) {
			return
		}
	}
	for verb, s := range c.walked {
		if elsewhere[verb] != "" {
			continue
		}
		if !s.table || !s.json && lacks[verb] == "" || !s.refused {
			t.Errorf("gpuctl %s was not walked: succeeded with a table: %t, with -o json: %t; refused: %t", verb, s.table, s.json, s.refused)
		}
	}
	for code := range 9 {
		if !c.codes[code] {
			t.Errorf("nothing ended with exit code %d", code)
		}
	}
}

// elsewhere says where a verb is walked that needs what this site does not have.
var elsewhere = map[string]string{"epoch unknown-vms": "TestOpenEpoch", "epoch destroy-vm": "TestOpenEpoch"}

// lacks says why a verb has no -o json.
var lacks = map[string]string{
	"help": "a text", "version": "a word", "completion bash": "a script", "completion fish": "a script", "completion powershell": "a script", "completion zsh": "a script",
}

// steps is what of a verb was seen.
type steps struct{ table, json, refused bool }

// ctl is gpuctl at a site.
type ctl struct {
	s      *site
	home   string
	walked map[string]*steps // by verb: "hosts approve"
	codes  map[int]bool
	hostd  map[string]*program // by the host's name
}

// findVerbs asks gpuctl for its commands, through its completion.
func (c *ctl) findVerbs(t *testing.T, path ...string) {
	t.Helper()
	gpuctl := filepath.Join(bin, "gpuctl")
	out, err := exec.CommandContext(t.Context(), gpuctl, slices.Concat([]string{"__complete"}, path, []string{""})...).Output()
	if err != nil {
		t.Fatal(err)
	}
	group := len(path) == 0
	for line := range strings.Lines(string(out)) {
		word, _, ok := strings.Cut(line, "\t")
		if !ok || strings.HasPrefix(word, "-") || slices.Contains(path, "help") { // help completes to all the others
			continue
		}
		if !group { // one that has others, and may do something itself
			says, _ := exec.CommandContext(t.Context(), gpuctl, path...).CombinedOutput()
			group = bytes.Contains(says, []byte("Available Commands:"))
		}
		c.findVerbs(t, append(slices.Clone(path), word)...)
	}
	if !group {
		c.walked[strings.Join(path, " ")] = &steps{}
	}
}

func (c *ctl) setUp(e *testscript.Env) error {
	e.Setenv("HOME", c.home)
	e.Setenv("TZ", "UTC")
	e.Setenv("GPUCTL_SERVER", c.s.address())
	e.Setenv("ADMIN", filepath.Join(c.s.dir, "admin.key"))
	return nil
}

// run runs gpuctl and returns its exit code.
func (c *ctl) run(ts *testscript.TestScript, args []string) int {
	var e *exec.ExitError
	err, code := ts.Exec("timeout", append([]string{strconv.Itoa(int(limit.Seconds())), filepath.Join(bin, "gpuctl")}, args...)...), 0
	if errors.As(err, &e) {
		code = e.ExitCode()
	} else {
		ts.Check(err)
	}
	c.codes[code] = true
	return code
}

// verb finds what of the walk a command line belongs to, nil for a group.
func (c *ctl) verb(args []string) *steps {
	for n := len(args); n > 0; n-- {
		if s := c.walked[strings.Join(args[:n], " ")]; s != nil {
			return s
		}
	}
	return nil
}

var secret = regexp.MustCompile(`(gpk|enr)_\w{20,}`)

// does: gpuctl ARGS succeeds, with what was asked for and no secret.
func (c *ctl) does(ts *testscript.TestScript, _ bool, args []string) {
	c.succeeds(ts, args)
	if shown := secret.FindString(ts.ReadFile("stdout") + ts.ReadFile("stderr")); shown != "" {
		ts.Fatalf("it shows the secret %s", shown)
	}
}

// reveals: gpuctl ARGS succeeds and shows a secret, this once.
func (c *ctl) reveals(ts *testscript.TestScript, _ bool, args []string) {
	c.succeeds(ts, args)
	if !secret.MatchString(ts.ReadFile("stdout")) || secret.MatchString(ts.ReadFile("stderr")) {
		ts.Fatalf("no secret on stdout, or one on stderr")
	}
}

func (c *ctl) succeeds(ts *testscript.TestScript, args []string) {
	if code := c.run(ts, args); code != 0 {
		ts.Fatalf("exit code %d", code)
	}
	out, verb := ts.ReadFile("stdout"), c.verb(args)
	if verb == nil {
		return
	}
	switch isJSON, wanted := json.Valid([]byte(out)), slices.Contains(args, "json"); {
	case wanted && !isJSON:
		ts.Fatalf("this is no JSON")
	case wanted:
		verb.json = true
	case out != "" && !isJSON:
		verb.table = true
	}
}

// refused CODE: gpuctl ARGS ends with that code and one line that says why, and
// nothing has changed.
func (c *ctl) refused(ts *testscript.TestScript, neg bool, args []string) {
	before := c.lastCommand()
	c.ends(ts, neg, args)
	if after := c.lastCommand(); after != before {
		ts.Fatalf("it did something: %s", after)
	}
	says := ts.ReadFile("stderr")
	if !strings.HasPrefix(says, "gpuctl: ") || strings.Count(says, "\n") != 1 || len(says) > 400 || strings.Contains(says, "match pattern") {
		ts.Fatalf("want one line for a person")
	}
	if verb := c.verb(args[1:]); verb != nil {
		verb.refused = true
		if ts.ReadFile("stdout") != "" {
			ts.Fatalf("it wrote to stdout")
		}
	}
}

// ends CODE: gpuctl ARGS ends with that code, and shows no secret.
func (c *ctl) ends(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if code := c.run(ts, args[1:]); code != want || code == 0 {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
	if shown := secret.FindString(ts.ReadFile("stdout") + ts.ReadFile("stderr")); shown != "" {
		ts.Fatalf("it shows the secret %s", shown)
	}
}

// lastCommand is the last command of a person that the site accepted.
func (c *ctl) lastCommand() string {
	op := c.s.operator()
	head := op.do(200, "GET", "/v1/whoami", nil).seq
	return string(op.do(200, "GET", fmt.Sprintf("/v1/audit?actor=api_key&order=desc&limit=1&at_least=%d", head), nil).body)
}

// until REGEXP: gpuctl ARGS, again and again, until its output matches.
func (c *ctl) until(ts *testscript.TestScript, _ bool, args []string) {
	want := regexp.MustCompile("(?m)" + args[0])
	eventually(c.s.t, limit, strings.Join(args, " "), func() error {
		c.does(ts, false, args[1:])
		return errNo(want.MatchString(ts.ReadFile("stdout")), ts.ReadFile("stdout"))
	})
}

// keep NAME REGEXP: the last match in the last output, or its group, becomes a variable.
func keep(ts *testscript.TestScript, _ bool, args []string) {
	found := regexp.MustCompile("(?m)"+args[1]).FindAllStringSubmatch(ts.ReadFile("stdout")+ts.ReadFile("stderr"), -1)
	if len(found) == 0 {
		ts.Fatalf("no %s", args[1])
	}
	last := found[len(found)-1]
	ts.Setenv(args[0], last[len(last)-1])
}

// host NAME SLOTS TOKEN FAULTS: hostd with a simulated machine enrols and runs.
func (c *ctl) host(ts *testscript.TestScript, _ bool, args []string) {
	slots, err := strconv.Atoi(args[1])
	ts.Check(err)
	dir := filepath.Join(c.s.dir, "hosts", args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	fleet, err := json.Marshal([]obj{{"dir": dir, "slots": slots, "seed": args[0], "server": c.s.address(), "token": args[2], "faults": ts.MkAbs(args[3])}})
	ts.Check(err)
	ts.Check(os.WriteFile(dir+".json", fleet, 0o600))
	c.hostd[args[0]] = run(c.s.t, nil, "hostd", "run", "--machine", "sim", "--fleet", dir+".json")
}

// down NAME: the host has no power.
func (c *ctl) down(_ *testscript.TestScript, _ bool, args []string) { c.hostd[args[0]].kill() }
